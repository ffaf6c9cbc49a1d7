//! Three servers behind nginx on one Postgres, as `deploy/nginx.conf` has them: many callers at once,
//! one server killed in the middle. Limits, budgets, credit and ledger stay exact, and no request is
//! lost or billed twice. Needs `QUINTET_TEST_POSTGRES` and nginx.

#![cfg(all(feature = "postgres", feature = "mini"))]
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use quintet_server::metering::{PicoUsd, Rates};
use quintet_server::store::accounts::{self, Change};
use quintet_server::store::keys::{self, KeyLimits, KeyOptions, Scope};
use quintet_server::store::ledger::{self, Entry, EntryKind, Selection};
use quintet_server::store::{Database, Durability, Location, StoreError, Time, transaction};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

#[path = "support/cli.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod cli;
#[path = "../../server/tests/support/postgres.rs"]
mod postgres;

use cli::quintet;

/// How long the test waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pico-dollars of a token.
const PRICE: i64 = 20_000;
/// Of each key; in pairs, who send the same.
const CALLERS_A_KEY: usize = 4;
/// Each of a pair of callers sends so many.
const REQUESTS: usize = 40;
/// The server is killed when so many were answered.
const BEFORE_THE_KILL: usize = 150;

/// A process that is killed when it is dropped, as by `kill -9`.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have been killed before.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One of the servers.
struct Serving {
    process: Killed,
    address: String,
}

impl Serving {
    fn start(url: &str, listen: &str, folder: &Path) -> Self {
        let mut process = quintet()
            .args([
                "serve",
                "--model",
                "mini",
                "--threads",
                "1",
                "--listen",
                listen,
            ])
            .args(["--price", "0.02", "--log-format", "json", "--files"])
            .arg(folder.join("files"))
            .args([
                "--requests-per-minute",
                "1000000",
                "--tokens-per-minute",
                "100000000",
            ])
            .args(["--concurrent-requests", "1000000"])
            // Not an argument, for it may hold a password.
            .env("QUINTET_STATE", url)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut address = None;
        let mut line = String::new();
        while !line.contains(r#""message":"ready""#) {
            line.clear();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "the server ended");
            let said: Value = serde_json::from_str(&line).unwrap();
            if said["message"] == "listening" {
                address = said["address"].as_str().map(str::to_owned);
            }
        }
        // Whoever writes into a full pipe waits.
        thread::spawn(move || for _ in log.lines() {});
        Self {
            process: Killed(process),
            address: address.unwrap(),
        }
    }
}

/// nginx with the file that the operator gets, other addresses in place of its own.
fn start_nginx(folder: &Path, servers: &[Serving]) -> Option<(Killed, String)> {
    let is_there = Command::new("nginx")
        .arg("-v")
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !is_there {
        return None;
    }
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let deployed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/nginx.conf");
    let mut site = fs::read_to_string(deployed).unwrap();
    for (from, to) in [
        ("listen 80;", format!("listen {address};")),
        ("127.0.0.1:8081", servers[0].address.clone()),
        ("127.0.0.1:8082", servers[1].address.clone()),
        ("127.0.0.1:8083", servers[2].address.clone()),
    ] {
        assert_eq!(site.matches(from).count(), 1, "{from}");
        site = site.replace(from, &to);
    }
    let folder = folder.to_str().unwrap();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {folder}/{name};\n"))
        .concat();
    let config = format!(
        "daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr crit;\n\
         events {{ worker_connections 1024; }}\nhttp {{\naccess_log off;\n{temporary}{site}}}\n"
    );
    let path = format!("{folder}/nginx.conf");
    fs::write(&path, config).unwrap();
    let nginx = Command::new("nginx")
        .args(["-e", "stderr", "-c", &path])
        .spawn();
    let nginx = Killed(nginx.unwrap());
    let started = Instant::now();
    while TcpStream::connect(&address).is_err() {
        assert!(started.elapsed() < PATIENCE, "nginx does not listen");
        thread::yield_now();
    }
    Some((nginx, address))
}

