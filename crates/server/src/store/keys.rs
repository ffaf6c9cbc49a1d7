//! Keys: a public id and a secret, of which only a hash is kept.

use std::fmt;
use std::str::FromStr;

use secrecy::SecretString;
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::StoreError;
use super::accounts::{self, Change, audit, check_name, rate_values};
use super::books::rates;
use super::database::{Database, DatabaseError, Row, Value};
use super::sessions;
use super::time::Time;
use crate::metering::admission::month;
use crate::metering::{PicoUsd, Rates};

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Call the model, and see what there is.
    Embed,
    /// Change the keys of its own account.
    Account,
    /// Change accounts, keys and credit.
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 3] = [Self::Embed, Self::Account, Self::Admin];

    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::Account => "account",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No scope has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is no scope, expected `embed`, `account` or `admin`")]
pub struct UnknownScope {
    name: String,
}

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(name: &str) -> Result<Self, UnknownScope> {
        let found = Self::ALL.into_iter().find(|scope| scope.name() == name);
        found.ok_or_else(|| UnknownScope {
            name: name.to_owned(),
        })
    }
}

/// What an operator decides about a key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyOptions {
    /// What it is called.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// The only models that it may call; `None` for all.
    pub models: Option<Vec<String>>,
    /// The only tasks that it may name; `None` for all.
    pub tasks: Option<Vec<String>>,
    /// The task of requests that leave it open.
    pub default_task: Option<String>,
    /// When it ends.
    pub expires: Option<Time>,
    /// Its own limits.
    pub limits: KeyLimits,
}

/// What bounds a key beside its account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeyLimits {
    /// By the minute.
    pub rates: Rates,
    /// In a calendar month, UTC.
    pub monthly_budget: Option<PicoUsd>,
}

/// A key as its operator sees it, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Key {
    /// Its public id.
    pub id: String,
    /// The account that pays.
    pub account_id: String,
    /// What it is called.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// The only models that it may call.
    pub models: Option<Vec<String>>,
    /// The only tasks that it may name.
    pub tasks: Option<Vec<String>>,
    /// The task of requests that leave it open.
    pub default_task: Option<String>,
    /// When it was made.
    pub created_at: Time,
    /// When it ends.
    pub expires_at: Option<Time>,
    /// When it was revoked.
    pub revoked_at: Option<Time>,
    /// Its own limits.
    pub limits: Rates,
    /// What it may spend in a calendar month, UTC.
    pub monthly_budget_usd: Option<PicoUsd>,
    /// What it has spent in this month.
    pub month_spent_usd: PicoUsd,
    /// Accepted hashes.
    #[serde(skip)]
    pub secrets: Secrets,
}

/// Hashes of the secrets that a key is known by.
#[derive(Clone, PartialEq, Eq)]
pub struct Secrets {
    current: [u8; 32],
    /// The one before the last rotation, and until when it is accepted.
    previous: Option<([u8; 32], i64)>,
}

/// Does not show the hashes.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(…)")
    }
}

impl Secrets {
    /// Whether this is a secret of the key, found out in constant time.
    pub fn accept(&self, secret: &[u8], now: Time) -> bool {
        let found: [u8; 32] = Sha256::digest(secret).into();
        let current = found.ct_eq(&self.current);
        let previous = match &self.previous {
            Some((hash, until_ms)) if now.0 < *until_ms => found.ct_eq(hash),
            _ => 0.into(),
        };
        bool::from(current | previous)
    }
}

/// A key that was just made or rotated. Its text is shown once and never again.
#[derive(Debug, Serialize)]
pub struct NewKey {
    /// What is kept.
    #[serde(flatten)]
    pub key: Key,
    /// What the caller sends.
    #[serde(rename = "key", serialize_with = "exposed")]
    pub text: SecretString,
}

fn exposed<S: Serializer>(text: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secrecy::ExposeSecret::expose_secret(text))
}

/// Digits that are not mistaken for each other; 5 bits each.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// Random digits, 5 bits each.
pub(crate) fn random_text(digits: usize) -> Result<String, StoreError> {
    let mut bytes = vec![0; digits];
    getrandom::fill(&mut bytes).map_err(|_| StoreError::Random)?;
    let digit = |byte: u8| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]);
    Ok(bytes.into_iter().map(digit).collect())
}

