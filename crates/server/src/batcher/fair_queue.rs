//! The order of what waits, kept up to date as texts come and go. Neither threads nor clocks.
//!
//! Texts of a request run in their order. The order of a tenant's requests is that of their first texts,
//! and the order of tenants that of their most urgent requests, so it takes a step down two trees per
//! text to make a batch, however many wait.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::lane::Lane;
use super::policy::{
    BatchLimits, INTERRUPTING_TOKENS, Place, Running, TIERS, Tenant, Tier, Urgency, VirtualTime,
};

/// Texts that do not fit into the rest of a batch, before the batch is closed.
const LOOK_AHEAD: usize = 64;

/// Texts of all requests, by urgency.
#[derive(Debug)]
pub struct FairQueue<T> {
    limits: BatchLimits,
    /// Those that have texts that wait or run.
    requests: HashMap<u64, Request<T>>,
    /// By tier.
    lanes: [Lane; TIERS],
    /// Requests of the batch tier by arrival, until their patience ends.
    patient: VecDeque<(Instant, u64)>,
    next_request: u64,
    next_tenant: u64,
}

#[derive(Debug)]
struct Request<T> {
    tier: Tier,
    tenant: u64,
    arrived: Instant,
    /// Where the last text ends in the tenant's time.
    end: VirtualTime,
    texts: VecDeque<Text<T>>,
}

#[derive(Debug)]
struct Text<T> {
    finish: VirtualTime,
    tokens: usize,
    item: T,
}

/// Texts of one tier that run together.
#[derive(Debug, PartialEq)]
pub struct Batch<T> {
    /// The texts, the most urgent first.
    pub items: Vec<T>,
    /// Their tokens in sum.
    pub tokens: usize,
    /// The least urgent of them.
    pub last: Urgency,
    /// When the oldest of their requests arrived.
    pub oldest: Instant,
}

impl<T> FairQueue<T> {
    /// Nothing waits.
    pub fn new(limits: BatchLimits) -> Self {
        Self {
            limits,
            requests: HashMap::new(),
            lanes: Default::default(),
            patient: VecDeque::new(),
            next_request: 0,
            next_tenant: 0,
        }
    }

    /// A request of a tenant arrives; its number.
    pub fn open(&mut self, tenant: &Tenant, tier: Tier, now: Instant) -> u64 {
        let number = self.next_request;
        self.next_request += 1;
        let (tenant, start) = self.lanes[tier as usize].join(tenant, &mut self.next_tenant);
        let request = Request {
            tier,
            tenant,
            arrived: now,
            end: start,
            texts: VecDeque::new(),
        };
        self.requests.insert(number, request);
        if tier == Tier::Batch {
            self.patient.push_back((now, number));
        }
        number
    }

    /// Adds a text of a request that is open, behind its others.
    pub fn push(&mut self, number: u64, tokens: usize, item: T) {
        let Some(request) = self.requests.get_mut(&number) else {
            return;
        };
        request.end = request.end.after(tokens);
        let finish = request.end;
        request.texts.push_back(Text {
            finish,
            tokens,
            item,
        });
        if request.texts.len() == 1 {
            self.lanes[request.tier as usize].wait(request.tenant, request.head(number));
        }
    }

    /// A request is answered or given up: its texts that still wait.
    pub fn close(&mut self, number: u64) -> impl Iterator<Item = T> + use<T> {
        let request = self.requests.remove(&number);
        if let Some(request) = &request {
            self.lanes[request.tier as usize].leave(request.tenant, request.head(number));
        }
        let texts = request.map(|request| request.texts).unwrap_or_default();
        texts.into_iter().map(|text| text.item)
    }

    /// The next batch; `None` only if nothing waits.
    ///
    /// The most urgent text is always taken. Those behind it follow while they fit into the budget; one
    /// that does not fit is passed by smaller ones once, and sooner or later is itself the most urgent.
    pub fn next_batch(&mut self, now: Instant) -> Option<Batch<T>> {
        self.end_patience(now);
        let budget = self.limits.token_budget;
        let tier = self.first_tier()?;
        self.take(tier, budget, |_, tokens, before| {
            before == 0 || before + tokens <= budget
        })
    }

