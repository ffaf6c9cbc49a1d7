//! The built binary, run in `testdata` without the caller's settings.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// A small checkpoint with a tokenizer and five adapters, relative to `testdata`.
pub(crate) const MODEL: &str = "checkpoints/original";

/// The folder with checkpoints and goldens.
pub(crate) fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata")
}

/// The binary, with a cache that does not exist and no variable that it reads.
pub(crate) fn quintet() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("quintet"));
    command.current_dir(testdata());
    for (name, _) in std::env::vars() {
        if name.starts_with("QUINTET_") || name.starts_with("HF_") || name.starts_with("HUGGING") {
            command.env_remove(name);
        }
    }
    command
        .env("HF_HOME", "no-cache-here")
        .env("NO_COLOR", "1")
        .env_remove("XDG_CACHE_HOME");
    command.stdin(Stdio::null());
    command
}

/// What a run left behind.
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs with arguments and nothing on stdin.
pub(crate) fn run(args: &[&str]) -> Run {
    run_with_stdin(args, b"")
}

/// Runs with arguments and `stdin`.
pub(crate) fn run_with_stdin(args: &[&str], stdin: &[u8]) -> Run {
    let mut command = quintet();
    command.args(args);
    finish(command, stdin)
}

/// Runs a command to its end.
pub(crate) fn finish(mut command: Command, stdin: &[u8]) -> Run {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let stdin = stdin.to_vec();
    // A run that refuses early does not read everything.
    let writer = std::thread::spawn(move || drop(pipe.write_all(&stdin)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Run {
    /// Stdout of a run that went well and said nothing.
    pub(crate) fn quiet(self) -> String {
        assert_eq!(
            (self.code, self.stderr.as_str()),
            (Some(0), ""),
            "{}",
            self.stdout
        );
        self.stdout
    }

    /// The JSON lines of a run that went well.
    pub(crate) fn json_lines(self) -> Vec<Value> {
        json_lines(&self.quiet())
    }

    /// Exit code, stdout and stderr for a snapshot, `folder` replaced by `[TMP]`.
    pub(crate) fn shown_in(&self, folder: &Path) -> String {
        self.shown().replace(folder.to_str().unwrap(), "[TMP]")
    }

    /// Exit code, stdout and stderr for a snapshot.
    pub(crate) fn shown(&self) -> String {
        let Self {
            code,
            stdout,
            stderr,
        } = self;
        let code = code.map_or("none".to_owned(), |code| code.to_string());
        let mut text = format!("exit {code}\n");
        for (name, part) in [("stdout", stdout), ("stderr", stderr)] {
            if !part.is_empty() {
                text.push_str(&format!("--- {name}\n{part}"));
            }
        }
        text
    }
}

/// One value per line.
pub(crate) fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The numbers of a JSON array.
pub(crate) fn floats(value: &Value) -> Vec<f32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|number| number.as_f64().unwrap() as f32)
        .collect()
}

/// Largest difference of a component.
pub(crate) fn worst(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}