/// A key of an account, and what bounds it.
struct Made {
    text: String,
    id: String,
    account: String,
}

fn change<T>(
    location: &Location,
    work: impl FnOnce(&mut dyn Database, Change<'_>) -> Result<T, StoreError>,
) -> T {
    let mut database = location.open().unwrap();
    let change = Change {
        actor: "test",
        now: Time::now(),
    };
    let work = |database: &mut dyn Database| work(database, change);
    transaction(&mut *database, Durability::Disk, work).unwrap()
}

fn open_account(location: &Location, credit: PicoUsd) -> String {
    change(location, |database, change| {
        let account = accounts::create(database, change, "Storks", true)?;
        Ok(accounts::grant(database, change, &account.id, credit, None)?.id)
    })
}

fn make_key(location: &Location, account: &str, limits: KeyLimits) -> Made {
    change(location, |database, change| {
        let options = KeyOptions {
            name: "test".to_owned(),
            scopes: vec![Scope::Embed],
            limits,
            ..KeyOptions::default()
        };
        let made = keys::create(database, change, account, "qt-", &options)?;
        Ok(Made {
            text: made.text.expose_secret().to_owned(),
            id: made.key.id,
            account: account.to_owned(),
        })
    })
}

fn rates(rates: Rates) -> KeyLimits {
    KeyLimits {
        rates,
        monthly_budget: None,
    }
}

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(PATIENCE));
    config.build().into()
}

/// What came back, once something did.
#[derive(Debug)]
struct Answer {
    status: u16,
    tokens: i64,
    /// What this answer was billed: nothing for a request that was billed before.
    cost: PicoUsd,
    retry_after: Duration,
    body: String,
}

fn body(name: &str) -> String {
    json!({"input": format!("stork {name}"), "dimensions": 32}).to_string()
}

fn sent(agent: &ureq::Agent, address: &str, key: &Made, name: &str) -> Result<Answer, ureq::Error> {
    let request = agent
        .post(format!("http://{address}/v1/embeddings"))
        .header("authorization", format!("Bearer {}", key.text))
        .header("x-request-id", name)
        .header("idempotency-key", name);
    let mut answer = request.send(body(name))?;
    let header = |name: &str| answer.headers().get(name)?.to_str().ok().map(str::to_owned);
    let cost = header("x-cost-usd").map_or(PicoUsd::ZERO, |cost| cost.parse().unwrap());
    let retry_after = header("retry-after-ms").map_or(0, |ms| ms.parse().unwrap());
    let status = answer.status().as_u16();
    let body = answer.body_mut().read_to_string()?;
    let tokens = serde_json::from_str::<Value>(&body).map_or(0, |body| {
        body["usage"]["total_tokens"].as_i64().unwrap_or(0)
    });
    Ok(Answer {
        status,
        tokens,
        cost,
        retry_after: Duration::from_millis(retry_after),
        body,
    })
}

/// Sends a request as a client does that wants its answer: again where there was none.
fn call(agent: &ureq::Agent, address: &str, key: &Made, name: &str) -> Answer {
    let started = Instant::now();
    loop {
        match sent(agent, address, key, name) {
            Ok(answer) if !matches!(answer.status, 502..=504) => return answer,
            answer => assert!(started.elapsed() < PATIENCE, "{answer:?}"),
        }
    }
}

/// All answers to the requests of a key, by their names.
type Answers = BTreeMap<String, Vec<Answer>>;

