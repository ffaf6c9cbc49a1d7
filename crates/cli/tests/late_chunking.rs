//! `quintet embed --late-chunking`: chunks of one document, or a document per line.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::fs;
use std::path::Path;

use insta::assert_snapshot;
use serde_json::{Value, json};

#[path = "support/cli.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod cli;

use cli::{MODEL, Run, floats, json_lines, run_with_stdin, testdata};

fn late(model: &str, args: &[&str], stdin: &str) -> Run {
    let fixed = ["embed", "-m", model, "--late-chunking", "-d", "16"];
    run_with_stdin(&[&fixed, args].concat(), stdin.as_bytes())
}

/// The small checkpoint with a context of 64 tokens.
fn short_context(folder: &Path) -> String {
    for entry in fs::read_dir(testdata().join(MODEL)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
        }
    }
    let config = folder.join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    let mut value: Value = serde_json::from_str(&text).unwrap();
    value["max_position_embeddings"] = json!(64);
    fs::write(&config, value.to_string()).unwrap();
    folder.to_str().unwrap().to_owned()
}

#[test]
fn lines_are_chunks_of_one_document() {
    let task = ["--task", "retrieval.passage"];
    let rows = late(MODEL, &task, "Storks fly south.\nThey return in spring.\n").json_lines();
    assert_eq!(rows.len(), 2);
    let keys: Vec<&String> = rows[0].as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "document_tokens",
            "embedding",
            "index",
            "truncated",
            "windows"
        ]
    );
    assert_eq!(rows[0]["document_tokens"], rows[1]["document_tokens"]);
    let line = json!({"chunks": ["Storks fly south.", "They return in spring."]}).to_string();
    let document = &late(MODEL, &task, &line).json_lines()[0];
    assert_eq!(document["tokens"], rows[0]["document_tokens"]);
    for (row, chunk) in rows.iter().zip(document["chunks"].as_array().unwrap()) {
        assert_eq!(row["embedding"], chunk["embedding"]);
    }
}

