//! State in Postgres, for servers that share it.

use std::collections::HashMap;
use std::time::Duration;

use postgres::types::{FromSql, IsNull, ToSql, Type, private::BytesMut, to_sql_checked};
use postgres::{Client, Statement};

use super::database::{Database, DatabaseError, Durability, Row, Value};
use super::postgres_tls::Address;

/// One connection.
pub struct Postgres {
    client: Client,
    statements: HashMap<String, Statement>,
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Postgres")
    }
}

/// Transactions that write take this lock, so that each is alone, in every server.
const WRITERS: &str = "5497526441863";

impl Postgres {
    /// Connects; `url` is as libpq reads it, encryption (`sslmode`, `sslrootcert`) included.
    ///
    /// # Errors
    /// [`DatabaseError`] when the database cannot be reached, or not as protected as the URL asks.
    pub fn connect(url: &str) -> Result<Self, DatabaseError> {
        let mut address = Address::parse(url)?;
        let config = &mut address.config;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(Duration::from_secs(5));
        }
        // A database that went away is noticed while requests wait, not after hours.
        config.keepalives_idle(Duration::from_secs(10));
        config.tcp_user_timeout(Duration::from_secs(20));
        let mut client = address.connect()?;
        client.batch_execute("SET statement_timeout = '60s'; SET lock_timeout = '20s'")?;
        Ok(Self {
            client,
            statements: HashMap::new(),
        })
    }

    fn statement(&mut self, sql: &str) -> Result<Statement, DatabaseError> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql)?;
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}

fn references(parameters: &[Value]) -> Vec<&(dyn ToSql + Sync)> {
    let reference = |value| value as &(dyn ToSql + Sync);
    parameters.iter().map(reference).collect()
}

impl Database for Postgres {
    fn begin(&mut self, durability: Durability) -> Result<(), DatabaseError> {
        let wait = match durability {
            Durability::Process => "off",
            Durability::Disk => "on",
        };
        Ok(self.client.batch_execute(&format!(
            "BEGIN; SET LOCAL synchronous_commit = {wait}; SELECT pg_advisory_xact_lock({WRITERS})"
        ))?)
    }

    fn commit(&mut self) -> Result<(), DatabaseError> {
        Ok(self.client.batch_execute("COMMIT")?)
    }

    fn rollback(&mut self) -> Result<(), DatabaseError> {
        Ok(self.client.batch_execute("ROLLBACK")?)
    }

    fn execute(&mut self, sql: &str, parameters: &[Value]) -> Result<u64, DatabaseError> {
        let statement = self.statement(sql)?;
        Ok(self.client.execute(&statement, &references(parameters))?)
    }

    fn query(&mut self, sql: &str, parameters: &[Value]) -> Result<Vec<Row>, DatabaseError> {
        let statement = self.statement(sql)?;
        let rows = self.client.query(&statement, &references(parameters))?;
        let row = |row: &postgres::Row| {
            let values = (0..row.len()).map(|column| row.try_get(column));
            Ok(Row(values.collect::<Result<_, postgres::Error>>()?))
        };
        rows.iter().map(row).collect()
    }

    fn script(&mut self, sql: &str) -> Result<(), DatabaseError> {
        Ok(self.client.batch_execute(sql)?)
    }

    fn is_broken(&self) -> bool {
        self.client.is_closed()
    }
}

impl ToSql for Value {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Int(value) => value.to_sql(kind, out),
            // No text of Postgres holds it. Names are checked; an id with it finds nothing.
            Self::Text(value) => value.replace('\0', "\u{fffd}").to_sql(kind, out),
            Self::Bytes(value) => value.to_sql(kind, out),
        }
    }

    fn accepts(kind: &Type) -> bool {
        matches!(*kind, Type::INT8 | Type::TEXT | Type::BYTEA)
    }

    to_sql_checked!();
}

impl FromSql<'_> for Value {
    fn from_sql(kind: &Type, raw: &[u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        match *kind {
            Type::INT8 => Ok(Self::Int(i64::from_sql(kind, raw)?)),
            Type::BYTEA => Ok(Self::Bytes(raw.to_vec())),
            _ => Ok(Self::Text(String::from_sql(kind, raw)?)),
        }
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self::Null)
    }

    fn accepts(kind: &Type) -> bool {
        <Self as ToSql>::accepts(kind)
    }
}
