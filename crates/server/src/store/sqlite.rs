//! State in one file of SQLite, with a write-ahead log beside it.

use std::fs::OpenOptions;
use std::path::Path;
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Statement, ToSql, types};

use super::database::{Database, DatabaseError, Durability, Row, Value};

/// One connection to the file.
#[derive(Debug)]
pub struct Sqlite {
    connection: Connection,
    durability: Durability,
}

/// How long a writer waits for another process's transaction.
const PATIENCE: Duration = Duration::from_secs(10);

impl Sqlite {
    /// Opens the file, and creates it where there is none. Only its owner may read it.
    ///
    /// # Errors
    /// [`DatabaseError`] for a file that cannot be had or is something else.
    pub fn open(path: &Path) -> Result<Self, DatabaseError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(path).map_err(|source| DatabaseError::Open {
            path: path.to_owned(),
            source,
        })?;
        Self::from_connection(Connection::open(path)?)
    }

    /// State that is gone with the connection.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn in_memory() -> Result<Self, DatabaseError> {
        Self::from_connection(Connection::open_in_memory()?)
    }

    fn from_connection(connection: Connection) -> Result<Self, DatabaseError> {
        connection.busy_timeout(PATIENCE)?;
        connection.set_prepared_statement_cache_capacity(64);
        // With a write-ahead log, `FULL` brings every commit to the disk before it returns.
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;",
        )?;
        Ok(Self {
            connection,
            durability: Durability::Disk,
        })
    }

    /// The library's own connection, for what only SQLite has.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }
}

/// SQLite counts parameters as `?1`.
fn translated(sql: &str) -> String {
    sql.replace('$', "?")
}

fn bind(statement: &mut Statement<'_>, parameters: &[Value]) -> Result<(), rusqlite::Error> {
    for (index, value) in parameters.iter().enumerate() {
        statement.raw_bind_parameter(index + 1, value)?;
    }
    Ok(())
}

impl Database for Sqlite {
    fn begin(&mut self, durability: Durability) -> Result<(), DatabaseError> {
        if durability != self.durability {
            self.connection.execute_batch(match durability {
                Durability::Process => "PRAGMA synchronous = NORMAL",
                Durability::Disk => "PRAGMA synchronous = FULL",
            })?;
            self.durability = durability;
        }
        Ok(self.connection.execute_batch("BEGIN IMMEDIATE")?)
    }

    fn commit(&mut self) -> Result<(), DatabaseError> {
        Ok(self.connection.execute_batch("COMMIT")?)
    }

    fn rollback(&mut self) -> Result<(), DatabaseError> {
        // Some errors, such as a full disk, have undone it already.
        if self.connection.is_autocommit() {
            return Ok(());
        }
        Ok(self.connection.execute_batch("ROLLBACK")?)
    }

    fn execute(&mut self, sql: &str, parameters: &[Value]) -> Result<u64, DatabaseError> {
        let mut statement = self.connection.prepare_cached(&translated(sql))?;
        bind(&mut statement, parameters)?;
        Ok(statement.raw_execute()? as u64)
    }

    fn query(&mut self, sql: &str, parameters: &[Value]) -> Result<Vec<Row>, DatabaseError> {
        let mut statement = self.connection.prepare_cached(&translated(sql))?;
        bind(&mut statement, parameters)?;
        let columns = statement.column_count();
        let mut found = statement.raw_query();
        let mut rows = Vec::new();
        while let Some(row) = found.next()? {
            let values = (0..columns).map(|column| match row.get_ref(column)? {
                ValueRef::Null => Ok(Value::Null),
                ValueRef::Integer(value) => Ok(Value::Int(value)),
                ValueRef::Text(value) => {
                    Ok(Value::Text(String::from_utf8_lossy(value).into_owned()))
                }
                ValueRef::Blob(value) => Ok(Value::Bytes(value.to_vec())),
                ValueRef::Real(_) => Err(DatabaseError::Column { column }),
            });
            rows.push(Row(values.collect::<Result<_, DatabaseError>>()?));
        }
        Ok(rows)
    }

    fn script(&mut self, sql: &str) -> Result<(), DatabaseError> {
        // A key of SQLite's own kind is the row's number and needs no index beside the table.
        let sql = sql.replace("BIGINT PRIMARY KEY", "INTEGER PRIMARY KEY");
        Ok(self.connection.execute_batch(&sql)?)
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<types::ToSqlOutput<'_>> {
        Ok(match self {
            Self::Null => types::ToSqlOutput::Owned(types::Value::Null),
            Self::Int(value) => (*value).into(),
            Self::Text(value) => value.as_str().into(),
            Self::Bytes(value) => value.as_slice().into(),
        })
    }
}
