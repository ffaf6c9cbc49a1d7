//! `quintet pack` and `quintet calibrate`: the file is found by itself, and made anew when it is no
//! good.

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

#[test]
fn a_calibrated_file_is_found_and_holds_the_shares_that_were_asked_for() {
    let cache = tempfile::tempdir().unwrap();
    let embed = |precision| {
        let arguments = ["embed", "--precision", precision, "a stork"];
        quintet(cache.path(), &arguments).0
    };
    let (fast, balanced) = (embed("fast"), embed("balanced"));
    assert_ne!(fast, balanced);
    let calibrate = |arguments: &[&str]| -> serde_json::Value {
        let arguments = [&["calibrate", "--json"], arguments].concat();
        let (out, _) = quintet(cache.path(), &arguments);
        serde_json::from_str(&out).unwrap()
    };
    calibrate(&["--keep", "100"]);
    assert_eq!(embed("fast"), balanced, "every matrix in 16 bits");
    calibrate(&["--keep", "0"]);
    assert_eq!(embed("fast"), fast, "none");

    let report = calibrate(&["--keep", "50", "--curve"]);
    let worst = |of: &str| report[of]["worst"].as_f64().unwrap();
    assert!(worst("after") < worst("before"), "{report}");
    assert!((20.0..=50.0).contains(&report["kept_percent"].as_f64().unwrap()));
    let matrices = report["matrices"].as_array().unwrap();
    let density = |matrix: &serde_json::Value| {
        matrix["error"].as_f64().unwrap() / matrix["numbers"].as_f64().unwrap()
    };
    let worst_of = |kept: bool| {
        let of = matrices.iter().filter(|matrix| matrix["kept"] == kept);
        of.map(density).fold(0.0, f64::max)
    };
    assert!(worst_of(true) >= worst_of(false), "{report}");
    let curve = report["curve"].as_array().unwrap();
    assert_eq!(curve[0]["worst"], 0.0, "exact");
    assert_eq!(curve[1]["worst"], report["before"]["worst"]);
    assert!(curve.last().unwrap()["worst"].as_f64().unwrap() < 1e-5);
}

#[test]
fn of_many_texts_most_teach_the_rounding_and_the_others_judge_it() {
    let cache = tempfile::tempdir().unwrap();
    let texts = cache.path().join("texts.txt");
    let lines: Vec<String> = (0..150_u32)
        .map(|line| {
            let words = (0..8_u32)
                .map(|word| ["stork", "Storch", "cigogne"][(line * 7 + word * word) as usize % 3]);
            format!("{line} {}", words.collect::<Vec<_>>().join(" "))
        })
        .collect();
    std::fs::write(&texts, lines.join("\n")).unwrap();
    let embed = || quintet(cache.path(), &["embed", "--precision", "fast", "a stork"]).0;
    let nearest = embed();
    let arguments = [
        "calibrate",
        "--json",
        "--keep",
        "0",
        "--input",
        texts.to_str().unwrap(),
    ];
    let (out, _) = quintet(cache.path(), &arguments);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&report["texts"], &report["rounded"]["texts"]),
        (&30.into(), &120.into())
    );
    let mean = |of: &str| report[of]["mean"].as_f64().unwrap();
    assert!(mean("rounded") < mean("before"), "{report}");
    assert_eq!(report["rounded"]["kept"], true);
    assert_eq!(mean("after"), mean("rounded"), "none in 16 bits");
    let fitted = embed();
    assert_ne!(fitted, nearest);
    quintet(cache.path(), &arguments);
    assert_eq!(embed(), fitted, "the same texts give the same rounding");
}

#[test]
fn calibration_needs_a_file_to_keep_its_result_beside() {
    let cache = tempfile::tempdir().unwrap();
    let output = Command::cargo_bin("quintet")
        .unwrap()
        .env("QUINTET_CACHE", cache.path())
        .args(["calibrate", "mini"])
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("`mini` is built in"), "{error}");
}
