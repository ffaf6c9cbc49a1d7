//! Files and batches as OpenAI's clients meet them: what is kept and told, what a batch writes and bills,
//! and what becomes of it when it is cancelled, out of credit, out of time or interrupted.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]
#![allow(dead_code, reason = "each test program uses a part of the support")]

#[cfg(feature = "postgres")]
#[path = "support/postgres.rs"]
mod postgres;
mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quintet_server::batcher::Tier;
use quintet_server::metering::{PicoUsd, Price, Rates};
use quintet_server::store::accounts::{self, Change};
use quintet_server::store::batches::{self, Lease, NewBatch, Progress};
use quintet_server::store::books::MetLines;
use quintet_server::store::files::{self, Page, Purpose, StoredFile};
use quintet_server::store::keys::{self, KeyLimits, KeyOptions, Scope};
use quintet_server::store::ledger::{self, Entry, Selection};
use quintet_server::store::{
    Database, Location, RetryWindow, Store, StoreError, Time, WorkRequest,
};
use quintet_server::{Auth, Config, Hosting, HostingConfig, JobLimits, Jobs};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use support::{Answer, Running, vector};
use tempfile::TempDir;

const BATCH_PRICE: i64 = 10_000;
/// How long a test waits for a batch.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server with accounts and batches, and its state beside it.
struct Hosted {
    server: Running,
    location: Location,
    folder: TempDir,
}

/// A key's text and its account.
struct Made {
    text: String,
    account: String,
}

impl Hosted {
    fn start() -> Self {
        Self::start_with(JobLimits::default())
    }

    fn start_with(limits: JobLimits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::File(folder.path().join("state.db"));
        Self::start_at(location, folder, limits)
    }

    fn start_at(location: Location, folder: TempDir, limits: JobLimits) -> Self {
        let server = serve(&location, folder.path().join("files"), limits);
        Self {
            server,
            location,
            folder,
        }
    }

