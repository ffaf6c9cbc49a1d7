//! People who are signed in. A session is as good as the key that opened it: it ends with it.

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::StoreError;
use super::accounts::{Change, audit};
use super::database::{Database, DatabaseError};
use super::keys::{self, Key, random_text};
use super::time::Time;

/// A session ends after this time, whatever its owner does.
pub const LASTS_MS: i64 = 12 * 3_600_000;

/// Opens a session for whoever showed the key, and gives its secret, which is not kept.
///
/// # Errors
/// [`StoreError::UnknownKey`].
pub fn open(
    database: &mut dyn Database,
    change: Change<'_>,
    key_id: &str,
) -> Result<SecretString, StoreError> {
    keys::find(database, key_id, change.now)?;
    let sql = "DELETE FROM sessions WHERE expires_ms <= $1";
    database.execute(sql, &[change.now.0.into()])?;
    // 260 random bits, so no slow hash is needed.
    let token = random_text(52)?;
    let hash = Sha256::digest(&token);
    let sql = "INSERT INTO sessions (token_hash, key_id, expires_ms) VALUES ($1, $2, $3)";
    let expires = change.now.0.saturating_add(LASTS_MS);
    database.execute(
        sql,
        &[hash.as_slice().into(), key_id.into(), expires.into()],
    )?;
    audit(database, change, "sessions.open", key_id, "")?;
    Ok(token.into())
}

/// The key of the session with this secret; `None` where the session or the key is over.
///
/// # Errors
/// [`StoreError::Database`].
pub fn key(
    database: &mut dyn Database,
    token: &SecretString,
    now: Time,
) -> Result<Option<Key>, StoreError> {
    let hash = Sha256::digest(token.expose_secret());
    let sql = "SELECT key_id FROM sessions WHERE token_hash = $1 AND expires_ms > $2";
    let rows = database.query(sql, &[hash.as_slice().into(), now.0.into()])?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let key = keys::find(database, &row.text(0)?, now)?;
    Ok(Some(key).filter(|key| !key.is_over(now)))
}

/// Ends the session with this secret.
///
/// # Errors
/// [`StoreError::Database`].
pub fn close(database: &mut dyn Database, token: &SecretString) -> Result<(), StoreError> {
    let hash = Sha256::digest(token.expose_secret());
    let sql = "DELETE FROM sessions WHERE token_hash = $1";
    database.execute(sql, &[hash.as_slice().into()])?;
    Ok(())
}

/// Ends all sessions of a key that is no longer what it was.
pub(super) fn close_all(database: &mut dyn Database, key_id: &str) -> Result<(), DatabaseError> {
    let sql = "DELETE FROM sessions WHERE key_id = $1";
    database.execute(sql, &[key_id.into()])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::accounts;
    use crate::store::keys::{KeyOptions, Scope};
    use crate::store::migrations::migrate;
    use crate::store::sqlite::Sqlite;

    fn at(ms: i64) -> Change<'static> {
        Change {
            actor: "test",
            now: Time(ms),
        }
    }

    fn with_session() -> (Sqlite, String, SecretString) {
        let mut database = Sqlite::in_memory().unwrap();
        migrate(&mut database).unwrap();
        let account = accounts::create(&mut database, at(0), "Storks", true).unwrap();
        let options = KeyOptions {
            name: "laptop".to_owned(),
            scopes: vec![Scope::Embed],
            expires: Some(Time(2 * LASTS_MS)),
            ..KeyOptions::default()
        };
        let made = keys::create(&mut database, at(0), &account.id, "qt-", &options).unwrap();
        let token = open(&mut database, at(1000), &made.key.id).unwrap();
        (database, made.key.id, token)
    }

    fn is_open(database: &mut Sqlite, token: &SecretString, ms: i64) -> bool {
        key(database, token, Time(ms)).unwrap().is_some()
    }

    #[test]
    fn a_session_ends_by_itself_by_its_owner_and_with_its_key() {
        let (mut database, _, token) = with_session();
        assert!(is_open(&mut database, &token, 999 + LASTS_MS));
        assert!(!is_open(&mut database, &token, 1000 + LASTS_MS));
        assert!(!is_open(&mut database, &"guessed".into(), 1000));
        close(&mut database, &token).unwrap();
        assert!(!is_open(&mut database, &token, 1000));

        let (mut database, key_id, token) = with_session();
        keys::revoke(&mut database, at(2000), &key_id).unwrap();
        assert!(!is_open(&mut database, &token, 2000));

        let (mut database, key_id, token) = with_session();
        keys::rotate(&mut database, at(2000), &key_id, "qt-", 60_000).unwrap();
        assert!(!is_open(&mut database, &token, 2000));

        let (mut database, key_id, _) = with_session();
        let late = 2 * LASTS_MS - 1000;
        let token = open(&mut database, at(late), &key_id).unwrap();
        assert!(is_open(&mut database, &token, late));
        assert!(!is_open(&mut database, &token, late + 1000));
    }

    #[test]
    fn the_secret_is_kept_nowhere_and_old_sessions_are_forgotten() {
        let (mut database, key_id, token) = with_session();
        let count = |database: &mut Sqlite| {
            let rows = database
                .query("SELECT COUNT(*) FROM sessions", &[])
                .unwrap();
            rows[0].int(0).unwrap()
        };
        let rows = database.query("SELECT * FROM sessions", &[]).unwrap();
        let kept = format!("{rows:?}");
        assert!(!kept.contains(token.expose_secret()));
        open(&mut database, at(2000), &key_id).unwrap();
        assert_eq!(count(&mut database), 2);
        open(&mut database, at(LASTS_MS + 1500), &key_id).unwrap();
        assert_eq!(count(&mut database), 2);
    }
}
