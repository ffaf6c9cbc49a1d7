//! `verify` and `bench`: is it right, is it fast.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::fs;

use insta::assert_snapshot;
use serde_json::{Value, json};

#[path = "support/cli.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod cli;

use cli::{MODEL, run};

const CUSTOM: [&str; 4] = [
    "--goldens",
    "goldens/custom_adapter.safetensors",
    "--adapter",
    "custom=checkpoints/custom-adapter",
];

#[test]
fn goldens_are_met() {
    let json = run(&[&["verify", MODEL, "--json"], &CUSTOM[..]].concat()).quiet();
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["passed"], true);
    assert_eq!(report["against"], "goldens");
    let checks = report["checks"].as_array().unwrap();
    assert!(
        checks
            .iter()
            .all(|check| check["task"] == "custom" && check["passed"] == true)
    );
    let table = run(&[&["verify", "-m", MODEL], &CUSTOM[..]].concat()).quiet();
    assert_eq!(table.matches("  pass\n").count(), 2, "{table}");
}

#[test]
fn a_number_that_misses_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("wrong");
    fs::create_dir(&wrong).unwrap();
    let checkpoint = cli::testdata().join("checkpoints/original");
    for name in ["config.json", "model.safetensors"] {
        fs::copy(checkpoint.join(name), wrong.join(name)).unwrap();
    }
    let config = fs::read_to_string(wrong.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["rotary_emb_base"] = json!(10000.0);
    fs::write(wrong.join("config.json"), config.to_string()).unwrap();
    let run = run(&[&["verify", wrong.to_str().unwrap()], &CUSTOM[..]].concat());
    assert_eq!(run.stdout.matches("  MISS\n").count(), 2, "{}", run.stdout);
    assert_eq!(run.code, Some(1));
    assert_snapshot!(run.stderr, @r#"
    error: 2 of 2 checks miss
    hint: the weights differ from the reference's, or this build computes wrongly here: compare with QUINTET_ISA=portable, and pull the model again
    "#);
}

#[test]
fn a_model_without_published_numbers_needs_goldens() {
    assert_snapshot!(run(&["verify", MODEL]).shown(), @r#"
    exit 1
    --- stderr
    error: there is nothing to compare with: this model has 2 layers, hidden size 128 and 320 ids, published numbers are for 24, 1024 and 250002
    hint: give the reference's answers for this model by --goldens FILE
    "#);
    let no_goldens = ["verify", MODEL, "--goldens", "goldens/text.safetensors"];
    assert_snapshot!(run(&no_goldens).shown(), @r#"
    exit 1
    --- stderr
    error: `goldens/text.safetensors` holds no goldens: no tensor `seq/<name>/input_ids`
    hint: testdata/make_goldens.py lists the names
    "#);
    let no_file = ["verify", MODEL, "--goldens", "goldens/text.json"];
    assert_snapshot!(run(&no_file).shown(), @r#"
    exit 1
    --- stderr
    error: `goldens/text.json` is no safetensors file
      because: header too large
    "#);
}

#[test]
fn bench_reports_what_the_peers_script_reads() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("workloads.json");
    let workloads = json!({"workloads": {"b": [[0, 5, 2], [0, 2]], "a": [[0, 7, 8, 2]]}});
    fs::write(&file, workloads.to_string()).unwrap();
    let args = [
        "bench",
        "-m",
        MODEL,
        "--threads",
        "1",
        "--repeat",
        "2",
        "--json",
        "--workload",
    ];
    let json = run(&[&args[..], &[file.to_str().unwrap()]].concat()).quiet();
    let report: Value = serde_json::from_str(&json).unwrap();
    let named = |name: &str| {
        let workloads = report["workloads"].as_array().unwrap();
        workloads
            .iter()
            .find(|workload| workload["name"] == name)
            .unwrap()
            .clone()
    };
    assert_eq!(
        (&named("b")["tokens"], &named("b")["sequences"]),
        (&json!(5), &json!(2))
    );
    for key in ["wall_s", "cpu_s", "tokens_per_s", "peak_share"] {
        assert!(named("a")[key].is_number(), "{key}");
    }
    assert!(report["peak_gflops"].as_f64().unwrap() > 0.0);
    if cfg!(target_os = "linux") {
        assert!(report["max_rss_bytes"].as_u64().unwrap() > 1 << 20);
    }
}

#[test]
fn bench_without_a_file_prints_a_table() {
    let table = run(&["bench", "-m", MODEL, "--repeat", "1", "-t", "separation"]).quiet();
    let names: Vec<&str> = table
        .lines()
        .skip(3)
        .map_while(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(names, ["1x16", "1x128", "8x128", "1x512"], "{table}");
}

#[test]
fn a_wrong_workload_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("workloads.json");
    let shown = |text: &str| {
        fs::write(&file, text).unwrap();
        let args = ["bench", "-m", MODEL, "--workload", file.to_str().unwrap()];
        run(&args).shown_in(folder.path())
    };
    assert_snapshot!(shown(r#"{"workloads": [[0, 2]]}"#), @r#"
    exit 1
    --- stderr
    error: `[TMP]/workloads.json` holds no workloads
      because: invalid type: sequence, expected an object of lists of token-id sequences at line 1 column 14
    hint: write it as {"workloads": {"name": [[0, 17, 2], …]}}
    "#);
    assert_snapshot!(shown(r#"{"workloads": {}}"#), @r#"
    exit 1
    --- stderr
    error: `[TMP]/workloads.json` has an empty workload
    hint: a workload is a list of one or more sequences of token ids
    "#);
    assert_snapshot!(shown(r#"{"workloads": {"a": [[0, 999, 2]]}}"#), @r#"
    exit 1
    --- stderr
    error: workload `a` is refused
      because: input 0 has token id 999 at position 1, expected ids below 320
    hint: token ids of another vocabulary (cl100k, say) must be decoded to text first
    "#);
}
