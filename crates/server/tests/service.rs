//! What surrounds the model: readiness, keys, limits, hung-up clients, stopping.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]
#![allow(dead_code, reason = "each test program uses a part of the support")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::Duration;

use quintet_server::{Auth, Config, Cors, Listen, Model};
use serde_json::json;
use support::{Running, load};

const BODY: &str = r#"{"input": "a stork"}"#;

#[test]
fn it_listens_at_once_and_is_ready_once_the_model_is() {
    let (go, wait) = mpsc::channel::<()>();
    let server = Running::start_with(Config::default(), move || {
        wait.recv().unwrap();
        Model::new(load(), vec!["mini".to_owned()])
    });
    let no_wait = [("prefer", "wait=0")];
    let answer = server.post_with("/v1/embeddings", &no_wait, BODY);
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (503, "model_loading")
    );
    assert_eq!(answer.header("retry-after"), Some("5"));
    assert_eq!(server.get("/health/live").status, 200);
    std::thread::scope(|scope| {
        // This one holds until the model is there.
        let held = scope.spawn(|| server.post("/v1/embeddings", BODY));
        go.send(()).unwrap();
        assert_eq!(held.join().unwrap().status, 200);
    });
    for path in ["/health", "/health/ready"] {
        assert_eq!(server.get(path).json()["status"], "ready");
    }
}

#[test]
fn models_are_listed_with_their_tasks() {
    let server = Running::start(Config::default());
    let list = server.get("/v1/models").json();
    let ids: Vec<&str> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|card| card["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), 7, "{ids:?}");
    for id in ids {
        let card = server.get(&format!("/v1/models/{id}")).json();
        assert_eq!(card["id"], id);
        assert_eq!(card["object"], "model");
    }
    let unknown = server.get("/v1/models/a/b");
    assert_eq!(
        (unknown.status, unknown.error().as_str()),
        (404, "model_not_found")
    );
    let unknown = server.get("/v1/nothing");
    assert_eq!(
        (unknown.status, unknown.error().as_str()),
        (404, "unknown_url")
    );
    let wrong = server.get("/v1/embeddings");
    assert_eq!(
        (wrong.status, wrong.error().as_str()),
        (405, "method_not_allowed")
    );
}

#[test]
fn one_key_guards_all_but_health_and_metrics() {
    let server = Running::start(Config {
        auth: Auth::key(&"sesame".into()),
        cors: Cors::Any,
        ..Config::default()
    });
    let answer = server.post("/v1/embeddings", BODY);
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (401, "invalid_api_key")
    );
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    assert_eq!(server.get("/v1/models").status, 401);
    let key = [
        ("authorization", "Bearer sesame"),
        ("origin", "https://example.org"),
    ];
    let answer = server.post_with("/v1/embeddings", &key, BODY);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(server.get("/health").status, 200);
    let metrics = server.get("/metrics").body;
    assert!(metrics.contains("quintet_ready 1"), "{metrics}");
    assert!(
        metrics.contains(r#"quintet_requests_total{route="/v1/embeddings",status="401"} 1"#),
        "{metrics}"
    );
}

#[test]
fn request_ids_go_through() {
    let server = Running::start(Config::default());
    let answer = server.post_with("/v1/embeddings", &[("x-request-id", "mine-1")], "{");
    assert_eq!(answer.header("x-request-id"), Some("mine-1"));
    assert_eq!(answer.json()["request_id"], "mine-1");
}

#[test]
fn too_much_is_refused_at_once() {
    let mut config = Config::default();
    config.limits.body_bytes = 1 << 20;
    config.batcher.request_tokens = 3000;
    config.batcher.queue_tokens = 2000;
    let server = Running::start(config);
    let answer = server.post("/v1/embeddings", vec![b' '; (1 << 20) + 1]);
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (413, "request_too_large")
    );
    // 2000 texts of 200 tokens: the first pieces break the limit, the rest is not tokenised.
    let text = "stork ".repeat(200);
    let answer = server.post(
        "/v1/embeddings",
        json!({"input": vec![&text; 800]}).to_string(),
    );
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (400, "max_tokens_per_request"),
        "{}",
        answer.body
    );
    // More than the queue holds never fits, however long one waits.
    let never = json!({"input": vec![&text; 6]}).to_string();
    let answer = server.post("/v1/embeddings", never);
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (400, "max_tokens_per_request"),
        "{}",
        answer.body
    );
    // Each fits alone; together they do not.
    let fits = json!({"input": vec![&text; 3]}).to_string();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let posts: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| server.post("/v1/embeddings", fits.clone())))
            .collect();
        posts.into_iter().map(|post| post.join().unwrap()).collect()
    });
    assert!(answers.iter().any(|answer| answer.status == 200));
    let answer = answers.iter().find(|answer| answer.status != 200).unwrap();
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (503, "overloaded"),
        "{}",
        answer.body
    );
    let retry_after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=120).contains(&retry_after));
    // Nothing of it stays behind.
    assert_eq!(server.post("/v1/embeddings", BODY).status, 200);
    let metrics = server.get("/metrics").body;
    assert!(metrics.contains("quintet_queued_tokens 0"), "{metrics}");
    assert!(metrics.contains("quintet_body_bytes 0"), "{metrics}");
}

