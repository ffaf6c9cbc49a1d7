//! Requests and tokens by the minute, as leaky buckets that one number each describes: the time at
//! which the bucket is full again (GCRA, ATM Forum 1996).

use std::time::Duration;

use serde::Serialize;

/// What an operator allows an account or a key; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Rates {
    /// Requests in a minute, and at once.
    pub requests_per_minute: Option<u64>,
    /// Tokens in a minute, and at once.
    pub tokens_per_minute: Option<u64>,
    /// Requests that run at the same time.
    pub concurrent_requests: Option<u64>,
}

impl Rates {
    /// These, and the others where these are open.
    pub fn or(self, others: Self) -> Self {
        Self {
            requests_per_minute: self.requests_per_minute.or(others.requests_per_minute),
            tokens_per_minute: self.tokens_per_minute.or(others.tokens_per_minute),
            concurrent_requests: self.concurrent_requests.or(others.concurrent_requests),
        }
    }
}

/// What is left of one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// By the minute.
    pub limit: u64,
    /// At once.
    pub remaining: u64,
    /// Until all of it is back.
    pub reset: Duration,
}

/// What is left of the limits that a request met, the tighter of account and key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Allowances {
    /// Requests.
    pub requests: Option<Allowance>,
    /// Tokens.
    pub tokens: Option<Allowance>,
}

const MINUTE_US: i64 = 60_000_000;
/// No debt is longer, so that a clock which was set back locks nobody out.
const MAX_DEBT_US: i64 = 10 * MINUTE_US;

/// Microseconds until the bucket is full.
fn debt(full_us: i64, now_us: i64) -> i64 {
    full_us.saturating_sub(now_us).clamp(0, MAX_DEBT_US)
}

/// Takes `amount` out of a bucket that holds a minute's worth. Gives the time at which it is full
/// again. More than the bucket holds is let through when it is full, and owed.
///
/// # Errors
/// How long to wait until `amount` can be taken.
pub fn take(full_us: i64, now_us: i64, amount: u64, per_minute: u64) -> Result<i64, Duration> {
    let debt = debt(full_us, now_us);
    // A limit of nothing lets one through in ten minutes rather than divide by zero.
    let cost = u128::from(amount) * u128::from(MINUTE_US.unsigned_abs());
    let cost = cost.div_ceil(u128::from(per_minute).max(1));
    let cost = i64::try_from(cost).unwrap_or(MAX_DEBT_US).min(MAX_DEBT_US);
    let room = MINUTE_US.saturating_sub(cost).max(0);
    if debt > room {
        return Err(Duration::from_micros((debt - room).unsigned_abs()));
    }
    Ok(now_us.saturating_add(debt + cost))
}

/// What is left in a bucket.
pub fn allowance(full_us: i64, now_us: i64, per_minute: u64) -> Allowance {
    let debt = debt(full_us, now_us);
    let left = (MINUTE_US - debt).max(0).unsigned_abs();
    let remaining =
        u128::from(per_minute) * u128::from(left) / u128::from(MINUTE_US.unsigned_abs());
    Allowance {
        limit: per_minute,
        remaining: u64::try_from(remaining).unwrap_or(u64::MAX),
        reset: Duration::from_micros(debt.unsigned_abs()),
    }
}

/// A time as Go writes it, which Weaviate's clients read: `12ms`, `1.5s`, `6m0s`.
pub fn go_duration(time: Duration) -> String {
    let millis = time.as_millis();
    let seconds = |millis: u128| {
        let text = format!("{}.{:03}", millis / 1000, millis % 1000);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match millis {
        0 => "0s".to_owned(),
        1..1000 => format!("{millis}ms"),
        1000..60_000 => format!("{}s", seconds(millis)),
        _ => format!("{}m{}s", millis / 60_000, seconds(millis % 60_000)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_minutes_worth_at_once_then_one_by_one() {
        let mut full = 0;
        let now = 1_000_000_000;
        for _ in 0..60 {
            full = take(full, now, 1, 60).unwrap();
        }
        assert_eq!(take(full, now, 1, 60), Err(Duration::from_secs(1)));
        assert_eq!(allowance(full, now, 60).remaining, 0);
        let later = now + 1_000_000;
        assert_eq!(allowance(full, later, 60).remaining, 1);
        assert!(take(full, later, 1, 60).is_ok());
    }

    #[test]
    fn what_no_bucket_holds_waits_for_a_full_one_and_is_owed() {
        let full = take(0, 1_000_000_000, 300, 100).unwrap();
        assert_eq!(full, 1_000_000_000 + 3 * MINUTE_US);
        let refused = take(full, 1_000_000_000, 1, 100).unwrap_err();
        assert_eq!(refused, Duration::from_millis(120_600));
    }

    #[test]
    fn a_clock_that_was_set_back_locks_nobody_out_for_long() {
        let year = 365 * 24 * 3_600_000_000;
        let wait = take(year, 0, 1, 60).unwrap_err();
        assert!(wait <= Duration::from_secs(600), "{wait:?}");
    }

    #[test]
    fn times_are_written_as_go_reads_them() {
        let written = |millis| go_duration(Duration::from_millis(millis));
        assert_eq!(written(0), "0s");
        assert_eq!(written(12), "12ms");
        assert_eq!(written(1000), "1s");
        assert_eq!(written(1500), "1.5s");
        assert_eq!(written(360_000), "6m0s");
        assert_eq!(written(61_250), "1m1.25s");
    }

    proptest! {
        #[test]
        fn in_no_minute_is_more_let_through_than_two_buckets(
            per_minute in 1u64..1000,
            steps in prop::collection::vec((0i64..5_000_000, 1u64..50), 1..200),
        ) {
            let (mut now, mut full) = (1_000_000_000_i64, 0);
            let mut taken: Vec<(i64, u64)> = Vec::new();
            for (wait, amount) in steps {
                now += wait;
                let amount = amount.min(per_minute);
                match take(full, now, amount, per_minute) {
                    Ok(next) => {
                        full = next;
                        taken.push((now, amount));
                    }
                    Err(wait) => {
                        let later = now + i64::try_from(wait.as_micros()).unwrap();
                        prop_assert!(take(full, later, amount, per_minute).is_ok());
                    }
                }
                let in_minute = taken.iter().filter(|(at, _)| now - at < MINUTE_US);
                let sum: u64 = in_minute.map(|(_, amount)| amount).sum();
                prop_assert!(sum <= 2 * per_minute, "{sum} in a minute");
            }
        }
    }
}
