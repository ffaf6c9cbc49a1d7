//! What tokens cost.

use serde::{Deserialize, Serialize};

use crate::batcher::Tier;

/// Micro-dollars per million tokens, so that sums are exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Of requests that are answered in their turn.
    pub realtime_micro_usd_per_million: u64,
    /// Of requests that let all others go first.
    pub batch_micro_usd_per_million: u64,
}

impl Price {
    /// Micro-dollars per million tokens of a tier.
    pub fn of(&self, tier: Tier) -> u64 {
        match tier {
            Tier::Realtime => self.realtime_micro_usd_per_million,
            Tier::Batch => self.batch_micro_usd_per_million,
        }
    }
}
