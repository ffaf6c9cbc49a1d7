//! The tenants of one tier, in the order of their most urgent texts.

use std::collections::{BTreeSet, HashMap};

use super::policy::{Place, Tenant, Tier, Urgency, VirtualClock, VirtualTime};

/// The tenants of one tier.
#[derive(Debug, Default)]
pub(super) struct Lane {
    clock: VirtualClock,
    /// Numbers of those that have requests. Nothing is kept of others, so what waits bounds this too.
    numbers: HashMap<Tenant, u64>,
    /// By number.
    shares: HashMap<u64, Share>,
    /// When each tenant would have had its most urgent text, with its number.
    order: BTreeSet<(VirtualTime, u64)>,
}

/// One tenant's share of a tier.
#[derive(Debug)]
struct Share {
    tenant: Tenant,
    /// Shared by its requests.
    clock: VirtualClock,
    /// The lane's time up to which `clock` goes.
    seen: VirtualTime,
    /// Requests that have texts that wait or run.
    active: usize,
    /// Where what was taken of it ends in the lane's time.
    end: VirtualTime,
    /// The first waiting text of each request that has one, with its tokens.
    order: BTreeSet<(Place, usize)>,
    /// Its entry in the lane's order.
    queued: Option<VirtualTime>,
}

impl Lane {
    /// A request of a tenant arrives: the tenant's number, and where the request begins in its time.
    pub(super) fn join(&mut self, tenant: &Tenant, next: &mut u64) -> (u64, VirtualTime) {
        let now = self.clock.now();
        let number = *self.numbers.entry(tenant.clone()).or_insert_with(|| {
            *next += 1;
            *next
        });
        let share = self.shares.entry(number).or_insert_with(|| Share {
            tenant: tenant.clone(),
            clock: VirtualClock::default(),
            seen: now,
            active: 0,
            end: now,
            order: BTreeSet::new(),
            queued: None,
        });
        share.catch_up(now);
        share.active += 1;
        (number, share.clock.now())
    }

    /// A request is over; `head` is what still waits of it. A tenant without requests is forgotten.
    pub(super) fn leave(&mut self, number: u64, head: Option<(Place, usize)>) {
        let now = self.clock.now();
        let Some(share) = self.shares.get_mut(&number) else {
            return;
        };
        share.catch_up(now);
        share.active -= 1;
        if let Some(head) = head {
            share.order.remove(&head);
        }
        if share.active > 0 {
            self.insert(number, None);
        } else if let Some(share) = self.shares.remove(&number) {
            self.numbers.remove(&share.tenant);
            if let Some(finish) = share.queued {
                self.order.remove(&(finish, number));
            }
        }
    }

    /// So many tokens' worth of work of the tier was done.
    pub(super) fn worked(&mut self, tokens: f64) {
        self.clock.advance(tokens, self.shares.len());
    }

    /// When the least urgent text of a batch that runs is due, with `left` tokens of it left: not before
    /// they would be done at an even share from now on. Whoever passed the batch has gone since, sooner
    /// than if it had run beside, so the clocks are ahead of what the batch has had.
    pub(super) fn due(&mut self, mut last: Urgency, left: f64) -> Urgency {
        let now = self.clock.now();
        let left = left.ceil() as usize;
        last.finish = last.finish.max(now.after(left));
        if let Some(share) = self.shares.get_mut(&last.tenant) {
            share.catch_up(now);
            last.place.finish = last.place.finish.max(share.clock.now().after(left));
        }
        last
    }

    /// Who has the most urgent text; nobody where none waits.
    pub(super) fn first(&self) -> Option<u64> {
        self.order.first().map(|(_, tenant)| *tenant)
    }

    /// Who has this number; nobody where it has no requests.
    pub(super) fn tenant(&self, number: u64) -> Tenant {
        let share = self.shares.get(&number);
        share.map(|share| share.tenant.clone()).unwrap_or_default()
    }

    /// A request that had no text waiting has one. A tenant that had none has saved up nothing.
    pub(super) fn wait(&mut self, number: u64, head: Option<(Place, usize)>) {
        let now = self.clock.now();
        if let Some(share) = self.shares.get_mut(&number)
            && share.order.is_empty()
        {
            share.end = share.end.max(now);
        }
        self.insert(number, head);
    }

    /// Puts a text into its tenant's order and the tenant where it now belongs.
    pub(super) fn insert(&mut self, number: u64, head: Option<(Place, usize)>) {
        let Some(share) = self.shares.get_mut(&number) else {
            return;
        };
        share.order.extend(head);
        let first = share.order.first();
        let finish = first.map(|(_, tokens)| share.end.after(*tokens));
        if share.queued != finish {
            if let Some(old) = share.queued {
                self.order.remove(&(old, number));
            }
            self.order.extend(finish.map(|finish| (finish, number)));
            share.queued = finish;
        }
    }

    /// The most urgent text of a tenant, with its tokens.
    pub(super) fn head(&self, tier: Tier, tenant: u64) -> Option<(Urgency, usize)> {
        let share = self.shares.get(&tenant)?;
        let &(place, tokens) = share.order.first()?;
        let finish = share.end.after(tokens);
        Some((
            Urgency {
                tier,
                finish,
                tenant,
                place,
            },
            tokens,
        ))
    }

    /// Takes the most urgent text of all out of the order.
    pub(super) fn pop(&mut self, tier: Tier) -> Option<(Urgency, usize)> {
        let tenant = self.first()?;
        let head = self.head(tier, tenant)?;
        self.shares.get_mut(&tenant)?.order.pop_first();
        self.insert(tenant, None);
        Some(head)
    }

    /// A text that was popped will run; `next` waits in its place.
    pub(super) fn taken(&mut self, head: Urgency, next: Option<(Place, usize)>) {
        if let Some(share) = self.shares.get_mut(&head.tenant) {
            share.end = head.finish;
        }
        self.insert(head.tenant, next);
    }
}

impl Share {
    /// Its requests have had their parts of what it had since the last time.
    fn catch_up(&mut self, now: VirtualTime) {
        self.clock.advance(now.tokens_since(self.seen), self.active);
        self.seen = now;
    }
}

#[cfg(test)]
impl Lane {
    /// Where what was taken of a tenant ends.
    pub(super) fn end(&self, tenant: u64) -> VirtualTime {
        self.shares[&tenant].end
    }

    /// Whether nothing is kept of anybody.
    pub(super) fn is_empty(&self) -> bool {
        self.shares.is_empty() && self.numbers.is_empty() && self.order.is_empty()
    }
}
