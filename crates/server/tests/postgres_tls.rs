//! The connection to a real Postgres, encrypted or not, as its URL asks. `QUINTET_TEST_POSTGRES` names a
//! server on this machine whose superuser we are; it gets a certificate for the time of the test.
#![cfg(feature = "postgres")]
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

#[path = "support/postgres.rs"]
mod postgres;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use quintet_server::store::accounts::{self, Change};
use quintet_server::store::postgres::Postgres;
use quintet_server::store::{
    Database, DatabaseError, Durability, Location, StoreError, Time, transaction,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

const PATIENCE: Duration = Duration::from_secs(20);
/// No error may tell it.
const PASSWORD: &str = "sesame-open";
/// Who is asked for it.
const ROLE: &str = "quintet_stork";

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// The server of the test, which encrypts until this is dropped.
struct Encrypting {
    server: Postgres,
    port: String,
}

impl Encrypting {
    /// With a certificate of this authority for `localhost`. The server writes the files itself, for
    /// they must be its own user's.
    fn start(url: &str, authority: &Authority) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, authority).unwrap();
        let mut server = Postgres::connect(url).unwrap();
        let port = shown(&mut server, "port");
        for (name, pem) in [
            ("quintet-test.crt", certificate.pem()),
            ("quintet-test.key", key.serialize_pem()),
        ] {
            let lines = format!("SELECT unnest(string_to_array('{}', E'\\n'))", pem.trim());
            let write = format!("COPY ({lines}) TO PROGRAM 'umask 077; cat > {name}'");
            server.script(&write).unwrap();
        }
        let mut started = Self { server, port };
        started.set("ssl_cert_file = 'quintet-test.crt'");
        started.set("ssl_key_file = 'quintet-test.key'");
        // Whoever is called so must show the password, and only over an encrypted connection.
        let role =
            format!("DROP ROLE IF EXISTS {ROLE}; CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'");
        started.server.script(&role).unwrap();
        let line = format!("hostssl all {ROLE} 127.0.0.1/32 scram-sha-256");
        started.edit_hba(&format!("1i {line}")).unwrap();
        started.switch("on");
        started
    }

    /// Changes the file of who may connect how; the server edits its own.
    fn edit_hba(&mut self, edit: &str) -> Result<(), DatabaseError> {
        let sql = format!("COPY (SELECT '') TO PROGRAM 'sed -i \"{edit}\" pg_hba.conf'");
        self.server.script(&sql)
    }

    fn set(&mut self, setting: &str) {
        let sql = format!("ALTER SYSTEM SET {setting}");
        self.server.script(&sql).unwrap();
    }

    /// Turns encryption on or off, and waits until the server has heard of it.
    fn switch(&mut self, ssl: &str) {
        self.set(&format!("ssl = {ssl}"));
        self.server.script("SELECT pg_reload_conf()").unwrap();
        let started = Instant::now();
        while is_encrypted(&self.url("localhost", "sslmode=prefer")).unwrap() != (ssl == "on") {
            assert!(started.elapsed() < PATIENCE, "ssl is not {ssl}");
        }
    }

    fn url(&self, host: &str, query: &str) -> String {
        let port = &self.port;
        format!("postgres://postgres:{PASSWORD}@{host}:{port}/postgres?{query}")
    }
}

impl Drop for Encrypting {
    fn drop(&mut self) {
        let _ = self.edit_hba(&format!("/ {ROLE} /d"));
        for sql in [
            "ALTER SYSTEM RESET ssl",
            "ALTER SYSTEM RESET ssl_cert_file",
            "ALTER SYSTEM RESET ssl_key_file",
            "SELECT pg_reload_conf()",
        ] {
            // What a failed test leaves is the test's own server.
            let _ = self.server.script(sql);
        }
    }
}

fn shown(database: &mut Postgres, setting: &str) -> String {
    let sql = format!("SHOW {setting}");
    database.query(&sql, &[]).unwrap()[0].text(0).unwrap()
}

/// What the server itself says of the connection.
fn is_encrypted(url: &str) -> Result<bool, DatabaseError> {
    let mut database = Postgres::connect(url)?;
    let sql = "SELECT CAST(ssl AS TEXT) FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    Ok(database.query(sql, &[])?[0].text(0)? == "true")
}

/// The error with its causes and its hint. It tells no password.
fn refusal(url: &str) -> String {
    let error = is_encrypted(url).unwrap_err();
    let mut text = format!("{error}\n{:?}\n", error.hint());
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!("{error}\n"));
        cause = error.source();
    }
    let shown = format!("{text} {error:?} {:?}", url.parse::<Location>().unwrap());
    assert!(!shown.contains(PASSWORD), "{shown}");
    text
}

