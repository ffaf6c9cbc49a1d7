//! What billing costs: entries per second, and how long a large ledger takes to open and to verify.
//!
//! `cargo bench -p quintet-server --bench ledger -- [STATE] [--entries N] [--seconds S]` fills an
//! empty STATE (a file that must not be there yet, or `postgres://…`; a file in the temporary folder
//! unless told otherwise) with N entries (1000000) and prints:
//!
//! - open: from nothing to the first request that is let in, as a server starts
//! - verify: every entry hashed and added again
//! - rows: requests billed per second, each let in and settled, by how many run at once, for S
//!   seconds (3) each; and how long one of them takes in the median

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]
#![expect(clippy::unwrap_used, reason = "a bench stops where it fails")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use quintet_server::batcher::Tier;
use quintet_server::metering::{PicoUsd, Rates};
use quintet_server::store::accounts::{self, Change};
use quintet_server::store::books::{Books, RetryWindow};
use quintet_server::store::keys::{self, KeyOptions};
use quintet_server::store::{
    Database, DatabaseError, Durability, Location, Store, StoreError, Time, WorkRequest, ledger,
    transaction,
};

const KEYS: usize = 20;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|word| word != "--bench");
    let folder = tempfile::tempdir().unwrap();
    let mut state = folder.path().join("state.db").display().to_string();
    let (mut entries, mut seconds) = (1_000_000, 3);
    while let Some(word) = arguments.next() {
        match word.as_str() {
            "--entries" => entries = arguments.next().unwrap().parse().unwrap(),
            "--seconds" => seconds = arguments.next().unwrap().parse().unwrap(),
            _ => state = word,
        }
    }
    let location: Location = state.parse().unwrap();
    let mut database = location.open().unwrap();
    let keys = open_keys(&mut *database);
    let started = Instant::now();
    fill(&mut *database, &keys, entries);
    let elapsed = started.elapsed();
    println!(
        "{entries} entries filled in {:.1} s, 1000 a transaction",
        elapsed.as_secs_f64()
    );
    drop(database);

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let started = Instant::now();
    let store = Arc::new(Store::open(&location, RetryWindow::default()).unwrap());
    runtime.block_on(bill(&store, &keys[0], 0));
    println!(
        "open and bill the first: {:.1} ms",
        started.elapsed().as_secs_f64() * 1e3
    );
    let started = Instant::now();
    let verified = ledger::verify(&mut *location.open().unwrap(), None).unwrap();
    let elapsed = started.elapsed().as_secs_f64();
    println!("verify {} entries: {elapsed:.2} s", verified.entries);
    for at_once in [1, 4, 16, 64, 256] {
        let (rate, median) = runtime.block_on(saturate(&store, &keys, at_once, seconds));
        println!(
            "{at_once:4} at once: {rate:7.0} billed/s, median {:.2} ms",
            median.as_secs_f64() * 1e3
        );
    }
}

fn open_keys(database: &mut dyn Database) -> Vec<String> {
    let change = Change {
        actor: "bench",
        now: Time::now(),
    };
    let made = transaction(database, Durability::Disk, |database| {
        (0..KEYS)
            .map(|_| {
                let account = accounts::create(database, change, "bench", true)?;
                let credit = "1000000".parse().unwrap();
                accounts::grant(database, change, &account.id, credit, None)?;
                let options = KeyOptions {
                    name: "bench".to_owned(),
                    ..KeyOptions::default()
                };
                Ok(
                    keys::create(database, change, &account.id, "qt-", &options)?
                        .key
                        .id,
                )
            })
            .collect::<Result<Vec<_>, StoreError>>()
    });
    made.unwrap()
}

fn work(number: i64) -> WorkRequest {
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&number.to_le_bytes());
    WorkRequest {
        tokens: 20,
        price: PicoUsd(20_000),
        model: "jina-embeddings-v3".to_owned(),
        tier: Tier::Realtime,
        request_id: format!("req-0123456789abcdef-{number:x}"),
        tasks: vec![("retrieval.passage".to_owned(), 20)],
        digest: Some(digest),
    }
}

fn fill(database: &mut dyn Database, keys: &[String], entries: i64) {
    let mut number = 0;
    while number < entries {
        let filled = transaction(database, Durability::Process, |database| {
            let mut books = Books::open(database, 1, Time::now().0, RetryWindow::default())?;
            for _ in 0..1000 {
                number += 1;
                let key = &keys[usize::try_from(number).unwrap() % keys.len()];
                let request = WorkRequest {
                    digest: None,
                    ..work(number)
                };
                let admitted = books.admit(number, key, request, Rates::default())?;
                books.settle(&admitted.unwrap().0)?;
            }
            books.close()?;
            Ok::<_, DatabaseError>(())
        });
        filled.unwrap();
    }
}

async fn bill(store: &Store, key: &str, number: i64) {
    let admitted = store
        .admit(key, work(number), Rates::default())
        .await
        .unwrap();
    admitted.unwrap().0.settle().await.unwrap();
}

async fn saturate(
    store: &Arc<Store>,
    keys: &[String],
    at_once: i64,
    seconds: u64,
) -> (f64, Duration) {
    let started = Instant::now();
    let end = started + Duration::from_secs(seconds);
    let start = at_once << 40;
    let tasks: Vec<_> = (0..at_once)
        .map(|task| {
            let store = Arc::clone(store);
            let key = keys[usize::try_from(task).unwrap() % keys.len()].clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                let mut number = start + (task << 30);
                while Instant::now() < end {
                    let began = Instant::now();
                    number += 1;
                    bill(&store, &key, number).await;
                    times.push(began.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    let rate = times.len() as f64 / started.elapsed().as_secs_f64();
    times.sort_unstable();
    (rate, times[times.len() / 2])
}
