//! The state of a hosted service: accounts, keys, credit and the ledger, in one file of SQLite or in
//! Postgres. All SQL of the program is here.
//!
//! - `database`: what is asked of either; `sqlite`, `postgres`: the two; `postgres_tls`: how the latter's
//!   connection is protected; `migrations`: the schema
//! - `accounts`, `keys`: what operators change
//! - `sessions`: people who are signed in; `usage`: what was billed, by day, key and task
//! - `ledger`: the chain of entries; `books`: requests let in and billed, inside a transaction
//! - `files`, `batches`: what callers leave to be worked off
//! - `handle`, `writer`: the threads that own a connection each, and how requests reach them
//!
//! Another subject adds its tables as a migration of its own, and reads and writes through
//! [`Store::read`] and [`Store::write`].

pub mod accounts;
pub mod batches;
pub mod books;
pub mod database;
pub mod files;
mod handle;
pub mod keys;
pub mod ledger;
pub mod migrations;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "postgres")]
mod postgres_tls;
pub mod sessions;
pub mod sqlite;
pub mod time;
pub mod usage;
mod writer;

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

pub use batches::BatchStatus;
pub use books::{RetryWindow, Settled, WorkRequest};
pub use database::{Database, DatabaseError, Durability, Row, Value, transaction};
pub use files::Purpose;
pub use handle::{Charge, Store};
pub use time::Time;
pub(crate) use writer::described;

/// Where the state is. Shows no password.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// A file of SQLite.
    File(PathBuf),
    /// `postgres://…`, as the library reads it.
    #[cfg(feature = "postgres")]
    Postgres(String),
}

impl std::fmt::Debug for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => f.write_str("Postgres(…)"),
        }
    }
}

impl FromStr for Location {
    type Err = DatabaseError;

    fn from_str(text: &str) -> Result<Self, DatabaseError> {
        match text.split_once("://") {
            #[cfg(feature = "postgres")]
            Some(("postgres" | "postgresql", _)) => Ok(Self::Postgres(text.to_owned())),
            Some((scheme, _)) => Err(DatabaseError::Scheme {
                scheme: scheme.to_owned(),
            }),
            None => Ok(Self::File(PathBuf::from(text))),
        }
    }
}

impl Location {
    /// A connection to the state, brought to this program's version and created where there is none.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn open(&self) -> Result<Box<dyn Database>, DatabaseError> {
        let mut database: Box<dyn Database> = match self {
            Self::File(path) => Box::new(sqlite::Sqlite::open(path)?),
            #[cfg(feature = "postgres")]
            Self::Postgres(url) => Box::new(postgres::Postgres::connect(url)?),
        };
        migrations::migrate(&mut *database)?;
        Ok(database)
    }
}

/// Why something was not done.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database failed; nothing of it was done.
    #[error("the state cannot be used")]
    Database(#[source] Arc<DatabaseError>),
    /// The server is shutting down.
    #[error("the state is closed")]
    Closed,
    /// No account has this id.
    #[error("there is no account `{id}`")]
    UnknownAccount {
        /// What was asked for.
        id: String,
    },
    /// No key has this id, or it was revoked.
    #[error("there is no key `{id}`")]
    UnknownKey {
        /// What was asked for: the public id.
        id: String,
    },
    /// A name or a note is empty, long, or more than one line.
    #[error("a name or note is not one line of 1 to 200 characters, or one of a list has a comma")]
    Name,
    /// A prefix that cannot stand before a key.
    #[error("a prefix is not 1 to 32 letters, digits, `-` and `_` with a `-` at the end")]
    Prefix,
    /// A balance that no number holds.
    #[error("the balance of account `{id}` would be too large")]
    Balance {
        /// The account.
        id: String,
    },
    /// An invitation that is unknown, used or too old.
    #[error("the invitation is unknown, used or too old")]
    Invitation,
    /// No file has this id.
    #[error("there is no file `{id}`")]
    UnknownFile {
        /// What was asked for.
        id: String,
    },
    /// The file holds something else.
    #[error("the file `{id}` is for `{}`, expected one for `batch`", found.name())]
    Purpose {
        /// The file.
        id: String,
        /// What it is for.
        found: Purpose,
    },
    /// The file is still needed.
    #[error("the file `{id}` is being read by `{batch}`")]
    FileInUse {
        /// The file.
        id: String,
        /// The batch that reads it.
        batch: String,
    },
    /// An owner's files would have too many bytes.
    #[error("files of {kept} bytes are kept, expected at most {max_bytes} with this one")]
    FilesFull {
        /// What is there.
        kept: i64,
        /// The limit.
        max_bytes: i64,
    },
    /// No batch has this id.
    #[error("there is no batch `{id}`")]
    UnknownBatch {
        /// What was asked for.
        id: String,
    },
    /// The batch is over.
    #[error("the batch `{id}` is {} and cannot be cancelled", status.name())]
    BatchEnded {
        /// The batch.
        id: String,
        /// How it ended.
        status: BatchStatus,
    },
    /// An owner has too many batches that have not ended.
    #[error("{max} batches wait or run already")]
    TooManyBatches {
        /// The limit.
        max: i64,
    },
    /// The system has no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

impl From<DatabaseError> for StoreError {
    fn from(error: DatabaseError) -> Self {
        Self::Database(Arc::new(error))
    }
}

impl StoreError {
    /// What to do about it.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "most say themselves what to do"
    )]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Database(error) => error.hint(),
            Self::UnknownAccount { .. } => Some("`quintet accounts list` names them"),
            Self::UnknownKey { .. } => Some("`quintet keys list` names them"),
            _ => None,
        }
    }
}
