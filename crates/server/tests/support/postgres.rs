//! Databases on a Postgres server, made for one test each.

use quintet_server::store::postgres::Postgres;
use quintet_server::store::{Database, Location};

/// A new, empty database of this name; says why there is none where no server is named.
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

/// Lets nobody into the database, or everybody again, and ends the connections to it.
#[allow(dead_code, reason = "not every test breaks connections")]
pub(crate) fn set_open(name: &str, is_open: bool) {
    let server = std::env::var("QUINTET_TEST_POSTGRES").unwrap();
    let mut database = Postgres::connect(&server).unwrap();
    let allow = format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {is_open}");
    database.script(&allow).unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
    // The answer is of a type that no table here has.
    database
        .execute(&end.replace("$1", &format!("'{name}'")), &[])
        .unwrap();
}
