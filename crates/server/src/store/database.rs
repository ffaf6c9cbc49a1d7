//! What the store asks of a database, so that one text of SQL serves SQLite and Postgres.
//!
//! Parameters are `$1`, `$2`, …; types are `BIGINT`, `TEXT` and `BYTEA`. A transaction that writes is
//! alone: SQLite locks its file, Postgres takes an advisory lock. So whatever is read inside one stays
//! true until its end, in every process that shares the database.

use std::fmt::Debug;
use std::path::PathBuf;

/// One value of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing.
    Null,
    /// `BIGINT`.
    Int(i64),
    /// `TEXT`.
    Text(String),
    /// `BYTEA`.
    Bytes(Vec<u8>),
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<&String> for Value {
    fn from(value: &String) -> Self {
        Self::Text(value.clone())
    }
}

impl From<&[u8]> for Value {
    fn from(value: &[u8]) -> Self {
        Self::Bytes(value.to_vec())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// One row of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row(pub Vec<Value>);

impl Row {
    /// The whole number in this column.
    ///
    /// # Errors
    /// [`DatabaseError::Column`] for anything else.
    pub fn int(&self, column: usize) -> Result<i64, DatabaseError> {
        self.optional_int(column)?.ok_or_else(|| wrong(column))
    }

    /// The whole number in this column, or nothing.
    ///
    /// # Errors
    /// [`DatabaseError::Column`] for anything else.
    pub fn optional_int(&self, column: usize) -> Result<Option<i64>, DatabaseError> {
        match self.0.get(column) {
            Some(Value::Int(value)) => Ok(Some(*value)),
            Some(Value::Null) => Ok(None),
            Some(Value::Text(_) | Value::Bytes(_)) | None => Err(wrong(column)),
        }
    }

    /// The text in this column.
    ///
    /// # Errors
    /// [`DatabaseError::Column`] for anything else.
    pub fn text(&self, column: usize) -> Result<String, DatabaseError> {
        self.optional_text(column)?.ok_or_else(|| wrong(column))
    }

    /// The text in this column, or nothing.
    ///
    /// # Errors
    /// [`DatabaseError::Column`] for anything else.
    pub fn optional_text(&self, column: usize) -> Result<Option<String>, DatabaseError> {
        match self.0.get(column) {
            Some(Value::Text(value)) => Ok(Some(value.clone())),
            Some(Value::Null) => Ok(None),
            Some(Value::Int(_) | Value::Bytes(_)) | None => Err(wrong(column)),
        }
    }

    /// The 32 bytes of a hash in this column, or nothing.
    ///
    /// # Errors
    /// [`DatabaseError::Column`] for anything else.
    pub fn optional_hash(&self, column: usize) -> Result<Option<[u8; 32]>, DatabaseError> {
        match self.0.get(column) {
            Some(Value::Bytes(value)) => match value.as_slice().try_into() {
                Ok(hash) => Ok(Some(hash)),
                Err(_) => Err(wrong(column)),
            },
            Some(Value::Null) => Ok(None),
            Some(Value::Int(_) | Value::Text(_)) | None => Err(wrong(column)),
        }
    }

    /// The 32 bytes of a hash in this column.
    ///
    /// # Errors
    /// [`DatabaseError::Column`] for anything else.
    pub fn hash(&self, column: usize) -> Result<[u8; 32], DatabaseError> {
        self.optional_hash(column)?.ok_or_else(|| wrong(column))
    }
}

fn wrong(column: usize) -> DatabaseError {
    DatabaseError::Column { column }
}

/// How much a transaction's end promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// Lost with the machine's power, kept when the process ends.
    Process,
    /// Kept on the disk before the commit returns.
    Disk,
}

/// One connection.
pub trait Database: Debug + Send {
    /// Begins a transaction that writes, when no other one does.
    ///
    /// # Errors
    /// [`DatabaseError`].
    fn begin(&mut self, durability: Durability) -> Result<(), DatabaseError>;

    /// Ends it; from now on others see what it did.
    ///
    /// # Errors
    /// [`DatabaseError`]; then nothing of it was kept, or, where the connection broke, it is unknown.
    fn commit(&mut self) -> Result<(), DatabaseError>;

    /// Undoes it.
    ///
    /// # Errors
    /// [`DatabaseError`].
    fn rollback(&mut self) -> Result<(), DatabaseError>;

    /// Runs one statement and gives the number of rows that it changed.
    ///
    /// # Errors
    /// [`DatabaseError`].
    fn execute(&mut self, sql: &str, parameters: &[Value]) -> Result<u64, DatabaseError>;

    /// Runs one statement and gives its rows.
    ///
    /// # Errors
    /// [`DatabaseError`].
    fn query(&mut self, sql: &str, parameters: &[Value]) -> Result<Vec<Row>, DatabaseError>;

