//! A batch on a server that is killed again and again in the middle of it.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

#[path = "support/cli.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod cli;

use cli::{MODEL, quintet, run};

const LINES: usize = 3_000;
const KILLS: usize = 6;
const PATIENCE: Duration = Duration::from_secs(120);
/// Pico-dollars of a token at the batch price.
const PRICE: i64 = 10_000;

/// The program as an operator starts it. Killed when it is dropped, as by `kill -9`.
struct Serving {
    process: Child,
    url: String,
    agent: ureq::Agent,
    key: String,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Serving {
    fn start(state: &Path, key: &str) -> Self {
        let mut process = quintet()
            .args(["serve", "--model", MODEL, "--listen", "127.0.0.1:0"])
            .args(["--price", "0.02", "--batch-price", "0.01", "--state"])
            .arg(state)
            // The test asks all the time.
            .args(["--log-format", "json", "--requests-per-minute", "1000000"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let url = loop {
            let mut line = String::new();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "the server ended");
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["message"] == "listening" {
                break format!("http://{}", line["address"].as_str().unwrap());
            }
        };
        // Whoever writes into a full pipe waits.
        std::thread::spawn(move || for _ in log.lines() {});
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_idle_connections(0)
            .build()
            .into();
        let key = key.to_owned();
        Self {
            process,
            url,
            agent,
            key,
        }
    }

    fn read(mut answer: ureq::http::Response<ureq::Body>) -> String {
        let status = answer.status();
        let body = answer.body_mut().with_config().limit(1 << 30);
        let text = body.read_to_string().unwrap();
        assert_eq!(status, 200, "{text}");
        text
    }

    fn get(&self, path: &str) -> String {
        let request = self.agent.get(format!("{}{path}", self.url));
        let authorization = format!("Bearer {}", self.key);
        Self::read(
            request
                .header("authorization", authorization)
                .call()
                .unwrap(),
        )
    }

    fn post(&self, path: &str, content_type: &str, body: &str) -> Value {
        let request = self.agent.post(format!("{}{path}", self.url));
        let authorization = format!("Bearer {}", self.key);
        let request = request.header("authorization", authorization);
        let answer = request.header("content-type", content_type).send(body);
        serde_json::from_str(&Self::read(answer.unwrap())).unwrap()
    }

    fn batch(&self, id: &str) -> Value {
        serde_json::from_str(&self.get(&format!("/v1/batches/{id}"))).unwrap()
    }

    /// The batch once so many lines were met, or it has ended.
    fn wait(&self, id: &str, lines: i64) -> Value {
        let started = Instant::now();
        loop {
            let batch = self.batch(id);
            if met(&batch) >= lines || batch["completed_at"].is_i64() {
                return batch;
            }
            assert!(started.elapsed() < PATIENCE, "{batch}");
        }
    }
}

fn met(batch: &Value) -> i64 {
    let counts = &batch["request_counts"];
    counts["completed"].as_i64().unwrap() + counts["failed"].as_i64().unwrap()
}

/// Every tenth is refused when it runs.
fn input() -> String {
    let line = |number: usize| {
        let text = match number % 10 {
            0 => String::new(),
            _ => format!("stork number {number}"),
        };
        let line = json!({
            "custom_id": format!("n{number}"), "method": "POST", "url": "/v1/embeddings",
            "body": {"input": text},
        });
        format!("{line}\n")
    };
    (0..LINES).map(line).collect()
}

fn form(lines: &str) -> String {
    format!(
        "--edge\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n\
         --edge\r\nContent-Disposition: form-data; name=\"file\"; filename=\"lines.jsonl\"\r\n\r\n\
         {lines}\r\n--edge--\r\n"
    )
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

#[test]
fn a_server_killed_in_a_batch_neither_loses_nor_bills_a_line_twice() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state.db");
    let operate = |arguments: &[&str]| {
        let mut arguments = arguments.to_vec();
        arguments.extend(["--state", state.to_str().unwrap()]);
        run(&arguments).stdout
    };
    let account = operate(&["accounts", "create", "Storks", "--json"]);
    let account: Value = serde_json::from_str(&account).unwrap();
    let account = account["id"].as_str().unwrap();
    let key = operate(&["keys", "create", "--account", account, "laptop"]);
    operate(&["credit", "grant", account, "1"]);

    let mut server = Serving::start(&state, key.trim());
    let file = server.post(
        "/v1/files",
        "multipart/form-data; boundary=edge",
        &form(&input()),
    );
    let asked = json!({
        "input_file_id": file["id"], "endpoint": "/v1/embeddings", "completion_window": "24h",
    });
    let batch = server.post("/v1/batches", "application/json", &asked.to_string());
    let id = batch["id"].as_str().unwrap().to_owned();
    let (mut seen, mut kills) = (0, 0);
    while kills < KILLS {
        let batch = server.wait(&id, seen + 1);
        assert!(
            batch["completed_at"].is_null(),
            "it ended after {kills} kills: too few lines"
        );
        seen = met(&batch);
        drop(server);
        kills += 1;
        server = Serving::start(&state, key.trim());
        // Nothing that was seen is undone.
        assert!(met(&server.batch(&id)) >= seen);
    }
    let batch = server.wait(&id, i64::MAX);
    assert_eq!(batch["status"], "completed", "{batch}");
    let (total, refused) = (LINES, LINES / 10);
    assert_eq!(
        batch["request_counts"],
        json!({"total": total, "completed": total - refused, "failed": refused})
    );
    let content = |name: &str| {
        let file = batch[name].as_str().unwrap();
        by_custom_id(&server.get(&format!("/v1/files/{file}/content")))
    };
    let (answers, errors) = (content("output_file_id"), content("error_file_id"));
    assert_eq!((answers.len(), errors.len()), (total - refused, refused));
    let tokens: i64 = answers
        .values()
        .map(|line| {
            line["response"]["body"]["usage"]["total_tokens"]
                .as_i64()
                .unwrap()
        })
        .sum();
    assert_eq!(batch["usage"]["total_tokens"], tokens);
    drop(server);

    // Each answered line is one entry of the ledger, under its own id, and the sums are those of the answers.
    run(&["ledger", "verify", "--state", state.to_str().unwrap()]).quiet();
    let exported = operate(&["ledger", "export", "--format", "jsonl"]);
    let entries = exported
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let ids = entries.filter_map(|entry| Some(entry["request_id"].as_str()?.to_owned()));
    let mut billed: Vec<String> = ids.collect();
    billed.sort_unstable();
    let mut expected: Vec<String> = answers
        .values()
        .map(|line| line["response"]["request_id"].as_str().unwrap().to_owned())
        .collect();
    expected.sort_unstable();
    assert_eq!(billed, expected);
    let shown: Value =
        serde_json::from_str(&operate(&["credit", "show", account, "--json"])).unwrap();
    // What killed servers had set aside beside is given back by others, see `faults.rs`.
    let left = format!("0.{:012}", 1_000_000_000_000 - tokens * PRICE);
    assert_eq!(shown["balance_usd"], left.trim_end_matches('0'));
}
