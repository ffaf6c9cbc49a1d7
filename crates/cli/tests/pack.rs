//! `quintet pack`: the file is found by itself, and made anew when it is no good.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code fails by panicking"
)]

use std::path::{Path, PathBuf};

use assert_cmd::Command;

fn quintet(cache: &Path, arguments: &[&str]) -> (String, String) {
    let model =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/checkpoints/original");
    let output = Command::cargo_bin("quintet")
        .unwrap()
        .env("QUINTET_CACHE", cache)
        .env("QUINTET_MODEL", model)
        .env("QUINTET_THREADS", "1")
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (out, error) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{arguments:?}: {error}");
    (out, error)
}

#[test]
fn the_packed_file_is_found_and_a_damaged_one_made_anew() {
    let cache = tempfile::tempdir().unwrap();
    let embed = ["embed", "--precision", "fast", "a stork"];
    let (expected, _) = quintet(cache.path(), &embed);

    let (out, _) = quintet(cache.path(), &["pack", "--precision", "fast", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    let path = PathBuf::from(report["path"].as_str().unwrap());
    assert_eq!(report["bytes"], path.metadata().unwrap().len());
    assert!(path.starts_with(cache.path()), "{}", path.display());

    let (found, error) = quintet(cache.path(), &embed);
    assert_eq!((found.as_str(), error.as_str()), (expected.as_str(), ""));

    let mut bytes = std::fs::read(&path).unwrap();
    let whole = bytes.clone();
    bytes[5000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let (found, error) = quintet(cache.path(), &embed);
    assert_eq!(found, expected);
    assert!(
        error.contains("damaged") && error.contains("making them anew"),
        "{error}"
    );
    assert_eq!(
        std::fs::read(&path).unwrap(),
        whole,
        "the file is whole again"
    );

    let (found, error) = quintet(cache.path(), &embed);
    assert_eq!((found.as_str(), error.as_str()), (expected.as_str(), ""));
}
