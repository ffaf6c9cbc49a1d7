//! Whether an account and its key let a request in, and what that changes. Neither is changed by a
//! refusal.

use std::time::Duration;

use super::limits::{self, Allowance, Allowances, Rates};
use super::pricing::PicoUsd;

/// What changes with every request of an account or a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Money set aside for requests that run.
    pub held: i64,
    /// Requests that run.
    pub running: i64,
    /// When the bucket of requests is full again, in microseconds since 1970.
    pub requests_full_us: i64,
    /// The same of tokens.
    pub tokens_full_us: i64,
}

/// An account as the meter sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountMeter {
    /// Whether it was closed.
    pub is_closed: bool,
    /// Whether it is refused when the credit runs out.
    pub is_prepaid: bool,
    /// Its own limits.
    pub rates: Rates,
    /// Credit, what is held included.
    pub balance: i64,
    /// What changes.
    pub counters: Counters,
}

/// A key as the meter sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyMeter {
    /// Its account.
    pub account_id: String,
    /// When it was revoked.
    pub revoked_ms: Option<i64>,
    /// When it ends.
    pub expires_ms: Option<i64>,
    /// Its own limits.
    pub rates: Rates,
    /// What it may spend in a calendar month, UTC.
    pub monthly_budget: Option<i64>,
    /// The month that `month_spent` belongs to.
    pub month: i64,
    /// Spent in that month.
    pub month_spent: i64,
    /// What changes.
    pub counters: Counters,
}

impl KeyMeter {
    /// Spent in this month.
    pub fn spent_in(&self, month: i64) -> i64 {
        if self.month == month {
            self.month_spent
        } else {
            0
        }
    }
}

/// What a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// To be counted; it costs nothing.
    Count,
    /// Work of the model.
    Work {
        /// Tokens that the model will see.
        tokens: u64,
        /// What they cost.
        cost: PicoUsd,
    },
    /// A line of a batch, which nobody waits for: credit and budget bound it, limits by the minute do not.
    Line {
        /// What it costs.
        cost: PicoUsd,
    },
}

/// The moment of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds since 1970.
    pub ms: i64,
    /// The month, see [`month`].
    pub month: i64,
}

impl Moment {
    /// From milliseconds since 1970.
    pub fn at(ms: i64) -> Self {
        Self {
            ms,
            month: month(ms),
        }
    }
}

/// The calendar month in UTC, as months since the year 0.
pub fn month(ms: i64) -> i64 {
    let date = jiff::Timestamp::from_millisecond(ms)
        .unwrap_or_default()
        .to_zoned(jiff::tz::TimeZone::UTC)
        .date();
    i64::from(date.year()) * 12 + i64::from(date.month()) - 1
}

/// Why a request is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The key is unknown, revoked or has ended.
    #[error("the key is not valid any more")]
    Key,
    /// The account was closed.
    #[error("the account is closed")]
    Closed,
    /// Too many requests run.
    #[error("{limit} requests run already")]
    Concurrency {
        /// The limit.
        limit: u64,
    },
    /// Too many requests in a minute.
    #[error("more than {limit} requests in a minute")]
    Requests {
        /// The limit.
        limit: u64,
        /// When the next one may come.
        retry_after: Duration,
    },
    /// Too many tokens in a minute.
    #[error("more than {limit} tokens in a minute")]
    Tokens {
        /// The limit.
        limit: u64,
        /// When these tokens may come.
        retry_after: Duration,
    },
    /// The key has spent what it may in this month.
    #[error("the key's monthly budget of {budget} dollars does not cover {cost}")]
    Budget {
        /// The budget.
        budget: PicoUsd,
        /// What the request costs.
        cost: PicoUsd,
    },
    /// The account's credit does not cover the request.
    #[error("the credit of {available} dollars does not cover {cost}")]
    Credit {
        /// What is left beside what runs.
        available: PicoUsd,
        /// What the request costs.
        cost: PicoUsd,
    },
}

/// A request that is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// What is left of the limits; nothing where key and account are not known.
    pub allowances: Allowances,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let allowances = Allowances::default();
        Self {
            refusal,
            allowances,
        }
    }
}

/// Lets a request in and counts it, or refuses it. `defaults` apply to accounts without limits of
/// their own.
///
/// # Errors
/// [`Refusal`].
pub fn admit(
    account: &mut AccountMeter,
    key: &mut KeyMeter,
    ask: Ask,
    defaults: Rates,
    now: Moment,
) -> Result<(), Refusal> {
    if key.revoked_ms.is_some() || key.expires_ms.is_some_and(|end| end <= now.ms) {
        return Err(Refusal::Key);
    }
    if account.is_closed {
        return Err(Refusal::Closed);
    }
    let of_account = counted(account.counters, account.rates.or(defaults), ask, now)?;
    let of_key = counted(key.counters, key.rates, ask, now)?;
    if let Ask::Work { cost, .. } | Ask::Line { cost } = ask {
        let spent = key.spent_in(now.month);
        if let Some(budget) = key.monthly_budget
            && cost.0
                > budget
                    .saturating_sub(spent)
                    .saturating_sub(key.counters.held)
        {
            let budget = PicoUsd(budget);
            return Err(Refusal::Budget { budget, cost });
        }
        let available = account.balance.saturating_sub(account.counters.held);
        // What costs nothing needs no credit, even below zero.
        if account.is_prepaid && cost.0 > available.max(0) {
            let available = PicoUsd(available);
            return Err(Refusal::Credit { available, cost });
        }
    }
    account.counters = of_account;
    key.counters = of_key;
    Ok(())
}

