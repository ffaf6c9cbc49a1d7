//! A hosted service as its callers and its operator meet it: keys, scopes, credit, limits, retries.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]
#![allow(dead_code, reason = "each test program uses a part of the support")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use quintet_server::metering::{PicoUsd, Price, Rates};
use quintet_server::routes::docs::OPENAPI;
use quintet_server::store::accounts::{self, Change};
use quintet_server::store::keys::{self, KeyLimits, KeyOptions, Scope};
use quintet_server::store::ledger::{self, Verified};
use quintet_server::store::{Database, Location, StoreError, Time};
use quintet_server::{Auth, Config, Hosting, HostingConfig, Model, SignUp};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use support::{Answer, Running, load, vector};
use tempfile::TempDir;

const BODY: &str = r#"{"input": "a stork"}"#;

/// A server with accounts, and its state beside it.
struct Hosted {
    server: Running,
    location: Location,
    _folder: TempDir,
}

/// A key's text, with its id and its account's.
struct Made {
    text: String,
    id: String,
    account: String,
}

fn config() -> HostingConfig {
    HostingConfig {
        price: Some(Price {
            realtime_micro_usd_per_million: 20_000,
            batch_micro_usd_per_million: 10_000,
        }),
        ..HostingConfig::default()
    }
}

impl Hosted {
    fn start(config: HostingConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::File(folder.path().join("state.db"));
        let hosting = Arc::new(Hosting::open(&location, config).unwrap());
        let config = Config {
            auth: Auth::Accounts(hosting),
            ..Config::default()
        };
        let server = Running::start_with(config, || Model::new(load(), vec!["mini".to_owned()]));
        Self {
            server,
            location,
            _folder: folder,
        }
    }

