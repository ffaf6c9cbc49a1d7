//! The state when things break: `kill -9`, power that fails, full and read-only disks, a disk that
//! does not sync, two processes on one file. What was billed is never lost, never doubled, and the
//! file opens.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

#[cfg(feature = "postgres")]
#[path = "support/postgres.rs"]
mod postgres;

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use quintet_server::batcher::Tier;
use quintet_server::metering::{PicoUsd, Rates};
use quintet_server::store::accounts::{self, Change};
use quintet_server::store::books::{Books, RetryWindow};
use quintet_server::store::keys::{self, KeyOptions, Scope};
use quintet_server::store::ledger::{self, Selection};
#[cfg(feature = "postgres")]
use quintet_server::store::postgres::Postgres;
use quintet_server::store::sqlite::Sqlite;
use quintet_server::store::{
    Database, DatabaseError, Durability, Location, Settled, Store, StoreError, Time, WorkRequest,
    migrations, transaction,
};
use tempfile::TempDir;

const CHANGE: Change<'_> = Change {
    actor: "test",
    now: Time(1_000),
};

/// An account with much credit, and a key of it.
fn open_account(database: &mut dyn Database) -> String {
    transaction(database, Durability::Disk, |database| {
        let account = accounts::create(database, CHANGE, "Storks", true)?;
        let credit = "1000000".parse().unwrap();
        accounts::grant(database, CHANGE, &account.id, credit, None)?;
        let options = KeyOptions {
            name: "test".to_owned(),
            scopes: vec![Scope::Embed],
            ..KeyOptions::default()
        };
        let made = keys::create(database, CHANGE, &account.id, "qt-", &options)?;
        Ok::<_, StoreError>(made.key.id)
    })
    .unwrap()
}

fn work(request_id: String) -> WorkRequest {
    WorkRequest {
        tokens: 100,
        price: PicoUsd(20_000),
        model: "mini".to_owned(),
        tier: Tier::Realtime,
        request_id,
        tasks: vec![("raw".to_owned(), 100)],
        digest: None,
    }
}

/// Bills a request inside the running transaction.
fn bill(database: &mut dyn Database, key: &str, number: i64) -> Result<(), DatabaseError> {
    let mut books = Books::open(database, 1, 2_000, RetryWindow::default())?;
    let admitted = books.admit(number, key, work(format!("req-{number}")), Rates::default())?;
    let (hold, _) = admitted.unwrap();
    let settled = books.settle(&hold)?;
    assert!(matches!(settled, Settled::Billed(_)));
    books.close()
}

/// How often each request was billed.
fn billed(database: &mut dyn Database) -> HashMap<String, usize> {
    let mut billed = HashMap::new();
    ledger::for_each(database, &Selection::default(), |entry| {
        if let Some(id) = entry.event.request_id {
            *billed.entry(id).or_default() += 1;
        }
        Ok::<_, DatabaseError>(())
    })
    .unwrap();
    billed
}

/// Requests that the child has under way at once.
const TASKS: usize = 16;