#[test]
fn a_body_that_does_not_come_is_given_up() {
    let mut config = Config::default();
    config.limits.body_timeout = Duration::from_millis(200);
    let server = Running::start(config);
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream
        .write_all(b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"inp")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[test]
fn stopping_finishes_what_was_accepted() {
    let mut server = Running::start(Config::default());
    assert_eq!(server.post("/v1/embeddings", BODY).status, 200);
    let texts: Vec<String> = (0..64)
        .map(|number| format!("{number} {}", "stork ".repeat(100)))
        .collect();
    let body = json!({ "input": texts }).to_string();
    let mut stream = send(&server, &body);
    // The server has the request once its tokens are counted.
    while server
        .get("/metrics")
        .body
        .contains("quintet_queued_tokens 0\n")
    {
        std::thread::yield_now();
    }
    server.join();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 "),
        "{}",
        &answer[..answer.len().min(300)]
    );
    assert!(answer.contains(r#""index":63"#));
    assert!(TcpStream::connect(server.address).is_err());
}

#[test]
fn a_client_that_hangs_up_takes_its_work_along() {
    let server = Running::start(Config::default());
    assert_eq!(server.post("/v1/embeddings", BODY).status, 200);
    let ran = || {
        let metrics = server.get("/metrics").body;
        let line = metrics
            .lines()
            .find(|line| line.starts_with("quintet_batch_tokens_sum"));
        let sum: f64 = line.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap();
        let idle = metrics.contains("quintet_queued_tokens 0\n");
        (sum, idle)
    };
    let texts = vec!["stork ".repeat(400); 300];
    let body = json!({ "input": texts }).to_string();
    let stream = send(&server, &body);
    let (before, _) = ran();
    while ran().0 == before {
        std::thread::yield_now();
    }
    drop(stream);
    while !ran().1 {
        std::thread::yield_now();
    }
    // All of it would have been 240,000 tokens and more.
    let (tokens, _) = ran();
    assert!(tokens < 200_000.0, "{tokens} tokens ran");
}

/// A document that fills the model's context.
fn document() -> String {
    json!({"input": "stork ".repeat(7900), "truncate": true}).to_string()
}

/// The number behind a name in the metrics.
fn metric(server: &Running, name: &str) -> f64 {
    let metrics = server.get("/metrics").body;
    let mut lines = metrics.lines();
    let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap().parse().unwrap()
}

fn send(server: &Running, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).unwrap();
    write!(
        stream,
        "POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    stream
}

#[test]
fn a_query_passes_a_document_that_runs() {
    let server = Running::start(Config::default());
    let expected = server.post("/v1/embeddings", BODY).json()["data"].clone();
    let whole = server.post("/v1/embeddings", document()).json()["data"].clone();
    let documents = metric(&server, "quintet_batch_tokens_count");
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| server.post("/v1/embeddings", document()));
        while metric(&server, "quintet_queued_tokens") == 0.0 {
            std::thread::yield_now();
        }
        while metric(&server, "quintet_interruptions_total") == 0.0 {
            let query = server.post("/v1/embeddings", BODY);
            assert_eq!(query.json()["data"], expected);
            assert!(!answer.is_finished(), "no query passed the document");
        }
        assert!(metric(&server, "quintet_batch_tokens_count") > documents);
        assert_eq!(answer.join().unwrap().json()["data"], whole);
    });
}

#[test]
fn a_document_that_runs_stops_when_its_client_hangs_up() {
    let server = Running::start(Config::default());
    assert_eq!(server.post("/v1/embeddings", BODY).status, 200);
    let ran = metric(&server, "quintet_batch_tokens_sum");
    let stream = send(&server, &document());
    while metric(&server, "quintet_queued_tokens") == 0.0 {
        std::thread::yield_now();
    }
    drop(stream);
    // A realtime query would pass it; this one runs when the document is out of the way.
    let batch = [("x-tier", "batch")];
    assert_eq!(server.post_with("/v1/embeddings", &batch, BODY).status, 200);
    let query = metric(&server, "quintet_batch_tokens_sum") - ran;
    assert!(query < 100.0, "{query} tokens ran");
}

#[cfg(unix)]
#[test]
fn a_unix_socket_serves_and_is_cleared_away() {
    use std::os::unix::net::{UnixListener, UnixStream};

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("quintet.sock");
    // What a killed server leaves.
    drop(UnixListener::bind(&path).unwrap());
    let mut server = Running::start(Config {
        listen: Listen::Unix(path.clone()),
        ..Config::default()
    });
    let mut stream = UnixStream::connect(&path).unwrap();
    write!(
        stream,
        "POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nprefer: wait=100\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{BODY}",
        BODY.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    server.join();
    assert!(!path.exists());
}

#[test]
fn bodies_are_packed_both_ways_where_asked() {
    let server = Running::start(Config::default());
    let get = |encoding| server.get_with("/openapi.json", &[("accept-encoding", encoding)]);
    let plain = get("identity");
    assert_eq!(plain.header("content-encoding"), None);
    for encoding in ["gzip", "zstd"] {
        let packed = get(encoding);
        assert_eq!(packed.header("content-encoding"), Some(encoding));
        assert!(packed.bytes.len() * 3 < plain.bytes.len());
    }
    // `{"input": "a stork"}` by gzip.
    let gzip: Vec<u8> = GZIP
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    let headers = [("content-encoding", "gzip")];
    let answer = server.post_with("/v1/embeddings", &headers, &gzip);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body, server.post("/v1/embeddings", BODY).body);
    for (encoding, body) in [("gzip", &gzip[..20]), ("gzip", b"{}"), ("br", &gzip)] {
        let answer = server.post_with("/v1/embeddings", &[("content-encoding", encoding)], body);
        assert_eq!(answer.status, 400, "{}", answer.body);
    }
}

const GZIP: &str =
    "1f8b0800000000000203ab56cacc2b282d51b252504a54282ec92fca56aa0500b756a79c14000000";
