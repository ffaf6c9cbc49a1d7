//! `similarity`, `tokenize`, `models`, `info`: looking at texts and models.

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

use cli::{MODEL, Run, finish, quintet, run, run_with_stdin, testdata};

#[test]
fn two_texts_give_one_number() {
    let same = run(&["similarity", "-m", MODEL, "a stork", "a  stork"]).shown();
    assert_snapshot!(same, @r#"
    exit 0
    --- stdout
    1.0000  cosine similarity, 1 is the same direction (task text-matching)
    "#);
    let base = run(&[
        "similarity",
        "-m",
        MODEL,
        "-t",
        "raw",
        "a stork",
        "a  stork",
    ])
    .quiet();
    assert!(base.ends_with("(task raw)\n"), "{base}");
}

#[test]
fn more_texts_give_a_matrix() {
    let long = "a text that is much too long for a label of a row in such a small table, really";
    let texts = ["a stork", "ein Storch", "コウノトリ", long];
    let args = [&["similarity", "-m", MODEL], &texts[..]].concat();
    assert_snapshot!(run(&args).shown(), @r#"
    exit 0
    --- stdout
                                             1      2      3      4
    1 a stork                            1.000  0.926  0.895  0.956
    2 ein Storch                         0.926  1.000  0.984  0.991
    3 コウノトリ                         0.895  0.984  1.000  0.972
    4 a text that is much too long for…  0.956  0.991  0.972  1.000
    "#);
    let json = run(&[&args[..], &["--json"]].concat()).quiet();
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["task"], "text-matching");
    assert_eq!(report["tokens"].as_array().unwrap().len(), 4);
    assert_eq!(report["similarity"][1][3], report["similarity"][3][1]);
    assert!((report["similarity"][2][2].as_f64().unwrap() - 1.0).abs() < 1e-6);
}

#[test]
fn one_text_has_nothing_to_be_compared_with() {
    assert_snapshot!(run(&["similarity", "-m", MODEL, "a stork"]).shown(), @r#"
    exit 1
    --- stderr
    error: there is one text only, expected two or more
    hint: `quintet similarity "one text" "another"`
    "#);
}

#[test]
fn pieces_stand_over_their_ids() {
    let args = ["tokenize", "-m", MODEL, "Folge dem weißen Kaninchen."];
    assert_snapshot!(run(&args).shown(), @r#"
    exit 0
    --- stdout
    16 tokens
    <s> ▁Fol ge ▁ de m  ▁we i  ß   en ▁K an in chen . </s>
    0   113  87 4 88 50 156 24 237 19 60 64 23 128  5 2
    "#);
    let query = ["tokenize", "-m", MODEL, "-t", "retrieval.query", "x", "y"];
    assert_snapshot!(run(&query).shown(), @r#"
    exit 0
    --- stdout
    22 tokens
    <s> ▁Re p  res ent ▁the ▁qu er y  ▁fo r  ▁retriev ing ▁ evi de nce ▁documents :  ▁ x  </s>
    0   61  28 25  132 18   135 46 10 34  11 119      121 4 284 88 62  127        41 4 52 2

    22 tokens
    <s> ▁Re p  res ent ▁the ▁qu er y  ▁fo r  ▁retriev ing ▁ evi de nce ▁documents :  ▁ y  </s>
    0   61  28 25  132 18   135 46 10 34  11 119      121 4 284 88 62  127        41 4 10 2
    "#);
}

#[test]
fn ids_are_the_golden_ones() {
    let golden = fs::read_to_string(testdata().join("goldens/text.json")).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let items = golden["items"].as_array().unwrap();
    let lines: String = items
        .iter()
        .map(|item| format!("{}\n", json!({"text": item["text"]})))
        .collect();
    let ids = |model: &str, task: &str| {
        let args = ["tokenize", "-m", model, "-t", task, "--json"];
        run_with_stdin(&args, lines.as_bytes()).json_lines()
    };
    let file = "checkpoints/original/tokenizer.json";
    for (model, task, key) in [
        (MODEL, "raw", "none"),
        (MODEL, "retrieval.query", "retrieval.query"),
        ("checkpoints/gguf", "retrieval.passage", "retrieval.passage"),
        (file, "retrieval.passage", "retrieval.passage"),
        (file, "separation", "separation"),
    ] {
        for (index, (line, item)) in ids(model, task).iter().zip(items).enumerate() {
            assert_eq!(line["index"], index);
            assert_eq!(
                line["token_ids"], item["ids"][key],
                "{model} {task} {}",
                item["text"]
            );
            assert_eq!(line["tokens"], item["ids"][key].as_array().unwrap().len());
        }
    }
    for (line, item) in ids("checkpoints/hf-resaved", "raw").iter().zip(items) {
        assert_eq!(line["token_ids"], item["resaved"], "{}", item["text"]);
    }
}

#[test]
fn pieces_come_on_request_and_nothing_is_truncated() {
    let args = ["tokenize", "-m", MODEL, "--json", "--pieces", "x"];
    assert_snapshot!(run(&args).quiet(), @r#"
    {"index":0,"tokens":4,"token_ids":[0,4,52,2],"pieces":["<s>","▁","x","</s>"]}
    "#);
    let long = "word ".repeat(9000);
    let args = ["tokenize", "-m", MODEL, "--json"];
    let line = &run_with_stdin(&args, long.as_bytes()).json_lines()[0];
    assert!(line["tokens"].as_u64().unwrap() > 9000);
    assert_snapshot!(run(&["tokenize", "-m", "checkpoints/base-only", "x"]).shown(), @r#"
    exit 1
    --- stderr
    error: model `checkpoints/base-only` has no tokenizer
    hint: name a tokenizer.json file by --model
    "#);
    assert_snapshot!(run(&["tokenize", "-m", MODEL, "-t", "query", "x"]).shown(), @r#"
    exit 1
    --- stderr
    error: the model has no task `query`, expected `retrieval.query`, `retrieval.passage`, `separation`, `classification`, `text-matching`, `raw`
    "#);
}

#[test]
fn info_describes_a_model() {
    assert_snapshot!(run(&["info", MODEL]).shown(), @r#"
    exit 0
    --- stdout
    model       checkpoints/original
    layout      original (stacked LoRA)
    shape       2 layers, hidden 128, 2 heads, inner 64, 320 ids
    context     8192 tokens, rotary base 20000
    dimensions  16, 32, 64, 128 (trained)
    parameters  224 128, and 62 740 in the adapters
    weights     bf16 in 52 tensors, 573.74 kB
    tokenizer   tokenizer.json
    memory      about 1.04 MB loaded, 31.46 MB more for a text of 8192 tokens
    licence     not stated beside the weights; Jina AI's weights are CC BY-NC 4.0

    5 tasks, beside `raw`
    retrieval.query    `Represent the query for retrieving evidence documents: `
    retrieval.passage  `Represent the document for retrieval: `
    separation         no instruction
    classification     no instruction
    text-matching      no instruction
    "#);
    assert_snapshot!(run(&["info", "checkpoints/base-only"]).shown(), @r#"
    exit 0
    --- stdout
    model       checkpoints/base-only
    layout      hf (fused names)
    shape       2 layers, hidden 128, 2 heads, inner 64, 320 ids
    context     8192 tokens, rotary base 20000
    dimensions  16, 32, 64, 128 (trained)
    parameters  224 128
    weights     f32 in 30 tensors, 896.51 kB
    tokenizer   none: token ids only
    memory      about 830.46 kB loaded, 31.46 MB more for a text of 8192 tokens
    licence     not stated beside the weights; Jina AI's weights are CC BY-NC 4.0

    no adapters: base weights, for the task `raw` only
    "#);
    for layout in [
        "hf",
        "hf-resaved",
        "hf-unfused",
        "original-f16",
        "gguf",
        "gguf-q8_0",
    ] {
        let json = run(&["info", &format!("checkpoints/{layout}"), "--json"]).quiet();
        let report: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(report["hidden_size"], 128, "{layout}");
    }
}

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A cache as Python makes it, with the small checkpoint as a model of the hub.
fn cache(root: &Path, folder: &str, files: &[&str]) {
    let repo = root.join("hub").join(folder);
    let snapshot = repo.join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(repo.join("refs")).unwrap();
    fs::write(repo.join("refs/main"), COMMIT).unwrap();
    for file in files {
        fs::copy(testdata().join(MODEL).join(file), snapshot.join(file)).unwrap();
    }
    fs::write(
        snapshot.join("README.md"),
        "---\nlicense: cc-by-nc-4.0\n---\n# A model\n",
    )
    .unwrap();
}

fn run_in_cache(root: &Path, args: &[&str]) -> Run {
    let mut command = quintet();
    command.args(args).env("HF_HOME", root);
    finish(command, b"")
}

#[test]
fn an_empty_cache_says_how_to_fill_it() {
    let folder = tempfile::tempdir().unwrap();
    assert_snapshot!(run_in_cache(folder.path(), &["models"]).shown_in(folder.path()), @r#"
    exit 0
    --- stderr
    no jina-embeddings-v3 in `[TMP]/hub`
    hint: `quintet pull` shows licence and size, `quintet pull --accept-license` fetches it
    "#);
    assert_eq!(
        run_in_cache(folder.path(), &["models", "--json"]).quiet(),
        "[]\n"
    );
}

#[test]
fn a_pulled_model_is_listed_and_is_the_default() {
    let folder = tempfile::tempdir().unwrap();
    let all = ["config.json", "model.safetensors", "tokenizer.json"];
    cache(folder.path(), "models--jinaai--jina-embeddings-v3", &all);
    cache(folder.path(), "models--other--model", &["config.json"]);
    let shown = |args: &[&str]| run_in_cache(folder.path(), args).shown_in(folder.path());
    assert_snapshot!(shown(&["models"]), @r#"
    exit 0
    --- stdout
    jinaai/jina-embeddings-v3  original (stacked LoRA)  5 adapters  619.09 kB
      [TMP]/hub/models--jinaai--jina-embeddings-v3/snapshots/0123456789abcdef0123456789abcdef01234567
    --- stderr
    1 other or incomplete snapshots in the cache are not listed
    "#);
    let json = run_in_cache(folder.path(), &["models", "--json"]).quiet();
    let models: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(models[0]["id"], "jinaai/jina-embeddings-v3");
    assert_eq!(models[0]["commit"], COMMIT);
    let info = run_in_cache(folder.path(), &["info"]).quiet();
    assert!(info.contains("CC BY-NC 4.0"), "{info}");
    let by_id = ["embed", "-m", "jinaai/jina-embeddings-v3@main", "x"];
    let vector = run(&["embed", "-m", MODEL, "x"]).quiet();
    assert_eq!(run_in_cache(folder.path(), &["embed", "x"]).quiet(), vector);
    assert_eq!(run_in_cache(folder.path(), &by_id).quiet(), vector);
    assert_snapshot!(shown(&["embed", "-m", "other/model", "x"]), @r#"
    exit 1
    --- stderr
    error: the snapshot of model `other/model` has no weights (`*.safetensors` or `*.gguf`): `[TMP]/hub/models--other--model/snapshots/0123456789abcdef0123456789abcdef01234567`
    hint: fetch it with `quintet pull other/model`
    "#);
}