    /// Runs statements without parameters or answers: the migrations.
    ///
    /// # Errors
    /// [`DatabaseError`].
    fn script(&mut self, sql: &str) -> Result<(), DatabaseError>;

    /// Whether the connection is lost, and a new one is needed.
    fn is_broken(&self) -> bool {
        false
    }
}

/// Runs `work` in a transaction of its own: all of it is kept, or nothing.
///
/// # Errors
/// Those of `work` and of the database.
pub fn transaction<T, E: From<DatabaseError>>(
    database: &mut dyn Database,
    durability: Durability,
    work: impl FnOnce(&mut dyn Database) -> Result<T, E>,
) -> Result<T, E> {
    database.begin(durability)?;
    let done = work(database);
    if done.is_err() {
        // What went wrong first is what is told.
        let _ = database.rollback();
        return done;
    }
    if let Err(error) = database.commit() {
        let _ = database.rollback();
        return Err(error.into());
    }
    done
}

/// Why the database did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// The file's folder or the file cannot be had.
    #[error("cannot open the state in `{}`", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// SQLite refused.
    #[error("the state's file failed")]
    Sqlite(#[from] rusqlite::Error),
    /// Postgres refused, or cannot be reached.
    #[cfg(feature = "postgres")]
    #[error("the state's database failed")]
    Postgres(#[from] postgres::Error),
    /// The URL of Postgres is none. It may hold a password, and is not shown.
    #[cfg(feature = "postgres")]
    #[error(
        "the state's address cannot be read, expected postgres://USER:PASSWORD@HOST/DATABASE, and perhaps \
         `?sslmode=` with `disable`, `prefer`, `require` or `verify-full`"
    )]
    Address,
    /// Certificates that would not be used, or a check without any.
    #[cfg(feature = "postgres")]
    #[error(
        "the state's address has one of `sslmode=verify-full` and `sslrootcert`, expected both or none"
    )]
    UnusedCertificates,
    /// The file of `sslrootcert` holds no certificates.
    #[cfg(feature = "postgres")]
    #[error("cannot read certificates in `{}`", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What was wrong.
        source: tokio_rustls::rustls::pki_types::pem::Error,
    },
    /// The system refuses a thread.
    #[error("the state's thread cannot start")]
    Thread {
        /// What the system said.
        source: std::io::Error,
    },
    /// A row is not as the schema says.
    #[error("column {column} of the state has another type than expected")]
    Column {
        /// Its place in the statement.
        column: usize,
    },
    /// The state was written by a later program.
    #[error("the state has version {found}, expected at most {known}")]
    Newer {
        /// Its version.
        found: i64,
        /// The last one that this program knows.
        known: i64,
    },
    /// The address is neither a file nor a database that this program was built for.
    #[error("`{scheme}` is no kind of state that this program knows")]
    Scheme {
        /// What stands before `://`. The rest may hold a password.
        scheme: String,
    },
}

impl DatabaseError {
    /// What to do about it.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "only some of SQLite's errors are the operator's to mend"
    )]
    pub fn hint(&self) -> Option<&'static str> {
        use rusqlite::ErrorCode;
        match self {
            Self::Thread { .. } => None,
            Self::Open { .. } => Some("create the folder, and let this user write in it"),
            Self::Newer { .. } => Some("run the newer program, or restore a copy from before"),
            Self::Scheme { .. } => Some(
                "name a file, or postgres://USER@HOST/DATABASE in a program with the feature `postgres`",
            ),
            Self::Column { .. } => Some("the file was changed by something else; restore a copy"),
            Self::Sqlite(error) => match error.sqlite_error_code()? {
                ErrorCode::DiskFull => Some("make room on the disk; nothing was lost or billed"),
                ErrorCode::ReadOnly => Some("let this user write the file and its folder"),
                ErrorCode::NotADatabase => Some("the file is something else; name another one"),
                ErrorCode::DatabaseCorrupt => Some("restore a copy, then `quintet ledger verify`"),
                ErrorCode::DatabaseBusy => Some("another program keeps the file locked"),
                _ => None,
            },
            #[cfg(feature = "postgres")]
            Self::Postgres(error) if super::postgres_tls::is_about_certificate(error) => Some(
                "`sslrootcert` names the authority of the database's certificate, which must be for the host in the URL",
            ),
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => Some("is the database running, and may this user use it?"),
            #[cfg(feature = "postgres")]
            Self::Address => {
                Some("write `%40` for `@`, `%2F` for `/` and `%3F` for `?` in a password")
            }
            #[cfg(feature = "postgres")]
            Self::UnusedCertificates | Self::Certificates { .. } => Some(
                "`sslrootcert` is a PEM file of authorities, such as /etc/ssl/certs/ca-certificates.crt",
            ),
        }
    }
}