    fn change<T>(
        &self,
        work: impl FnOnce(&mut dyn Database, Change<'_>) -> Result<T, StoreError>,
    ) -> T {
        support::change(&self.location, work)
    }

    fn key_with(&self, credit: &str, options: &KeyOptions) -> Made {
        self.change(|database, change| {
            let account = accounts::create(database, change, "Storks", true)?;
            let amount: PicoUsd = credit.parse().unwrap();
            accounts::grant(database, change, &account.id, amount, None)?;
            let made = keys::create(database, change, &account.id, "qt-", options)?;
            Ok(Made {
                text: made.text.expose_secret().to_owned(),
                account: account.id,
            })
        })
    }

    fn key(&self, credit: &str) -> Made {
        self.key_with(credit, &embedding())
    }

    fn post(&self, path: &str, key: &Made, body: &Value) -> Answer {
        let authorization = format!("Bearer {}", key.text);
        let headers = [("authorization", authorization.as_str())];
        self.server.post_with(path, &headers, body.to_string())
    }

    fn get(&self, path: &str, key: &Made) -> Answer {
        let authorization = format!("Bearer {}", key.text);
        self.server
            .get_with(path, &[("authorization", &authorization)])
    }

    fn delete(&self, path: &str, key: &Made) -> Answer {
        self.server.delete_with(path, Some(&key.text))
    }

    fn upload(&self, key: &Made, lines: &str) -> String {
        let answer = self.upload_as(key, "batch", lines);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    fn upload_as(&self, key: &Made, purpose: &str, lines: &str) -> Answer {
        self.server.upload(Some(&key.text), purpose, lines)
    }

    fn create(&self, key: &Made, lines: &str) -> String {
        let file = self.upload(key, lines);
        let answer = self.post("/v1/batches", key, &asked(&file));
        assert_eq!(answer.status, 200, "{}", answer.body);
        let batch = answer.json();
        assert_eq!(batch["status"], "validating");
        batch["id"].as_str().unwrap().to_owned()
    }

    fn batch(&self, key: &Made, id: &str) -> Value {
        let answer = self.get(&format!("/v1/batches/{id}"), key);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    }

    /// The batch once `is_so`.
    fn wait(&self, key: &Made, id: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let batch = self.batch(key, id);
            if is_so(&batch) {
                return batch;
            }
            assert!(started.elapsed() < PATIENCE, "{batch}");
            std::thread::yield_now();
        }
    }

    fn ended(&self, key: &Made, id: &str) -> Value {
        self.wait(key, id, has_ended)
    }

    /// Lines of a file by their `custom_id`; each stands there once.
    fn lines(&self, key: &Made, file: &Value) -> BTreeMap<String, Value> {
        let Some(file) = file.as_str() else {
            return BTreeMap::new();
        };
        let answer = self.get(&format!("/v1/files/{file}/content"), key);
        assert_eq!(answer.status, 200, "{}", answer.body);
        by_custom_id(&answer.body)
    }

    /// What the ledger says of this account's batches.
    fn billed(&self, key: &Made) -> Vec<Entry> {
        let mut database = self.location.open().unwrap();
        ledger::verify(&mut *database, None).unwrap();
        let mut entries = Vec::new();
        let selection = Selection::default();
        ledger::for_each(&mut *database, &selection, |entry| {
            entries.push(entry);
            Ok::<_, StoreError>(())
        })
        .unwrap();
        entries.retain(|entry| {
            entry.event.account_id == key.account && entry.event.request_id.is_some()
        });
        entries
    }

    fn account(&self, key: &Made) -> accounts::Account {
        let mut database = self.location.open().unwrap();
        accounts::find(&mut *database, &key.account).unwrap()
    }
}

fn serve(location: &Location, folder: PathBuf, limits: JobLimits) -> Running {
    let config = HostingConfig {
        price: Some(Price {
            realtime_micro_usd_per_million: 20_000,
            batch_micro_usd_per_million: BATCH_PRICE.unsigned_abs(),
        }),
        limits: Rates {
            requests_per_minute: Some(1_000_000),
            tokens_per_minute: Some(100_000_000),
            concurrent_requests: None,
        },
        ..HostingConfig::default()
    };
    let hosting = Arc::new(Hosting::open(location, config).unwrap());
    let jobs = Jobs::open(Arc::clone(&hosting.store), &folder, limits).unwrap();
    Running::start(Config {
        auth: Auth::Accounts(hosting),
        jobs: Some(Arc::new(jobs)),
        ..Config::default()
    })
}

fn embedding() -> KeyOptions {
    KeyOptions {
        name: "test".to_owned(),
        scopes: vec![Scope::Embed],
        ..KeyOptions::default()
    }
}

fn asked(file: &str) -> Value {
    json!({"input_file_id": file, "endpoint": "/v1/embeddings", "completion_window": "24h"})
}

fn has_ended(batch: &Value) -> bool {
    let status = batch["status"].as_str().unwrap();
    ["completed", "failed", "expired", "cancelled"].contains(&status)
}

fn by_custom_id(text: &str) -> BTreeMap<String, Value> {
    let mut lines = BTreeMap::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let id = line["custom_id"].as_str().unwrap().to_owned();
        assert!(lines.insert(id, line).is_none(), "a line is there twice");
    }
    lines
}

fn line(id: &str, body: &Value) -> String {
    let line = json!({"custom_id": id, "method": "POST", "url": "/v1/embeddings", "body": body});
    format!("{line}\n")
}

/// Lines `n0`, `n1`, … with a text each.
fn numbered(count: usize) -> String {
    let text = |number| json!({"model": "mini", "input": format!("stork number {number}")});
    (0..count)
        .map(|number| line(&format!("n{number}"), &text(number)))
        .collect()
}