/// Public id and secret of a key's text, whatever its prefix: `qt-ID-SECRET`.
pub fn parts(text: &str) -> Option<(&str, &str)> {
    let (rest, secret) = text.rsplit_once('-')?;
    let (_, id) = rest.rsplit_once('-')?;
    (!id.is_empty() && !secret.is_empty()).then_some((id, secret))
}

/// A key's text and the hash of its secret: 260 random bits.
fn text_and_hash(prefix: &str, id: &str) -> Result<(SecretString, [u8; 32]), StoreError> {
    let secret = random_text(52)?;
    let hash = Sha256::digest(&secret).into();
    Ok((format!("{prefix}{id}-{secret}").into(), hash))
}

/// The prefix of keys where the operator chooses none.
pub const DEFAULT_PREFIX: &str = "qt-";

/// Makes a key of an account.
///
/// # Errors
/// [`StoreError::UnknownAccount`], and [`StoreError::Name`] for a name that cannot be one.
pub fn create(
    database: &mut dyn Database,
    change: Change<'_>,
    account_id: &str,
    prefix: &str,
    options: &KeyOptions,
) -> Result<NewKey, StoreError> {
    check_name(&options.name)?;
    check_prefix(prefix)?;
    for name in [&options.models, &options.tasks]
        .into_iter()
        .flatten()
        .flatten()
    {
        check_listed(name)?;
    }
    options
        .default_task
        .as_deref()
        .map_or(Ok(()), check_listed)?;
    accounts::find(database, account_id)?;
    let id = random_text(12)?;
    let (text, hash) = text_and_hash(prefix, &id)?;
    let sql = "INSERT INTO keys (id, account_id, name, secret_hash, scopes, models, tasks, default_task, \
               created_ms, expires_ms, requests_per_minute, tokens_per_minute, concurrent_requests, \
               monthly_budget, month, month_spent, held, running, requests_full_us, tokens_full_us) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, 0, 0, 0, 0, 0, 0)";
    let scopes: Vec<&str> = options.scopes.iter().map(|scope| scope.name()).collect();
    let joined = |list: &Option<Vec<String>>| list.as_ref().map(|list| list.join(","));
    let [requests, tokens, concurrent] = rate_values(options.limits.rates);
    let parameters: [Value; 14] = [
        (&id).into(),
        account_id.into(),
        (&options.name).into(),
        hash.as_slice().into(),
        (&scopes.join(",")).into(),
        joined(&options.models).as_ref().into(),
        joined(&options.tasks).as_ref().into(),
        options.default_task.as_ref().into(),
        change.now.0.into(),
        options.expires.map(|time| time.0).into(),
        requests,
        tokens,
        concurrent,
        options.limits.monthly_budget.map(|budget| budget.0).into(),
    ];
    database.execute(sql, &parameters)?;
    let detail = format!("{account_id}: {} ({})", options.name, scopes.join(","));
    audit(database, change, "keys.create", &id, &detail)?;
    let key = find(database, &id, change.now)?;
    Ok(NewKey { key, text })
}

/// Gives a key a new secret. The one before is accepted for `grace_ms` more.
///
/// # Errors
/// [`StoreError::UnknownKey`] for one that is not there or was revoked.
pub fn rotate(
    database: &mut dyn Database,
    change: Change<'_>,
    id: &str,
    prefix: &str,
    grace_ms: i64,
) -> Result<NewKey, StoreError> {
    check_prefix(prefix)?;
    let (text, hash) = text_and_hash(prefix, id)?;
    let sql = "UPDATE keys SET previous_hash = secret_hash, previous_until_ms = $3, secret_hash = $2 \
               WHERE id = $1 AND revoked_ms IS NULL";
    let until = change.now.0.saturating_add(grace_ms);
    let parameters: [Value; 3] = [id.into(), hash.as_slice().into(), until.into()];
    if database.execute(sql, &parameters)? == 0 {
        return Err(StoreError::UnknownKey { id: id.to_owned() });
    }
    sessions::close_all(database, id)?;
    let detail = format!("the secret before is accepted until {}", Time(until));
    audit(database, change, "keys.rotate", id, &detail)?;
    let key = find(database, id, change.now)?;
    Ok(NewKey { key, text })
}

