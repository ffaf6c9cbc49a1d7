//! `openapi.json` against the running server: every path, every example, and whatever a stranger may
//! send. No answer is other than the description says, and none is the server's fault.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]
#![allow(dead_code, reason = "each test program uses a part of the support")]

mod support;

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use proptest::sample::{Index, select};
use quintet_server::metering::Rates;
use quintet_server::routes::docs::OPENAPI;
use quintet_server::store::accounts::{self, Change};
use quintet_server::store::keys::{self, KeyOptions, Scope};
use quintet_server::store::{Durability, Location, StoreError, Time, transaction};
use quintet_server::{Auth, Config, Hosting, HostingConfig, JobLimits, Jobs, Model, SignUp};
use secrecy::ExposeSecret;
use serde_json::Value;
use support::{Answer, Running, load};
use tempfile::TempDir;

static OPENAPI_JSON: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(OPENAPI).unwrap());

static SERVER: LazyLock<Hosted> = LazyLock::new(Hosted::start);

/// A server with accounts: every route has something to answer.
struct Hosted {
    server: Running,
    location: Location,
    /// Of all scopes.
    key: String,
    account: String,
    folder: TempDir,
}

impl Hosted {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::File(folder.path().join("state.db"));
        let config = HostingConfig {
            limits: Rates {
                requests_per_minute: Some(1_000_000),
                tokens_per_minute: Some(100_000_000),
                concurrent_requests: None,
            },
            sign_up: SignUp::Open,
            ..HostingConfig::default()
        };
        let hosting = Arc::new(Hosting::open(&location, config).unwrap());
        let files = folder.path().join("files");
        let jobs = Jobs::open(Arc::clone(&hosting.store), &files, JobLimits::default()).unwrap();
        let change = Change {
            actor: "test",
            now: Time::now(),
        };
        let options = KeyOptions {
            name: "test".to_owned(),
            scopes: Scope::ALL.to_vec(),
            ..KeyOptions::default()
        };
        let mut database = location.open().unwrap();
        let key = transaction(&mut *database, Durability::Disk, |database| {
            let account = accounts::create(database, change, "test", true)?;
            let key = keys::create(database, change, &account.id, "qt-", &options)?;
            // Those that the description's examples are about.
            let example = accounts::create(database, change, "example", true)?;
            let sql = "UPDATE accounts SET id = 'acct-7hq2mnpvw3xk' WHERE id = $1";
            database.execute(sql, &[(&example.id).into()])?;
            let example = keys::create(database, change, "acct-7hq2mnpvw3xk", "qt-", &options)?;
            let sql = "UPDATE keys SET id = '4fj7nq8wz2ka' WHERE id = $1";
            database.execute(sql, &[(&example.key.id).into()])?;
            Ok::<_, StoreError>((key.text.expose_secret().to_owned(), account.id))
        });
        let (key, account) = key.unwrap();
        Self {
            server: start(Config {
                auth: Auth::Accounts(hosting),
                jobs: Some(Arc::new(jobs)),
                ..Config::default()
            }),
            location,
            key,
            account,
            folder,
        }
    }

    /// An example before may have revoked the key, deleted the file or cancelled the batch. No server
    /// works on this batch, for another one says that it does.
    fn restore(&self) {
        const LINE: &str =
            r#"{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{"input":"a"}}"#;
        std::fs::write(self.folder.path().join("files").join(FILE), LINE).unwrap();
        let mut database = self.location.open().unwrap();
        transaction(&mut *database, Durability::Disk, |database| {
            for sql in [
                "UPDATE keys SET revoked_ms = NULL WHERE id = '4fj7nq8wz2ka'",
                "DELETE FROM batches",
                "DELETE FROM files",
            ] {
                database.execute(sql, &[])?;
            }
            let sql = format!(
                "INSERT INTO files (id, owner, purpose, filename, bytes, created_ms) \
                 VALUES ('{FILE}', $1, 'batch', 'lines.jsonl', {}, 0)",
                LINE.len()
            );
            database.execute(&sql, &[(&self.account).into()])?;
            let sql = format!(
                "INSERT INTO batches (id, owner, input_file_id, status, created_ms, expires_ms, output_file_id, \
                 error_file_id, runner, runner_until_ms) VALUES ('{BATCH}', $1, 'file-x', 'in_progress', 0, \
                 9000000000000, 'file-y', 'file-z', 1, 9000000000000)"
            );
            database.execute(&sql, &[(&self.account).into()])?;
            Ok::<_, StoreError>(())
        })
        .unwrap();
    }

    fn call(&self, operation: &Operation, body: &[u8]) -> Answer {
        operation.call(&self.server, Some(&self.key), body)
    }
}