/// What the callers of all keys got, in the order of the keys, and how long it took. The first server
/// is killed in the middle.
fn load(address: &str, keys: &[&Made], server: &mut Serving) -> (Vec<Answers>, Duration) {
    let answers: Vec<Mutex<Answers>> = keys.iter().map(|_| Mutex::default()).collect();
    let answered = AtomicUsize::new(0);
    let started = Instant::now();
    thread::scope(|scope| {
        for (number, (key, answers)) in keys.iter().zip(&answers).enumerate() {
            for caller in 0..CALLERS_A_KEY {
                let answered = &answered;
                scope.spawn(move || {
                    let agent = agent();
                    for request in 0..REQUESTS {
                        let name = format!("{number}-{}-{request}", caller / 2);
                        let answer = call(&agent, address, key, &name);
                        let mut answers = answers.lock().unwrap();
                        answers.entry(name).or_default().push(answer);
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        }
        while answered.load(Ordering::Relaxed) < BEFORE_THE_KILL {
            assert!(started.elapsed() < PATIENCE, "too few answers");
            thread::yield_now();
        }
        server.process.0.kill().unwrap();
    });
    let answers = answers
        .into_iter()
        .map(|answers| answers.into_inner().unwrap());
    (answers.collect(), started.elapsed())
}

/// What was billed to a key, by the requests' names.
fn billed(location: &Location, key: &Made) -> BTreeMap<String, Entry> {
    let mut billed = BTreeMap::new();
    let mut database = location.open().unwrap();
    ledger::for_each(&mut *database, &Selection::default(), |entry| {
        if entry.event.key_id.as_ref() == Some(&key.id) {
            let name = entry.event.request_id.clone().unwrap();
            let before = billed.insert(name, entry);
            assert!(before.is_none(), "{before:?} was billed twice");
        }
        Ok::<_, StoreError>(())
    })
    .unwrap();
    billed
}

/// A number that the state has of a key.
fn number(database: &mut dyn Database, key: &Made, sql: &str) -> i64 {
    let rows = database.query(sql, &[key.id.as_str().into()]).unwrap();
    rows[0].int(0).unwrap()
}

/// Waits until nothing is held any more: what the killed server held is given back by the others.
fn wait_until_nothing_is_held(location: &Location) {
    let mut database = location.open().unwrap();
    let started = Instant::now();
    while database.query("SELECT COUNT(*) FROM holds", &[]).unwrap()[0]
        .int(0)
        .unwrap()
        > 0
    {
        assert!(started.elapsed() < PATIENCE, "money is still held");
        thread::sleep(Duration::from_millis(50));
    }
    let sql = "SELECT COUNT(*) FROM keys WHERE held <> 0 OR running <> 0";
    assert_eq!(database.query(sql, &[]).unwrap()[0].int(0).unwrap(), 0);
    for account in accounts::list(&mut *database).unwrap() {
        assert_eq!(account.held_usd, PicoUsd::ZERO);
    }
}

/// Each request was billed once if it was answered, and what was billed is answered: at once, or, to
/// whoever asks again after the server that had done the work was killed, for nothing.
fn check(location: &Location, address: &str, key: &Made, answers: &Answers) -> i64 {
    let billed = billed(location, key);
    let is_answered = |answers: &Vec<Answer>| answers.iter().any(|answer| answer.status == 200);
    let mut unheard = 0;
    for (name, entry) in &billed {
        let answers = &answers[name];
        let paid: i64 = answers.iter().map(|answer| answer.cost.0).sum();
        let cost = -entry.event.amount.0;
        assert_eq!(cost, entry.event.tokens * PRICE);
        // The killed server took a paid answer with it.
        unheard += usize::from(paid == 0);
        assert!(
            paid == 0 || paid == cost,
            "{name} cost {cost} and paid {paid}"
        );
        if !is_answered(answers) {
            let agent = agent();
            let again = loop {
                let again = call(&agent, address, key, name);
                if again.status != 429 {
                    break again;
                }
                thread::sleep(again.retry_after);
            };
            assert_eq!(
                (again.status, again.cost),
                (200, PicoUsd::ZERO),
                "{name}: {}",
                again.body
            );
        }
        for answer in answers.iter().filter(|answer| answer.status == 200) {
            assert_eq!(answer.tokens, entry.event.tokens, "{name}");
        }
    }
    assert!(unheard <= CALLERS_A_KEY, "{unheard} paid answers were lost");
    for (name, answers) in answers {
        assert!(
            !is_answered(answers) || billed.contains_key(name),
            "{name} was not billed"
        );
        for answer in answers {
            assert!(matches!(answer.status, 200 | 402 | 429), "{}", answer.body);
        }
    }
    billed.values().map(|entry| -entry.event.amount.0).sum()
}

fn count(answers: &Answers, status: u16) -> usize {
    let all = answers.values().flatten();
    all.filter(|answer| answer.status == status).count()
}

/// Sends one request after the other until one is refused, and gives what that would have cost.
fn exhaust(address: &str, key: &Made) -> i64 {
    let agent = agent();
    for request in 0.. {
        let name = format!("last-{request}");
        let answer = call(&agent, address, key, &name);
        if answer.status == 402 {
            let asked = agent
                .post(format!("http://{address}/v1/estimate"))
                .header("authorization", format!("Bearer {}", key.text))
                .send(body(&name));
            let estimate = asked.unwrap().body_mut().read_to_string().unwrap();
            let estimate: Value = serde_json::from_str(&estimate).unwrap();
            return estimate["tokens"].as_i64().unwrap() * PRICE;
        }
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    unreachable!()
}

fn status(address: &str, key: &Made, path: &str) -> u16 {
    let request = agent()
        .get(format!("http://{address}{path}"))
        .header("authorization", format!("Bearer {}", key.text));
    request.call().unwrap().status().as_u16()
}

#[test]
fn servers_behind_nginx_stay_exact_while_one_is_killed() {
    let Some(location) = postgres::fresh("quintet_nginx") else {
        return;
    };
    let Location::Postgres(url) = &location else {
        unreachable!();
    };
    let folder = tempfile::tempdir().unwrap();
    let mut servers = [(); 3].map(|()| Serving::start(url, "127.0.0.1:0", folder.path()));
    let Some((_nginx, address)) = start_nginx(folder.path(), &servers) else {
        assert_ne!(
            std::env::var("CI").as_deref(),
            Ok("true"),
            "nginx is missing"
        );
        eprintln!("skipped: needs nginx, such as Debian's package nginx-light");
        return;
    };

    // About 10 tokens a request, 80 different requests a key.
    let much = PicoUsd(1_000_000_000_000);
    let little = PicoUsd(100 * 10 * PRICE);
    let budget = PicoUsd(40 * 10 * PRICE);
    let (rich, poor) = (
        open_account(&location, much),
        open_account(&location, little),
    );
    let free = make_key(&location, &rich, KeyLimits::default());
    let credit = [(); 2].map(|()| make_key(&location, &poor, KeyLimits::default()));
    let budgeted = KeyLimits {
        monthly_budget: Some(budget),
        ..KeyLimits::default()
    };
    let budgeted = make_key(&location, &rich, budgeted);
    let requests = make_key(
        &location,
        &rich,
        rates(Rates {
            requests_per_minute: Some(60),
            ..Rates::default()
        }),
    );
    let tokens = make_key(
        &location,
        &rich,
        rates(Rates {
            tokens_per_minute: Some(600),
            ..Rates::default()
        }),
    );
    let concurrent = make_key(
        &location,
        &rich,
        rates(Rates {
            concurrent_requests: Some(2),
            ..Rates::default()
        }),
    );
    let keys = [
        &free,
        &credit[0],
        &credit[1],
        &budgeted,
        &requests,
        &tokens,
        &concurrent,
    ];

    let is_over = AtomicBool::new(false);
    let ((answers, elapsed), most_at_once) = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut database = location.open().unwrap();
            let mut most = 0;
            while !is_over.load(Ordering::Relaxed) {
                let sql = "SELECT running FROM keys WHERE id = $1";
                most = most.max(number(&mut *database, &concurrent, sql));
                thread::sleep(Duration::from_millis(2));
            }
            most
        });
        let loaded = load(&address, &keys, &mut servers[0]);
        is_over.store(true, Ordering::Relaxed);
        (loaded, watch.join().unwrap())
    });
    let spent: Vec<i64> = keys
        .iter()
        .zip(&answers)
        .map(|(key, answers)| check(&location, &address, key, answers))
        .collect();

    // No limit: everything was answered.
    assert_eq!(count(&answers[0], 200), CALLERS_A_KEY * REQUESTS);
    // A bucket of a minute's worth, and what flowed in meanwhile; a request that the killed server had
    // let in was let in a second time elsewhere.
    let minutes = elapsed.as_secs_f64() / 60.0;
    let let_in = count(&answers[4], 200);
    let most = 60.0 + 60.0 * minutes + 1.0;
    assert!(
        let_in as f64 <= most && let_in >= 60 - CALLERS_A_KEY,
        "{let_in} of {most}"
    );
    assert!(count(&answers[4], 429) > 0);
    let all = answers[5].values().flatten();
    let let_in: i64 = all.map(|answer| answer.tokens).sum();
    let most = 600.0 + 600.0 * minutes + 1.0;
    let largest = 20 * (1 + CALLERS_A_KEY as i64);
    assert!(
        let_in as f64 <= most && let_in >= 600 - largest,
        "{let_in} of {most}"
    );
    assert!(count(&answers[5], 429) > 0);
    assert!(count(&answers[6], 200) > 0 && count(&answers[6], 429) > 0);
    assert_eq!(most_at_once, 2);
    // Budget and credit ran out, and to the last request that fits.
    assert!(count(&answers[3], 402) > 0 && count(&answers[1], 402) + count(&answers[2], 402) > 0);
    wait_until_nothing_is_held(&location);
    for (key, bound, before) in [
        (&budgeted, budget, spent[3]),
        (&credit[0], little, spent[1] + spent[2]),
    ] {
        let next = exhaust(&address, key);
        let mut database = location.open().unwrap();
        let spent = if key.account == poor {
            little.0 - accounts::find(&mut *database, &poor).unwrap().balance_usd.0
        } else {
            number(
                &mut *database,
                key,
                "SELECT month_spent FROM keys WHERE id = $1",
            )
        };
        let left = bound.0 - spent;
        assert!(
            spent >= before && left >= 0 && left < next,
            "{left} of {bound} are left"
        );
    }
    let mut all = 0;
    ledger::for_each(
        &mut *location.open().unwrap(),
        &Selection::default(),
        |entry| {
            all += match entry.event.kind {
                EntryKind::Usage => entry.event.amount.0,
                EntryKind::Credit => 0,
            };
            Ok::<_, StoreError>(())
        },
    )
    .unwrap();
    let sum = |key: &&Made| -> i64 {
        let billed = billed(&location, key);
        billed.values().map(|entry| entry.event.amount.0).sum()
    };
    assert_eq!(all, keys.iter().map(sum).sum::<i64>());

    // A key that ends, ends on every server: at once for what costs something, and for the rest as soon
    // as what was read of it is five seconds old.
    for server in &servers[1..] {
        assert_eq!(status(&server.address, &free, "/v1/models"), 200);
    }
    change(&location, |database, change| {
        keys::revoke(database, change, &free.id)
    });
    let revoked = Instant::now();
    for server in &servers[1..] {
        let answer = sent(&agent(), &server.address, &free, "revoked").unwrap();
        assert_eq!(answer.status, 401, "{}", answer.body);
        while status(&server.address, &free, "/v1/models") != 401 {
            assert!(
                revoked.elapsed() < Duration::from_secs(6),
                "the key lives on"
            );
        }
    }

    // The killed server comes back, and nginx takes it again.
    let address_before = servers[0].address.clone();
    servers[0] = Serving::start(url, &address_before, folder.path());
    let started = Instant::now();
    let agent = agent();
    let mut request = 0;
    loop {
        let metrics = agent.get(format!("http://{address_before}/metrics")).call();
        let metrics = metrics.unwrap().body_mut().read_to_string().unwrap();
        if metrics.contains(r#"route="/v1/embeddings""#) {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "nginx leaves it out");
        let answer = call(&agent, &address, &concurrent, &format!("back-{request}"));
        assert_eq!(answer.status, 200, "{}", answer.body);
        request += 1;
    }

    let mut verify = quintet();
    verify.args(["ledger", "verify"]).env("QUINTET_STATE", url);
    cli::finish(verify, b"").quiet();
}