/// Ends a key for good.
///
/// # Errors
/// [`StoreError::UnknownKey`].
pub fn revoke(
    database: &mut dyn Database,
    change: Change<'_>,
    id: &str,
) -> Result<Key, StoreError> {
    let sql = "UPDATE keys SET revoked_ms = $2 WHERE id = $1 AND revoked_ms IS NULL";
    database.execute(sql, &[id.into(), change.now.0.into()])?;
    sessions::close_all(database, id)?;
    let key = find(database, id, change.now)?;
    audit(database, change, "keys.revoke", id, "")?;
    Ok(key)
}

/// Calls a key otherwise.
///
/// # Errors
/// [`StoreError::UnknownKey`], and [`StoreError::Name`] for a name that cannot be one.
pub fn rename(
    database: &mut dyn Database,
    change: Change<'_>,
    id: &str,
    name: &str,
) -> Result<Key, StoreError> {
    check_name(name)?;
    let sql = "UPDATE keys SET name = $2 WHERE id = $1";
    database.execute(sql, &[id.into(), name.into()])?;
    let key = find(database, id, change.now)?;
    audit(database, change, "keys.rename", id, name)?;
    Ok(key)
}

/// Gives a key limits in place of all that it had.
///
/// # Errors
/// [`StoreError::UnknownKey`].
pub fn set_limits(
    database: &mut dyn Database,
    change: Change<'_>,
    id: &str,
    limits: KeyLimits,
) -> Result<Key, StoreError> {
    let sql = "UPDATE keys SET requests_per_minute = $2, tokens_per_minute = $3, concurrent_requests = $4, \
               monthly_budget = $5 WHERE id = $1";
    let [requests, tokens, concurrent] = rate_values(limits.rates);
    let budget = limits.monthly_budget.map(|budget| budget.0);
    database.execute(
        sql,
        &[id.into(), requests, tokens, concurrent, budget.into()],
    )?;
    let key = find(database, id, change.now)?;
    audit(database, change, "keys.limit", id, &format!("{limits:?}"))?;
    Ok(key)
}

const COLUMNS: &str = "id, account_id, name, scopes, models, tasks, default_task, created_ms, expires_ms, \
                       revoked_ms, requests_per_minute, tokens_per_minute, concurrent_requests, \
                       monthly_budget, month, month_spent, secret_hash, previous_hash, previous_until_ms";

/// The key with this id.
///
/// # Errors
/// [`StoreError::UnknownKey`].
pub fn find(database: &mut dyn Database, id: &str, now: Time) -> Result<Key, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM keys WHERE id = $1");
    match database.query(&sql, &[id.into()])?.first() {
        Some(row) => Ok(Key::read(row, now)?),
        None => Err(StoreError::UnknownKey { id: id.to_owned() }),
    }
}

/// The keys of an account, or all, oldest first.
///
/// # Errors
/// [`StoreError::Database`].
pub fn list(
    database: &mut dyn Database,
    account_id: Option<&str>,
    now: Time,
) -> Result<Vec<Key>, StoreError> {
    let (condition, parameters) = match account_id {
        Some(id) => ("WHERE account_id = $1", vec![id.into()]),
        None => ("", Vec::new()),
    };
    let sql = format!("SELECT {COLUMNS} FROM keys {condition} ORDER BY created_ms, id");
    let rows = database.query(&sql, &parameters)?;
    let keys: Result<_, DatabaseError> = rows.iter().map(|row| Key::read(row, now)).collect();
    Ok(keys?)
}

impl Key {
    /// Whether it was revoked, or its time is over.
    pub fn is_over(&self, now: Time) -> bool {
        self.revoked_at.is_some() || self.expires_at.is_some_and(|end| end <= now)
    }

    fn read(row: &Row, now: Time) -> Result<Self, DatabaseError> {
        let list = |column| {
            let text = row.optional_text(column)?;
            Ok::<_, DatabaseError>(text.map(|text| words(&text)))
        };
        let scopes = words(&row.text(3)?);
        let month_spent = if row.int(14)? == month(now.0) {
            row.int(15)?
        } else {
            0
        };
        Ok(Self {
            id: row.text(0)?,
            account_id: row.text(1)?,
            name: row.text(2)?,
            // A scope of a later program is none here.
            scopes: scopes.iter().filter_map(|name| name.parse().ok()).collect(),
            models: list(4)?,
            tasks: list(5)?,
            default_task: row.optional_text(6)?,
            created_at: Time(row.int(7)?),
            expires_at: row.optional_int(8)?.map(Time),
            revoked_at: row.optional_int(9)?.map(Time),
            limits: rates(row, 10)?,
            monthly_budget_usd: row.optional_int(13)?.map(PicoUsd),
            month_spent_usd: PicoUsd(month_spent),
            secrets: Secrets {
                current: row.hash(16)?,
                previous: row.optional_hash(17)?.zip(row.optional_int(18)?),
            },
        })
    }
}

