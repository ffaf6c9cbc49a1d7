//! Entries in pages of bounded memory, and usage added up.

use serde::Serialize;

use super::Entry;
use crate::metering::PicoUsd;
use crate::store::database::{Database, DatabaseError, Row, Value};

/// Entries that are read at once.
const PAGE: i64 = 4096;

/// Which entries are read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// Of this account.
    pub account_id: Option<String>,
    /// From this time on, in milliseconds.
    pub from_ms: Option<i64>,
    /// Before this time.
    pub until_ms: Option<i64>,
}

/// Hands every entry to `each`, oldest first, in pieces of bounded memory.
///
/// # Errors
/// [`DatabaseError`], and those of `each`.
pub fn for_each<E: From<DatabaseError>>(
    database: &mut dyn Database,
    selection: &Selection,
    mut each: impl FnMut(Entry) -> Result<(), E>,
) -> Result<(), E> {
    let mut after = 0;
    loop {
        let rows = page(database, selection, after, PAGE)?;
        let len = rows.len();
        for entry in rows {
            after = entry.seq;
            each(entry)?;
        }
        if (len as i64) < PAGE {
            return Ok(());
        }
    }
}

/// At most `limit` entries behind the one at `after`.
///
/// # Errors
/// [`DatabaseError`].
pub fn page(
    database: &mut dyn Database,
    selection: &Selection,
    after: i64,
    limit: i64,
) -> Result<Vec<Entry>, DatabaseError> {
    let mut sql = format!("SELECT {COLUMNS} FROM ledger WHERE seq > $1");
    let mut parameters: Vec<Value> = vec![after.into()];
    selection.narrow(&mut sql, &mut parameters);
    parameters.push(limit.into());
    sql.push_str(&format!(" ORDER BY seq LIMIT ${}", parameters.len()));
    let rows = database.query(&sql, &parameters)?;
    rows.iter().map(Entry::read).collect()
}

const COLUMNS: &str = "seq, at_ms, account_id, key_id, kind, amount, balance, tokens, price, model, tier, \
                       request_id, note, hash";

/// At most `limit` entries of an account, newest first, from the one before the place `before` on.
///
/// # Errors
/// [`DatabaseError`].
pub fn latest(
    database: &mut dyn Database,
    account_id: &str,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<Entry>, DatabaseError> {
    let end = match before {
        Some(seq) => {
            let sql = "SELECT at_ms FROM ledger WHERE seq = $1";
            let rows = database.query(sql, &[seq.into()])?;
            let at_ms = rows.first().map(|row| row.int(0)).transpose()?;
            at_ms.map(|at_ms| (at_ms, seq))
        }
        None => None,
    };
    let (at_ms, seq) = end.unwrap_or((i64::MAX, i64::MAX));
    // Times never go back, so the index by account and time has them in the ledger's order.
    let sql = format!(
        "SELECT {COLUMNS} FROM ledger WHERE account_id = $1 AND (at_ms, seq) < ($2, $3) \
         ORDER BY at_ms DESC, seq DESC LIMIT $4"
    );
    let parameters: [Value; 4] = [account_id.into(), at_ms.into(), seq.into(), limit.into()];
    let rows = database.query(&sql, &parameters)?;
    rows.iter().map(Entry::read).collect()
}

/// At most `limit` entries of credit that an account was given, newest first.
///
/// # Errors
/// [`DatabaseError`].
pub fn credits(
    database: &mut dyn Database,
    account_id: &str,
    limit: i64,
) -> Result<Vec<Entry>, DatabaseError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM ledger WHERE kind = 'credit' AND account_id = $1 \
         ORDER BY seq DESC LIMIT $2"
    );
    let rows = database.query(&sql, &[account_id.into(), limit.into()])?;
    rows.iter().map(Entry::read).collect()
}

impl Selection {
    fn narrow(&self, sql: &mut String, parameters: &mut Vec<Value>) {
        let conditions = [
            ("account_id =", self.account_id.as_ref().map(Value::from)),
            ("at_ms >=", self.from_ms.map(Value::from)),
            ("at_ms <", self.until_ms.map(Value::from)),
        ];
        for (condition, value) in conditions {
            if let Some(value) = value {
                parameters.push(value);
                sql.push_str(&format!(" AND {condition} ${}", parameters.len()));
            }
        }
    }
}

/// What usage is added up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsageBy {
    /// Calendar days in UTC.
    Day,
    /// Keys.
    Key,
    /// Models.
    Model,
    /// Accounts.
    Account,
}

/// A sum of usage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// The day (milliseconds of its start), key, model or account.
    pub group: String,
    /// Requests that were answered and billed.
    pub requests: i64,
    /// Tokens that the model saw.
    pub tokens: i64,
    /// What they cost.
    pub cost_usd: PicoUsd,
}

/// Usage added up, in order of the groups.
///
/// # Errors
/// [`DatabaseError`].
pub fn usage(
    database: &mut dyn Database,
    selection: &Selection,
    by: UsageBy,
) -> Result<Vec<Usage>, DatabaseError> {
    let group = match by {
        UsageBy::Day => "CAST(at_ms / 86400000 * 86400000 AS TEXT)",
        UsageBy::Key => "COALESCE(key_id, '')",
        UsageBy::Model => "COALESCE(model, '')",
        UsageBy::Account => "account_id",
    };
    let mut sql = format!(
        "SELECT {group}, COUNT(*), CAST(SUM(tokens) AS BIGINT), CAST(-SUM(amount) AS BIGINT) FROM ledger \
         WHERE kind = 'usage'"
    );
    let mut parameters = Vec::new();
    selection.narrow(&mut sql, &mut parameters);
    sql.push_str(" GROUP BY 1 ORDER BY 1");
    let rows = database.query(&sql, &parameters)?;
    let usage = |row: &Row| {
        Ok(Usage {
            group: row.text(0)?,
            requests: row.int(1)?,
            tokens: row.int(2)?,
            cost_usd: PicoUsd(row.int(3)?),
        })
    };
    rows.iter().map(usage).collect()
}
