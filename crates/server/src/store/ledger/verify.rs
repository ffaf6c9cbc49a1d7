//! The proof: everything is added and hashed again.

use std::collections::HashMap;

use serde::Serialize;

use super::{EntryKind, Head, Selection, for_each, hex_digits};
use crate::metering::PicoUsd;
use crate::store::database::{Database, DatabaseError};

/// What a verified ledger holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Entries.
    pub entries: i64,
    /// Accounts that they belong to.
    pub accounts: usize,
    /// Tokens of all usage.
    pub tokens: i128,
    /// Hash of the last entry. Whoever keeps it can show later that nothing before it was changed.
    pub head: String,
}

/// Where a ledger is wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// It cannot be read.
    #[error("the ledger cannot be read")]
    Database(#[from] DatabaseError),
    /// An entry is missing.
    #[error("entry {expected} is missing, found {found} behind the one before it")]
    Gap {
        /// The place that should follow.
        expected: i64,
        /// The one that does.
        found: i64,
    },
    /// An entry was changed, or does not belong here.
    #[error("entry {seq} has a hash other than its own")]
    Hash {
        /// The entry.
        seq: i64,
    },
    /// An amount, a price or a balance does not follow from the others.
    #[error(
        "entry {seq} gives account `{account_id}` a balance of {found} dollars, expected {expected}"
    )]
    Balance {
        /// The entry.
        seq: i64,
        /// The account.
        account_id: String,
        /// What stands there.
        found: PicoUsd,
        /// What adds up.
        expected: PicoUsd,
    },
    /// Usage whose amount is not its tokens times their price.
    #[error("entry {seq} bills {found} dollars, expected {expected}")]
    Amount {
        /// The entry.
        seq: i64,
        /// What stands there.
        found: PicoUsd,
        /// Tokens times price.
        expected: PicoUsd,
    },
    /// The account's row says other than the ledger.
    #[error(
        "account `{account_id}` has a balance of {found} dollars, the ledger adds up to {expected}"
    )]
    Account {
        /// The account.
        account_id: String,
        /// What stands there.
        found: PicoUsd,
        /// What adds up.
        expected: PicoUsd,
    },
    /// The entry that was to be contained is not, or is another.
    #[error("entry {seq} is not the one that was there before")]
    Contains {
        /// The entry.
        seq: i64,
    },
}

/// An entry that someone noted down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// Its place.
    pub seq: i64,
    /// Its hash in hexadecimal digits.
    pub hash: String,
}

/// Adds and hashes everything again, also while requests are billed.
///
/// # Errors
/// [`VerifyError`] at the first place that is wrong.
pub fn verify(
    database: &mut dyn Database,
    contains: Option<&Noted>,
) -> Result<Verified, VerifyError> {
    let mut head = Head::EMPTY;
    let mut tokens = 0;
    let mut balances: HashMap<String, i64> = HashMap::new();
    let mut is_contained = contains.is_none();
    for_each(database, &Selection::default(), |entry| {
        let seq = entry.seq;
        let expected = head.seq + 1;
        if seq != expected {
            return Err(VerifyError::Gap {
                expected,
                found: seq,
            });
        }
        if entry.hash != entry.chained(&head.hash) || entry.at_ms < head.at_ms {
            return Err(VerifyError::Hash { seq });
        }
        let event = &entry.event;
        if event.kind == EntryKind::Usage {
            let expected = PicoUsd(-event.tokens.saturating_mul(event.price.0));
            if event.amount != expected {
                let found = event.amount;
                return Err(VerifyError::Amount {
                    seq,
                    found,
                    expected,
                });
            }
            tokens += i128::from(event.tokens);
        }
        let balance = balances.entry(event.account_id.clone()).or_default();
        *balance = balance.saturating_add(event.amount.0);
        if *balance != entry.balance.0 {
            return Err(VerifyError::Balance {
                seq,
                account_id: event.account_id.clone(),
                found: entry.balance,
                expected: PicoUsd(*balance),
            });
        }
        head = Head {
            seq,
            at_ms: entry.at_ms,
            hash: entry.hash,
        };
        is_contained |=
            contains.is_some_and(|noted| noted.seq == seq && noted.hash == hex_digits(&entry.hash));
        Ok(())
    })?;
    // One statement, so that balances and entries are of the same moment, whatever came meanwhile.
    let sql = "SELECT a.id, a.balance, COALESCE((SELECT l.balance FROM ledger l WHERE l.account_id = a.id \
               ORDER BY l.at_ms DESC, l.seq DESC LIMIT 1), 0) FROM accounts a ORDER BY a.id";
    for row in database.query(sql, &[])? {
        let (account_id, found) = (row.text(0)?, PicoUsd(row.int(1)?));
        let expected = PicoUsd(row.int(2)?);
        if found != expected {
            return Err(VerifyError::Account {
                account_id,
                found,
                expected,
            });
        }
    }
    if let (false, Some(noted)) = (is_contained, contains) {
        return Err(VerifyError::Contains { seq: noted.seq });
    }
    Ok(Verified {
        entries: head.seq,
        accounts: balances.len(),
        tokens,
        head: hex_digits(&head.hash),
    })
}
