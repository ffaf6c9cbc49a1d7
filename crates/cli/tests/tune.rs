//! `tune`: what smaller vectors cost on one's own collection.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::fs;

use insta::assert_snapshot;
use serde_json::Value;

#[path = "support/cli.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod cli;

use cli::{MODEL, run, run_with_stdin};

const PAIRS: &str = "query,document\n\
    When does my parcel come?,Parcels take two days.\n\
    Where do storks go?,Storks winter in Africa.\n\
    What do banks earn?,The bank raised interest rates.\n";

/// How well random weights find something tells nothing: a `#` for each share. Runs of spaces are one.
fn without_shares(text: &str) -> String {
    let line = |line: &str| {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        if ["exact", "balanced", "fast"]
            .iter()
            .any(|it| words.first() == Some(it))
        {
            words[2..].fill("#");
        }
        words.join(" ")
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_table_shows_every_precision_type_and_size() {
    let prices = [
        "--price",
        "0.02",
        "--storage-price",
        "0.25",
        "--documents",
        "4000000",
    ];
    let args = [&["tune", "-", "-m", MODEL], &prices[..]].concat();
    let shown = run_with_stdin(&args, PAIRS.as_bytes()).quiet();
    let table: Vec<&str> = shown
        .lines()
        .take_while(|line| !line.contains("to embed"))
        .collect();
    assert_snapshot!(without_shares(&table.join("\n")), @r##"
    checkpoints/original: 3 documents, 3 queries

    nDCG@10, % 16 32 64 128
    exact float # # # #
    exact int8 # # # #
    exact binary # # # #
    balanced float # # # #
    balanced int8 # # # #
    balanced binary # # # #
    fast float # # # #
    fast int8 # # # #
    fast binary # # # #

    recall@10, % 16 32 64 128
    exact float # # # #
    exact int8 # # # #
    exact binary # # # #
    balanced float # # # #
    balanced int8 # # # #
    balanced binary # # # #
    fast float # # # #
    fast int8 # # # #
    fast binary # # # #

    4 000 000 documents 16 32 64 128
    storage float 256.00 MB 512.00 MB 1.02 GB 2.05 GB
    storage int8 64.00 MB 128.00 MB 256.00 MB 512.00 MB
    storage binary 8.00 MB 16.00 MB 32.00 MB 64.00 MB
    a month float $0.06 $0.13 $0.26 $0.51
    a month int8 $0.02 $0.03 $0.06 $0.13
    a month binary $0.00 $0.00 $0.01 $0.02
    "##);
    let rest = &shown[table.join("\n").len()..];
    for words in [
        "tokens to embed, $",
        "exact",
        "balanced",
        "fast",
        "tokens/s here",
        "recommended: --precision ",
    ] {
        assert!(rest.contains(words), "{words:?} is not in\n{rest}");
    }
}

#[test]
fn json_holds_every_number_and_the_recommendation_keeps_what_was_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pairs.csv");
    fs::write(&path, PAIRS).unwrap();
    let path = path.to_str().unwrap();
    let json = run(&[
        "tune",
        path,
        "-m",
        MODEL,
        "--precision",
        "exact",
        "--keep",
        "90",
        "--recall-at",
        "1",
        "--json",
    ]);
    let report: Value = serde_json::from_str(&json.quiet()).unwrap();
    assert_eq!(
        (&report["documents"]["count"], &report["queries"]["count"]),
        (&3.into(), &3.into())
    );
    assert_eq!(report["precisions"].as_array().unwrap().len(), 1);
    let rows = report["measurements"].as_array().unwrap();
    let share = |row: &Value, field: &str| row[field].as_f64().unwrap();
    assert!(
        rows.iter()
            .all(|row| (0.0..=1.0).contains(&share(row, "ndcg"))
                && (0.0..=1.0).contains(&share(row, "recall")))
    );
    let floats = rows.iter().filter(|row| row["embedding_type"] == "float");
    let full = floats.max_by_key(|row| row["dimensions"].as_u64()).unwrap();
    assert_eq!(full["difference"], 0.0);
    let chosen = &rows[report["recommended"].as_u64().unwrap() as usize];
    let kept: Vec<&Value> = rows
        .iter()
        .filter(|row| share(row, "ndcg") >= 0.9 * share(full, "ndcg"))
        .collect();
    assert!(kept.contains(&chosen));
    assert!(
        kept.iter()
            .all(|row| row["bytes"].as_u64() >= chosen["bytes"].as_u64())
    );
    let jsonl: String = PAIRS
        .lines()
        .skip(1)
        .map(|line| {
            let (query, document) = line.split_once(',').unwrap();
            serde_json::json!({"query": query, "document": document}).to_string() + "\n"
        })
        .collect();
    let again = run_with_stdin(
        &[
            "tune",
            "-",
            "-m",
            MODEL,
            "--precision",
            "exact",
            "--keep",
            "90",
            "--recall-at",
            "1",
            "--json",
        ],
        jsonl.as_bytes(),
    );
    let again: Value = serde_json::from_str(&again.quiet()).unwrap();
    assert_eq!(again["measurements"], report["measurements"]);
}

/// A BEIR folder with the pairs and these relevances.
fn beir(splits: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (mut corpus, mut queries) = (String::new(), String::new());
    for (number, line) in (1..).zip(PAIRS.lines().skip(1)) {
        let (query, document) = line.split_once(',').unwrap();
        let (title, text) = document.split_once(' ').unwrap();
        let line = serde_json::json!({"_id": format!("d{number}"), "title": title, "text": text});
        corpus += &format!("{line}\n");
        let line = serde_json::json!({"_id": format!("q{number}"), "text": query, "metadata": {}});
        queries += &format!("{line}\n");
    }
    fs::write(folder.path().join("corpus.jsonl"), corpus).unwrap();
    fs::write(folder.path().join("queries.jsonl"), queries).unwrap();
    fs::create_dir(folder.path().join("qrels")).unwrap();
    for (name, lines) in splits {
        let path = folder.path().join("qrels").join(format!("{name}.tsv"));
        fs::write(path, format!("query-id\tcorpus-id\tscore\n{lines}")).unwrap();
    }
    folder
}

const QRELS: &str = "q1\td1\t1\nq2\td2\t1\nq3\td3\t1\n";

#[test]
fn a_beir_folder_is_measured_as_the_same_pairs_are() {
    let measured = |collection: &[&str]| {
        let args = ["-m", MODEL, "--precision", "exact", "--json"];
        let run = run(&[&["tune"], collection, &args].concat());
        let report: Value = serde_json::from_str(&run.stdout).unwrap();
        (report, run.stderr)
    };
    let folder = beir(&[("train", "q1\td1\t1\n"), ("test", QRELS)]);
    let pairs = folder.path().join("pairs.csv");
    fs::write(&pairs, PAIRS).unwrap();
    let (expected, _) = measured(&[pairs.to_str().unwrap()]);
    let path = folder.path().to_str().unwrap();
    let (found, stderr) = measured(&[path]);
    assert_eq!(found["measurements"], expected["measurements"]);
    assert_eq!(stderr, "");
    let (train, _) = measured(&[path, "--split", "train"]);
    assert_eq!(
        (&train["documents"]["count"], &train["queries"]["count"]),
        (&3.into(), &1.into())
    );
    // The only relevances need no name; a document without a text is told of.
    let folder = beir(&[("dev", QRELS)]);
    let corpus = folder.path().join("corpus.jsonl");
    let lines = fs::read_to_string(&corpus).unwrap();
    fs::write(
        &corpus,
        format!("{{\"_id\": \"d0\", \"text\": \"\"}}\n{lines}"),
    )
    .unwrap();
    let (found, stderr) = measured(&[folder.path().to_str().unwrap()]);
    assert_eq!(found["measurements"], expected["measurements"]);
    assert_eq!(
        stderr,
        "note: documents without a text are left out: 1 of corpus.jsonl\n"
    );
}

#[test]
fn what_is_wrong_with_a_beir_folder_names_the_file_and_the_line() {
    let shown = |folder: &tempfile::TempDir, more: &[&str]| {
        let path = folder.path().to_str().unwrap();
        let run = run(&[&["tune", path, "-m", MODEL, "--precision", "exact"], more].concat());
        run.shown().replace(path, "[FOLDER]")
    };
    let folder = beir(&[("dev", QRELS), ("train", "q1\td7\t1\n")]);
    assert_snapshot!(shown(&folder, &[]), @r##"
    exit 1
    --- stderr
    error: `[FOLDER]/qrels` has no `test.tsv`
    hint: name one with --split; it has `dev.tsv`, `train.tsv`
    "##);
    assert_snapshot!(shown(&folder, &["--split", "train"]), @r##"
    exit 1
    --- stderr
    error: line 2 of `qrels/train.tsv` names `d7`, which is not in `corpus.jsonl`
    "##);
    let corpus = folder.path().join("corpus.jsonl");
    let lines = fs::read_to_string(&corpus).unwrap();
    fs::write(&corpus, format!("{lines}{{\"_id\": \"d4\",\n")).unwrap();
    assert_snapshot!(shown(&folder, &["--split", "dev"]), @r##"
    exit 1
    --- stderr
    error: `corpus.jsonl` is not JSONL as expected
      because: EOF while parsing a value at line 5 column 0
    hint: a line of documents or queries is an object such as {"_id": "d1", "text": "…"}
    "##);
    let long = serde_json::json!({"_id": "d4", "text": "word ".repeat(9000)});
    fs::write(&corpus, format!("{lines}{long}\n")).unwrap();
    assert_snapshot!(shown(&folder, &["--split", "dev"]), @r##"
    exit 1
    --- stderr
    error: in `[FOLDER]/corpus.jsonl`, the document in line 4 has 36013 tokens, expected at most 8192
    hint: --truncate cuts what is too long
    "##);
    fs::write(
        &corpus,
        [&b"{\"_id\": \"d1\", \"text\": \"a\"}\n\xe9"[..]].concat(),
    )
    .unwrap();
    assert_snapshot!(shown(&folder, &["--split", "dev"]), @r##"
    exit 1
    --- stderr
    error: line 2 of `[FOLDER]/corpus.jsonl` is not UTF-8
    hint: save the collection as UTF-8
    "##);
    fs::remove_file(&corpus).unwrap();
    assert_snapshot!(shown(&folder, &[]), @r##"
    exit 1
    --- stderr
    error: the folder `[FOLDER]` has no `corpus.jsonl`
    hint: a folder as BEIR lays it out has corpus.jsonl, queries.jsonl and qrels/test.tsv
    "##);
    assert_snapshot!(run(&["tune", "none.csv", "--split", "dev"]).shown(), @r##"
    exit 1
    --- stderr
    error: --split is given, and the collection is no BEIR folder
    hint: name a folder with corpus.jsonl, queries.jsonl and qrels
    "##);
}

#[cfg(feature = "mini")]
#[test]
fn the_sample_runs_when_nothing_is_named() {
    let run = run(&["tune", "-m", "mini", "--precision", "fast"]);
    assert_eq!(run.code, Some(0));
    assert_eq!(
        run.stderr,
        "note: no collection is named: measuring on a small built-in sample\n"
    );
    assert!(
        run.stdout.starts_with("mini: 44 documents, 36 queries\n"),
        "{}",
        run.stdout
    );
    assert!(
        run.stdout.contains("recommended: --precision fast"),
        "{}",
        run.stdout
    );
}

#[test]
fn what_cannot_be_measured_says_why() {
    let of = |text: &str| run_with_stdin(&["tune", "-", "-m", MODEL], text.as_bytes()).shown();
    assert_snapshot!(of(""), @r##"
    exit 1
    --- stderr
    error: there are 0 documents and 0 queries, expected 2 and 1 at least
    hint: the simplest collection is CSV whose first line is `query,document`, and a query with its document in each line
    "##);
    assert_snapshot!(of("query,document\na,A\n,\n"), @r##"
    exit 1
    --- stderr
    error: line 3 has neither a `document` nor a `query`
    "##);
    assert_snapshot!(of("{\"query\": \"a\"}\n"), @r##"
    exit 1
    --- stderr
    error: the query in line 1 has no relevant document
    hint: put its document into the same line, or name documents by their `id` in `relevant`
    "##);
    assert_snapshot!(of("{\"query\": \"a\", \"document\": }\n"), @r##"
    exit 1
    --- stderr
    error: the collection is not JSONL as expected
      because: expected value at line 1 column 28
    hint: a line is an object such as {"query": "…", "document": "…"}
    "##);
    assert_snapshot!(of(&format!("{PAIRS}a,{}\n", "word ".repeat(9000))), @r##"
    exit 1
    --- stderr
    error: the document in line 5 has 36013 tokens, expected at most 8192
    hint: --truncate cuts what is too long
    "##);
    assert_snapshot!(run_with_stdin(&["tune", "-"], b"query,document\na,\xe9\n").shown(), @r##"
    exit 1
    --- stderr
    error: line 2 of `-` is not UTF-8
    hint: save the collection as UTF-8
    "##);
    assert_snapshot!(run(&["tune", "none.csv"]).shown(), @r##"
    exit 1
    --- stderr
    error: cannot read `none.csv`
      because: No such file or directory (os error 2)
    "##);
    let cut = format!("{PAIRS}a,{}\n", "word ".repeat(9000));
    assert_eq!(
        run_with_stdin(
            &[
                "tune",
                "-",
                "-m",
                MODEL,
                "--precision",
                "fast",
                "--truncate"
            ],
            cut.as_bytes()
        )
        .code,
        Some(0)
    );
}
