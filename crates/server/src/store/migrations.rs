//! The schema, as steps from each version to the next. A released step is never changed.

use super::database::{Database, DatabaseError, Durability, transaction};

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migration {
    /// Its place, counted from 1 without gaps.
    pub version: i64,
    /// Statements without parameters.
    pub sql: &'static str,
}

/// All steps, in order.
pub const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        sql: include_str!("migrations/0001_accounts.sql"),
    },
    Migration {
        version: 2,
        sql: include_str!("migrations/0002_batches.sql"),
    },
    Migration {
        version: 3,
        sql: include_str!("migrations/0003_sessions_and_usage.sql"),
    },
    Migration {
        version: 4,
        sql: include_str!("migrations/0004_output_lifetime.sql"),
    },
];

/// Brings a database to the last version.
///
/// # Errors
/// [`DatabaseError::Newer`] for one that a later program wrote.
pub fn migrate(database: &mut dyn Database) -> Result<(), DatabaseError> {
    transaction(database, Durability::Disk, |database| {
        database.script("CREATE TABLE IF NOT EXISTS migrations (version BIGINT PRIMARY KEY)")?;
        let rows = database.query("SELECT COALESCE(MAX(version), 0) FROM migrations", &[])?;
        let found = rows.first().map_or(Ok(0), |row| row.int(0))?;
        let known = MIGRATIONS.last().map_or(0, |last| last.version);
        if found > known {
            return Err(DatabaseError::Newer { found, known });
        }
        for step in MIGRATIONS.iter().filter(|step| step.version > found) {
            database.script(step.sql)?;
            let sql = "INSERT INTO migrations (version) VALUES ($1)";
            database.execute(sql, &[step.version.into()])?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::Sqlite;

    #[test]
    fn steps_follow_each_other_and_run_once() {
        for (index, step) in MIGRATIONS.iter().enumerate() {
            assert_eq!(step.version, index as i64 + 1);
        }
        let mut database = Sqlite::in_memory().unwrap();
        migrate(&mut database).unwrap();
        migrate(&mut database).unwrap();
    }

    #[test]
    fn a_later_programs_state_is_refused() {
        let mut database = Sqlite::in_memory().unwrap();
        migrate(&mut database).unwrap();
        database
            .execute("INSERT INTO migrations (version) VALUES (999)", &[])
            .unwrap();
        let refused = migrate(&mut database);
        assert!(matches!(
            refused,
            Err(DatabaseError::Newer { found: 999, .. })
        ));
    }
}
