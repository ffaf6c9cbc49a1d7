//! Accounts, their credit, invitations, and the trail of who changed what.

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::StoreError;
use super::books::{Books, RetryWindow, rates};
use super::database::{Database, DatabaseError, Row, Value};
use super::keys::random_text;
use super::time::Time;
use crate::metering::{PicoUsd, Rates};

/// Who changes something: the command line, or a key of the scope `admin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<'a> {
    /// `cli`, or the id of a key.
    pub actor: &'a str,
    /// When.
    pub now: Time,
}

/// An account as its operator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Account {
    /// Its id.
    pub id: String,
    /// What it is called.
    pub name: String,
    /// When it was made.
    pub created_at: Time,
    /// When it was closed.
    pub closed_at: Option<Time>,
    /// Whether it is refused when its credit runs out.
    pub is_prepaid: bool,
    /// Its own limits; the server's apply where there are none.
    pub limits: Rates,
    /// Credit, what is held included.
    pub balance_usd: PicoUsd,
    /// Set aside for requests that run.
    pub held_usd: PicoUsd,
}

const COLUMNS: &str = "id, name, created_ms, closed_ms, is_prepaid, requests_per_minute, tokens_per_minute, \
                       concurrent_requests, balance, held";

impl Account {
    fn read(row: &Row) -> Result<Self, DatabaseError> {
        Ok(Self {
            id: row.text(0)?,
            name: row.text(1)?,
            created_at: Time(row.int(2)?),
            closed_at: row.optional_int(3)?.map(Time),
            is_prepaid: row.int(4)? != 0,
            limits: rates(row, 5)?,
            balance_usd: PicoUsd(row.int(8)?),
            held_usd: PicoUsd(row.int(9)?),
        })
    }
}

/// Makes an account without credit.
///
/// # Errors
/// [`StoreError::Name`] for a name that cannot be one.
pub fn create(
    database: &mut dyn Database,
    change: Change<'_>,
    name: &str,
    is_prepaid: bool,
) -> Result<Account, StoreError> {
    check_name(name)?;
    let id = format!("acct-{}", random_text(12)?);
    let sql = "INSERT INTO accounts (id, name, created_ms, is_prepaid, balance, held, running, requests_full_us, \
               tokens_full_us) VALUES ($1, $2, $3, $4, 0, 0, 0, 0, 0)";
    let parameters: [Value; 4] = [
        (&id).into(),
        name.into(),
        change.now.0.into(),
        i64::from(is_prepaid).into(),
    ];
    database.execute(sql, &parameters)?;
    audit(database, change, "accounts.create", &id, name)?;
    find(database, &id)
}

/// The account with this id.
///
/// # Errors
/// [`StoreError::UnknownAccount`].
pub fn find(database: &mut dyn Database, id: &str) -> Result<Account, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM accounts WHERE id = $1");
    match database.query(&sql, &[id.into()])?.first() {
        Some(row) => Ok(Account::read(row)?),
        None => Err(StoreError::UnknownAccount { id: id.to_owned() }),
    }
}

/// All accounts, oldest first.
///
/// # Errors
/// [`StoreError::Database`].
pub fn list(database: &mut dyn Database) -> Result<Vec<Account>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM accounts ORDER BY created_ms, id");
    let rows = database.query(&sql, &[])?;
    let accounts: Result<_, DatabaseError> = rows.iter().map(Account::read).collect();
    Ok(accounts?)
}

/// Closes an account, or opens it again. The keys of a closed one are refused.
///
/// # Errors
/// [`StoreError::UnknownAccount`].
pub fn set_closed(
    database: &mut dyn Database,
    change: Change<'_>,
    id: &str,
    is_closed: bool,
) -> Result<Account, StoreError> {
    let closed_ms = is_closed.then_some(change.now.0);
    let sql = "UPDATE accounts SET closed_ms = $2 WHERE id = $1";
    database.execute(sql, &[id.into(), closed_ms.into()])?;
    let account = find(database, id)?;
    let action = if is_closed {
        "accounts.close"
    } else {
        "accounts.reopen"
    };
    audit(database, change, action, id, "")?;
    Ok(account)
}

/// Gives an account limits of its own, in place of all that it had.
///
/// # Errors
/// [`StoreError::UnknownAccount`].
pub fn set_limits(
    database: &mut dyn Database,
    change: Change<'_>,
    id: &str,
    limits: Rates,
) -> Result<Account, StoreError> {
    let sql = "UPDATE accounts SET requests_per_minute = $2, tokens_per_minute = $3, concurrent_requests = $4 \
               WHERE id = $1";
    let [requests, tokens, concurrent] = rate_values(limits);
    database.execute(sql, &[id.into(), requests, tokens, concurrent])?;
    let account = find(database, id)?;
    audit(
        database,
        change,
        "accounts.limit",
        id,
        &format!("{limits:?}"),
    )?;
    Ok(account)
}

/// Limits as three columns.
pub(super) fn rate_values(limits: Rates) -> [Value; 3] {
    let value = |limit: Option<u64>| {
        limit
            .map(|limit| i64::try_from(limit).unwrap_or(i64::MAX))
            .into()
    };
    [
        value(limits.requests_per_minute),
        value(limits.tokens_per_minute),
        value(limits.concurrent_requests),
    ]
}