#[test]
fn a_batch_is_answered_as_live_and_billed_once_a_line_at_its_own_price() {
    let hosted = Hosted::start();
    let key = hosted.key("1");
    let mut lines = numbered(150);
    lines += &line(
        "task",
        &json!({"input": ["a stork"], "task": "retrieval.query"}),
    );
    lines += &line("empty", &json!({"input": ""}));
    lines += &line("long", &json!({"input": "stork ".repeat(20_000)}));
    let file = hosted.upload(&key, &lines);
    let mut request = asked(&file);
    request["metadata"] = json!({"job": "nightly"});
    let id = hosted.post("/v1/batches", &key, &request).json()["id"].clone();
    let batch = hosted.ended(&key, id.as_str().unwrap());
    assert_eq!(batch["status"], "completed", "{batch}");
    assert_eq!(
        batch["request_counts"],
        json!({"total": 153, "completed": 151, "failed": 2})
    );
    assert_eq!(batch["metadata"]["job"], "nightly");
    for time in [
        "created_at",
        "in_progress_at",
        "finalizing_at",
        "completed_at",
        "expires_at",
    ] {
        assert!(batch[time].is_i64(), "{time}");
    }
    let answers = hosted.lines(&key, &batch["output_file_id"]);
    assert_eq!(answers.len(), 151);
    let mut tokens = 0;
    for (id, answer) in &answers {
        let (text, task) = match id.strip_prefix('n') {
            Some(number) => (format!("stork number {number}"), "raw"),
            None => ("a stork".to_owned(), "retrieval.query"),
        };
        assert_eq!(answer["response"]["status_code"], 200);
        let body = &answer["response"]["body"];
        let found = support::floats(&body["data"][0]["embedding"]);
        assert_eq!(found, vector(&text, task), "{id}");
        tokens += body["usage"]["total_tokens"].as_i64().unwrap();
    }
    let errors = hosted.lines(&key, &batch["error_file_id"]);
    let code = |id: &str| errors[id]["response"]["body"]["error"]["code"].clone();
    assert_eq!(errors["empty"]["response"]["status_code"], 400);
    assert_eq!(code("long"), "context_length_exceeded");
    assert_eq!(batch["usage"]["total_tokens"], tokens);
    let billed = hosted.billed(&key);
    assert_eq!(billed.len(), 151);
    let sum: i64 = billed.iter().map(|entry| entry.event.amount.0).sum();
    assert_eq!(sum, -tokens * BATCH_PRICE);
    let account = hosted.account(&key);
    assert_eq!(account.held_usd, PicoUsd::ZERO);
    let metrics = hosted.server.get("/metrics").body;
    assert!(
        metrics.contains("quintet_job_lines_total{outcome=\"completed\"} 151"),
        "{metrics}"
    );
}

