//! Money in whole pico-dollars: a token at N micro-dollars per million costs exactly N of them, so
//! nothing is ever rounded.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

use crate::batcher::Tier;

/// An amount of money, in 10^-12 dollars. Up to 9.2 million dollars either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PicoUsd(pub i64);

/// Pico-dollars of a dollar.
const DOLLAR: i64 = 1_000_000_000_000;

impl PicoUsd {
    /// Nothing.
    pub const ZERO: Self = Self(0);
}

/// Dollars, all digits and no more: `0.00000046`.
impl fmt::Display for PicoUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, part) = (
            self.0.unsigned_abs() / DOLLAR as u64,
            self.0.unsigned_abs() % DOLLAR as u64,
        );
        let digits = format!("{part:012}");
        match digits.trim_end_matches('0') {
            "" => write!(f, "{sign}{whole}"),
            digits => write!(f, "{sign}{whole}.{digits}"),
        }
    }
}

/// A text is no amount of money.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no amount, expected dollars such as `5` or `0.25`, at most 9000000")]
pub struct InvalidAmount {
    text: String,
}

impl FromStr for PicoUsd {
    type Err = InvalidAmount;

    fn from_str(text: &str) -> Result<Self, InvalidAmount> {
        let read = || {
            let (is_negative, digits) = match text.strip_prefix('-') {
                Some(digits) => (true, digits),
                None => (false, text),
            };
            let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
            let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
            let is_long = whole.len() > 7 || part.len() > 12;
            if whole.is_empty() || is_long || !is_number(whole) || !is_number(part) {
                return None;
            }
            let whole: i64 = whole.parse().ok()?;
            let part: i64 = format!("{part:0<12}").parse().ok()?;
            let amount = whole.checked_mul(DOLLAR)?.checked_add(part)?;
            (amount <= 9_000_000 * DOLLAR).then_some(Self(if is_negative {
                -amount
            } else {
                amount
            }))
        };
        read().ok_or_else(|| InvalidAmount {
            text: text.to_owned(),
        })
    }
}

/// A string of dollars: a JSON number would be read as a float, and lose digits.
impl Serialize for PicoUsd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a model's tokens cost, in micro-dollars per million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// When someone waits for the answer.
    pub realtime_micro_usd_per_million: u64,
    /// `X-Tier: batch`, and batches.
    pub batch_micro_usd_per_million: u64,
}

impl Price {
    /// What a token costs in this tier.
    pub fn of_token(&self, tier: Tier) -> PicoUsd {
        let price = match tier {
            Tier::Realtime => self.realtime_micro_usd_per_million,
            Tier::Batch => self.batch_micro_usd_per_million,
        };
        PicoUsd(i64::try_from(price).unwrap_or(i64::MAX))
    }

    /// What so many tokens cost in this tier; the largest amount there is where it is more.
    pub fn of_tokens(&self, tokens: usize, tier: Tier) -> PicoUsd {
        let tokens = i64::try_from(tokens).unwrap_or(i64::MAX);
        PicoUsd(self.of_token(tier).0.saturating_mul(tokens))
    }
}

/// The tier's word in the ledger and in answers.
pub fn tier_name(tier: Tier) -> &'static str {
    match tier {
        Tier::Realtime => "realtime",
        Tier::Batch => "batch",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn money_is_written_with_all_its_digits() {
        let written = |amount| PicoUsd(amount).to_string();
        assert_eq!(written(0), "0");
        assert_eq!(written(460_000), "0.00000046");
        assert_eq!(written(-5 * DOLLAR), "-5");
        assert_eq!(written(i64::MIN), "-9223372.036854775808");
        for text in [
            "",
            "-",
            "1e3",
            "0x1",
            ".5",
            "99999999",
            "1.0000000000001",
            "+1",
            "１",
        ] {
            assert!(text.parse::<PicoUsd>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(amount in -9_000_000 * DOLLAR..=9_000_000 * DOLLAR) {
            prop_assert_eq!(PicoUsd(amount).to_string().parse(), Ok(PicoUsd(amount)));
        }
    }

    #[test]
    fn a_million_tokens_cost_the_price() {
        let price = Price {
            realtime_micro_usd_per_million: 20_000,
            batch_micro_usd_per_million: 10_000,
        };
        let cost = |tier| price.of_tokens(1_000_000, tier).to_string();
        assert_eq!(cost(Tier::Realtime), "0.02");
        assert_eq!(cost(Tier::Batch), "0.01");
        assert_eq!(price.of_tokens(usize::MAX, Tier::Batch).0, i64::MAX);
    }
}