/// A process that bills as fast as it can and says what the store has confirmed. Only started by the
/// tests below.
#[test]
#[ignore = "a part of other tests"]
fn child() {
    let variable = |name| std::env::var(name).unwrap();
    let location: Location = variable("QUINTET_TEST_STATE").parse().unwrap();
    let (key, name) = (variable("QUINTET_TEST_KEY"), variable("QUINTET_TEST_NAME"));
    let store = Arc::new(Store::open(&location, RetryWindow::default()).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let most: usize = variable("QUINTET_TEST_REQUESTS").parse().unwrap();
    let tasks = (0..TASKS).map(|task| {
        let (store, key, name) = (Arc::clone(&store), key.clone(), name.clone());
        runtime.spawn(async move {
            for number in 0..most / TASKS {
                let id = format!("{name}-{task}-{number}");
                let admitted = store.admit(&key, work(id.clone()), Rates::default()).await;
                let settled = match admitted {
                    Ok(admitted) => admitted.unwrap().0.settle().await,
                    Err(error) => Err(error),
                };
                let word = match settled {
                    Ok(Settled::Billed(_)) => "billed",
                    Ok(Settled::Uncovered) => "uncovered",
                    Err(_) => {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        "failed"
                    }
                };
                let mut stdout = std::io::stdout().lock();
                writeln!(stdout, "{word} {id}").unwrap();
                stdout.flush().unwrap();
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    for task in tasks {
        runtime.block_on(task).unwrap();
    }
}

fn start_child(
    state: &str,
    key: &str,
    name: &str,
    requests: usize,
    preload: Option<&Path>,
) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env("QUINTET_TEST_STATE", state)
        .env("QUINTET_TEST_KEY", key)
        .env("QUINTET_TEST_NAME", name)
        .env("QUINTET_TEST_REQUESTS", requests.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if let Some(library) = preload {
        command.env("LD_PRELOAD", library);
        command.env("QUINTET_TEST_BROKEN", format!("{state}.broken"));
    }
    command.spawn().unwrap()
}

/// Words and ids that the child says, until it ends or `enough`.
fn heard(stdout: &mut BufReader<ChildStdout>, enough: usize) -> Vec<(String, String)> {
    let mut heard = Vec::new();
    let mut line = String::new();
    while heard.len() < enough {
        line.clear();
        if stdout.read_line(&mut line).unwrap() == 0 {
            break;
        }
        // A killed process may leave half a line, and the test harness begins one.
        let Some(whole) = line.strip_suffix('\n') else {
            continue;
        };
        let mut words = whole.rsplit(' ');
        let (id, word) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        if matches!(word, "billed" | "uncovered" | "failed") {
            heard.push((word.to_owned(), id.to_owned()));
        }
    }
    heard
}

fn state() -> (TempDir, PathBuf, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let mut database = Location::File(path.clone()).open().unwrap();
    let key = open_account(&mut *database);
    (folder, path, key)
}

/// Everything that was confirmed is there once, the sums are right, and nothing stays held.
fn check(location: &Location, confirmed: &[String]) -> usize {
    let mut database = location.open().unwrap();
    ledger::verify(&mut *database, None).unwrap();
    let billed = billed(&mut *database);
    for id in confirmed {
        assert_eq!(billed.get(id), Some(&1), "{id} was confirmed");
    }
    assert!(billed.values().all(|times| *times == 1));
    let later = Time::now().0 + 1_000_000;
    transaction(&mut *database, Durability::Process, |database| {
        let mut books = Books::open(database, 99, later, RetryWindow::default())?;
        books.tidy(30_000)?;
        books.close()
    })
    .unwrap();
    for account in accounts::list(&mut *database).unwrap() {
        assert_eq!(account.held_usd, PicoUsd::ZERO);
    }
    billed.len()
}

#[test]
fn a_killed_process_loses_nothing_that_it_confirmed() {
    let rounds = std::env::var("QUINTET_TEST_CRASHES").map_or(4, |text| text.parse().unwrap());
    let (_folder, path, key) = state();
    let mut confirmed = Vec::new();
    for round in 0..rounds {
        let name = format!("round{round}");
        let mut child = start_child(path.to_str().unwrap(), &key, &name, 1_000_000, None);
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        // Another moment in every round.
        let mut said = heard(&mut stdout, 1 + round * 37 % 101);
        std::thread::sleep(Duration::from_micros(round as u64 * 733 % 5000));
        child.kill().unwrap();
        said.extend(heard(&mut stdout, usize::MAX));
        child.wait().unwrap();
        assert!(said.iter().all(|(word, _)| word == "billed"));
        confirmed.extend(said.into_iter().map(|(_, id)| id));
        let entries = check(&Location::File(path.clone()), &confirmed);
        // Unheard of are at most those that were under way.
        assert!(entries <= confirmed.len() + (round + 1) * TASKS);
    }
}

#[test]
fn two_processes_on_one_file_bill_exactly() {
    let (_folder, path, key) = state();
    let children: Vec<Child> = ["a", "b"]
        .into_iter()
        .map(|name| start_child(path.to_str().unwrap(), &key, name, 320, None))
        .collect();
    let mut confirmed = Vec::new();
    for mut child in children {
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let said = heard(&mut stdout, usize::MAX);
        child.wait().unwrap();
        assert!(said.iter().all(|(word, _)| word == "billed"));
        confirmed.extend(said.into_iter().map(|(_, id)| id));
    }
    assert_eq!(confirmed.len(), 640);
    assert_eq!(check(&Location::File(path.clone()), &confirmed), 640);
}

/// Ends every connection to a database, and lets nobody in for a moment.
#[cfg(feature = "postgres")]
fn cut_connections(name: &str) {
    let server = std::env::var("QUINTET_TEST_POSTGRES").unwrap();
    let mut database = Postgres::connect(&server).unwrap();
    let mut run = |sql: String| database.script(&sql).unwrap();
    run(format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"));
    run(format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    ));
    std::thread::sleep(Duration::from_millis(50));
    run(format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true"));
}

/// Three servers share a database; one is killed, and the connections of all are cut.
#[cfg(feature = "postgres")]
#[test]
fn servers_that_share_a_database_bill_exactly() {
    const NAME: &str = "quintet_servers";
    let Some(location) = postgres::fresh(NAME) else {
        return;
    };
    let Location::Postgres(url) = &location else {
        unreachable!();
    };
    let key = open_account(&mut *location.open().unwrap());
    let mut children: Vec<(Child, BufReader<ChildStdout>)> = ["a", "b", "c"]
        .into_iter()
        .map(|name| {
            let mut child = start_child(url, &key, name, 960, None);
            let stdout = BufReader::new(child.stdout.take().unwrap());
            (child, stdout)
        })
        .collect();
    let mut said = heard(&mut children[0].1, 100);
    children[0].0.kill().unwrap();
    said.extend(heard(&mut children[1].1, 100));
    cut_connections(NAME);
    for (mut child, mut stdout) in children {
        said.extend(heard(&mut stdout, usize::MAX));
        child.wait().unwrap();
    }
    let failed = said.iter().filter(|(word, _)| word == "failed").count();
    assert!(failed > 0, "the connections were cut");
    let billed = said.into_iter().filter(|(word, _)| word == "billed");
    let confirmed: Vec<String> = billed.map(|(_, id)| id).collect();
    assert!(confirmed.len() > 1000, "{}", confirmed.len());
    check(&location, &confirmed);
}

/// `fsync` that fails while a file is there.
const BROKEN_SYNC: &str = r#"
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
static int broken(void) {
    const char *path = getenv("QUINTET_TEST_BROKEN");
    return path && access(path, F_OK) == 0;
}
int fsync(int file) {
    if (broken()) { errno = EIO; return -1; }
    return syscall(SYS_fsync, file);
}
int fdatasync(int file) {
    if (broken()) { errno = EIO; return -1; }
    return syscall(SYS_fdatasync, file);
}
"#;

#[cfg(target_os = "linux")]
#[test]
fn what_a_disk_does_not_sync_is_not_confirmed() {
    let (folder, path, key) = state();
    let (source, library) = (folder.path().join("sync.c"), folder.path().join("sync.so"));
    fs::write(&source, BROKEN_SYNC).unwrap();
    let mut compiler = Command::new("cc");
    compiler
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source);
    if !compiler.status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: needs a C compiler called cc");
        return;
    }
    let mut child = start_child(path.to_str().unwrap(), &key, "x", 1_000_000, Some(&library));
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut said = heard(&mut stdout, 50);
    assert!(said.iter().all(|(word, _)| word == "billed"));
    let broken = folder.path().join("state.db.broken");
    fs::write(&broken, "").unwrap();
    // Some were confirmed before; then all fail.
    let mut failed = 0;
    while failed < 50 {
        let next = heard(&mut stdout, 1);
        failed = if next[0].0 == "failed" { failed + 1 } else { 0 };
        said.extend(next);
    }
    fs::remove_file(&broken).unwrap();
    loop {
        let next = heard(&mut stdout, 1);
        let is_billed = next[0].0 == "billed";
        said.extend(next);
        if is_billed {
            break;
        }
    }
    said.extend(heard(&mut stdout, 50));
    child.kill().unwrap();
    child.wait().unwrap();
    let billed = said.into_iter().filter(|(word, _)| word == "billed");
    let confirmed: Vec<String> = billed.map(|(_, id)| id).collect();
    check(&Location::File(path.clone()), &confirmed);
}

#[test]
fn a_log_that_is_cut_anywhere_opens_with_all_that_was_on_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let log = folder.path().join("state.db-wal");
    let mut database = Sqlite::open(&path).unwrap();
    migrations::migrate(&mut database).unwrap();
    let key = open_account(&mut database);
    // Everything stays in the log, which is cut below.
    database.script("PRAGMA wal_autocheckpoint = 0").unwrap();
    let mut lens = Vec::new();
    for number in 0..12 {
        transaction(&mut database, Durability::Disk, |database| {
            bill(database, &key, number)
        })
        .unwrap();
        lens.push(fs::metadata(&log).unwrap().len());
    }
    // A transaction that is not finished.
    database.begin(Durability::Disk).unwrap();
    bill(&mut database, &key, 99).unwrap();
    let (file, whole) = (fs::read(&path).unwrap(), fs::read(&log).unwrap());
    let cuts = (lens[0]..=whole.len() as u64).step_by(509);
    for cut in cuts.chain(lens.iter().copied()) {
        let copy = folder.path().join("cut.db");
        fs::write(&copy, &file).unwrap();
        let mut rest = whole[..usize::try_from(cut).unwrap()].to_vec();
        // A disk may hold anything behind its last whole block.
        rest.extend([0xA5; 100]);
        fs::write(folder.path().join("cut.db-wal"), rest).unwrap();
        let _ = fs::remove_file(folder.path().join("cut.db-shm"));
        let mut database = Location::File(copy).open().unwrap();
        let entries = ledger::verify(&mut *database, None).unwrap().entries;
        let synced = lens.iter().filter(|len| **len <= cut).count() as i64;
        assert!(
            entries > synced && entries <= 13,
            "{entries} of {synced} at {cut}"
        );
    }
}

#[test]
fn a_full_or_read_only_disk_refuses_and_keeps_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let mut database = Sqlite::open(&folder.path().join("state.db")).unwrap();
    migrations::migrate(&mut database).unwrap();
    let key = open_account(&mut database);
    let pages = database.query("PRAGMA page_count", &[]).unwrap()[0]
        .int(0)
        .unwrap();
    let limit = format!("PRAGMA max_page_count = {}", pages + 2);
    database.query(&limit, &[]).unwrap();
    let mut done = 0;
    let error = loop {
        let number = done;
        let billed = transaction(&mut database, Durability::Disk, |database| {
            bill(database, &key, number)
        });
        match billed {
            Ok(()) => done += 1,
            Err(error) => break error,
        }
    };
    assert!(error.hint().unwrap().contains("make room"), "{error:?}");
    assert_eq!(
        ledger::verify(&mut database, None).unwrap().entries,
        done + 1
    );
    database
        .query("PRAGMA max_page_count = 100000", &[])
        .unwrap();
    database.script("PRAGMA query_only = ON").unwrap();
    let refused = transaction(&mut database, Durability::Disk, |database| {
        bill(database, &key, 500)
    });
    let error = refused.unwrap_err();
    assert!(
        error.hint().unwrap().contains("let this user write"),
        "{error:?}"
    );
    database.script("PRAGMA query_only = OFF").unwrap();
    transaction(&mut database, Durability::Disk, |database| {
        bill(database, &key, 501)
    })
    .unwrap();
    assert_eq!(
        ledger::verify(&mut database, None).unwrap().entries,
        done + 2
    );
}

#[test]
fn what_is_no_state_is_named_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("letter.txt");
    fs::write(&path, "Dear Sir or Madam, ".repeat(100)).unwrap();
    let error = Location::File(path.clone()).open().unwrap_err();
    assert!(
        error.hint().unwrap().contains("something else"),
        "{error:?}"
    );
    assert_eq!(fs::read_to_string(&path).unwrap().len(), 1900);
    let nowhere = Location::File(folder.path().join("no/such/state.db"));
    assert!(matches!(nowhere.open(), Err(DatabaseError::Open { .. })));
    let error = "mysql://root:secret@host/db"
        .parse::<Location>()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "`mysql` is no kind of state that this program knows"
    );
}

#[test]
fn a_changed_entry_is_found() {
    let mut database = Sqlite::in_memory().unwrap();
    migrations::migrate(&mut database).unwrap();
    let key = open_account(&mut database);
    for number in 0..20 {
        transaction(&mut database, Durability::Process, |database| {
            bill(database, &key, number)
        })
        .unwrap();
    }
    let head = ledger::verify(&mut database, None).unwrap().head;
    let noted = |seq| ledger::Noted {
        seq,
        hash: head.clone(),
    };
    ledger::verify(&mut database, Some(&noted(21))).unwrap();
    ledger::verify(&mut database, Some(&noted(20))).unwrap_err();
    let columns = [
        "at_ms = at_ms + 1",
        "account_id = account_id || ''",
        "key_id = NULL",
        "kind = 'credit'",
        "amount = amount + 1",
        "balance = balance + 1",
        "tokens = tokens + 1",
        "price = price + 1",
        "model = 'other'",
        "tier = 'batch'",
        "request_id = 'x'",
        "note = ''",
        "hash = zeroblob(32)",
        "seq = 1000",
    ];
    for change in columns {
        database.begin(Durability::Process).unwrap();
        let sql = format!("UPDATE ledger SET {change} WHERE seq = 7");
        database.execute(&sql, &[]).unwrap();
        let is_same = change.starts_with("account_id");
        assert_eq!(
            ledger::verify(&mut database, None).is_ok(),
            is_same,
            "{change}"
        );
        database.rollback().unwrap();
    }
    for sql in [
        "DELETE FROM ledger WHERE seq = 7",
        "DELETE FROM ledger WHERE seq = 21",
        "UPDATE accounts SET balance = balance + 1",
    ] {
        database.begin(Durability::Process).unwrap();
        database.execute(sql, &[]).unwrap();
        ledger::verify(&mut database, None).unwrap_err();
        database.rollback().unwrap();
    }
    ledger::verify(&mut database, None).unwrap();
}
