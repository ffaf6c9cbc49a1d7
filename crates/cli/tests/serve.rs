//! `quintet serve` as an operator meets it: started, asked, stopped; and `quintet config show`.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use insta::assert_snapshot;
use serde_json::Value;

#[path = "support/cli.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod cli;

use cli::{MODEL, finish, floats, quintet, run};

/// A server process and the address that its log names.
struct Served {
    child: Child,
    address: String,
    log: BufReader<std::process::ChildStderr>,
}

fn serve(arguments: &[&str], variables: &[(&str, &str)]) -> Served {
    let mut command = quintet();
    command
        .args([
            "serve",
            "--model",
            MODEL,
            "--listen",
            "127.0.0.1:0",
            "--log-format",
            "json",
        ])
        .args(arguments)
        .envs(variables.iter().copied())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    let listening: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(listening["message"], "listening", "{line}");
    let address = listening["address"].as_str().unwrap().to_owned();
    Served {
        child,
        address,
        log,
    }
}

fn post(address: &str, key: &str, body: &str) -> (u16, Value) {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .build()
        .into();
    let mut response = agent
        .post(format!("http://{address}/v1/embeddings"))
        .header("authorization", format!("Bearer {key}"))
        .header("prefer", "wait=100")
        .send(body)
        .unwrap();
    let text = response.body_mut().read_to_string().unwrap();
    (
        response.status().as_u16(),
        serde_json::from_str(&text).unwrap(),
    )
}

#[test]
fn the_served_vector_is_that_of_embed_and_the_log_has_no_text() {
    let mut served = serve(&[], &[("QUINTET_API_KEY", "sesame")]);
    let body = r#"{"input": "Where do storks go?", "task": "retrieval.query"}"#;
    let (status, answer) = post(&served.address, "sesame", body);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["model"], "original");
    let embed = run(&[
        "embed",
        "--model",
        MODEL,
        "--task",
        "retrieval.query",
        "Where do storks go?",
    ]);
    let expected: Value = serde_json::from_str(&embed.stdout).unwrap();
    assert_eq!(
        floats(&answer["data"][0]["embedding"]),
        floats(&expected["embedding"])
    );
    assert_eq!(post(&served.address, "other", body).0, 401);
    let pid = served.child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    let mut log = String::new();
    served.log.read_to_string(&mut log).unwrap();
    assert!(served.child.wait().unwrap().success(), "{log}");
    assert!(
        log.contains(r#""route":"/v1/embeddings""#) && log.contains("stopping"),
        "{log}"
    );
    assert!(!log.contains("storks") && !log.contains("sesame"), "{log}");
}

#[test]
fn a_model_that_cannot_be_loaded_ends_the_server() {
    let mut command = quintet();
    command.args(["serve", "--listen", "127.0.0.1:0", "--log-level", "error"]);
    command.args(["--model", MODEL, "--goldens", "no-such-file"]);
    let ended = finish(command, b"");
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("no-such-file"), "{}", ended.stderr);
}

#[test]
fn an_open_address_needs_a_key() {
    assert_snapshot!(run(&["serve", "--model", MODEL, "--listen", "0.0.0.0:0"]).shown(), @r#"
    exit 1
    --- stderr
    error: `0.0.0.0:0` can be reached from other machines and no key is set
    hint: set QUINTET_API_KEY or --api-key-file, keep accounts with --state, or let anyone call with --no-auth
    "#);
}

#[test]
fn a_price_that_the_licence_forbids_needs_the_operators_word() {
    let folder = tempfile::tempdir().unwrap();
    let priced = "id = 'jinaai/jina-embeddings-v3'\naliases = ['original']\n[price]\n\
                  realtime_micro_usd_per_million = 20_000\nbatch_micro_usd_per_million = 10_000";
    std::fs::write(folder.path().join("price.toml"), priced).unwrap();
    let folder = folder.path().to_str().unwrap();
    let listen = ["serve", "--model", MODEL, "--listen", "127.0.0.1:0"];
    let arguments = [
        &listen[..],
        &["--catalogue", folder, "--log-level", "error"],
    ]
    .concat();
    assert_snapshot!(run(&arguments).shown(), @r#"
    exit 1
    --- stderr
    error: the model may not be charged for
      because: `jinaai/jina-embeddings-v3` has a price, and its licence `CC-BY-NC-4.0` does not allow commercial use of the weights
    hint: take the price out of the catalogue, or, if the owner of the weights allows you to charge for them, write acknowledge_license = "CC-BY-NC-4.0"
    "#);
}

#[test]
fn config_show_says_what_applies_and_keeps_the_key() {
    let mut command = quintet();
    command
        .args(["config", "show", "--listen", "127.0.0.1:1"])
        .env("QUINTET_TOKEN_BUDGET", "512")
        .env("QUINTET_API_KEY", "sesame");
    assert_snapshot!(finish(command, b"").shown(), @r#"
    exit 0
    --- stdout
    api_key       "(set, not shown)"  QUINTET_API_KEY
    listen        "127.0.0.1:1"       flag
    token_budget  512                 QUINTET_TOKEN_BUDGET
    "#);
}