/// The counters with the request in them.
fn counted(
    mut counters: Counters,
    rates: Rates,
    ask: Ask,
    now: Moment,
) -> Result<Counters, Refusal> {
    if let Ask::Line { cost } = ask {
        counters.held = counters.held.saturating_add(cost.0);
        return Ok(counters);
    }
    let now_us = now.ms.saturating_mul(1000);
    if let Some(limit) = rates.requests_per_minute {
        counters.requests_full_us = limits::take(counters.requests_full_us, now_us, 1, limit)
            .map_err(|retry_after| Refusal::Requests { limit, retry_after })?;
    }
    let Ask::Work { tokens, cost } = ask else {
        return Ok(counters);
    };
    if let Some(limit) = rates.concurrent_requests
        && counters.running.unsigned_abs() >= limit
    {
        return Err(Refusal::Concurrency { limit });
    }
    if let Some(limit) = rates.tokens_per_minute {
        counters.tokens_full_us = limits::take(counters.tokens_full_us, now_us, tokens, limit)
            .map_err(|retry_after| Refusal::Tokens { limit, retry_after })?;
    }
    counters.running += 1;
    counters.held = counters.held.saturating_add(cost.0);
    Ok(counters)
}

/// What is left of the limits, the tighter of account and key.
pub fn allowances(
    account: &AccountMeter,
    key: &KeyMeter,
    defaults: Rates,
    now: Moment,
) -> Allowances {
    let now_us = now.ms.saturating_mul(1000);
    let of_account = account.rates.or(defaults);
    let left =
        |full_us, limit: Option<u64>| limit.map(|limit| limits::allowance(full_us, now_us, limit));
    let (a, k) = (&account.counters, &key.counters);
    Allowances {
        requests: tighter(
            left(a.requests_full_us, of_account.requests_per_minute),
            left(k.requests_full_us, key.rates.requests_per_minute),
        ),
        tokens: tighter(
            left(a.tokens_full_us, of_account.tokens_per_minute),
            left(k.tokens_full_us, key.rates.tokens_per_minute),
        ),
    }
}

fn tighter(a: Option<Allowance>, b: Option<Allowance>) -> Option<Allowance> {
    a.into_iter().chain(b).min_by_key(|left| left.remaining)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_764_000_000_000;

    fn account() -> AccountMeter {
        AccountMeter {
            is_closed: false,
            is_prepaid: true,
            rates: Rates::default(),
            balance: 100,
            counters: Counters::default(),
        }
    }

    fn key() -> KeyMeter {
        KeyMeter {
            account_id: "a".to_owned(),
            revoked_ms: None,
            expires_ms: None,
            rates: Rates::default(),
            monthly_budget: None,
            month: month(NOW),
            month_spent: 0,
            counters: Counters::default(),
        }
    }

    fn work(cost: i64) -> Ask {
        Ask::Work {
            tokens: 10,
            cost: PicoUsd(cost),
        }
    }

    fn now() -> Moment {
        Moment::at(NOW)
    }

    #[test]
    fn requests_that_run_cannot_overdraw_together() {
        let (mut account, mut key) = (account(), key());
        let mut ask = |cost| admit(&mut account, &mut key, work(cost), Rates::default(), now());
        assert_eq!(ask(60), Ok(()));
        let refused = Refusal::Credit {
            available: PicoUsd(40),
            cost: PicoUsd(41),
        };
        assert_eq!(ask(41), Err(refused));
        assert_eq!(ask(40), Ok(()));
        assert_eq!(ask(0), Ok(()));
    }

    #[test]
    fn a_refusal_changes_nothing() {
        let (mut account, mut key) = (account(), key());
        key.rates.tokens_per_minute = Some(5);
        key.counters.tokens_full_us = NOW * 1000 + 1;
        let before = (account.clone(), key.clone());
        let defaults = Rates {
            requests_per_minute: Some(10),
            ..Rates::default()
        };
        let refused = admit(&mut account, &mut key, work(1), defaults, now());
        assert!(matches!(refused, Err(Refusal::Tokens { .. })));
        assert_eq!((account, key), before);
    }

    #[test]
    fn a_budget_starts_anew_with_the_month() {
        let (mut account, mut key) = (account(), key());
        key.monthly_budget = Some(50);
        key.month_spent = 45;
        let ask = work(10);
        let refused = admit(&mut account, &mut key, ask, Rates::default(), now());
        assert!(matches!(refused, Err(Refusal::Budget { .. })));
        let later = Moment::at(NOW + 31 * 86_400_000);
        assert_eq!(
            admit(&mut account, &mut key, ask, Rates::default(), later),
            Ok(())
        );
    }

    #[test]
    fn keys_end_and_accounts_close() {
        let (mut account, mut key) = (account(), key());
        key.expires_ms = Some(NOW);
        let ask = |account: &mut AccountMeter, key: &mut KeyMeter| {
            admit(account, key, Ask::Count, Rates::default(), now())
        };
        assert_eq!(ask(&mut account, &mut key), Err(Refusal::Key));
        key.expires_ms = Some(NOW + 1);
        assert_eq!(ask(&mut account, &mut key), Ok(()));
        account.is_closed = true;
        assert_eq!(ask(&mut account, &mut key), Err(Refusal::Closed));
    }

    #[test]
    fn months_follow_the_calendar() {
        assert_eq!(month(0), 1970 * 12);
        // 2025-11-24 and 2024-02-29T23:59:59.999Z
        assert_eq!(month(NOW), 2025 * 12 + 10);
        assert_eq!(month(1_709_251_199_999), 2024 * 12 + 1);
        assert_eq!(month(1_709_251_200_000), 2024 * 12 + 2);
    }
}