/// What the description's examples are about.
const FILE: &str = "file-7hq2mnpvw3xk4fj7nq8wz2ka";
const BATCH: &str = "batch_7hq2mnpvw3xk4fj7nq8wz2ka";

fn start(mut config: Config) -> Running {
    config.serves = Some("mini".to_owned());
    let names = ["mini", "jina-embeddings-v3"].map(str::to_owned).to_vec();
    Running::start_with(config, || Model::new(load(), names))
}

/// A path with one of its methods, and the operation that describes them.
struct Operation {
    path: &'static str,
    method: &'static str,
    value: &'static Value,
}

static OPERATIONS: LazyLock<Vec<Operation>> = LazyLock::new(|| {
    let paths = OPENAPI_JSON["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, item)| {
        let item = resolved(item).as_object().unwrap();
        item.iter().map(move |(method, value)| Operation {
            path,
            method,
            value,
        })
    });
    operations.collect()
});

impl Operation {
    fn example(&self) -> &'static Value {
        &self.value["requestBody"]["content"]["application/json"]["example"]
    }

    fn is_form(&self) -> bool {
        self.value["requestBody"]["content"]["multipart/form-data"].is_object()
    }

    fn schema(&self) -> &'static Value {
        resolved(&self.value["requestBody"]["content"]["application/json"]["schema"])
    }

    /// What its example is answered with: a route that has no good answer here has one that says so.
    fn usual_status(&self) -> u16 {
        let is_served = self.value["responses"]["200"].is_object();
        if is_served { 200 } else { 424 }
    }

    /// Whether an answer says that the server failed.
    fn is_our_fault(&self, status: u16) -> bool {
        status >= 424 && status != 429 && status != self.usual_status()
    }

    fn call(&self, server: &Running, key: Option<&str>, body: &[u8]) -> Answer {
        let parameters = self.value["parameters"].as_array().into_iter().flatten();
        let mut id = parameters.filter_map(|parameter| parameter["example"].as_str());
        let path = self
            .path
            .replace("{id}", id.next_back().unwrap_or("mini:raw"));
        let header = key.map(|key| format!("Bearer {key}"));
        let headers: Vec<_> = header
            .iter()
            .map(|value| ("authorization", value.as_str()))
            .collect();
        match self.method {
            "get" => server.get_with(&path, &headers),
            "delete" => server.delete_with(&path, key),
            _ if self.is_form() && body == b"null" => server.upload(key, "batch", "a line"),
            _ => server.post_with(&path, &headers, body),
        }
    }

    /// Whether the description knows this answer.
    fn check(&self, answer: &Answer) -> Result<(), String> {
        let name = format!("{} {}: {}", self.method, self.path, answer.status);
        let response = resolved(&self.value["responses"][answer.status.to_string()]);
        let content = response["content"].as_object();
        let content = content.ok_or_else(|| format!("{name} is not described: {}", answer.body))?;
        let (content_type, described) = content.iter().next().unwrap();
        let found = answer.header("content-type").unwrap_or_default();
        if !found.starts_with(content_type.as_str()) {
            return Err(format!("{name} has type {found}, expected {content_type}"));
        }
        if content_type != "application/json" {
            return Ok(());
        }
        conforms(&described["schema"], &answer.json()).map_err(|words| format!("{name}{words}"))
    }
}

