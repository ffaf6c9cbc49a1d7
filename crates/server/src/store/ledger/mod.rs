//! The ledger: append-only, every entry chained by hash to the one before.
//!
//! - here: entries and the end of the chain; `reading`: pages and sums; `csv`: entries for spreadsheets;
//!   `verify`: the proof

pub mod csv;
mod reading;
mod verify;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::database::{Database, DatabaseError, Row, Value};
use crate::metering::PicoUsd;

pub use reading::{Selection, Usage, UsageBy, credits, for_each, latest, page, usage};
pub use verify::{Noted, Verified, VerifyError, verify};

/// What an entry records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// Credit given, or taken back where the amount is negative.
    Credit,
    /// A request that was answered.
    Usage,
}

impl EntryKind {
    /// Its word in the state.
    pub fn name(self) -> &'static str {
        match self {
            Self::Credit => "credit",
            Self::Usage => "usage",
        }
    }
}

/// What happened to an account's balance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// The account.
    pub account_id: String,
    /// The key that the request came with.
    pub key_id: Option<String>,
    /// What it records.
    pub kind: EntryKind,
    /// What the balance changed by; usage is negative.
    pub amount: PicoUsd,
    /// Tokens that the model saw.
    pub tokens: i64,
    /// Price of each of them.
    pub price: PicoUsd,
    /// The model that saw them.
    pub model: Option<String>,
    /// `realtime` or `batch`.
    pub tier: Option<String>,
    /// The request's id, as in the answer and the log.
    pub request_id: Option<String>,
    /// Why credit was given.
    pub note: Option<String>,
}

/// One line of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its place, counted from 1 without gaps.
    pub seq: i64,
    /// Milliseconds since 1970; never less than the entry's before.
    pub at_ms: i64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
    /// The account's balance afterwards.
    pub balance: PicoUsd,
    /// SHA-256 over the hash before and this entry.
    #[serde(serialize_with = "hex")]
    pub hash: [u8; 32],
}

fn hex<S: serde::Serializer>(hash: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hex_digits(hash))
}

/// Bytes as they are written for people.
pub fn hex_digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The end of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The last entry's place, 0 before the first.
    pub seq: i64,
    /// Its time.
    pub at_ms: i64,
    /// Its hash, zeros before the first.
    pub hash: [u8; 32],
}

impl Head {
    /// Of an empty ledger.
    pub const EMPTY: Self = Self {
        seq: 0,
        at_ms: 0,
        hash: [0; 32],
    };

    /// The end of the chain as it stands.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn read(database: &mut dyn Database) -> Result<Self, DatabaseError> {
        let sql = "SELECT seq, at_ms, hash FROM ledger ORDER BY seq DESC LIMIT 1";
        match database.query(sql, &[])?.first() {
            None => Ok(Self::EMPTY),
            Some(row) => Ok(Self {
                seq: row.int(0)?,
                at_ms: row.int(1)?,
                hash: row.hash(2)?,
            }),
        }
    }

    /// Writes the next entry and moves behind it.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn append(
        &mut self,
        database: &mut dyn Database,
        now_ms: i64,
        balance: PicoUsd,
        event: Event,
    ) -> Result<(), DatabaseError> {
        let mut entry = Entry {
            seq: self.seq + 1,
            at_ms: now_ms.max(self.at_ms),
            event,
            balance,
            hash: [0; 32],
        };
        entry.hash = entry.chained(&self.hash);
        *self = Self {
            seq: entry.seq,
            at_ms: entry.at_ms,
            hash: entry.hash,
        };
        let Event {
            account_id,
            key_id,
            kind,
            amount,
            tokens,
            price,
            model,
            tier,
            request_id,
            note,
        } = &entry.event;
        let sql = "INSERT INTO ledger (seq, at_ms, account_id, key_id, kind, amount, balance, tokens, price, \
                   model, tier, request_id, note, hash) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";
        let parameters: [Value; 14] = [
            entry.seq.into(),
            entry.at_ms.into(),
            account_id.into(),
            key_id.as_ref().into(),
            kind.name().into(),
            amount.0.into(),
            balance.0.into(),
            (*tokens).into(),
            price.0.into(),
            model.as_ref().into(),
            tier.as_ref().into(),
            request_id.as_ref().into(),
            note.as_ref().into(),
            entry.hash.as_slice().into(),
        ];
        database.execute(sql, &parameters)?;
        Ok(())
    }
}

impl Entry {
    /// Its hash behind `previous`: every field with its length, so that no two entries are alike.
    fn chained(&self, previous: &[u8; 32]) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(previous);
        let event = &self.event;
        for number in [
            self.seq,
            self.at_ms,
            event.amount.0,
            self.balance.0,
            event.tokens,
            event.price.0,
        ] {
            hash.update(number.to_le_bytes());
        }
        for text in [
            Some(event.account_id.as_str()),
            event.key_id.as_deref(),
            Some(event.kind.name()),
            event.model.as_deref(),
            event.tier.as_deref(),
            event.request_id.as_deref(),
            event.note.as_deref(),
        ] {
            // No text is as long as the mark of one that is not there.
            let len = text.map_or(u64::MAX, |text| text.len() as u64);
            hash.update(len.to_le_bytes());
            hash.update(text.unwrap_or_default());
        }
        hash.finalize().into()
    }

    fn read(row: &Row) -> Result<Self, DatabaseError> {
        let kind = match row.text(4)?.as_str() {
            "credit" => EntryKind::Credit,
            "usage" => EntryKind::Usage,
            _ => return Err(DatabaseError::Column { column: 4 }),
        };
        Ok(Self {
            seq: row.int(0)?,
            at_ms: row.int(1)?,
            event: Event {
                account_id: row.text(2)?,
                key_id: row.optional_text(3)?,
                kind,
                amount: PicoUsd(row.int(5)?),
                tokens: row.int(7)?,
                price: PicoUsd(row.int(8)?),
                model: row.optional_text(9)?,
                tier: row.optional_text(10)?,
                request_id: row.optional_text(11)?,
                note: row.optional_text(12)?,
            },
            balance: PicoUsd(row.int(6)?),
            hash: row.hash(13)?,
        })
    }
}
