//! What surrounds the model: readiness, keys, limits, hung-up clients, stopping.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]
#![allow(dead_code, reason = "each test program uses a part of the support")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use quintet_server::app::App;
use quintet_server::metering::Price;
use quintet_server::store::{Location, accounts};
use quintet_server::{
    Auth, BindError, Catalogue, Config, Cors, Hosting, HostingConfig, Listen, Model, Server,
};
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
fn models_carry_what_the_catalogue_knows() {
    let folder = tempfile::tempdir().unwrap();
    let price = "id = 'quintet/mini'\n[price]\nrealtime_micro_usd_per_million = 20_000\n\
                 batch_micro_usd_per_million = 10_000";
    std::fs::write(folder.path().join("price.toml"), price).unwrap();
    let server = Running::start(Config {
        catalogue: Catalogue::read(folder.path()).unwrap(),
        serves: Some("mini".to_owned()),
        ..Config::default()
    });
    let card = server.get("/v1/models/mini:raw").json();
    assert_eq!(card["catalogue_id"], "quintet/mini");
    assert_eq!(card["status"], "live");
    assert_eq!(card["license"]["id"], "Apache-2.0");
    assert_eq!(card["pricing"]["batch_micro_usd_per_million"], 10_000);
    assert_eq!(card["languages"].as_array().unwrap().len(), 30);
    // What the file says about the model that runs is what the model is.
    let entry = Catalogue::built_in().entry("quintet/mini").unwrap().clone();
    assert_eq!(card["matryoshka_dimensions"], json!(entry.dimensions));
    assert_eq!(card["max_tokens"], json!(entry.context_tokens));
    let tasks: Vec<String> = entry.tasks.into_iter().map(|task| task.name).collect();
    assert_eq!(card["tasks"], json!(tasks));
    let architecture = entry.architecture.unwrap();
    let config = support::EMBEDDER.config();
    assert_eq!(
        architecture.layers,
        u32::try_from(config.num_hidden_layers).ok()
    );
    assert_eq!(
        architecture.heads,
        u32::try_from(config.num_attention_heads).ok()
    );
}

#[test]
fn a_price_that_the_licence_forbids_keeps_the_server_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let price = "id = 'jinaai/jina-embeddings-v3'\n[price]\nrealtime_micro_usd_per_million = 1\n\
                 batch_micro_usd_per_million = 1";
    std::fs::write(folder.path().join("price.toml"), price).unwrap();
    let started = |word: Option<&str>| {
        let app = App::new(Config {
            catalogue: Catalogue::read(folder.path()).unwrap(),
            serves: Some("/srv/jina-embeddings-v3".to_owned()),
            acknowledge_license: word.map(str::to_owned),
            ..Config::default()
        });
        app.map(|app| app.price.is_some())
    };
    assert!(started(None).unwrap_err().hint().contains("CC-BY-NC-4.0"));
    assert!(started(Some("Apache-2.0")).is_err());
    assert_eq!(started(Some("CC-BY-NC-4.0")), Ok(true));
}

#[test]
fn what_accounts_pay_is_what_the_pages_say_and_the_operators_word_is_recorded_once() {
    let folder = tempfile::tempdir().unwrap();
    let state: Location = folder
        .path()
        .join("state.db")
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    let price = Price {
        realtime_micro_usd_per_million: 20_000,
        batch_micro_usd_per_million: 10_000,
    };
    let hosting = HostingConfig {
        price: Some(price),
        ..HostingConfig::default()
    };
    let hosting = Arc::new(Hosting::open(&state, hosting).unwrap());
    let config = |word: Option<&str>| Config {
        listen: Listen::Tcp(([127, 0, 0, 1], 0).into()),
        auth: Auth::Accounts(Arc::clone(&hosting)),
        serves: Some("jinaai/jina-embeddings-v3".to_owned()),
        acknowledge_license: word.map(str::to_owned),
        ..Config::default()
    };
    let app = App::new(config(Some("CC-BY-NC-4.0"))).unwrap();
    assert_eq!(app.served_entry().unwrap().price, Some(price));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let trail = runtime.block_on(async {
        assert!(matches!(
            Server::bind(config(None)).await,
            Err(BindError::License(_))
        ));
        for _ in 0..2 {
            Server::bind(config(Some("CC-BY-NC-4.0"))).await.unwrap();
        }
        let trail = hosting
            .store
            .read(|database| accounts::audit_trail(database, 10));
        trail.await.unwrap()
    });
    assert_eq!(trail.len(), 1);
    let entry = &trail[0];
    assert_eq!(
        (entry.actor.as_str(), entry.action.as_str()),
        ("serve", "license.acknowledge")
    );
    assert_eq!(
        (entry.target.as_str(), entry.detail.as_str()),
        ("jinaai/jina-embeddings-v3", "CC-BY-NC-4.0")
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
