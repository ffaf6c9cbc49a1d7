//! Who comes before whom: tiers, virtual time, and when a running batch gives way. Neither threads nor
//! clocks: the time is passed in.
//!
//! The order is weighted fair queueing (Demers, Keshav, Shenker 1989) in two levels (Bennett, Zhang 1996):
//! tenants share the processor evenly, and requests share what their tenant has. Each text carries the
//! virtual time at which it would be done so. A short query therefore passes the far end of a large
//! request, a long document passes whatever arrives later than its own length, and a tenant gains
//! nothing by sending more requests.

use std::sync::Arc;
use std::time::{Duration, Instant};

/// How soon a request wants its answer. What comes first is smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Tier {
    /// Someone waits.
    #[default]
    Realtime,
    /// After everything in real time: `X-Tier: batch`.
    Batch,
}

/// How many tiers there are.
pub(super) const TIERS: usize = 2;

/// What bounds a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Tokens of a batch; a longer text gets a batch of its own.
    pub token_budget: usize,
    /// A text of the batch tier that has waited this long counts as realtime, so that it ends.
    pub batch_tier_patience: Duration,
}

/// Who shares the processor with others: an account, or everybody where nobody is told apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Tenant(pub Option<Arc<str>>);

/// The place of a text among those of its tenant; the smallest runs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Virtual time of the tenant at which it would be done.
    pub finish: VirtualTime,
    /// Number of its request, in order of arrival; decides between equals.
    pub request: u64,
}

/// The place of a text in the order of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Urgency {
    /// Realtime before batch.
    pub tier: Tier,
    /// Virtual time at which its tenant would have had it.
    pub finish: VirtualTime,
    /// Number of its tenant, in order of arrival; decides between equals.
    pub tenant: u64,
    /// Its place within the tenant.
    pub place: Place,
}

impl Urgency {
    /// Whether it runs before another text. Texts of one tenant are in the tenant's order.
    pub fn precedes(&self, other: &Self) -> bool {
        if self.tier == other.tier && self.tenant == other.tenant {
            return self.place < other.place;
        }
        (self.tier, self.finish, self.tenant) < (other.tier, other.finish, other.tenant)
    }
}

/// A moment of a [`VirtualClock`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct VirtualTime(u64);

/// Parts of a token in which virtual time is counted.
const PARTS: f64 = 65_536.0;

impl VirtualTime {
    /// This moment and `tokens` more.
    #[must_use]
    pub fn after(self, tokens: usize) -> Self {
        Self(self.0 + (tokens as f64 * PARTS) as u64)
    }

    /// Tokens from an earlier moment to this one.
    pub(super) fn tokens_since(self, earlier: Self) -> f64 {
        self.0.saturating_sub(earlier.0) as f64 / PARTS
    }
}

/// The virtual time of those who share a tier or a tenant: it advances by what each of them would have got
/// of the work done, were it shared evenly.
#[derive(Debug, Clone, Copy, Default)]
pub struct VirtualClock {
    now: VirtualTime,
}

impl VirtualClock {
    /// Who arrives now begins here.
    pub fn now(&self) -> VirtualTime {
        self.now
    }

    /// Work of `tokens` was done for `sharers` that waited or ran.
    pub fn advance(&mut self, tokens: f64, sharers: usize) {
        self.now.0 += (tokens * PARTS / sharers.max(1) as f64) as u64;
    }
}

/// A batch that can be interrupted, and how far it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Running {
    /// The least urgent of its texts.
    pub last: Urgency,
    /// When a batch of the batch tier counts as realtime.
    pub patience_ends: Instant,
    /// Tokens of its work that are done. A share of the layers counts as that share of the tokens.
    pub ran: f64,
    /// Tokens of its work that are left.
    pub left: f64,
    /// Tokens of batches that have interrupted it.
    pub lost: f64,
}

/// Tokens that interrupt a batch together; enough to keep the products near their best rate. A longer
/// text does so alone.
pub(super) const INTERRUPTING_TOKENS: usize = 128;

/// What interrupts is so many times shorter than what is left: a batch that is nearly done ends first.
const TIMES_SHORTER: f64 = 4.0;

impl Running {
    /// Tokens that may run before the rest of this batch, if the most urgent text that waits is `waiting`.
    ///
    /// What would have been before the batch, had it been there, passes it, until the batch has lost as
    /// much time as it has had: so it takes at most twice its time, whatever arrives. A batch of the batch
    /// tier gives way to realtime texts without that bound, as long as it has patience.
    pub fn room(&self, waiting: Urgency, now: Instant) -> usize {
        let mut last = self.last;
        let mut room = self.left / TIMES_SHORTER;
        if now >= self.patience_ends {
            last.tier = Tier::Realtime;
        }
        if !waiting.precedes(&last) {
            return 0;
        }
        if waiting.tier == last.tier {
            room = room.min(self.ran + INTERRUPTING_TOKENS as f64 - self.lost);
        }
        room.max(0.0) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urgency(tier: Tier, tokens: usize) -> Urgency {
        let finish = VirtualTime::default().after(tokens);
        Urgency {
            tier,
            finish,
            tenant: 0,
            place: Place { finish, request: 0 },
        }
    }

    fn document(tier: Tier) -> Running {
        Running {
            last: urgency(tier, 8000),
            patience_ends: Instant::now() + Duration::from_secs(60),
            ran: 1000.0,
            left: 7000.0,
            lost: 0.0,
        }
    }

    #[test]
    fn what_would_have_been_before_passes() {
        let (running, now) = (document(Tier::Realtime), Instant::now());
        assert_eq!(running.room(urgency(Tier::Realtime, 1016), now), 1128);
        assert_eq!(running.room(urgency(Tier::Realtime, 8001), now), 0);
        assert_eq!(running.room(urgency(Tier::Batch, 0), now), 0);
    }

    #[test]
    fn a_tenants_query_passes_its_own_document_and_not_that_of_another() {
        let (running, now) = (document(Tier::Realtime), Instant::now());
        let mut query = urgency(Tier::Realtime, 16);
        // The tenant has had the document's time already.
        query.finish = query.finish.after(8000);
        assert_eq!(running.room(query, now), 1128);
        query.tenant = 1;
        assert_eq!(running.room(query, now), 0);
    }

    #[test]
    fn a_batch_loses_no_more_than_it_has_had() {
        let mut running = document(Tier::Realtime);
        running.lost = 1128.0;
        let query = urgency(Tier::Realtime, 1016);
        assert_eq!(running.room(query, Instant::now()), 0);
        running.ran += 16.0;
        assert_eq!(running.room(query, Instant::now()), 16);
    }

    #[test]
    fn a_batch_that_is_nearly_done_ends_first() {
        let mut running = document(Tier::Realtime);
        running.left = 60.0;
        let query = urgency(Tier::Realtime, 1016);
        assert_eq!(running.room(query, Instant::now()), 15);
    }

    #[test]
    fn the_batch_tier_gives_way_until_its_patience_ends() {
        let mut running = document(Tier::Batch);
        running.lost = 1e6;
        let query = urgency(Tier::Realtime, 1_000_000);
        assert_eq!(running.room(query, Instant::now()), 1750);
        assert_eq!(running.room(query, running.patience_ends), 0);
    }
}