#[test]
fn spans_in_characters_name_the_same_chunks() {
    let chunks = json!({"chunks": ["日本 one", "two three"]}).to_string();
    let text = "日本 one two three";
    let spans = json!({"text": text, "characters": [[0, 6], [7, 16]]}).to_string();
    let rows = late(MODEL, &[], &format!("{chunks}\n{spans}\n")).json_lines();
    assert_eq!(
        (&rows[0]["index"], &rows[1]["index"]),
        (&json!(0), &json!(1))
    );
    assert_eq!(rows[0]["chunks"], rows[1]["chunks"]);
    let whole = json!({"text": text, "tokens": [[0, 1]], "task": "separation"}).to_string();
    assert_eq!(
        late(MODEL, &[], &whole).json_lines()[0]["chunks"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn the_document_is_what_plain_embedding_gives() {
    let task = ["--task", "retrieval.query"];
    let line = json!({"chunks": ["one", "two"]}).to_string();
    let late = late(MODEL, &task, &line).json_lines();
    let plain = [
        "embed",
        "-m",
        MODEL,
        "-t",
        "retrieval.query",
        "-d",
        "16",
        "one two",
    ];
    let plain = run_with_stdin(&plain, b"").json_lines();
    assert_eq!(late[0]["embedding"], plain[0]["embedding"]);
    assert_eq!(late[0]["tokens"], plain[0]["tokens"]);
}

#[test]
fn a_long_document_is_read_in_windows_or_cut_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let model = short_context(folder.path());
    let stdin = "many words of one chunk and more words\n".repeat(8);
    let windows = late(&model, &["--window-overlap", "16"], &stdin).json_lines();
    assert!(windows[0]["windows"].as_u64().unwrap() > 1);
    assert_eq!(windows[7]["truncated"], false);
    let cut = late(&model, &["--truncate", "end"], &stdin).json_lines();
    assert_eq!(
        (&cut[0]["windows"], &cut[0]["truncated"]),
        (&json!(1), &json!(true))
    );
    assert_eq!(cut[0]["document_tokens"], 64);
    assert_eq!(floats(&cut[0]["embedding"]).len(), 16);
    assert_eq!(cut[7]["embedding"], Value::Null);
    let refused = late(&model, &["--truncate", "error"], &stdin);
    assert_snapshot!(refused.shown(), @r#"
    exit 1
    --- stderr
    error: the document has 210 tokens, expected at most 64
    hint: leave `--truncate error` out to read it in windows
    "#);
    let overlap = late(&model, &["--window-overlap", "64"], &stdin);
    assert_snapshot!(overlap.shown(), @r#"
    exit 1
    --- stderr
    error: windows overlap by 64 tokens, expected fewer than the context of 64
    "#);
    let output = folder.path().join("out.npy");
    let matrix = [
        "--truncate",
        "end",
        "--format",
        "npy",
        "-o",
        output.to_str().unwrap(),
    ];
    assert_snapshot!(late(&model, &matrix, &stdin).shown(), @r#"
    exit 1
    --- stderr
    error: chunk 3 lies behind the cut and has no vector, a matrix needs one
    hint: leave `--truncate end` out, so that the whole document is read in windows
    "#);
    assert!(!output.exists());
}

#[test]
fn pooling_decides_about_the_special_rows() {
    let embed =
        |pooling| late(MODEL, &["--chunk-pooling", pooling], "one\ntwo\nthree\n").json_lines();
    let (with, without) = (embed("with-specials"), embed("text-only"));
    assert_ne!(with[0]["embedding"], without[0]["embedding"]);
    assert_eq!(with[1]["embedding"], without[1]["embedding"]);
    assert_ne!(with[2]["embedding"], without[2]["embedding"]);
}

#[test]
fn wrong_documents_are_named_by_line() {
    let refused = |stdin: &str| {
        let run = late(MODEL, &[], stdin);
        let rows = json_lines(&run.stdout).len();
        format!("exit {}, {rows} rows\n{}", run.code.unwrap(), run.stderr)
    };
    let good = r#"{"chunks": ["a"]}"#;
    assert_snapshot!(refused("one\n\ntwo\n"), @r#"
    exit 1, 0 rows
    error: line 2 of stdin is empty, a chunk needs text
    hint: leave empty lines out, for example with `grep .`
    "#);
    assert_snapshot!(refused(&format!("one\n{good}\n")), @r#"
    exit 1, 0 rows
    error: line 2 of stdin is a JSON object, the lines before are chunks in plain text
    hint: in late chunking all lines are chunks of one document, or each is a document
    "#);
    assert_snapshot!(refused(&format!("{good}\nplain\n")), @r#"
    exit 1, 1 rows
    error: line 2 of stdin is plain text, the lines before are JSON documents
    hint: in late chunking all lines are chunks of one document, or each is a document
    "#);
    assert_snapshot!(refused(&format!("{good}\n{{\"text\": \"a\"}}\n")), @r#"
    exit 1, 1 rows
    error: line 2 of stdin has a `text` without chunks, expected `{"chunks": ["…", …]}`, `{"text": "…", "characters": [[0, 9], …]}` or `{"text": "…", "tokens": [[0, 3], …]}`
    "#);
    assert_snapshot!(refused(&format!("{good}\n{{\"text\": \"a\", \"characters\": [[0, 9]]}}\n")), @r#"
    exit 1, 1 rows
    error: line 2 of stdin: chunk 0 spans 0..9, expected a range within 0..1 characters
    "#);
    assert_snapshot!(refused(&format!("{good}\n{{\"chunks\": []}}\n")), @r#"
    exit 1, 1 rows
    error: line 2 of stdin: the document has no chunks, expected at least one
    "#);
    assert_snapshot!(refused(&format!("{good}\n{{\"chunks\": [\"a\"], \"task\": \"x\"}}\n")), @r#"
    exit 1, 1 rows
    error: line 2 of stdin names an unknown task
      because: the model has no task `x`, expected `retrieval.query`, `retrieval.passage`, `separation`, `classification`, `text-matching`, `raw`
    "#);
    assert_eq!(late(MODEL, &[], "").quiet(), "");
}
