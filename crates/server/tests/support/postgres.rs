//! Databases on a Postgres server, made for one test each.

use quintet_server::store::postgres::Postgres;
use quintet_server::store::{Database, Location};

/// A new, empty database of this name; says why there is none where no server is named.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
pub(crate) fn fresh(name: &str) -> Option<Location> {
    let Ok(server) = std::env::var("QUINTET_TEST_POSTGRES") else {
        eprintln!("skipped: needs QUINTET_TEST_POSTGRES=postgres://USER@HOST/postgres");
        return None;
    };
    let mut database = Postgres::connect(&server).unwrap();
    let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
    database.script(&drop).unwrap();
    database.script(&format!("CREATE DATABASE {name}")).unwrap();
    let (address, parameters) = server.split_once('?').unwrap_or((&server, ""));
    let (host, _) = address.rsplit_once('/').unwrap();
    Some(format!("{host}/{name}?{parameters}").parse().unwrap())
}
