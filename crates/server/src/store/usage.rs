//! What was billed, by day, key and task, added up as it is billed.

use std::collections::HashMap;

use serde::Serialize;

use super::database::{Database, DatabaseError, Row, Value};
use crate::metering::PicoUsd;

/// Milliseconds of a day, which begins at midnight UTC.
pub const DAY_MS: i64 = 86_400_000;

/// What usage is added up under.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Slot {
    pub(super) account_id: String,
    pub(super) day_ms: i64,
    pub(super) key_id: String,
    pub(super) task: String,
}

/// A sum of usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Sum {
    /// Requests that were answered and billed. One of several tasks counts at that with the most tokens.
    pub requests: i64,
    /// Tokens that the model saw.
    pub tokens: i64,
    /// What they cost.
    pub cost_usd: PicoUsd,
}

impl Sum {
    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            tokens: self.tokens.saturating_add(other.tokens),
            cost_usd: PicoUsd(self.cost_usd.0.saturating_add(other.cost_usd.0)),
        }
    }
}

/// Adds sums to what is there, inside the transaction that bills them.
pub(super) fn add(
    database: &mut dyn Database,
    sums: &HashMap<Slot, Sum>,
) -> Result<(), DatabaseError> {
    let sql = "INSERT INTO usage_days (account_id, day_ms, key_id, task, requests, tokens, cost) \
               VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (account_id, day_ms, key_id, task) \
               DO UPDATE SET requests = usage_days.requests + excluded.requests, \
               tokens = usage_days.tokens + excluded.tokens, cost = usage_days.cost + excluded.cost";
    for (slot, sum) in sums {
        let parameters: [Value; 7] = [
            (&slot.account_id).into(),
            slot.day_ms.into(),
            (&slot.key_id).into(),
            (&slot.task).into(),
            sum.requests.into(),
            sum.tokens.into(),
            sum.cost_usd.0.into(),
        ];
        database.execute(sql, &parameters)?;
    }
    Ok(())
}

/// A sum and what it is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    /// The account.
    pub account_id: String,
    /// The day's start, in milliseconds.
    pub day_ms: i64,
    /// The key.
    pub key_id: String,
    /// The task; empty for what was billed before tasks were noted.
    pub task: String,
    /// How much.
    #[serde(flatten)]
    pub sum: Sum,
}

/// The usage of one account, or of all, from this day on.
///
/// # Errors
/// [`DatabaseError`].
pub fn since(
    database: &mut dyn Database,
    account_id: Option<&str>,
    day_ms: i64,
) -> Result<Vec<Part>, DatabaseError> {
    let mut sql =
        "SELECT account_id, day_ms, key_id, task, requests, tokens, cost FROM usage_days \
                   WHERE day_ms >= $1"
            .to_owned();
    let mut parameters: Vec<Value> = vec![day_ms.into()];
    if let Some(id) = account_id {
        sql.push_str(" AND account_id = $2");
        parameters.push(id.into());
    }
    sql.push_str(" ORDER BY day_ms, account_id, key_id, task");
    let rows = database.query(&sql, &parameters)?;
    let part = |row: &Row| {
        Ok(Part {
            account_id: row.text(0)?,
            day_ms: row.int(1)?,
            key_id: row.text(2)?,
            task: row.text(3)?,
            sum: Sum {
                requests: row.int(4)?,
                tokens: row.int(5)?,
                cost_usd: PicoUsd(row.int(6)?),
            },
        })
    };
    rows.iter().map(part).collect()
}