#[test]
fn what_is_wrong_is_told_line_by_line_and_nothing_runs() {
    let hosted = Hosted::start();
    let key = hosted.key("1");
    let body = json!({"input": "a"});
    let mut lines = line("a", &body) + "{\n\n" + &line("a", &body);
    lines += &line("b", &body).replace("POST", "GET");
    lines += &line("c", &body).replace("/v1/embeddings", "/v1/rerank");
    lines += &line("d", &json!({"input": "a", "dimensions": 0}));
    lines += &line("e", &json!({"input": "a", "model": "no-such-model"}));
    lines += &line("f", &json!({"input": 1}));
    lines += r#"{"method": "POST", "url": "/v1/embeddings", "body": {"input": "a"}}"#;
    let batch = hosted.ended(&key, &hosted.create(&key, &lines));
    assert_eq!(batch["status"], "failed", "{batch}");
    assert!(batch["failed_at"].is_i64());
    let told: Vec<(i64, &str)> = batch["errors"]["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| {
            (
                error["line"].as_i64().unwrap(),
                error["code"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (2, "invalid_json_line"),
            (4, "duplicate_custom_id"),
            (5, "invalid_method"),
            (6, "invalid_url"),
            (7, "invalid_request"),
            (8, "model_not_found"),
            (9, "invalid_body"),
            (10, "missing_required_parameter"),
        ]
    );
    assert_eq!(batch["errors"]["data"][4]["param"], "body.dimensions");
    assert_eq!(batch["output_file_id"], Value::Null);
    assert!(hosted.billed(&key).is_empty());
}

#[test]
fn files_and_batches_have_bounds() {
    let hosted = Hosted::start_with(JobLimits {
        file_bytes: 2000,
        owner_bytes: 5000,
        lines: 5,
        inputs: 8,
        open_batches: 100,
        ..JobLimits::default()
    });
    let key = hosted.key("1");
    let failed = |lines: &str| {
        let batch = hosted.ended(&key, &hosted.create(&key, lines));
        assert_eq!(batch["status"], "failed");
        batch["errors"]["data"][0]["code"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(failed(&numbered(6)), "too_many_requests");
    let texts = json!({"input": ["a", "b", "c", "d", "e", "f", "g", "h", "i"]});
    assert_eq!(failed(&line("a", &texts)), "too_many_inputs");
    assert_eq!(failed("\n \n"), "empty_file");
    let large = hosted.upload_as(&key, "batch", &"x".repeat(2001));
    assert_eq!(
        (large.status, large.error().as_str()),
        (413, "file_too_large")
    );
    let mut answer = hosted.upload_as(&key, "batch", &"x".repeat(2000));
    while answer.status == 200 {
        answer = hosted.upload_as(&key, "batch", &"x".repeat(2000));
    }
    assert_eq!(answer.error(), "storage_limit_exceeded");
    // What was refused is not left on the disk.
    let listed = hosted.get("/v1/files", &key).json();
    let kept = std::fs::read_dir(hosted.folder.path().join("files")).unwrap();
    assert_eq!(kept.count(), listed["data"].as_array().unwrap().len());
}

#[test]
fn files_are_their_accounts_own_and_listed_by_pages() {
    let hosted = Hosted::start();
    let (key, other) = (hosted.key("1"), hosted.key("1"));
    let ids: Vec<String> = (0..5).map(|_| hosted.upload(&key, &numbered(1))).collect();
    let path = format!("/v1/files/{}", ids[0]);
    let file = hosted.get(&path, &key).json();
    assert_eq!(file["object"], "file");
    assert_eq!(file["purpose"], "batch");
    assert_eq!(file["bytes"], numbered(1).len());
    assert_eq!(file["filename"], "lines.jsonl");
    assert_eq!(
        hosted.get(&format!("{path}/content"), &key).body,
        numbered(1)
    );
    for (path, status) in [
        (path.clone(), hosted.get(&path, &other).status),
        (path.clone(), hosted.delete(&path, &other).status),
        (
            path.clone(),
            hosted.get(&format!("{path}/content"), &other).status,
        ),
    ] {
        assert_eq!(status, 404, "{path}");
    }
    let foreign = hosted.post("/v1/batches", &other, &asked(&ids[0]));
    assert_eq!(
        (foreign.status, foreign.error().as_str()),
        (400, "not_found")
    );
    assert_eq!(hosted.get("/v1/files", &other).json()["data"], json!([]));
    for order in ["asc", "desc"] {
        let (mut found, mut after) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/files?limit=2&order={order}&purpose=batch{after}");
            let page = hosted.get(&path, &key).json();
            let data = page["data"].as_array().unwrap();
            found.extend(
                data.iter()
                    .map(|file| file["id"].as_str().unwrap().to_owned()),
            );
            if page["has_more"] == false {
                break;
            }
            after = format!("&after={}", page["last_id"].as_str().unwrap());
        }
        assert_eq!(found.len(), 5);
        let mut sorted = found.clone();
        sorted.sort();
        let mut all = ids.clone();
        all.sort();
        assert_eq!(sorted, all);
    }
    assert_eq!(hosted.get("/v1/files?limit=0", &key).status, 400);
    assert_eq!(
        hosted.get("/v1/files?purpose=vision", &key).json()["data"],
        json!([])
    );
    assert_eq!(hosted.delete(&path, &key).json()["deleted"], true);
    assert_eq!(hosted.get(&path, &key).status, 404);
    assert!(!hosted.folder.path().join("files").join(&ids[0]).exists());
    assert_eq!(hosted.upload_as(&key, "vision", "x").status, 400);
    // An output is no input.
    let batch = hosted.ended(&key, &hosted.create(&key, &numbered(1)));
    let output = batch["output_file_id"].as_str().unwrap();
    let answer = hosted.post("/v1/batches", &key, &asked(output));
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (400, "input_file_id")
    );
}

/// An hour is the shortest time, so the state and the files are made older in place of waiting.
#[test]
fn files_whose_time_is_over_are_gone() {
    let mut hosted = Hosted::start();
    let key = hosted.key("1");
    let upload = |anchor: &str, seconds: &str| {
        let fields = [
            ("purpose", "batch"),
            ("expires_after[anchor]", anchor),
            ("expires_after[seconds]", seconds),
        ];
        let lines = numbered(1);
        hosted.server.upload_with(Some(&key.text), &fields, &lines)
    };
    let create = |file: &str, after: Value| {
        let mut body = asked(file);
        body["output_expires_after"] = after;
        hosted.post("/v1/batches", &key, &body)
    };
    let lasting = hosted.upload(&key, &numbered(1));
    for (anchor, seconds) in [
        ("created_at", "3599"),
        ("created_at", "2592001"),
        ("created_at", "1e4"),
        ("last_active_at", "3600"),
    ] {
        let refused = upload(anchor, seconds);
        assert_eq!(
            (refused.status, refused.error()),
            (400, "expires_after".to_owned())
        );
        let after = json!({"anchor": anchor, "seconds": seconds.parse().unwrap_or(0)});
        let refused = create(&lasting, after);
        let error = "output_expires_after".to_owned();
        assert_eq!((refused.status, refused.error()), (400, error));
    }
    assert_eq!(create(&lasting, json!({"seconds": 3600})).status, 400);
    let lifetime = |file: &Value| {
        let second = |name: &str| file[name].as_i64();
        Some(second("expires_at")? - second("created_at")?)
    };
    let input = upload("created_at", "2592000").json();
    assert_eq!(lifetime(&input), Some(2_592_000));
    let input = input["id"].as_str().unwrap().to_owned();
    let batch = create(&input, json!({"anchor": "created_at", "seconds": 3600}));
    assert_eq!(batch.status, 200, "{}", batch.body);
    let batch = hosted.ended(&key, batch.json()["id"].as_str().unwrap());
    assert_eq!(batch["status"], "completed", "{batch}");
    let output = batch["output_file_id"].as_str().unwrap().to_owned();
    let path = |id: &str| format!("/v1/files/{id}");
    let file = hosted.get(&path(&output), &key).json();
    assert_eq!(lifetime(&file), Some(3600));
    assert_eq!(lifetime(&hosted.get(&path(&lasting), &key).json()), None);
    // Without a word the outputs stay.
    let batch = hosted.ended(
        &key,
        create(&lasting, Value::Null).json()["id"].as_str().unwrap(),
    );
    let kept = batch["output_file_id"].as_str().unwrap().to_owned();
    assert_eq!(lifetime(&hosted.get(&path(&kept), &key).json()), None);

    hosted.server.join();
    hosted.change(|database, change| {
        let sql = "UPDATE files SET expires_ms = $1 WHERE expires_ms IS NOT NULL";
        database.execute(sql, &[(change.now.0 - 1).into()])?;
        Ok(())
    });
    let folder = hosted.folder.path().join("files");
    let old = std::time::SystemTime::now() - Duration::from_secs(7200);
    for file in std::fs::read_dir(&folder).unwrap() {
        let file = std::fs::File::options()
            .append(true)
            .open(file.unwrap().path());
        file.unwrap().set_modified(old).unwrap();
    }
    hosted.server = serve(&hosted.location, folder.clone(), JobLimits::default());
    let started = Instant::now();
    while folder.join(&input).exists() || folder.join(&output).exists() {
        assert!(started.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
    for id in [&input, &output] {
        assert_eq!(hosted.get(&path(id), &key).status, 404);
        assert_eq!(
            hosted.get(&format!("{}/content", path(id)), &key).status,
            404
        );
    }
    for id in [&lasting, &kept] {
        assert_eq!(
            hosted.get(&format!("{}/content", path(id)), &key).status,
            200
        );
        assert!(folder.join(id).exists());
    }
    let listed = hosted.get("/v1/files", &key).json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 2);
}

#[test]
fn batches_are_listed_the_newest_first() {
    let hosted = Hosted::start();
    let (key, other) = (hosted.key("1"), hosted.key("1"));
    let ids: Vec<String> = (0..3).map(|_| hosted.create(&key, &numbered(1))).collect();
    let first = hosted.get("/v1/batches?limit=2", &key).json();
    assert_eq!(first["has_more"], true);
    assert_eq!(first["data"].as_array().unwrap().len(), 2);
    let path = format!("/v1/batches?after={}", first["last_id"].as_str().unwrap());
    let rest = hosted.get(&path, &key).json();
    assert_eq!(rest["has_more"], false);
    let pages = [first, rest];
    let pages = pages
        .iter()
        .flat_map(|page| page["data"].as_array().unwrap());
    let mut found: Vec<&str> = pages.map(|batch| batch["id"].as_str().unwrap()).collect();
    found.sort_unstable();
    let mut all: Vec<&str> = ids.iter().map(String::as_str).collect();
    all.sort_unstable();
    assert_eq!(found, all);
    assert_eq!(hosted.get("/v1/batches", &other).json()["data"], json!([]));
    assert_eq!(
        hosted
            .get(&format!("/v1/batches/{}", ids[0]), &other)
            .status,
        404
    );
    assert_eq!(
        hosted
            .post(
                &format!("/v1/batches/{}/cancel", ids[0]),
                &other,
                &json!({})
            )
            .status,
        404
    );
}

#[test]
fn credit_that_runs_out_ends_lines_and_not_the_server() {
    let hosted = Hosted::start();
    let rich = hosted.key("1");
    let batch = hosted.ended(&rich, &hosted.create(&rich, &numbered(10)));
    let tokens = batch["usage"]["total_tokens"].as_i64().unwrap();
    // Enough for three of ten alike, and not for a fourth.
    let key = hosted.key(&PicoUsd(tokens * BATCH_PRICE * 7 / 20).to_string());
    let batch = hosted.ended(&key, &hosted.create(&key, &numbered(10)));
    assert_eq!(batch["status"], "completed");
    assert_eq!(
        batch["request_counts"],
        json!({"total": 10, "completed": 3, "failed": 7})
    );
    for error in hosted.lines(&key, &batch["error_file_id"]).values() {
        assert_eq!(error["response"]["status_code"], 402, "{error}");
        assert_eq!(
            error["response"]["body"]["error"]["code"],
            "insufficient_credit"
        );
    }
    assert_eq!(hosted.billed(&key).len(), 3);
    assert!(hosted.account(&key).balance_usd >= PicoUsd::ZERO);
    assert_eq!(
        hosted
            .post("/v1/embeddings", &rich, &json!({"input": "a"}))
            .status,
        200
    );
}

#[test]
fn a_cancelled_batch_keeps_what_was_answered_and_runs_no_more() {
    let hosted = Hosted::start();
    let key = hosted.key("1");
    let id = hosted.create(&key, &numbered(20_000));
    hosted.wait(&key, &id, |batch| batch["request_counts"]["completed"] != 0);
    let path = format!("/v1/batches/{id}/cancel");
    let answer = hosted.post(&path, &key, &json!({}));
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.json()["status"], "cancelling");
    let file = answer.json()["input_file_id"].as_str().unwrap().to_owned();
    let batch = hosted.ended(&key, &id);
    assert_eq!(batch["status"], "cancelled");
    assert!(batch["cancelling_at"].is_i64() && batch["cancelled_at"].is_i64());
    let answers = hosted.lines(&key, &batch["output_file_id"]);
    let errors = hosted.lines(&key, &batch["error_file_id"]);
    assert_eq!(answers.len() + errors.len(), 20_000);
    assert!(errors.len() > 1000, "{}", errors.len());
    assert!(
        errors
            .values()
            .all(|line| line["error"]["code"] == "batch_cancelled")
    );
    assert_eq!(hosted.billed(&key).len(), answers.len());
    let again = hosted.post(&path, &key, &json!({}));
    assert_eq!((again.status, again.error().as_str()), (409, "batch_ended"));
    assert_eq!(
        hosted.delete(&format!("/v1/files/{file}"), &key).status,
        200
    );
}

#[test]
fn a_batch_that_is_late_ends_with_what_it_has() {
    let hosted = Hosted::start();
    let key = hosted.key("1");
    let id = hosted.create(&key, &numbered(20_000));
    let batch = hosted.wait(&key, &id, |batch| batch["request_counts"]["completed"] != 0);
    let in_use = hosted.delete(
        &format!("/v1/files/{}", batch["input_file_id"].as_str().unwrap()),
        &key,
    );
    assert_eq!(
        (in_use.status, in_use.error().as_str()),
        (409, "file_in_use")
    );
    hosted.change(|database, change| {
        let sql = "UPDATE batches SET expires_ms = $1";
        database.execute(sql, &[(change.now.0 - 1).into()])?;
        Ok(())
    });
    let batch = hosted.ended(&key, &id);
    assert_eq!(batch["status"], "expired", "{batch}");
    assert!(batch["expired_at"].is_i64());
    let errors = hosted.lines(&key, &batch["error_file_id"]);
    assert!(
        errors
            .values()
            .all(|line| line["error"]["code"] == "batch_expired")
    );
    let answers = hosted.lines(&key, &batch["output_file_id"]);
    assert_eq!(answers.len() + errors.len(), 20_000);
    assert_eq!(hosted.billed(&key).len(), answers.len());
}

/// A request at its own tier counts; lines of a batch would use up these limits at once.
#[test]
fn limits_by_the_minute_do_not_count_lines_and_lines_do_not_count_for_them() {
    let hosted = Hosted::start();
    let limited = KeyOptions {
        limits: KeyLimits {
            rates: Rates {
                requests_per_minute: Some(10_000),
                tokens_per_minute: Some(100),
                concurrent_requests: Some(1),
            },
            monthly_budget: None,
        },
        ..embedding()
    };
    let key = hosted.key_with("1", &limited);
    let batch = hosted.ended(&key, &hosted.create(&key, &numbered(100)));
    assert_eq!(batch["request_counts"]["completed"], 100, "{batch}");
    let live = hosted.post("/v1/embeddings", &key, &json!({"input": "a stork"}));
    assert_eq!(live.status, 200, "{}", live.body);
}

#[test]
fn a_server_that_stops_leaves_its_batches_to_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let location = Location::File(folder.path().join("state.db"));
    let mut hosted = Hosted::start_at(location.clone(), folder, JobLimits::default());
    let key = hosted.key("1");
    let id = hosted.create(&key, &numbered(1_500));
    let mut seen = 0;
    for _ in 0..3 {
        let is_further = |batch: &Value| {
            let completed = batch["request_counts"]["completed"].as_i64().unwrap();
            completed > seen || has_ended(batch)
        };
        let batch = hosted.wait(&key, &id, is_further);
        seen = batch["request_counts"]["completed"].as_i64().unwrap();
        hosted.server.join();
        let files = hosted.folder.path().join("files");
        hosted.server = serve(&location, files, JobLimits::default());
    }
    let batch = hosted.ended(&key, &id);
    assert_eq!(batch["status"], "completed");
    let answers = hosted.lines(&key, &batch["output_file_id"]);
    assert_eq!(answers.len(), 1_500);
    assert_eq!(hosted.billed(&key).len(), 1_500);
}

