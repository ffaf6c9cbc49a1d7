//! `quintet embed`: the reference's vectors, in every form, from any amount of input.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

use insta::assert_snapshot;
use safetensors::SafeTensors;
use serde_json::{Value, json};

#[path = "support/cli.rs"]
mod cli;

use cli::{MODEL, floats, json_lines, quintet, run, run_with_stdin, testdata, worst};

/// Of components of vectors of length 1, as for the engine itself.
const TOLERANCE: f32 = 1e-5;
const TASKS: [&str; 6] = [
    "raw",
    "retrieval.query",
    "retrieval.passage",
    "separation",
    "classification",
    "text-matching",
];

/// Columns and values of a NumPy matrix of f32.
fn npy(path: &Path) -> (usize, Vec<f32>) {
    let bytes = fs::read(path).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..end]).unwrap();
    let (_, shape) = header.split_once("'shape': (").unwrap();
    let (shape, _) = shape.split_once(')').unwrap();
    let (rows, columns) = shape.split_once(", ").unwrap();
    let (rows, columns): (usize, usize) = (rows.parse().unwrap(), columns.parse().unwrap());
    assert!(
        header.contains("'descr': '<f4', 'fortran_order': False"),
        "{header}"
    );
    let values = &bytes[end..];
    assert_eq!(values.len(), rows * columns * 4);
    (
        columns,
        values
            .as_chunks()
            .0
            .iter()
            .map(|&value| f32::from_le_bytes(value))
            .collect(),
    )
}

fn golden(tensors: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let data = tensors.tensor(name).unwrap();
    data.data()
        .as_chunks()
        .0
        .iter()
        .map(|&value| f32::from_le_bytes(value))
        .collect()
}

fn key(task: &str) -> &str {
    if task == "raw" { "none" } else { task }
}