    /// Texts that run before the rest of a batch.
    pub fn interrupting(&mut self, running: &Running, now: Instant) -> Option<Batch<T>> {
        self.end_patience(now);
        let tier = self.first_tier()?;
        let last = self.lanes[running.last.tier as usize].due(running.last, running.left);
        let running = Running { last, ..*running };
        let lane = &self.lanes[tier as usize];
        // Mostly there is nothing, and it is asked after every step. A tenant's own query may pass its
        // document though other tenants' texts may not.
        let first = lane.first();
        let tenants = first.into_iter().chain([running.last.tenant]);
        let mut heads = tenants.filter_map(|tenant| lane.head(tier, tenant));
        heads.find(|(head, _)| running.room(*head, now) > 0)?;
        let budget = self.limits.token_budget;
        self.take(tier, INTERRUPTING_TOKENS, |head, tokens, before| {
            let room = running.room(head, now).min(budget);
            before + tokens <= room && (before == 0 || before + tokens <= INTERRUPTING_TOKENS)
        })
    }

    /// So many tokens' worth of work of a tier was done.
    pub fn worked(&mut self, tier: Tier, tokens: f64) {
        self.lanes[tier as usize].worked(tokens);
    }

    /// The first tier in which something waits.
    fn first_tier(&self) -> Option<Tier> {
        let waits = |tier: &Tier| self.lanes[*tier as usize].first().is_some();
        [Tier::Realtime, Tier::Batch].into_iter().find(waits)
    }

    /// Takes texts of a tier by urgency while `fits(text, its tokens, those taken before)`, up to `budget`
    /// tokens.
    fn take(
        &mut self,
        tier: Tier,
        budget: usize,
        fits: impl Fn(Urgency, usize, usize) -> bool,
    ) -> Option<Batch<T>> {
        let lane = &mut self.lanes[tier as usize];
        let mut batch: Option<Batch<T>> = None;
        let mut passed = Vec::new();
        while let Some((head, tokens)) = lane.pop(tier) {
            let before = batch.as_ref().map_or(0, |batch| batch.tokens);
            let Some(request) = self.requests.get_mut(&head.place.request) else {
                continue;
            };
            let fitting = |text: &mut Text<T>| fits(head, text.tokens, before);
            let Some(text) = request.texts.pop_front_if(fitting) else {
                passed.push((head, tokens));
                if passed.len() == LOOK_AHEAD {
                    break;
                }
                continue;
            };
            lane.taken(head, request.head(head.place.request));
            let batch = batch.get_or_insert_with(|| Batch {
                items: Vec::new(),
                tokens: 0,
                last: head,
                oldest: request.arrived,
            });
            batch.items.push(text.item);
            batch.tokens += tokens;
            batch.last = head;
            batch.oldest = batch.oldest.min(request.arrived);
            if batch.tokens >= budget {
                break;
            }
        }
        for (head, tokens) in passed {
            lane.insert(head.tenant, Some((head.place, tokens)));
        }
        batch
    }

    /// Requests of the batch tier that have waited long enough become realtime ones that arrive now.
    fn end_patience(&mut self, now: Instant) {
        while let Some(&(arrived, number)) = self.patient.front() {
            let gone = !self.requests.contains_key(&number);
            if !gone && now < arrived + self.limits.batch_tier_patience {
                return;
            }
            self.patient.pop_front();
            let Some(request) = self.requests.get_mut(&number) else {
                continue;
            };
            let old = &mut self.lanes[request.tier as usize];
            let tenant = old.tenant(request.tenant);
            old.leave(request.tenant, request.head(number));
            request.tier = Tier::Realtime;
            let lane = &mut self.lanes[request.tier as usize];
            (request.tenant, request.end) = lane.join(&tenant, &mut self.next_tenant);
            for text in &mut request.texts {
                request.end = request.end.after(text.tokens);
                text.finish = request.end;
            }
            lane.wait(request.tenant, request.head(number));
        }
    }
}

