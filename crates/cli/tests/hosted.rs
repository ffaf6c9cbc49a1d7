//! Accounts, keys, credit, usage and the ledger from the command line, beside a running server.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use insta::assert_snapshot;
use serde_json::Value;

#[path = "support/cli.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod cli;

use cli::{MODEL, Run, quintet, run};

fn in_state(state: &Path, arguments: &[&str]) -> Run {
    let mut arguments = arguments.to_vec();
    arguments.extend(["--state", state.to_str().unwrap()]);
    run(&arguments)
}

fn json(run: Run) -> Value {
    serde_json::from_str(&run.quiet()).unwrap()
}

#[test]
fn an_operator_opens_an_account_and_its_key_calls_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state.db");
    let account = json(in_state(
        &state,
        &["accounts", "create", "Storks", "--json"],
    ));
    let account = account["id"].as_str().unwrap();
    let made = in_state(&state, &["keys", "create", "--account", account, "laptop"]);
    assert!(
        made.stderr.starts_with("note: this is key `"),
        "{}",
        made.stderr
    );
    let key = made.stdout.trim();
    assert!(key.starts_with("qt-"), "{key}");
    let granted = in_state(
        &state,
        &["credit", "grant", account, "5", "--note", "start", "--json"],
    );
    assert_eq!(json(granted)["balance_usd"], "5");

    let mut server = quintet();
    server
        .args([
            "serve",
            "--model",
            MODEL,
            "--listen",
            "127.0.0.1:0",
            "--log-format",
            "json",
        ])
        .args(["--log-level", "debug", "--price", "0.02", "--state"])
        .arg(&state)
        .stderr(Stdio::piped());
    let mut server = server.spawn().unwrap();
    let mut log = BufReader::new(server.stderr.take().unwrap());
    let mut text = String::new();
    let address = loop {
        let start = text.len();
        log.read_line(&mut text).unwrap();
        let line: Value = serde_json::from_str(&text[start..]).unwrap();
        if line["message"] == "listening" {
            break line["address"].as_str().unwrap().to_owned();
        }
    };
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .build()
        .into();
    let call = |key: &str, body: &str| {
        agent
            .post(format!("http://{address}/v1/embeddings"))
            .header("authorization", format!("Bearer {key}"))
            .header("prefer", "wait=100")
            .send(body)
            .unwrap()
    };
    let answer = call(key, r#"{"input": "a secret stork"}"#);
    assert_eq!(answer.status(), 200);
    let cost = answer.headers()["x-cost-usd"].to_str().unwrap().to_owned();
    assert_eq!(call("qt-x-y", r#"{"input": "x"}"#).status(), 401);
    let by_address = agent
        .get(format!("http://{address}/account?key={key}"))
        .call()
        .unwrap();
    assert_eq!(by_address.status(), 200);
    // While the server runs, the command line works on the same file.
    let usage = json(in_state(&state, &["usage", "--by", "account", "--json"]));
    assert_eq!(usage[0]["cost_usd"], cost.as_str());
    let id = json(in_state(&state, &["keys", "list", "--json"]))[0]["id"].clone();
    in_state(&state, &["keys", "revoke", id.as_str().unwrap()]).quiet();
    assert_eq!(call(key, r#"{"input": "another"}"#).status(), 401);
    let pid = server.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    log.read_to_string(&mut text).unwrap();
    assert!(server.wait().unwrap().success(), "{text}");
    let secret = key.rsplit('-').next().unwrap();
    assert!(
        !text.contains(secret) && !text.contains("a secret stork"),
        "{text}"
    );

    let verified = json(in_state(&state, &["ledger", "verify", "--json"]));
    assert_eq!(verified["entries"], 2);
    let contains = format!("2:{}", verified["head"].as_str().unwrap());
    in_state(&state, &["ledger", "verify", "--contains", &contains]).quiet();
    let export = in_state(&state, &["ledger", "export"]).quiet();
    let lines: Vec<&str> = export.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0].starts_with("seq,at,account_id,key_id,kind,amount_usd"));
    assert!(
        lines[2].contains(&format!("usage,-{cost},")),
        "{}",
        lines[2]
    );
    let lines = in_state(&state, &["ledger", "export", "--format", "jsonl"]).json_lines();
    assert_eq!(lines[1]["amount_usd"], format!("-{cost}"));
}

#[test]
fn mistakes_come_with_a_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state.db");
    assert_snapshot!(run(&["keys", "list"]).shown(), @r#"
    exit 1
    --- stderr
    error: no state is named
    hint: give --state FILE or set QUINTET_STATE, as for `quintet serve`
    "#);
    let unknown = in_state(&state, &["keys", "create", "--account", "acct-x", "laptop"]);
    assert_snapshot!(unknown.shown(), @r#"
    exit 1
    --- stderr
    error: there is no account `acct-x`
    hint: `quintet accounts list` names them
    "#);
    assert_snapshot!(in_state(&state, &["credit", "grant", "acct-x", "much"]).shown(), @r#"
    exit 1
    --- stderr
    error: invalid value 'much' for '<USD>': `much` is no amount, expected dollars such as `5` or `0.25`, at most 9000000

    For more information, try '--help'.
    "#);
    let nowhere = in_state(Path::new("no/such/state.db"), &["accounts", "list"]);
    assert_snapshot!(nowhere.shown(), @r#"
    exit 1
    --- stderr
    error: the state cannot be used
      because: cannot open the state in `no/such/state.db`
      because: No such file or directory (os error 2)
    hint: create the folder, and let this user write in it
    "#);
    assert_snapshot!(in_state(&state, &["serve", "--model", MODEL, "--no-auth"]).shown(), @r#"
    exit 1
    --- stderr
    error: one key, or none, and accounts exclude each other
    hint: leave --api-key, --api-key-file and --no-auth out; `quintet keys create` makes keys
    "#);
}