fn resolved(value: &'static Value) -> &'static Value {
    match value["$ref"].as_str() {
        Some(name) => OPENAPI_JSON.pointer(&name[1..]).unwrap(),
        None => value,
    }
}

/// What the description uses of JSON Schema; fields that it does not name are mistakes.
fn conforms(schema: &'static Value, value: &Value) -> Result<(), String> {
    let schema = resolved(schema);
    for word in ["oneOf", "anyOf"] {
        if let Some(ways) = schema[word].as_array() {
            let fits = ways.iter().any(|way| conforms(way, value).is_ok());
            return fits
                .then_some(())
                .ok_or_else(|| format!(" fits no {word}: {value}"));
        }
    }
    let is_type = |name: &str| match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        _ => value.is_object(),
    };
    let fits = match &schema["type"] {
        Value::String(name) => is_type(name),
        Value::Array(names) => names.iter().any(|name| is_type(name.as_str().unwrap())),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => true,
    };
    if !fits {
        return Err(format!(" is no {}: {value}", schema["type"]));
    }
    if schema["enum"].is_array() && !schema["enum"].as_array().unwrap().contains(value) {
        return Err(format!(" is none of {}: {value}", schema["enum"]));
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        if value.is_object() && value.get(name.as_str().unwrap()).is_none() {
            return Err(format!(" lacks {name}: {value}"));
        }
    }
    if let (Some(properties), Some(fields)) = (schema["properties"].as_object(), value.as_object())
    {
        for (name, field) in fields {
            let property = properties.get(name);
            let property = property.ok_or_else(|| format!(".{name} is not described"))?;
            conforms(property, field).map_err(|words| format!(".{name}{words}"))?;
        }
    }
    if let (Some(items), Some(elements)) = (schema.get("items"), value.as_array()) {
        for element in elements {
            conforms(items, element).map_err(|words| format!("[]{words}"))?;
        }
    }
    Ok(())
}

#[test]
fn the_description_has_the_routers_paths() {
    let source = include_str!("../src/app.rs");
    let routed: BTreeSet<String> = source
        .split(".route(")
        .skip(1)
        .map(|rest| rest.split('"').nth(1).unwrap().replace("{*id}", "{id}"))
        .collect();
    let described: BTreeSet<String> = OPENAPI_JSON["paths"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    assert_eq!(routed, described);
}

#[test]
fn every_example_is_answered_as_described() {
    for operation in OPERATIONS.iter() {
        SERVER.restore();
        let answer = SERVER.call(operation, operation.example().to_string().as_bytes());
        assert_eq!(
            answer.status,
            operation.usual_status(),
            "{}: {}",
            operation.path,
            answer.body
        );
        assert_eq!(operation.check(&answer), Ok(()));
        let example = &operation.value["responses"]["200"]["content"]["application/json"];
        if let (Some(schema), Some(example)) = (example.get("schema"), example.get("example")) {
            assert_eq!(conforms(schema, example), Ok(()), "{}", operation.path);
        }
    }
}

#[test]
fn every_route_that_the_description_guards_is_guarded() {
    let server = start(Config {
        auth: Auth::key(&"sesame".into()),
        ..Config::default()
    });
    for operation in OPERATIONS.iter() {
        let is_open = operation.value["security"].is_array();
        let answer = operation.call(&server, None, b"{}");
        let expected = match operation.path {
            // There are no accounts.
            "/v1/sign-up" => 404,
            _ if is_open => 200,
            _ => 401,
        };
        assert_eq!(answer.status, expected, "{}", operation.path);
        assert_eq!(operation.check(&answer), Ok(()));
    }
}

#[test]
fn the_page_is_whole_and_needs_nothing_from_elsewhere() {
    let answer = SERVER.server.get("/docs");
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-security-policy").is_some());
    assert!(answer.body.ends_with("</html>"));
    assert!(!answer.body.contains("https://"));
}

/// JSON as strangers write it, or nearly.
fn any_json() -> impl Strategy<Value = String> {
    let leaf = select(vec![
        "null",
        "true",
        "0",
        "-1",
        "1.5",
        "1e999",
        "-1e400",
        "18446744073709551616",
        "123456789012345678901234567890",
        "\"\"",
        "\"a\"",
        "\"NONE\"",
        "\"raw\"",
        "\"model\"",
        "\"\\u0000\\ufffe\"",
        "\"\\ud800\"",
        "\"\\ud83d\\ude42\"",
        "\"\\x\"",
        "NaN",
        "{}",
        "[]",
        "",
    ]);
    let leaf = prop_oneof![
        8 => leaf.prop_map(str::to_owned),
        2 => any::<i64>().prop_map(|number| number.to_string()),
        2 => any::<String>().prop_map(|text| Value::String(text).to_string()),
        1 => (1usize..5000).prop_map(|depth| "[".repeat(depth) + &"]".repeat(depth)),
        1 => (1usize..5000).prop_map(|depth| "{\"text\":".repeat(depth) + "1" + &"}".repeat(depth)),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let name = select(vec![
            "text",
            "task",
            "content",
            "source_sentence",
            "sentences",
            "x",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4)
                .prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec((name, inner), 0..3).prop_map(|fields| object(&fields)),
        ]
    })
}