fn words(text: &str) -> Vec<String> {
    let words = text.split(',').filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

/// Lists are kept with commas between their names.
fn check_listed(name: &str) -> Result<(), StoreError> {
    check_name(name)?;
    if name.contains(',') {
        return Err(StoreError::Name);
    }
    Ok(())
}

/// A prefix goes into headers and files, and its end tells it from the id.
fn check_prefix(prefix: &str) -> Result<(), StoreError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if (1..=32).contains(&prefix.len()) && prefix.ends_with('-') && prefix.bytes().all(is_plain) {
        Ok(())
    } else {
        Err(StoreError::Prefix)
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;
    use crate::store::migrations::migrate;
    use crate::store::sqlite::Sqlite;

    const CHANGE: Change<'_> = Change {
        actor: "test",
        now: Time(1_000_000),
    };

    fn with_key() -> (Sqlite, NewKey) {
        let mut database = Sqlite::in_memory().unwrap();
        migrate(&mut database).unwrap();
        let account = accounts::create(&mut database, CHANGE, "Storks", true).unwrap();
        let options = KeyOptions {
            name: "laptop".to_owned(),
            scopes: vec![Scope::Embed],
            tasks: Some(vec!["raw".to_owned(), "separation".to_owned()]),
            ..KeyOptions::default()
        };
        let key = create(&mut database, CHANGE, &account.id, "gr-", &options).unwrap();
        (database, key)
    }

    fn is_accepted(key: &Key, text: &SecretString, now: i64) -> bool {
        let (id, secret) = parts(text.expose_secret()).unwrap();
        id == key.id && key.secrets.accept(secret.as_bytes(), Time(now))
    }

    #[test]
    fn a_key_is_known_by_its_secret_which_is_kept_nowhere() {
        let (mut database, NewKey { key, text }) = with_key();
        assert!(text.expose_secret().starts_with("gr-"));
        assert!(is_accepted(&key, &text, 0));
        assert!(!key.secrets.accept(b"other", Time(0)));
        assert_eq!(find(&mut database, &key.id, CHANGE.now).unwrap(), key);
        let (_, secret) = parts(text.expose_secret()).unwrap();
        for table in ["keys", "audit", "accounts"] {
            let rows = database
                .query(&format!("SELECT * FROM {table}"), &[])
                .unwrap();
            assert!(!format!("{rows:?}").contains(secret));
        }
        assert!(!format!("{key:?}{text:?}").contains(secret));
    }

    #[test]
    fn after_a_rotation_the_secret_before_has_its_grace() {
        let (mut database, old) = with_key();
        let new = rotate(&mut database, CHANGE, &old.key.id, "gr-", 500).unwrap();
        assert!(is_accepted(&new.key, &new.text, 2_000_000));
        assert!(is_accepted(&new.key, &old.text, 1_000_499));
        assert!(!is_accepted(&new.key, &old.text, 1_000_500));
        revoke(&mut database, CHANGE, &old.key.id).unwrap();
        let gone = rotate(&mut database, CHANGE, &old.key.id, "gr-", 500);
        assert!(matches!(gone, Err(StoreError::UnknownKey { .. })));
    }

    #[test]
    fn names_and_prefixes_that_break_lines_or_headers_are_refused() {
        let (mut database, key) = with_key();
        let account = key.key.account_id;
        let mut made = |name: &str, prefix: &str| {
            let options = KeyOptions {
                name: name.to_owned(),
                ..KeyOptions::default()
            };
            create(&mut database, CHANGE, &account, prefix, &options).is_ok()
        };
        assert!(made("Müller'; DROP TABLE keys; --", "a_b-"));
        assert!(!made("a\nb", "qt-") && !made(" ", "qt-") && !made(&"x".repeat(201), "qt-"));
        assert!(!made("a", "") && !made("a", "qt") && !made("a", "q t-") && !made("a", "é-"));
    }
}
