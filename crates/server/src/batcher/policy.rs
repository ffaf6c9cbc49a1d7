//! Which texts run next: a pure function of what waits, the time and the limits.
//!
//! The order is weighted fair queueing (Demers, Keshav, Shenker 1989) over requests: each text carries
//! the virtual time at which it would be done if every waiting request had an equal share of the
//! processor. A short query therefore passes the far end of a large request, and a long document
//! passes whatever arrives later than its own length, so neither starves the other.

use std::time::{Duration, Instant};

/// How soon a request wants its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Tier {
    /// Someone waits.
    #[default]
    Realtime,
    /// After everything in real time: `X-Tier: batch`.
    Batch,
}

/// What the policy knows of one waiting text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entry {
    /// How soon it is wanted.
    pub tier: Tier,
    /// Virtual time at which it would be done, in tokens.
    pub finish_tag: f64,
    /// Order of arrival; decides between equal tags.
    pub number: u64,
    /// Its length.
    pub tokens: usize,
    /// When it arrived.
    pub arrived: Instant,
}

/// What bounds a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Tokens of a batch; a longer text gets a batch of its own.
    pub token_budget: usize,
    /// A text of the batch tier that has waited this long counts as realtime, so that it ends.
    pub batch_tier_patience: Duration,
}

/// Indices of the entries that run next, the most urgent first; none only if none wait.
///
/// The most urgent entry is always taken. Those behind it follow while they fit into the budget; one
/// that does not fit is passed by smaller ones once, and sooner or later is itself the most urgent.
pub fn next_batch(entries: &[Entry], now: Instant, limits: &BatchLimits) -> Vec<usize> {
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_unstable_by(|&a, &b| {
        let (a, b) = (&entries[a], &entries[b]);
        lane(a, now, limits)
            .cmp(&lane(b, now, limits))
            .then(a.finish_tag.total_cmp(&b.finish_tag))
            .then(a.number.cmp(&b.number))
    });
    let mut tokens = 0;
    let mut batch = Vec::new();
    for index in order {
        let len = entries[index].tokens;
        if batch.is_empty() || tokens + len <= limits.token_budget {
            batch.push(index);
            tokens += len;
        }
        if tokens >= limits.token_budget {
            break;
        }
    }
    batch
}

/// 0 runs before 1.
fn lane(entry: &Entry, now: Instant, limits: &BatchLimits) -> u8 {
    let waited = now.saturating_duration_since(entry.arrived);
    match entry.tier {
        Tier::Realtime => 0,
        Tier::Batch if waited >= limits.batch_tier_patience => 0,
        Tier::Batch => 1,
    }
}

/// The virtual time of one tier: it advances by what each waiting request would have got of the work
/// done, were the processor shared evenly.
#[derive(Debug, Clone, Copy, Default)]
pub struct VirtualClock {
    now: f64,
}

impl VirtualClock {
    /// Tags for the texts of a request that arrives now, from their lengths.
    pub fn tags(&self, lens: impl IntoIterator<Item = usize>) -> impl Iterator<Item = f64> {
        let mut tag = self.now;
        lens.into_iter().map(move |len| {
            tag += len as f64;
            tag
        })
    }

    /// Work of `tokens` was taken while `requests` had texts waiting.
    pub fn advance(&mut self, tokens: usize, requests: usize) {
        self.now += tokens as f64 / requests.max(1) as f64;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: BatchLimits = BatchLimits {
        token_budget: 100,
        batch_tier_patience: Duration::from_secs(60),
    };

    fn entries(start: Instant) -> impl Strategy<Value = Vec<Entry>> {
        let entry = (any::<bool>(), 0u32..1000, 1usize..200, 0u64..100);
        prop::collection::vec(entry, 0..60).prop_map(move |entries| {
            let entry =
                |(number, (batch, tag, tokens, age)): (usize, (bool, u32, usize, u64))| Entry {
                    tier: if batch { Tier::Batch } else { Tier::Realtime },
                    finish_tag: f64::from(tag),
                    number: number as u64,
                    tokens,
                    arrived: start + Duration::from_secs(100 - age),
                };
            entries.into_iter().enumerate().map(entry).collect()
        })
    }

    fn key(entry: &Entry, now: Instant) -> (u8, u64, u64) {
        // Tags of the tests are whole numbers.
        (
            lane(entry, now, &LIMITS),
            entry.finish_tag as u64,
            entry.number,
        )
    }

    proptest! {
        #[test]
        fn a_batch_keeps_the_budget_and_holds_no_text_twice(
            entries in entries(Instant::now()),
        ) {
            let now = Instant::now() + Duration::from_secs(100);
            let mut batch = next_batch(&entries, now, &LIMITS);
            let tokens: usize = batch.iter().map(|&index| entries[index].tokens).sum();
            prop_assert!(tokens <= LIMITS.token_budget || batch.len() == 1);
            prop_assert_eq!(batch.is_empty(), entries.is_empty());
            let len = batch.len();
            batch.sort_unstable();
            batch.dedup();
            prop_assert_eq!(batch.len(), len);
        }

        #[test]
        fn the_most_urgent_runs_and_whoever_is_left_out_did_not_fit(
            entries in entries(Instant::now()),
        ) {
            let now = Instant::now() + Duration::from_secs(100);
            let batch = next_batch(&entries, now, &LIMITS);
            let urgent = (0..entries.len()).min_by_key(|&index| key(&entries[index], now));
            prop_assert_eq!(batch.first().copied(), urgent);
            for (index, entry) in entries.iter().enumerate() {
                if batch.contains(&index) {
                    continue;
                }
                let before: usize = batch
                    .iter()
                    .map(|&index| &entries[index])
                    .filter(|other| key(other, now) < key(entry, now))
                    .map(|other| other.tokens)
                    .sum();
                prop_assert!(before + entry.tokens > LIMITS.token_budget);
            }
        }
    }

    #[test]
    fn the_batch_tier_comes_last_until_its_patience_ends() {
        let arrived = Instant::now();
        let entry = |tier, finish_tag, number| Entry {
            tier,
            finish_tag,
            number,
            tokens: 80,
            arrived,
        };
        let entries = [entry(Tier::Batch, 0.0, 0), entry(Tier::Realtime, 9.0, 1)];
        assert_eq!(next_batch(&entries, arrived, &LIMITS), [1]);
        let late = arrived + LIMITS.batch_tier_patience;
        assert_eq!(next_batch(&entries, late, &LIMITS), [0]);
    }

    #[test]
    fn a_long_document_is_overtaken_by_no_more_than_its_share() {
        let arrived = Instant::now();
        let mut clock = VirtualClock::default();
        let document: Vec<f64> = clock.tags([8000]).collect();
        // One query at a time arrives for ever: two requests wait, each entitled to half.
        let mut overtaken = 0;
        loop {
            let query: Vec<f64> = clock.tags([10]).collect();
            let entry = |finish_tag, tokens| Entry {
                tier: Tier::Realtime,
                finish_tag,
                number: 0,
                tokens,
                arrived,
            };
            let waiting = [entry(document[0], 8000), entry(query[0], 10)];
            if next_batch(&waiting, arrived, &LIMITS)[0] == 0 {
                break;
            }
            overtaken += 10;
            clock.advance(10, 2);
        }
        assert!((15_000..=16_100).contains(&overtaken), "{overtaken}");
    }
}