fn object(fields: &[(impl AsRef<str>, impl AsRef<str>)]) -> String {
    let fields: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("\"{}\":{}", name.as_ref(), value.as_ref()))
        .collect();
    format!("{{{}}}", fields.join(","))
}

/// A route's example with some fields replaced, added or doubled, and perhaps a byte wrong.
fn any_body() -> impl Strategy<Value = (usize, Vec<u8>)> {
    let posts = OPERATIONS.iter().enumerate();
    let posts = posts.filter(|(_, operation)| operation.example().is_object());
    let posts: Vec<usize> = posts.map(|(index, _)| index).collect();
    let changes = prop::collection::vec((any::<Index>(), any::<bool>(), any_json()), 0..4);
    let damage = prop::option::weighted(0.3, (any::<Index>(), any::<u8>(), any::<bool>()));
    (select(posts), changes, damage).prop_map(|(index, changes, damage)| {
        let operation = &OPERATIONS[index];
        let example = operation.example().as_object().unwrap();
        let mut fields: Vec<(String, String)> = example
            .iter()
            .map(|(name, value)| (name.clone(), value.to_string()))
            .collect();
        let names: Vec<&String> = operation.schema()["properties"]
            .as_object()
            .unwrap()
            .keys()
            .collect();
        for (name, is_doubled, value) in changes {
            let name = names[name.index(names.len())];
            if !is_doubled {
                fields.retain(|(known, _)| known != name);
            }
            fields.push((name.clone(), value));
        }
        let mut body = object(&fields).into_bytes();
        if let Some((place, byte, cuts)) = damage {
            let place = place.index(body.len());
            body[place] = byte;
            if cuts {
                body.truncate(place);
            }
        }
        (index, body)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_body_is_the_servers_fault((index, body) in any_body()) {
        let operation = &OPERATIONS[index];
        let answer = SERVER.call(operation, &body);
        let is_ours = operation.is_our_fault(answer.status);
        prop_assert!(!is_ours, "{}: {}", operation.path, answer.body);
        prop_assert_eq!(operation.check(&answer), Ok(()));
    }

    #[test]
    fn no_bytes_are_the_servers_fault(body in prop::collection::vec(any::<u8>(), 0..200), pick in any::<Index>()) {
        let operation = &OPERATIONS[pick.index(OPERATIONS.len())];
        // Other tests ask for what it would delete.
        prop_assume!(operation.method != "delete");
        let answer = SERVER.call(operation, &body);
        let is_ours = operation.is_our_fault(answer.status);
        prop_assert!(!is_ours, "{}: {}", operation.path, answer.body);
        prop_assert_eq!(operation.check(&answer), Ok(()));
    }
}