fn certificates(folder: &Path, name: &str, pem: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, pem).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_connection_to_postgres_is_as_protected_as_its_url_asks() {
    let Some(location) = postgres::fresh("quintet_tls") else {
        return;
    };
    let Location::Postgres(url) = &location else {
        unreachable!();
    };
    if shown(&mut Postgres::connect(url).unwrap(), "listen_addresses").is_empty() {
        eprintln!("skipped: needs a Postgres that listens on 127.0.0.1");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (known, other) = (authority("Known"), authority("Other"));
    let right = certificates(folder.path(), "the right.pem", &known.pem());
    let wrong = certificates(folder.path(), "wrong.pem", &other.pem());
    let both = format!("{}{}", other.pem(), known.pem());
    let both = certificates(folder.path(), "both.pem", &both);
    let empty = certificates(folder.path(), "empty.pem", "no certificate\n");
    let mut server = Encrypting::start(url, &known);
    let verified = |path: &str| {
        let path = path.replace(' ', "%20");
        format!("sslmode=verify-full&sslrootcert={path}")
    };

    for (host, query, expected) in [
        ("localhost", "", true),
        ("localhost", "sslmode=disable", false),
        ("localhost", "sslmode=prefer", true),
        ("localhost", "sslmode=require", true),
        // Whose certificate it is, is not asked.
        ("127.0.0.1", "sslmode=require", true),
        ("localhost", &verified(&right), true),
        ("localhost", &verified(&both), true),
    ] {
        let url = server.url(host, query);
        assert_eq!(is_encrypted(&url).unwrap(), expected, "{host} {query}");
    }
    // A socket of the file system is not, whatever is asked.
    let separator = if url.contains('?') { '&' } else { '?' };
    assert!(!is_encrypted(&format!("{url}{separator}sslmode=require")).unwrap());

    let text = refusal(&server.url("localhost", &verified(&wrong)));
    assert!(
        text.contains("UnknownIssuer") && text.contains("names the authority"),
        "{text}"
    );
    let text = refusal(&server.url("127.0.0.1", &verified(&right)));
    assert!(
        text.contains("not valid for") && text.contains("the host in the URL"),
        "{text}"
    );
    for path in [&empty, "no/such.pem"] {
        let text = refusal(&server.url("localhost", &verified(path)));
        assert!(text.contains(path) && text.contains("PEM file"), "{text}");
    }
    let text = refusal(&server.url("localhost", "sslmode=verify-full"));
    assert!(text.contains("expected both or none"), "{text}");
    let text = refusal(&server.url("localhost", "sslmode=verify"));
    assert!(text.contains("cannot be read"), "{text}");

    // A password is asked for, and only over an encrypted connection.
    let asked = |query: &str| {
        let url = server.url("localhost", query);
        url.replace("//postgres:", &format!("//{ROLE}:"))
    };
    let right_password = asked(&verified(&right));
    assert!(is_encrypted(&right_password).unwrap());
    let text = refusal(&right_password.replace(PASSWORD, "another"));
    assert!(text.contains("password authentication failed"), "{text}");
    // The TLS library (0.13) has no channel binding: who insists on it is refused, not fobbed off.
    let text = refusal(&asked(&format!(
        "{}&channel_binding=require",
        verified(&right)
    )));
    assert!(text.contains("did not use channel binding"), "{text}");

    // The store's own work over it: the schema, and an account.
    let encrypted = server.url("localhost", &verified(&right));
    let encrypted = encrypted.replace("/postgres?", "/quintet_tls?");
    let encrypted: Location = encrypted.parse().unwrap();
    let mut database = encrypted.open().unwrap();
    let account = transaction(&mut *database, Durability::Disk, |database| {
        let change = Change {
            actor: "test",
            now: Time(1_000),
        };
        accounts::create(database, change, "Störche", true)
    });
    let id = account.unwrap().id;
    let read = accounts::find(&mut *location.open().unwrap(), &id);
    assert_eq!(
        read.map(|account| account.name)
            .map_err(|error: StoreError| error.to_string()),
        Ok("Störche".to_owned())
    );

    server.switch("off");
    assert!(!is_encrypted(&server.url("localhost", "")).unwrap());
    for query in ["sslmode=require", &verified(&right)] {
        let text = refusal(&server.url("localhost", query));
        assert!(text.contains("does not support TLS"), "{text}");
    }
}
