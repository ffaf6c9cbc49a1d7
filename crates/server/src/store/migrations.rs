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
    Migration {
        version: 5,
        sql: include_str!("migrations/0005_batch_costs.sql"),
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
    fn batches_of_before_get_their_cost_from_the_ledger() {
        let mut database = Sqlite::in_memory().unwrap();
        for step in MIGRATIONS.iter().filter(|step| step.version < 5) {
            database.script(step.sql).unwrap();
        }
        database
            .script(
                "INSERT INTO accounts VALUES ('a', 'A', 1, NULL, 0, NULL, NULL, NULL, 0, 0, 0, 0, 0)",
            )
            .unwrap();
        for (id, owner) in [("batch_1", "a"), ("batch_2", "a")] {
            let sql = "INSERT INTO batches (id, owner, input_file_id, status, created_ms, expires_ms, \
                       output_file_id, error_file_id) VALUES ($1, $2, 'f', 'completed', 5, 9, 'o', 'e')";
            database.execute(sql, &[id.into(), owner.into()]).unwrap();
        }
        for (seq, request_id, amount) in [
            (1, "batch_1-1", -3),
            (2, "batch_1-2", -4),
            (3, "batch_11-1", -50),
            (4, "req-1", -600),
        ] {
            let sql = "INSERT INTO ledger VALUES ($1, 7, 'a', NULL, 'usage', $2, 0, 1, 1, NULL, NULL, $3, NULL, x'')";
            let parameters = [seq.into(), amount.into(), request_id.into()];
            database.execute(sql, &parameters).unwrap();
        }
        let step = MIGRATIONS.iter().find(|step| step.version == 5).unwrap();
        database.script(step.sql).unwrap();
        let rows = database.query("SELECT cost FROM batches ORDER BY id", &[]);
        let costs: Vec<i64> = rows
            .unwrap()
            .iter()
            .map(|row| row.int(0).unwrap())
            .collect();
        assert_eq!(costs, [7, 0]);
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