    /// Changes the state from beside the server, as the command line does.
    fn change<T>(
        &self,
        work: impl FnOnce(&mut dyn Database, Change<'_>) -> Result<T, StoreError>,
    ) -> T {
        support::change(&self.location, work)
    }

    fn account(&self, credit: &str) -> String {
        self.change(|database, change| {
            let account = accounts::create(database, change, "Storks", true)?;
            let amount: PicoUsd = credit.parse().unwrap();
            Ok(accounts::grant(database, change, &account.id, amount, None)?.id)
        })
    }

    fn key_of(&self, account: &str, options: &KeyOptions) -> Made {
        self.change(|database, change| {
            let made = keys::create(database, change, account, "qt-", options)?;
            Ok(Made {
                text: made.text.expose_secret().to_owned(),
                id: made.key.id,
                account: account.to_owned(),
            })
        })
    }

    fn key(&self, credit: &str) -> Made {
        self.key_of(&self.account(credit), &embedding())
    }

    fn post(&self, path: &str, key: &Made, headers: &[(&str, &str)], body: &str) -> Answer {
        let authorization = format!("Bearer {}", key.text);
        let mut all = vec![("authorization", authorization.as_str())];
        all.extend(headers);
        self.server.post_with(path, &all, body)
    }

    fn get(&self, path: &str, key: &Made) -> Answer {
        let authorization = format!("Bearer {}", key.text);
        self.server
            .get_with(path, &[("authorization", &authorization)])
    }

    fn balance(&self, account: &str) -> PicoUsd {
        let mut database = self.location.open().unwrap();
        let account = accounts::find(&mut *database, account).unwrap();
        assert_eq!(account.held_usd, PicoUsd::ZERO, "nothing runs any more");
        account.balance_usd
    }

    fn verified(&self) -> Verified {
        ledger::verify(&mut *self.location.open().unwrap(), None).unwrap()
    }
}

fn embedding() -> KeyOptions {
    KeyOptions {
        name: "test".to_owned(),
        scopes: vec![Scope::Embed],
        ..KeyOptions::default()
    }
}

fn usd(text: &str) -> PicoUsd {
    text.parse().unwrap()
}

#[test]
fn what_the_model_saw_is_billed_and_the_vector_is_the_same() {
    let hosted = Hosted::start(config());
    let key = hosted.key("1");
    let body = json!({"input": "a stork", "task": "retrieval.query", "usage": {"include": true}});
    let answer = hosted.post("/v1/embeddings", &key, &[], &body.to_string());
    assert_eq!(answer.status, 200, "{}", answer.body);
    let json = answer.json();
    let tokens = json["usage"]["total_tokens"].as_i64().unwrap();
    let cost = PicoUsd(tokens * 20_000);
    assert_eq!(json["usage"]["cost_usd"], cost.to_string());
    assert_eq!(answer.header("x-cost-usd"), Some(cost.to_string().as_str()));
    assert_eq!(
        support::floats(&json["data"][0]["embedding"]),
        vector("a stork", "retrieval.query")
    );
    assert_eq!(hosted.balance(&key.account).0, usd("1").0 - cost.0);
    let verified = hosted.verified();
    assert_eq!((verified.entries, verified.tokens), (2, tokens.into()));
    let batch = hosted.post("/v1/embeddings", &key, &[("x-tier", "batch")], BODY);
    let tokens = batch.json()["usage"]["total_tokens"].as_i64().unwrap();
    let expected = PicoUsd(tokens * 10_000).to_string();
    assert_eq!(batch.header("x-cost-usd"), Some(expected.as_str()));
}

#[test]
fn every_route_that_runs_the_model_is_billed_by_its_tokens() {
    let hosted = Hosted::start(config());
    let key = hosted.key("1");
    let mut tokens = 0;
    for (path, body) in [
        (
            "/v1/embeddings",
            r#"{"input": ["a", "b"], "late_chunking": true}"#,
        ),
        ("/v1/classify", r#"{"input": ["a"], "labels": ["x", "y"]}"#),
        ("/v1/rerank", r#"{"query": "a", "documents": ["x", "y"]}"#),
        ("/rerank", r#"{"query": "a", "texts": ["x", "y"]}"#),
        (
            "/v1/quality",
            r#"{"collection": "query,document\na,x\nb,y"}"#,
        ),
        ("/embed", r#"{"inputs": "a"}"#),
        ("/embed_all", r#"{"inputs": "a"}"#),
        (
            "/similarity",
            r#"{"inputs": {"source_sentence": "a", "sentences": ["b"]}}"#,
        ),
        (
            "/v2/embed",
            r#"{"texts": ["a"], "input_type": "search_query"}"#,
        ),
    ] {
        let answer = hosted.post(path, &key, &[], body);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        let cost = usd(answer.header("x-cost-usd").unwrap());
        assert!(cost > PicoUsd::ZERO, "{path}");
        tokens += i128::from(cost.0 / 20_000);
    }
    for (path, body) in [
        ("/tokenize", r#"{"inputs": "a"}"#),
        ("/v1/segment", r#"{"content": "a"}"#),
        ("/v1/estimate", BODY),
    ] {
        let answer = hosted.post(path, &key, &[], body);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        assert_eq!(answer.header("x-cost-usd"), None);
    }
    assert_eq!(hosted.verified().tokens, tokens);
}

#[test]
fn without_credit_nothing_runs_and_nobody_tries_again() {
    let hosted = Hosted::start(config());
    let key = hosted.key("0.00000001");
    for (path, body) in [
        ("/v1/embeddings", BODY),
        ("/embed", r#"{"inputs": "a stork"}"#),
        ("/v2/embed", r#"{"texts": ["a stork"]}"#),
    ] {
        let answer = hosted.post(path, &key, &[], body);
        assert_eq!(answer.status, 402, "{path}: {}", answer.body);
        assert_eq!(answer.header("x-should-retry"), Some("false"));
        assert_eq!(answer.header("retry-after"), None);
    }
    let answer = hosted.post("/v1/embeddings", &key, &[], BODY);
    assert_eq!(answer.error(), "insufficient_credit");
    assert_eq!(hosted.balance(&key.account), usd("0.00000001"));
    assert_eq!(hosted.verified().entries, 1);
}

#[test]
fn a_refused_or_broken_request_costs_nothing() {
    let hosted = Hosted::start(config());
    let key = hosted.key("1");
    for body in [
        "{",
        "{}",
        r#"{"input": ""}"#,
        r#"{"input": "a", "dimensions": 0}"#,
    ] {
        assert_eq!(hosted.post("/v1/embeddings", &key, &[], body).status, 400);
    }
    assert_eq!(hosted.balance(&key.account), usd("1"));
}

#[test]
fn the_same_again_is_answered_the_same_and_billed_once() {
    let hosted = Hosted::start(config());
    let (key, other) = (hosted.key("1"), hosted.key("1"));
    let first = hosted.post("/v1/embeddings", &key, &[], BODY);
    let again = hosted.post("/embeddings", &key, &[], BODY);
    assert_eq!(first.bytes, again.bytes);
    assert_eq!(again.header("x-cost-usd"), Some("0"));
    assert_eq!(hosted.verified().entries, 3);
    // Whatever differs is another request.
    let costs = |key: &Made, headers: &[(&str, &str)], body: &str| {
        let answer = hosted.post("/v1/embeddings", key, headers, body);
        usd(answer.header("x-cost-usd").unwrap()) > PicoUsd::ZERO
    };
    assert!(costs(&other, &[], BODY));
    assert!(costs(&key, &[("idempotency-key", "2")], BODY));
    assert!(costs(&key, &[("x-tier", "batch")], BODY));
    assert!(costs(&key, &[], r#"{"input": "a  stork"}"#));
    // Work is not given away for ever.
    assert!(!costs(&key, &[], BODY) && !costs(&key, &[], BODY));
    assert!(costs(&key, &[], BODY));
}

#[test]
fn requests_at_the_same_time_never_overdraw_and_sum_up_exactly() {
    let hosted = Hosted::start(config());
    let answer = hosted.post(
        "/v1/embeddings",
        &hosted.key("1"),
        &[],
        r#"{"input": "number 00"}"#,
    );
    let cost = usd(answer.header("x-cost-usd").unwrap());
    // Enough for ten of forty.
    let key = hosted.key(&PicoUsd(cost.0 * 10 + cost.0 / 2).to_string());
    let answered: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let (hosted, key) = (&hosted, &key);
                scope.spawn(move || {
                    let number = |number| {
                        let body = format!(r#"{{"input": "number {}"}}"#, thread * 5 + number + 10);
                        hosted.post("/v1/embeddings", key, &[], &body)
                    };
                    let answers: Vec<Answer> = (0..5).map(number).collect();
                    let is_ok = |answer: &&Answer| {
                        assert!(matches!(answer.status, 200 | 402), "{}", answer.body);
                        answer.status == 200
                    };
                    answers.iter().filter(is_ok).count()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    // What is left covers none of those that were refused; the numbers differ by a token at most.
    let left = hosted.balance(&key.account);
    assert!(left >= PicoUsd::ZERO && left.0 < cost.0 * 2, "{left}");
    assert!((5..=20).contains(&answered), "{answered}");
    hosted.verified();
}

#[test]
fn limits_are_told_and_kept() {
    let hosted = Hosted::start(config());
    let account = hosted.account("1");
    let options = KeyOptions {
        limits: KeyLimits {
            rates: Rates {
                requests_per_minute: Some(3),
                tokens_per_minute: Some(100),
                concurrent_requests: None,
            },
            monthly_budget: None,
        },
        ..embedding()
    };
    let key = hosted.key_of(&account, &options);
    let answer = hosted.post("/v1/embeddings", &key, &[], BODY);
    let tokens = answer.json()["usage"]["total_tokens"].as_u64().unwrap();
    assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("3"));
    assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some("2"));
    assert_eq!(answer.header("x-ratelimit-limit-tokens"), Some("100"));
    let left = (100 - tokens).to_string();
    assert_eq!(
        answer.header("x-ratelimit-remaining-tokens"),
        Some(left.as_str())
    );
    let reset = answer.header("x-ratelimit-reset-requests").unwrap();
    assert!(reset.ends_with('s') && !reset.contains('h'), "{reset}");
    // A request that is refused as it stands counts too, once its answer is out.
    assert_eq!(hosted.post("/v1/embeddings", &key, &[], "{").status, 400);
    assert_eq!(hosted.get("/v1/models", &key).status, 200);
    let over = hosted.post("/v1/embeddings", &key, &[], BODY);
    assert_eq!(
        (over.status, over.error().as_str()),
        (429, "rate_limit_exceeded")
    );
    let seconds: u64 = over.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=20).contains(&seconds), "{seconds}");
    assert!(over.header("retry-after-ms").is_some());
    // A refusal tells what is left too, as OpenAI's does, on routes that cost nothing as well.
    let free = hosted.get("/v1/models", &key);
    assert_eq!(free.status, 429);
    for refused in [over, free] {
        assert_eq!(refused.header("x-ratelimit-limit-requests"), Some("3"));
        assert_eq!(refused.header("x-ratelimit-remaining-requests"), Some("0"));
        assert_eq!(
            refused.header("x-ratelimit-remaining-tokens"),
            Some(left.as_str())
        );
        let reset = refused.header("x-ratelimit-reset-requests").unwrap();
        assert!(reset.ends_with('s'), "{reset}");
    }
    let tei = hosted.post("/embed", &key, &[], r#"{"inputs": "a"}"#);
    assert_eq!(tei.json()["error_type"], "Overloaded");
}

#[test]
fn a_budget_and_a_bound_key_reach_no_further() {
    let hosted = Hosted::start(config());
    let account = hosted.account("1");
    let options = KeyOptions {
        limits: KeyLimits {
            monthly_budget: Some(usd("0.00000001")),
            ..KeyLimits::default()
        },
        ..embedding()
    };
    let answer = hosted.post(
        "/v1/embeddings",
        &hosted.key_of(&account, &options),
        &[],
        BODY,
    );
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (402, "budget_exceeded")
    );
    let bound = KeyOptions {
        tasks: Some(vec!["retrieval.query".to_owned()]),
        default_task: Some("retrieval.query".to_owned()),
        ..embedding()
    };
    let key = hosted.key_of(&account, &bound);
    let answer = hosted.post("/v1/embeddings", &key, &[], BODY);
    let expected = vector("a stork", "retrieval.query");
    assert_eq!(
        support::floats(&answer.json()["data"][0]["embedding"]),
        expected
    );
    let body = r#"{"input": ["a", {"text": "b", "task": "separation"}]}"#;
    let answer = hosted.post("/v1/embeddings", &key, &[], body);
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (403, "insufficient_permissions")
    );
    let elsewhere = KeyOptions {
        models: Some(vec!["other".to_owned()]),
        ..embedding()
    };
    let answer = hosted.post(
        "/v1/embeddings",
        &hosted.key_of(&account, &elsewhere),
        &[],
        BODY,
    );
    assert_eq!(answer.status, 403, "{}", answer.body);
    assert_eq!(hosted.post("/v1/embeddings", &key, &[], BODY).status, 200);
}

/// Every path and method of the description, with a body if it has one.
fn routes() -> Vec<(String, String, Value, bool)> {
    let description: Value = serde_json::from_str(OPENAPI).unwrap();
    let mut routes = Vec::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        let item = match item["$ref"].as_str() {
            Some(name) => description.pointer(&name[1..]).unwrap(),
            None => item,
        };
        for (method, operation) in item.as_object().unwrap() {
            let body = operation["requestBody"]["content"]["application/json"]["example"].clone();
            let is_open = operation["security"].is_array();
            routes.push((path.replace("{id}", "x"), method.clone(), body, is_open));
        }
    }
    assert!(routes.len() > 40);
    routes
}

/// By requests alone the light account's text would be the last of all, for it came last.
#[test]
fn an_account_at_full_blast_does_not_hold_up_another() {
    const FLOOD: usize = 40;
    let hosted = Hosted::start(config());
    let (flood, light) = (hosted.key("1"), hosted.key("1"));
    let body = json!({ "input": "stork ".repeat(900) }).to_string();
    let answered = AtomicUsize::new(0);
    let before = std::thread::scope(|scope| {
        for number in 0..FLOOD {
            let (hosted, flood, body, answered) = (&hosted, &flood, &body, &answered);
            scope.spawn(move || {
                // None is a free retry of another.
                let number = number.to_string();
                let headers = [("idempotency-key", number.as_str())];
                assert_eq!(
                    hosted.post("/v1/embeddings", flood, &headers, body).status,
                    200
                );
                answered.fetch_add(1, Ordering::Relaxed);
            });
        }
        // Until most of the flood waits.
        let queued = || -> usize {
            let metrics = hosted.server.get("/metrics").body;
            let mut lines = metrics.lines();
            let line = lines.find_map(|line| line.strip_prefix("quintet_queued_tokens "));
            line.unwrap().parse().unwrap()
        };
        while queued() < 20_000 {
            std::thread::yield_now();
        }
        let before = answered.load(Ordering::Relaxed);
        assert_eq!(
            hosted.post("/v1/embeddings", &light, &[], &body).status,
            200
        );
        answered.load(Ordering::Relaxed) - before
    });
    assert!(
        before <= FLOOD / 4,
        "{before} of {FLOOD} were answered before it"
    );
}

#[test]
fn every_route_asks_for_its_scope() {
    let hosted = Hosted::start(config());
    let account = hosted.account("1");
    let key = |scopes: &[Scope]| {
        let scopes = scopes.to_vec();
        hosted.key_of(
            &account,
            &KeyOptions {
                scopes,
                ..embedding()
            },
        )
    };
    let (none, embed, admin) = (key(&[]), key(&[Scope::Embed]), key(&[Scope::Admin]));
    for (path, method, body, is_open) in routes() {
        let status = |key: &Made| match method.as_str() {
            "get" => hosted.get(&path, key).status,
            "delete" => hosted.server.delete_with(&path, Some(&key.text)).status,
            _ => hosted.post(&path, key, &[], &body.to_string()).status,
        };
        let is_get = method == "get";
        let without = match method.as_str() {
            "get" => hosted.server.get(&path).status,
            "delete" => hosted.server.delete_with(&path, None).status,
            _ => hosted.server.post(&path, body.to_string()).status,
        };
        if is_open || (path == "/" && is_get) {
            assert_ne!(without, 401, "{path}");
            continue;
        }
        assert_eq!(without, 401, "{path}");
        let found = [status(&none), status(&embed), status(&admin)].map(|status| status != 403);
        let expected = if path.starts_with("/v1/admin/") {
            [false, false, true]
        } else if path.ends_with("/account") {
            [true, true, true]
        } else {
            [false, true, false]
        };
        assert_eq!(found, expected, "{method} {path}");
    }
}

#[test]
fn wrong_keys_are_slow_and_then_too_many() {
    let hosted = Hosted::start(config());
    let key = hosted.key("1");
    let wrong = Made {
        text: format!("qt-{}-{}", key.id, "a".repeat(52)),
        ..hosted.key("1")
    };
    let started = std::time::Instant::now();
    let answer = hosted.get("/v1/models", &wrong);
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (401, "invalid_api_key")
    );
    assert!(started.elapsed().as_millis() >= 500);
    for text in ["", "x", "--", "qt--", "qt-' OR 1=1 --x", "qt-x-"] {
        let header = format!("Bearer {text}");
        let answer = hosted
            .server
            .get_with("/v1/models", &[("authorization", &header)]);
        assert_eq!(answer.status, 401, "{text}");
    }
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let ask = || hosted.get("/v1/models", &wrong).status;
        let threads: Vec<_> = (0..100).map(|_| scope.spawn(ask)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(
        statuses.contains(&429) && statuses.contains(&401),
        "{statuses:?}"
    );
    // Whoever has a right key is served meanwhile.
    assert_eq!(hosted.get("/v1/models", &key).status, 200);
}

#[test]
fn revoked_rotated_and_ended_keys_are_refused() {
    let hosted = Hosted::start(config());
    let key = hosted.key("1");
    assert_eq!(hosted.post("/v1/embeddings", &key, &[], BODY).status, 200);
    // From beside the server, which has just seen the key: what is billed is refused at once.
    hosted.change(|database, change| keys::revoke(database, change, &key.id));
    let answer = hosted.post("/v1/embeddings", &key, &[], r#"{"input": "other"}"#);
    assert_eq!(answer.status, 401, "{}", answer.body);
    let ended = KeyOptions {
        expires: Some(Time(1)),
        ..embedding()
    };
    let ended = hosted.key_of(&hosted.account("1"), &ended);
    assert_eq!(hosted.get("/v1/models", &ended).status, 401);
    let closed = hosted.key("1");
    hosted.change(|database, change| accounts::set_closed(database, change, &closed.account, true));
    let answer = hosted.post("/v1/embeddings", &closed, &[], BODY);
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (403, "account_closed")
    );
}

#[test]
fn the_holder_of_a_key_sees_the_account_also_by_its_address() {
    let hosted = Hosted::start(config());
    let key = hosted.key("5");
    let by_header = hosted.get("/account", &key);
    assert_eq!(by_header.status, 200, "{}", by_header.body);
    assert_eq!(by_header.json()["available_usd"], "5");
    assert_eq!(by_header.header("cache-control"), Some("no-store"));
    let by_address = hosted.server.get(&format!("/account?key={}", key.text));
    assert_eq!(by_address.json()["account"], by_header.json()["account"]);
    let (_, secret) = keys::parts(&key.text).unwrap();
    assert!(!by_header.body.contains(secret));
    let elsewhere = hosted.server.get(&format!("/v1/models?key={}", key.text));
    assert_eq!(elsewhere.status, 401);
    assert!(!hosted.server.get("/metrics").body.contains(secret));
}

#[test]
fn an_operator_does_everything_over_http_and_leaves_a_trail() {
    let hosted = Hosted::start(config());
    let options = KeyOptions {
        scopes: vec![Scope::Admin],
        ..embedding()
    };
    let admin = hosted.key_of(&hosted.account("0"), &options);
    let post = |path: &str, body: Value| {
        let answer = hosted.post(path, &admin, &[], &body.to_string());
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.json()
    };
    let name = "Robert'); DROP TABLE accounts;--";
    let account = post("/v1/admin/accounts", json!({"name": name}));
    assert_eq!(account["name"], name);
    let id = account["id"].as_str().unwrap();
    let account = post(
        &format!("/v1/admin/accounts/{id}/credit"),
        json!({"amount_usd": "2.5", "note": "invoice 1"}),
    );
    assert_eq!(account["balance_usd"], "2.5");
    let made = post(
        "/v1/admin/keys",
        json!({"account_id": id, "name": "laptop"}),
    );
    let key = Made {
        text: made["key"].as_str().unwrap().to_owned(),
        id: made["id"].as_str().unwrap().to_owned(),
        account: id.to_owned(),
    };
    assert_eq!(hosted.post("/v1/embeddings", &key, &[], BODY).status, 200);
    let rotated = post(&format!("/v1/admin/keys/{}/rotate", key.id), json!({}));
    assert_eq!(hosted.get("/v1/models", &key).status, 401);
    let key = Made {
        text: rotated["key"].as_str().unwrap().to_owned(),
        ..key
    };
    assert_eq!(hosted.get("/v1/models", &key).status, 200);
    let usage = hosted.get("/v1/admin/usage?by=account", &admin).json();
    assert_eq!(usage["data"][0]["group"], id);
    let entries = hosted
        .get(&format!("/v1/admin/ledger?account_id={id}"), &admin)
        .json();
    assert_eq!(entries["data"].as_array().unwrap().len(), 2);
    post(&format!("/v1/admin/keys/{}/revoke", key.id), json!({}));
    assert_eq!(hosted.get("/v1/models", &key).status, 401);
    let trail = hosted.get("/v1/admin/audit", &admin);
    assert_eq!(trail.json()["data"][0]["action"], "keys.revoke");
    assert_eq!(trail.json()["data"][0]["actor"], admin.id.as_str());
    let (_, secret) = keys::parts(&key.text).unwrap();
    assert!(!trail.body.contains(secret));
    let unknown = hosted.get("/v1/admin/accounts/nobody", &admin);
    assert_eq!(
        (unknown.status, unknown.error().as_str()),
        (404, "not_found")
    );
    let wrong = hosted.get("/v1/admin/ledger?after=x", &admin);
    assert_eq!(wrong.status, 400, "{}", wrong.body);
}

#[test]
fn strangers_sign_up_as_the_operator_says() {
    let sign_up = |sign_up| HostingConfig {
        sign_up,
        free_credit: usd("0.5"),
        ..config()
    };
    let body = r#"{"name": "Storks"}"#;
    let closed = Hosted::start(sign_up(SignUp::Off));
    assert_eq!(
        closed.server.post("/v1/sign-up", body).error(),
        "sign_up_refused"
    );
    let open = Hosted::start(sign_up(SignUp::Open));
    let answer = open.server.post("/v1/sign-up", body).json();
    assert_eq!(answer["account"]["balance_usd"], "0.5");
    let key = Made {
        text: answer["key"]["key"].as_str().unwrap().to_owned(),
        id: String::new(),
        account: answer["account"]["id"].as_str().unwrap().to_owned(),
    };
    assert_eq!(open.post("/v1/embeddings", &key, &[], BODY).status, 200);
    let invited = Hosted::start(sign_up(SignUp::Invite));
    assert_eq!(invited.server.post("/v1/sign-up", body).status, 403);
    let later = Time(Time::now().0 + 60_000);
    let code = invited.change(|database, change| accounts::invite(database, change, later));
    let body = json!({"name": "Storks", "invitation": code}).to_string();
    assert_eq!(invited.server.post("/v1/sign-up", &body).status, 200);
    assert_eq!(invited.server.post("/v1/sign-up", &body).status, 403);
}

#[test]
fn an_estimate_is_what_it_will_cost() {
    let hosted = Hosted::start(config());
    let key = hosted.key("1");
    for body in [BODY, r#"{"input": ["a", "b c"], "late_chunking": true}"#] {
        let estimate = hosted.post("/v1/estimate", &key, &[], body).json();
        let answer = hosted.post("/v1/embeddings", &key, &[], body);
        assert_eq!(estimate["tokens"], answer.json()["usage"]["total_tokens"]);
        assert_eq!(
            estimate["cost_usd"]["realtime"],
            answer.header("x-cost-usd").unwrap()
        );
    }
}

#[test]
fn while_the_state_fails_known_keys_reach_what_costs_nothing() {
    let hosted = Hosted::start(config());
    let (known, unknown) = (hosted.key("1"), hosted.key("1"));
    assert_eq!(hosted.get("/v1/models", &known).status, 200);
    let run = |sql| hosted.location.open().unwrap().script(sql).unwrap();
    run("ALTER TABLE keys RENAME TO keys_elsewhere");
    assert_eq!(hosted.get("/v1/models", &known).status, 200);
    let answer = hosted.post("/v1/embeddings", &known, &[], BODY);
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (503, "state_unavailable")
    );
    assert_eq!(answer.header("retry-after"), Some("5"));
    // A key that nobody can look up is not a wrong one.
    assert_eq!(hosted.get("/v1/models", &unknown).status, 503);
    run("ALTER TABLE keys_elsewhere RENAME TO keys");
    assert_eq!(hosted.post("/v1/embeddings", &known, &[], BODY).status, 200);
    assert_eq!(hosted.get("/v1/models", &unknown).status, 200);
}