/// Gives credit, or takes it back where the amount is negative.
///
/// # Errors
/// [`StoreError::UnknownAccount`], and [`StoreError::Balance`] for a sum that no number holds.
pub fn grant(
    database: &mut dyn Database,
    change: Change<'_>,
    id: &str,
    amount: PicoUsd,
    note: Option<&str>,
) -> Result<Account, StoreError> {
    if let Some(note) = note {
        check_name(note)?;
    }
    find(database, id)?;
    let mut books = Books::open(database, 0, change.now.0, RetryWindow::default())?;
    let credited = books.credit(id, amount, note)?;
    books.close()?;
    if credited.is_none() {
        return Err(StoreError::Balance { id: id.to_owned() });
    }
    let detail = format!("{amount} dollars: {}", note.unwrap_or_default());
    audit(database, change, "credit.grant", id, &detail)?;
    find(database, id)
}

/// Makes an invitation that one account can be opened with, and gives its code, which is not kept.
///
/// # Errors
/// [`StoreError::Database`].
pub fn invite(
    database: &mut dyn Database,
    change: Change<'_>,
    expires: Time,
) -> Result<String, StoreError> {
    let code = format!("invite-{}", random_text(26)?);
    let hash = Sha256::digest(&code);
    let sql = "INSERT INTO invitations (code_hash, created_ms, expires_ms) VALUES ($1, $2, $3)";
    let parameters: [Value; 3] = [
        hash.as_slice().into(),
        change.now.0.into(),
        expires.0.into(),
    ];
    database.execute(sql, &parameters)?;
    let detail = format!("until {expires}");
    audit(database, change, "accounts.invite", "invitation", &detail)?;
    Ok(code)
}

/// Uses an invitation up for this account.
///
/// # Errors
/// [`StoreError::Invitation`] for one that is unknown, used or too old.
pub fn accept_invitation(
    database: &mut dyn Database,
    now: Time,
    code: &str,
    account_id: &str,
) -> Result<(), StoreError> {
    let hash = Sha256::digest(code);
    let sql = "UPDATE invitations SET account_id = $2 \
               WHERE code_hash = $1 AND account_id IS NULL AND expires_ms > $3";
    let parameters: [Value; 3] = [hash.as_slice().into(), account_id.into(), now.0.into()];
    match database.execute(sql, &parameters)? {
        1 => Ok(()),
        _ => Err(StoreError::Invitation),
    }
}

/// Notes that the operator charges for a model under a licence that forbids it, with the owner's leave:
/// once, however often the server starts.
///
/// # Errors
/// [`StoreError::Database`].
pub fn acknowledge_license(
    database: &mut dyn Database,
    change: Change<'_>,
    model: &str,
    license: &str,
) -> Result<(), StoreError> {
    const ACTION: &str = "license.acknowledge";
    let sql = "SELECT seq FROM audit WHERE action = $1 AND target = $2 AND detail = $3 LIMIT 1";
    let parameters: [Value; 3] = [ACTION.into(), model.into(), license.into()];
    if database.query(sql, &parameters)?.is_empty() {
        audit(database, change, ACTION, model, license)?;
    }
    Ok(())
}

/// One line of the trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditEntry {
    /// When.
    pub at: Time,
    /// `cli`, `sign-up`, `serve` for the options at its start, or the id of a key.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub target: String,
    /// More of it; never a secret.
    pub detail: String,
}

/// Notes who changed what, inside the change's own transaction.
pub(super) fn audit(
    database: &mut dyn Database,
    change: Change<'_>,
    action: &str,
    target: &str,
    detail: &str,
) -> Result<(), DatabaseError> {
    let sql = "INSERT INTO audit (seq, at_ms, actor, action, target, detail) \
               SELECT COALESCE(MAX(seq), 0) + 1, CAST($1 AS BIGINT), $2, $3, $4, $5 FROM audit";
    let parameters: [Value; 5] = [
        change.now.0.into(),
        change.actor.into(),
        action.into(),
        target.into(),
        detail.into(),
    ];
    database.execute(sql, &parameters)?;
    Ok(())
}

/// The trail, newest first.
///
/// # Errors
/// [`StoreError::Database`].
pub fn audit_trail(database: &mut dyn Database, limit: i64) -> Result<Vec<AuditEntry>, StoreError> {
    let sql = "SELECT at_ms, actor, action, target, detail FROM audit ORDER BY seq DESC LIMIT $1";
    let rows = database.query(sql, &[limit.into()])?;
    let entry = |row: &Row| {
        Ok(AuditEntry {
            at: Time(row.int(0)?),
            actor: row.text(1)?,
            action: row.text(2)?,
            target: row.text(3)?,
            detail: row.text(4)?,
        })
    };
    let entries: Result<_, DatabaseError> = rows.iter().map(entry).collect();
    Ok(entries?)
}

const MAX_NAME_CHARS: usize = 200;

/// Names and notes are one line, so that they break no table, log or file.
pub(super) fn check_name(name: &str) -> Result<(), StoreError> {
    let is_plain = !name.trim().is_empty()
        && name.chars().count() <= MAX_NAME_CHARS
        && !name.chars().any(char::is_control);
    if is_plain {
        Ok(())
    } else {
        Err(StoreError::Name)
    }
}