impl<T> Request<T> {
    /// The place of its first waiting text, with its tokens.
    fn head(&self, number: u64) -> Option<(Place, usize)> {
        let text = self.texts.front()?;
        let place = Place {
            finish: text.finish,
            request: number,
        };
        Some((place, text.tokens))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const LIMITS: BatchLimits = BatchLimits {
        token_budget: 100,
        batch_tier_patience: Duration::from_secs(60),
    };

    /// A request whose items are its number and the text's place.
    fn push(queue: &mut FairQueue<(u64, usize)>, tier: Tier, lens: &[usize], now: Instant) -> u64 {
        push_for(queue, "", tier, lens, now)
    }

    fn push_for(
        queue: &mut FairQueue<(u64, usize)>,
        tenant: &str,
        tier: Tier,
        lens: &[usize],
        now: Instant,
    ) -> u64 {
        let number = queue.open(&Tenant(Some(tenant.into())), tier, now);
        for (place, &len) in lens.iter().enumerate() {
            queue.push(number, len, (number, place));
        }
        number
    }

    fn running(batch: &Batch<(u64, usize)>, ran: f64, lost: f64) -> Running {
        Running {
            last: batch.last,
            patience_ends: batch.oldest + LIMITS.batch_tier_patience,
            ran,
            left: batch.tokens as f64 - ran,
            lost,
        }
    }

    proptest! {
        #[test]
        fn every_text_runs_once_in_its_order_within_the_budget(
            requests in prop::collection::vec(
                (any::<bool>(), 0usize..4, prop::collection::vec(1usize..200, 1..8)), 0..30),
            closed in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        ) {
            let now = Instant::now();
            let mut queue = FairQueue::new(LIMITS);
            for (batch_tier, tenant, lens) in &requests {
                let tier = if *batch_tier { Tier::Batch } else { Tier::Realtime };
                push_for(&mut queue, &tenant.to_string(), tier, lens, now);
            }
            let mut next = vec![0; requests.len()];
            if !requests.is_empty() {
                for index in closed {
                    let number = index.index(requests.len());
                    queue.close(number as u64).for_each(drop);
                    next[number] = requests[number].2.len();
                }
            }
            // The most urgent waiting text, by looking at all.
            let urgent = |queue: &FairQueue<(u64, usize)>| {
                let mut firsts: HashMap<(Tier, u64), (Place, usize)> = HashMap::new();
                for (number, request) in &queue.requests {
                    if let Some(head) = request.head(*number) {
                        let first = firsts.entry((request.tier, request.tenant)).or_insert(head);
                        *first = head.min(*first);
                    }
                }
                let heads = firsts.into_iter().map(|((tier, tenant), (place, tokens))| {
                    let finish = queue.lanes[tier as usize].end(tenant).after(tokens);
                    Urgency { tier, finish, tenant, place }
                });
                heads.reduce(|a, b| if b.precedes(&a) { b } else { a })
            };
            while let Some(head) = urgent(&queue) {
                let batch = queue.next_batch(now).unwrap();
                prop_assert_eq!(batch.items[0].0, head.place.request);
                let lens: Vec<usize> = batch
                    .items
                    .iter()
                    .map(|&(number, place)| requests[number as usize].2[place])
                    .collect();
                prop_assert_eq!(batch.tokens, lens.iter().sum::<usize>());
                prop_assert!(batch.tokens <= LIMITS.token_budget || lens.len() == 1);
                for (number, place) in batch.items {
                    prop_assert_eq!(next[number as usize], place);
                    next[number as usize] += 1;
                    prop_assert_eq!(requests[number as usize].0, batch.last.tier == Tier::Batch);
                }
            }
            prop_assert!(queue.next_batch(now).is_none());
            let all = requests.iter().zip(next).all(|((_, _, lens), next)| lens.len() == next);
            prop_assert!(all);
        }

        #[test]
        fn a_tenant_that_always_has_work_gets_an_even_share_however_others_cut_theirs(
            tenants in prop::collection::vec((1usize..60, 1usize..30), 2..6),
        ) {
            let now = Instant::now();
            let mut queue = FairQueue::new(LIMITS);
            // Each has as many requests in flight and texts as long as it likes.
            for (tenant, &(requests, len)) in tenants.iter().enumerate() {
                for _ in 0..requests {
                    push_for(&mut queue, &tenant.to_string(), Tier::Realtime, &[len], now);
                }
            }
            let mut owner: Vec<usize> = tenants
                .iter()
                .enumerate()
                .flat_map(|(tenant, &(requests, _))| std::iter::repeat_n(tenant, requests))
                .collect();
            let mut had = vec![0; tenants.len()];
            while had.iter().sum::<usize>() < 20_000 {
                let batch = queue.next_batch(now).unwrap();
                queue.worked(Tier::Realtime, batch.tokens as f64);
                for (number, _) in batch.items {
                    let tenant = owner[number as usize];
                    had[tenant] += tenants[tenant].1;
                    queue.close(number).for_each(drop);
                    owner.push(tenant);
                    let len = tenants[tenant].1;
                    push_for(&mut queue, &tenant.to_string(), Tier::Realtime, &[len], now);
                }
            }
            // Whoever has more in flight than a batch holds always has something waiting, and gets an
            // even share of every batch but its end, which goes to texts that still fit there.
            let end = tenants.iter().map(|&(_, len)| len).max().unwrap_or_default();
            let packed = had.iter().sum::<usize>() * (LIMITS.token_budget - end) / LIMITS.token_budget;
            let even = packed / tenants.len();
            for ((requests, len), had) in tenants.iter().zip(&had) {
                if requests * len > LIMITS.token_budget {
                    prop_assert!(had + 4 * LIMITS.token_budget >= even, "{had} of {even}: {tenants:?}");
                }
            }
            for number in 0..owner.len() as u64 {
                queue.close(number).for_each(drop);
            }
            prop_assert!(queue.lanes[0].is_empty());
        }
    }

    #[test]
    fn a_tenants_flood_does_not_hold_up_another_tenants_query() {
        let now = Instant::now();
        let mut queue = FairQueue::new(LIMITS);
        for _ in 0..1000 {
            push_for(&mut queue, "flood", Tier::Realtime, &[50], now);
        }
        for _ in 0..50 {
            let batch = queue.next_batch(now).unwrap();
            queue.worked(Tier::Realtime, batch.tokens as f64);
            for (number, _) in batch.items {
                queue.close(number).for_each(drop);
            }
        }
        let query = push_for(&mut queue, "light", Tier::Realtime, &[16], now);
        assert!(queue.next_batch(now).unwrap().items.contains(&(query, 0)));
        // By requests alone it would have been one of 901: its turn would come after 14,416 tokens.
    }

    #[test]
    fn a_text_that_does_not_fit_is_passed_by_smaller_ones() {
        let now = Instant::now();
        let mut queue = FairQueue::new(LIMITS);
        let first = push(&mut queue, Tier::Realtime, &[60], now);
        let long = push(&mut queue, Tier::Realtime, &[70], now);
        let short = push(&mut queue, Tier::Realtime, &[80, 5], now);
        queue.close(short).for_each(drop);
        let short = push(&mut queue, Tier::Realtime, &[40], now);
        let batch = queue.next_batch(now).unwrap();
        assert_eq!(batch.items, [(short, 0), (first, 0)]);
        assert_eq!(queue.next_batch(now).unwrap().items, [(long, 0)]);
    }

    #[test]
    fn the_batch_tier_comes_last_until_its_patience_ends() {
        let now = Instant::now();
        let mut queue = FairQueue::new(LIMITS);
        let patient = push(&mut queue, Tier::Batch, &[80, 80], now);
        let first = push(&mut queue, Tier::Realtime, &[80], now);
        assert_eq!(queue.next_batch(now).unwrap().items, [(first, 0)]);
        queue.worked(Tier::Realtime, 80.0);
        let late = now + LIMITS.batch_tier_patience;
        // From now on it has its share, and no more.
        let second = push(&mut queue, Tier::Realtime, &[90, 90], late);
        let order: Vec<_> = (0..4)
            .map(|_| queue.next_batch(late).unwrap().items[0])
            .collect();
        assert_eq!(
            order,
            [(patient, 0), (second, 0), (patient, 1), (second, 1)]
        );
    }

    #[test]
    fn a_waiting_document_is_overtaken_by_no_more_than_its_share() {
        let now = Instant::now();
        let mut queue = FairQueue::new(LIMITS);
        let document = push(&mut queue, Tier::Realtime, &[8000], now);
        // One query at a time arrives for ever: two requests wait, each entitled to half.
        let mut overtaken = 0;
        loop {
            let query = push(&mut queue, Tier::Realtime, &[95], now);
            let batch = queue.next_batch(now).unwrap();
            if batch.items[0].0 == document {
                break;
            }
            overtaken += batch.tokens;
            queue.worked(Tier::Realtime, batch.tokens as f64);
            queue.close(query).for_each(drop);
        }
        assert!((15_000..=16_100).contains(&overtaken), "{overtaken}");
    }

    #[test]
    fn queries_pass_a_running_document_and_do_not_starve_it() {
        let now = Instant::now();
        let mut queue = FairQueue::new(LIMITS);
        push(&mut queue, Tier::Realtime, &[8000], now);
        let document = queue.next_batch(now).unwrap();
        let (mut ran, mut lost, mut longest_wait, mut wait) = (0.0, 0.0, 0.0_f64, 0.0);
        while ran < 8000.0 {
            ran += 10.0;
            wait += 10.0;
            queue.worked(Tier::Realtime, 10.0);
            // More queries than the machine could ever do.
            push(&mut queue, Tier::Realtime, &[16], now);
            while let Some(query) = queue.interrupting(&running(&document, ran, lost), now) {
                lost += query.tokens as f64;
                longest_wait = longest_wait.max(wait);
                wait = 0.0;
                queue.worked(Tier::Realtime, query.tokens as f64);
                for (number, _) in query.items {
                    queue.close(number).for_each(drop);
                }
                push(&mut queue, Tier::Realtime, &[16], now);
            }
        }
        assert!(
            lost > 7000.0 && lost <= 8000.0 + INTERRUPTING_TOKENS as f64,
            "{lost}"
        );
        assert!(
            longest_wait <= 2.0 * INTERRUPTING_TOKENS as f64,
            "{longest_wait}"
        );
    }

    #[test]
    fn queries_that_passed_a_document_leave_its_end_open_to_others() {
        let now = Instant::now();
        let mut queue = FairQueue::new(LIMITS);
        push(&mut queue, Tier::Realtime, &[8000], now);
        let document = queue.next_batch(now).unwrap();
        let (mut ran, mut lost) = (0.0, 0.0);
        // A query longer than a quarter of what is left waits for the end.
        while ran < 8000.0 - 5.0 * 16.0 {
            ran += 20.0;
            queue.worked(Tier::Realtime, 20.0);
            let query = push(&mut queue, Tier::Realtime, &[16], now);
            let passing = queue.interrupting(&running(&document, ran, lost), now);
            assert_eq!(passing.unwrap().items, [(query, 0)], "after {ran} tokens");
            lost += 16.0;
            queue.worked(Tier::Realtime, 16.0);
            queue.close(query).for_each(drop);
        }
    }

    #[test]
    fn an_interruption_is_short() {
        let now = Instant::now();
        let mut queue = FairQueue::new(LIMITS);
        push(&mut queue, Tier::Realtime, &[8000], now);
        let document = queue.next_batch(now).unwrap();
        for _ in 0..100 {
            push(&mut queue, Tier::Realtime, &[16, 16], now);
        }
        let batch = queue
            .interrupting(&running(&document, 4000.0, 0.0), now)
            .unwrap();
        assert_eq!(batch.tokens, LIMITS.token_budget / 16 * 16);
        // Another document waits until the first is done.
        let mut queue = FairQueue::new(LIMITS);
        push(&mut queue, Tier::Realtime, &[7000], now);
        assert!(
            queue
                .interrupting(&running(&document, 4000.0, 0.0), now)
                .is_none()
        );
    }
}
