//! The real XLM-R tokenizer and its re-saved variant against golden ids; odd texts never panic.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "test code fails by panicking"
)]

mod support;

use proptest::prelude::*;
use quintet_engine::Tokenizer;
use serde_json::Value;
use support::{load, shared, testdata};

#[test]
fn golden_ids_of_the_real_tokenizer() {
    let Some(shared) = shared("golden_ids_of_the_real_tokenizer") else {
        return;
    };
    let tokenizer = Tokenizer::from_file(&shared.join("tokenizer/tokenizer.json")).unwrap();
    let goldens = std::fs::read_to_string(shared.join("tokenizer/golden.jsonl")).unwrap();
    let mut compared = 0;
    for line in goldens.lines() {
        let golden: Value = serde_json::from_str(line).unwrap();
        let ids = tokenizer.encode(golden["text"].as_str().unwrap()).unwrap();
        assert_eq!(serde_json::json!(ids), golden["ids"], "{}", golden["text"]);
        compared += 1;
    }
    assert_eq!(compared, 195);
    // Spec section 6: a check value published with the real weights.
    let published = "Jina Embeddings V3 is great for semantic search.";
    assert_eq!(tokenizer.encode(published).unwrap().len(), 17);
}

#[test]
fn truncation_and_padding_in_the_file_are_overridden() {
    let original = testdata().join("checkpoints/original/tokenizer.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&original).unwrap()).unwrap();
    json["truncation"] = serde_json::json!({
        "direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0
    });
    json["padding"] = serde_json::json!({
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 1, "pad_type_id": 0, "pad_token": "<pad>"
    });
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokenizer.json");
    std::fs::write(&path, json.to_string()).unwrap();
    let text = "a text of more than eight tokens in this small vocabulary";
    let expected = Tokenizer::from_file(&original)
        .unwrap()
        .encode(text)
        .unwrap();
    assert_eq!(
        Tokenizer::from_file(&path).unwrap().encode(text).unwrap(),
        expected
    );
    assert!(expected.len() > 8);
}

#[test]
fn a_vocabulary_beyond_the_table_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        let from = testdata().join("checkpoints/original").join(file);
        std::fs::copy(from, directory.path().join(file)).unwrap();
    }
    let path = directory.path().join("tokenizer.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut json: Value = serde_json::from_str(&text).unwrap();
    json["model"]["vocab"]
        .as_array_mut()
        .unwrap()
        .push(serde_json::json!(["zzzz", -20.0]));
    std::fs::write(&path, json.to_string()).unwrap();
    let checkpoint = quintet_engine::Checkpoint::open(directory.path()).unwrap();
    let error = quintet_engine::Embedder::load(&checkpoint, &Default::default()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("has ids up to 320, the model's table ends at 319"),
        "{error}"
    );
}

#[test]
fn texts_joined_by_a_space_are_their_tokens_joined() {
    let tokenizer = load("original");
    let tokenizer = tokenizer.tokenizer().unwrap();
    proptest!(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }, |(
        left in any::<String>(), right in any::<String>(),
    )| {
        let mut joined = tokenizer.encode_plain(&left).unwrap();
        joined.extend(tokenizer.encode_plain(&right).unwrap());
        // The words of one side must not begin on the other: special strings strip blanks beside them.
        prop_assume!(!left.contains('<') && !right.contains('<'));
        prop_assert_eq!(tokenizer.encode_plain(&format!("{left} {right}")).unwrap(), joined);
    });
}

#[test]
fn any_text_gives_ids_in_the_vocabulary_and_offsets_in_the_text() {
    let embedder = load("original");
    let tokenizer = embedder.tokenizer().unwrap();
    proptest!(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }, |(
        text in any::<String>(),
    )| {
        let ids = tokenizer.encode(&text).unwrap();
        prop_assert!(ids.iter().all(|&id| (id as usize) < embedder.config().vocab_size));
        let with_offsets = tokenizer.encode_with_offsets(&text).unwrap();
        prop_assert_eq!(&with_offsets.token_ids[..], &ids[1..ids.len() - 1]);
        let len = text.chars().count();
        let mut last = 0;
        for (start, end) in with_offsets.offsets {
            prop_assert!(start <= end && end <= len && start >= last);
            last = start;
        }
    });
}