#[test]
fn without_accounts_files_and_batches_are_everybodys_and_free() {
    let none = Running::start(Config::default());
    let answer = none.get("/v1/batches");
    assert_eq!((answer.status, answer.error().as_str()), (404, "no_files"));
    let folder = tempfile::tempdir().unwrap();
    let jobs = Jobs::without_accounts(&folder.path().join("files"), JobLimits::default()).unwrap();
    let server = Running::start(Config {
        jobs: Some(Arc::new(jobs)),
        ..Config::default()
    });
    let file = server.upload(None, "batch", &numbered(10)).json()["id"].clone();
    let batch = server.post("/v1/batches", asked(file.as_str().unwrap()).to_string());
    let id = batch.json()["id"].as_str().unwrap().to_owned();
    let started = Instant::now();
    let batch = loop {
        let batch = server.get(&format!("/v1/batches/{id}")).json();
        if has_ended(&batch) {
            break batch;
        }
        assert!(started.elapsed() < PATIENCE, "{batch}");
    };
    assert_eq!(batch["request_counts"]["completed"], 10, "{batch}");
    let output = batch["output_file_id"].as_str().unwrap();
    let answers = by_custom_id(&server.get(&format!("/v1/files/{output}/content")).body);
    let found = support::floats(&answers["n7"]["response"]["body"]["data"][0]["embedding"]);
    assert_eq!(found, vector("stork number 7", "raw"));
}