#[test]
fn token_ids_of_all_tasks_in_one_run_give_the_reference() {
    let bytes = fs::read(testdata().join("goldens/sequences.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let names = [
        "len1", "len2", "len3", "len7", "len20", "len33", "len64", "len130", "len300",
    ];
    let mut lines = String::new();
    for name in names {
        let ids = tensors.tensor(&format!("seq/{name}/input_ids")).unwrap();
        let ids: Vec<i64> = ids
            .data()
            .as_chunks()
            .0
            .iter()
            .map(|&id| i64::from_le_bytes(id))
            .collect();
        for task in TASKS {
            lines.push_str(&format!("{}\n", json!({"token_ids": ids, "task": task})));
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("vectors.npy");
    let args = [
        "embed",
        "-m",
        MODEL,
        "--format",
        "npy",
        "--output",
        output.to_str().unwrap(),
    ];
    assert_eq!(run_with_stdin(&args, lines.as_bytes()).quiet(), "");
    let (columns, values) = npy(&output);
    let mut rows = values.chunks(columns);
    for name in names {
        for task in TASKS {
            let expected = golden(&tensors, &format!("seq/{name}/{}/normalized", key(task)));
            let difference = worst(rows.next().unwrap(), &expected);
            assert!(difference <= TOLERANCE, "{name} {task}: {difference}");
        }
    }
    assert!(rows.next().is_none());
}

#[test]
fn texts_give_the_reference_with_their_instruction() {
    let bytes = fs::read(testdata().join("goldens/text.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let golden_text = fs::read_to_string(testdata().join("goldens/text.json")).unwrap();
    let texts: Value = serde_json::from_str(&golden_text).unwrap();
    for task in TASKS {
        let items: Vec<&Value> = (0..8).map(|index| &texts["items"][index]).collect();
        let lines: String = items
            .iter()
            .map(|item| format!("{}\n", json!({"text": item["text"]})))
            .collect();
        let args = ["embed", "-m", MODEL, "--task", task];
        let rows = run_with_stdin(&args, lines.as_bytes()).json_lines();
        for (index, (row, item)) in rows.iter().zip(items).enumerate() {
            assert_eq!(
                row["tokens"],
                item["ids"][key(task)].as_array().unwrap().len()
            );
            let expected = golden(&tensors, &format!("text/{index}/{}/normalized", key(task)));
            let difference = worst(&floats(&row["embedding"]), &expected);
            assert!(difference <= TOLERANCE, "{index} {task}: {difference}");
        }
    }
}

#[test]
fn a_custom_adapter_is_a_task_by_its_name() {
    let bytes = fs::read(testdata().join("goldens/custom_adapter.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let ids = tensors.tensor("seq/len20/input_ids").unwrap();
    let ids: Vec<i64> = ids
        .data()
        .as_chunks()
        .0
        .iter()
        .map(|&id| i64::from_le_bytes(id))
        .collect();
    let line = json!({"token_ids": ids}).to_string();
    let adapter = "mine=checkpoints/custom-adapter";
    let args = ["embed", "-m", MODEL, "--adapter", adapter, "--task", "mine"];
    let rows = run_with_stdin(&args, line.as_bytes()).json_lines();
    let expected = golden(&tensors, "seq/len20/custom/normalized");
    assert!(worst(&floats(&rows[0]["embedding"]), &expected) <= TOLERANCE);
}

#[test]
fn every_line_has_its_row_whatever_it_shares_a_batch_with() {
    let text = |index: usize| match index % 5 {
        0 => String::new(),
        1 => format!("line {index}"),
        2 => "many words ".repeat(index % 40),
        3 => format!("日本語 {index}"),
        _ => format!("{index} \u{1f980}"),
    };
    let lines: String = (0..1300).map(|index| text(index) + "\r\n").collect();
    let bytes = ["\u{feff}", &lines].concat();
    let args = ["embed", "-m", MODEL, "--threads", "3", "-d", "16"];
    let rows = run_with_stdin(&args, bytes.as_bytes()).json_lines();
    assert_eq!(rows.len(), 1300);
    for (index, row) in rows.iter().enumerate() {
        assert_eq!(row["index"], index);
    }
    for index in [0, 3, 511, 512, 777, 1299] {
        let alone = [
            "embed",
            "-m",
            MODEL,
            "--threads",
            "1",
            "-d",
            "16",
            &text(index),
        ];
        let alone = run(&alone).json_lines();
        assert_eq!(rows[index]["embedding"], alone[0]["embedding"], "{index}");
    }
}

#[test]
fn results_come_before_the_input_ends() {
    let mut command = quintet();
    command.args(["embed", "-m", MODEL, "-d", "16"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut rows = BufReader::new(child.stdout.take().unwrap()).lines();
    stdin.write_all("a line\n".repeat(600).as_bytes()).unwrap();
    stdin.flush().unwrap();
    for _ in 0..512 {
        rows.next().unwrap().unwrap();
    }
    drop(stdin);
    assert_eq!(rows.count(), 88);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut command = quintet();
    command.args(["embed", "-m", MODEL]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all("a line\n".repeat(100).as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(0), &b""[..])
    );
}

#[test]
fn types_follow_the_contract() {
    let embed = |embedding_type: &str, dimensions: &str| {
        let args = [
            "embed",
            "-m",
            MODEL,
            "--type",
            embedding_type,
            "-d",
            dimensions,
            "one text",
        ];
        run(&args).json_lines()[0]["embedding"].clone()
    };
    let vector = floats(&embed("float", "16"));
    let integers = |value: &Value| -> Vec<i64> {
        value
            .as_array()
            .unwrap()
            .iter()
            .map(|number| number.as_i64().unwrap())
            .collect()
    };
    let int8: Vec<i64> = vector
        .iter()
        .map(|value| (value * 127.0).round() as i64)
        .collect();
    assert_eq!(integers(&embed("int8", "16")), int8);
    let uint8: Vec<i64> = int8.iter().map(|value| value + 128).collect();
    assert_eq!(integers(&embed("uint8", "16")), uint8);
    let byte = |bits: &[f32]| {
        bits.iter()
            .fold(0, |byte, &bit| byte << 1 | i64::from(bit > 0.0))
    };
    let ubinary: Vec<i64> = vector.chunks(8).map(byte).collect();
    assert_eq!(integers(&embed("ubinary", "16")), ubinary);
    let binary: Vec<i64> = ubinary.iter().map(|value| value - 128).collect();
    assert_eq!(integers(&embed("binary", "16")), binary);
    assert_eq!(
        embed("base64", "16").as_str().unwrap().len(),
        (16 * 4usize).div_ceil(3) * 4
    );
}

#[test]
fn one_array_holds_the_same_rows() {
    let lines = run(&["embed", "-m", MODEL, "a", "b"]).json_lines();
    let array = run(&["embed", "-m", MODEL, "--format", "json", "a", "b"]).quiet();
    assert_eq!(serde_json::from_str::<Vec<Value>>(&array).unwrap(), lines);
    let none = run_with_stdin(&["embed", "-m", MODEL, "--format", "json"], b"").quiet();
    assert_eq!(none, "[]\n");
}

#[test]
fn a_file_appears_only_when_all_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.jsonl");
    let args = ["embed", "-m", MODEL, "--output", output.to_str().unwrap()];
    let refused = run_with_stdin(&args, b"fine\n{\n");
    assert_eq!(refused.code, Some(1));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    run_with_stdin(&args, b"fine\n").quiet();
    assert_eq!(json_lines(&fs::read_to_string(&output).unwrap()).len(), 1);
    let folder_as_file = [
        "embed",
        "-m",
        MODEL,
        "x",
        "-o",
        folder.path().to_str().unwrap(),
    ];
    assert_snapshot!(run(&folder_as_file).shown_in(folder.path()), @r#"
    exit 1
    --- stderr
    error: cannot write `[TMP]`
      because: is a directory
    "#);
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = quintet();
    command
        .args(["embed", "-m", MODEL, "--output"])
        .arg(folder.path().join("out.jsonl"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Held open: the run waits for lines.
    let stdin = child.stdin.take().unwrap();
    let is_begun = || fs::read_dir(folder.path()).unwrap().count() == 1;
    while !is_begun() {
        std::thread::yield_now();
    }
    // The handler may be set a moment after the file; until then the file is the system's to lose.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let id = child.id().to_string();
    std::process::Command::new("kill")
        .args(["-INT", &id])
        .status()
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    drop(stdin);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Rows written before the error, and the error.
fn refused(args: &[&str], stdin: &[u8]) -> String {
    let args = [&["embed", "-m", MODEL], args].concat();
    let run = run_with_stdin(&args, stdin);
    let rows = json_lines(&run.stdout).len();
    format!("exit {}, {rows} rows\n{}", run.code.unwrap(), run.stderr)
}

#[test]
fn a_wrong_line_is_named_and_what_came_before_it_stays() {
    assert_snapshot!(refused(&[], b"a\nb\n{\"text\": \"c\"\nd\n"), @r#"
    exit 1, 2 rows
    error: line 3 of stdin is no JSON object that holds an input
      because: EOF while parsing an object at column 12
    hint: write it as `{"text": "…"}` or `{"token_ids": [0, …, 2]}`; when lines are plain texts that may begin with `{`, say `--input-format text`
    "#);
    assert_snapshot!(refused(&[], b"a\n{\"content\": \"c\"}\n"), @r#"
    exit 1, 1 rows
    error: line 2 of stdin has neither `text` nor `token_ids`, expected `{"text": "…"}` or `{"token_ids": [0, …, 2]}`
    "#);
    assert_snapshot!(refused(&[], b"a\nb\xffc\n"), @r#"
    exit 1, 1 rows
    error: line 2 of stdin is not UTF-8: byte 0xff at column 2
    hint: convert it, for example with `iconv -f LATIN1 -t UTF-8`
    "#);
    assert_snapshot!(refused(&[], b"\xff\xfea\x00\n"), @r#"
    exit 1, 0 rows
    error: line 1 of stdin is not UTF-8: byte 0xff at column 1
    hint: the input looks like UTF-16: `iconv -f UTF-16 -t UTF-8` converts it
    "#);
    assert_snapshot!(refused(&[], b"{\"token_ids\": [0, 320, 2]}\n"), @r#"
    exit 1, 0 rows
    error: line 1 of stdin has token id 320 at position 1, expected ids below 320
    hint: token ids of another vocabulary (cl100k, say) must be decoded to text first
    "#);
    assert_snapshot!(refused(&[], b"a\n{\"token_ids\": []}\n"), @r#"
    exit 1, 1 rows
    error: line 2 of stdin has no token ids, expected at least one
    "#);
    assert_snapshot!(refused(&[], b"a\n{\"text\": \"b\", \"task\": \"clustering\"}\n"), @r#"
    exit 1, 1 rows
    error: line 2 of stdin names an unknown task
      because: the model has no task `clustering`, expected `retrieval.query`, `retrieval.passage`, `separation`, `classification`, `text-matching`, `raw`
    "#);
    assert_snapshot!(refused(&["--input-format", "jsonl"], b"{\"text\": \"a\"}\nb\n"), @r#"
    exit 1, 1 rows
    error: line 2 of stdin is no JSON object that holds an input
    hint: write it as `{"text": "…"}` or `{"token_ids": [0, …, 2]}`; when lines are plain texts that may begin with `{`, say `--input-format text`
    "#);
    assert_snapshot!(refused(&["--task", "query", "x"], b""), @r#"
    exit 1, 0 rows
    error: the model has no task `query`, expected `retrieval.query`, `retrieval.passage`, `separation`, `classification`, `text-matching`, `raw`
    "#);
    assert_snapshot!(refused(&["--input", "no/such/file"], b""), @r#"
    exit 1, 0 rows
    error: cannot read `no/such/file`
      because: No such file or directory (os error 2)
    "#);
    assert_snapshot!(refused(&["--dimensions", "129", "x"], b""), @r#"
    exit 1, 0 rows
    error: 129 dimensions were asked for, expected 1 to 128
    "#);
    let long = ["fine\n", &"word ".repeat(8192), "\n"].concat();
    assert_snapshot!(refused(&[], long.as_bytes()), @r#"
    exit 1, 1 rows
    error: line 2 of stdin has 32770 tokens, expected at most 8192
    hint: `--truncate end` cuts such texts, `--late-chunking` reads them whole
    "#);
}

#[test]
fn a_text_that_begins_with_a_brace_can_be_said_to_be_one() {
    let args = ["embed", "-m", MODEL, "--input-format", "text"];
    let as_text = run_with_stdin(&args, b"{name}, hello\n").quiet();
    assert_eq!(
        as_text,
        run(&["embed", "-m", MODEL, "{name}, hello"]).quiet()
    );
}

#[test]
fn a_long_text_is_cut_on_request() {
    let long = "word ".repeat(8192);
    let args = ["embed", "-m", MODEL, "--truncate", "end", "-d", "16"];
    let rows = run_with_stdin(&args, long.as_bytes()).json_lines();
    assert_eq!(
        (&rows[0]["tokens"], &rows[0]["truncated"]),
        (&json!(8192), &json!(true))
    );
}

#[test]
fn what_does_not_go_together_is_said_before_anything_is_loaded() {
    let embed = |args: &[&str]| run(&[&["embed", "-m", MODEL, "x"], args].concat()).shown();
    assert_snapshot!(embed(&["--type", "int8", "--no-normalize"]), @r#"
    exit 1
    --- stderr
    error: --type int8 and uint8 do not go with --no-normalize
    hint: their scale fits vectors of length 1: leave --no-normalize out, or take `float`
    "#);
    assert_snapshot!(embed(&["--format", "npy"]), @r#"
    exit 1
    --- stderr
    error: --format npy needs a file: the number of rows is written at its beginning last
    hint: add `--output FILE.npy`
    "#);
    assert_snapshot!(embed(&["--format", "npy", "--type", "base64", "-o", "x"]), @r#"
    exit 1
    --- stderr
    error: --type base64 does not go with --format npy
    hint: a NumPy file holds the bytes themselves: leave --type out
    "#);
    assert_snapshot!(embed(&["--adapter", "nothing"]), @r#"
    exit 1
    --- stderr
    error: invalid value 'nothing' for '--adapter <NAME=PATH>': expected NAME=PATH

    For more information, try '--help'.
    "#);
}

#[test]
fn an_untrained_size_is_embedded_with_a_warning() {
    let run = run(&["embed", "-m", MODEL, "-d", "20", "x"]);
    assert_eq!(
        json_lines(&run.stdout)[0]["embedding"]
            .as_array()
            .unwrap()
            .len(),
        20
    );
    assert_snapshot!(run.stderr, @r#"
    warning: the model was not trained for 20 dimensions, but for 16, 32, 64, 128; expect a little less than from the next larger
    "#);
}

#[test]
fn base_weights_refuse_a_task() {
    let base = |task| {
        let lines = b"{\"token_ids\": [0, 7, 2]}";
        run_with_stdin(
            &[
                "embed",
                "-m",
                "checkpoints/base-only",
                "-t",
                task,
                "-d",
                "16",
            ],
            lines,
        )
    };
    base("raw").quiet();
    assert_snapshot!(base("separation").shown(), @r#"
    exit 1
    --- stderr
    error: the model has no task `separation`, expected `raw`
    hint: these are base weights without adapters; use `raw`, or a checkpoint that has the adapters
    "#);
    let text = run(&["embed", "-m", "checkpoints/base-only", "text"]);
    assert_snapshot!(text.shown(), @r#"
    exit 1
    --- stderr
    error: the checkpoint has no tokenizer, expected token ids as input
    hint: put the model's tokenizer.json beside its weights
    "#);
}
