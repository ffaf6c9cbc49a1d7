//! What a server holds on to: after any number of requests, no more than after the first ones.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]
#![allow(dead_code, reason = "each test program uses a part of the support")]

mod support;

use std::alloc::System;
use std::io::Write;
use std::net::TcpStream;

use quintet_server::Config;
use serde_json::json;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use support::Running;

/// Counts what this program has asked for and not given back, whatever the system's allocator makes of it.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Requests of a round: these bodies so many times, and as many clients that hang up.
const REPEATS: usize = 5;
/// Connections that are closing, buffers of threads that come and go.
const NOISE_BYTES: usize = 48 * 1024;

fn held_bytes() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// Sends a round and gives the least that is held within it: what closes in its own time has closed by then.
fn round(server: &Running) -> usize {
    let texts = [
        "Storks winter in Africa.",
        "The bank raised interest rates.",
    ];
    let requests = [
        (
            "/v1/embeddings",
            json!({"input": texts, "task": "retrieval.passage"}),
        ),
        (
            "/v1/embeddings",
            json!({"input": texts, "late_chunking": true}),
        ),
        ("/v1/embeddings", json!({"input": ""})),
        ("/v1/rerank", json!({"query": "storks", "documents": texts})),
        (
            "/v1/classify",
            json!({"input": texts, "labels": ["birds", "money"]}),
        ),
        (
            "/v2/embed",
            json!({"texts": texts, "input_type": "search_query"}),
        ),
        ("/rerank", json!({"query": "storks", "texts": texts})),
        ("/embed", json!({"inputs": texts})),
        ("/embed_all", json!({"inputs": texts[0]})),
        ("/nowhere", json!({})),
    ];
    let mut least = usize::MAX;
    for _ in 0..REPEATS {
        for (path, body) in &requests {
            let answer = server.post(path, body.to_string());
            assert_ne!(answer.status, 503, "{path}: {}", answer.body);
            drop(answer);
            hang_up(server);
            least = least.min(held_bytes());
        }
    }
    least
}

/// A client that is gone before its answer.
fn hang_up(server: &Running) {
    let body = r#"{"input": "A stork builds its nest on a chimney."}"#;
    let head = "POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-type: application/json";
    let mut stream = TcpStream::connect(server.address).unwrap();
    write!(
        stream,
        "{head}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
}

#[test]
fn requests_leave_nothing_behind() {
    let server = Running::start(Config::default());
    // Caches fill, threads start.
    let first = (0..4).map(|_| round(&server)).max().unwrap();
    let later: Vec<usize> = (0..10).map(|_| round(&server)).collect();
    // 100 bytes a request would be 100 kB by now.
    let least = *later[5..].iter().min().unwrap();
    assert!(
        least <= first + NOISE_BYTES,
        "{first} bytes, then {later:?}"
    );
}