/// A server that was taken for dead comes back in the middle of its work.
#[tokio::test]
async fn a_server_that_lost_its_batch_bills_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let location = Location::File(folder.path().join("state.db"));
    let store = Store::open(&location, RetryWindow::default()).unwrap();
    let (key_id, account_id, batch) = store
        .write(|database| {
            let now = Time::now();
            let change = Change { actor: "test", now };
            let account = accounts::create(database, change, "Storks", true)?;
            accounts::grant(database, change, &account.id, PicoUsd(1_000_000), None)?;
            let key = keys::create(database, change, &account.id, "qt-", &embedding())?;
            let file = StoredFile {
                id: "file-a".to_owned(),
                purpose: Purpose::Batch,
                filename: "lines.jsonl".to_owned(),
                bytes: 1,
                created: now,
                expires: None,
            };
            files::create(database, &account.id, &file, i64::MAX)?;
            let new = NewBatch {
                owner: account.id.clone(),
                key_id: Some(key.key.id.clone()),
                input_file_id: file.id,
                metadata: None,
                window_ms: 60_000,
                output_lifetime_ms: None,
            };
            let batch = batches::create(database, &new, 10, now)?;
            Ok((key.key.id, account.id, batch))
        })
        .await
        .unwrap();
    let lease = |runner| Lease {
        runner,
        patience_ms: 1000,
    };
    let take = |runner, ms: i64| {
        let (id, now) = (batch.id.clone(), Time(batch.created.0 + ms));
        store.write(move |database| Ok(batches::take(database, &id, lease(runner), now)?))
    };
    assert!(take(1, 0).await.unwrap().is_some());
    assert!(take(2, 999).await.unwrap().is_none());
    let charge = |number| {
        let work = WorkRequest {
            tokens: 10,
            price: PicoUsd(BATCH_PRICE),
            model: "mini".to_owned(),
            tier: Tier::Batch,
            request_id: format!("{}-{number}", batch.id),
            tasks: Vec::new(),
            digest: None,
        };
        store.admit_line(&key_id, work)
    };
    let met = |runner, completed| MetLines {
        batch_id: batch.id.clone(),
        lease: lease(runner),
        progress: Progress {
            completed,
            ..Progress::default()
        },
    };
    let (charged, _) = charge(1).await.unwrap().unwrap();
    let settled = store.settle_lines(vec![charged], met(1, 1)).await.unwrap();
    assert_eq!(settled.unwrap().progress.completed, 1);
    let (late, _) = charge(2).await.unwrap().unwrap();
    assert!(take(2, 60_000).await.unwrap().is_some());
    assert_eq!(
        store.settle_lines(vec![late], met(1, 2)).await.unwrap(),
        None
    );
    let (charged, _) = charge(2).await.unwrap().unwrap();
    let settled = store.settle_lines(vec![charged], met(2, 2)).await.unwrap();
    assert_eq!(settled.unwrap().progress.completed, 2);
    let account = store.read(move |database| accounts::find(database, &account_id));
    let account = account.await.unwrap();
    assert_eq!(account.held_usd, PicoUsd::ZERO);
    assert_eq!(
        account.balance_usd,
        PicoUsd(1_000_000 - 2 * 10 * BATCH_PRICE)
    );
    let verified = store.read(|database| Ok(ledger::verify(database, None)));
    assert_eq!(verified.await.unwrap().unwrap().entries, 3);
}

/// Three servers, four batches of two accounts; one of the servers stops in the middle.
#[cfg(feature = "postgres")]
#[test]
fn servers_on_one_postgres_share_batches_and_bill_each_line_once() {
    const LINES: usize = 400;
    let Some(location) = postgres::fresh("quintet_batches") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path().join("files");
    let mut others: Vec<Running> = (0..2)
        .map(|_| serve(&location, files.clone(), JobLimits::default()))
        .collect();
    let hosted = Hosted::start_at(location, folder, JobLimits::default());
    let keys = [hosted.key("1"), hosted.key("1")];
    let ids = keys
        .each_ref()
        .map(|key| [(); 2].map(|()| hosted.create(key, &numbered(LINES))));
    hosted.wait(&keys[0], &ids[0][0], |batch| {
        batch["request_counts"]["completed"] != 0
    });
    others.pop().unwrap().join();
    for (key, ids) in keys.iter().zip(&ids) {
        for id in ids {
            let batch = hosted.ended(key, id);
            assert_eq!(batch["status"], "completed", "{batch}");
            assert_eq!(hosted.lines(key, &batch["output_file_id"]).len(), LINES);
        }
        let billed = hosted.billed(key);
        let mut requests: Vec<_> = billed.iter().map(|entry| &entry.event.request_id).collect();
        requests.sort_unstable();
        requests.dedup();
        assert_eq!((billed.len(), requests.len()), (2 * LINES, 2 * LINES));
        assert_eq!(hosted.account(key).held_usd, PicoUsd::ZERO);
        let selection = batches::Selection {
            owner: Some(key.account.clone()),
            is_open: false,
        };
        let page = Page {
            limit: 10,
            ..Page::default()
        };
        let mut database = hosted.location.open().unwrap();
        let listed = batches::select(&mut *database, &selection, &page).unwrap();
        let cost: i64 = listed.items.iter().map(|batch| batch.cost.0).sum();
        let amount: i64 = billed.iter().map(|entry| entry.event.amount.0).sum();
        assert_eq!((listed.items.len(), cost), (2, -amount));
    }
}
