//! The built-in bytes are those that `training/` exported, and they load with all five adapters.
#![allow(clippy::unwrap_used, reason = "test code fails by panicking")]

use quintet_engine::{
    BuiltInModel, Checkpoint, Content, EmbedOptions, Embedder, Input, LoadOptions,
};
use sha2::{Digest, Sha256};

const FILES: [(&str, &[u8]); 3] = [
    ("config.json", quintet_mini::CONFIG_JSON.as_bytes()),
    ("model.safetensors", quintet_mini::MODEL_SAFETENSORS),
    ("tokenizer.json", quintet_mini::TOKENIZER_JSON.as_bytes()),
];

/// The model card's table of hashes is written by the export.
#[test]
fn the_bytes_have_the_hashes_of_the_model_card() {
    let card = include_str!("../README.md");
    for (name, bytes) in FILES {
        let hash: String = Sha256::digest(bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let line = card
            .lines()
            .find(|line| line.contains(&format!("`model/{name}`")) && line.contains(&hash));
        assert!(
            line.is_some(),
            "the model card has no line with `{name}` and {hash}"
        );
    }
}

#[test]
fn the_files_stay_small() {
    let bytes: usize = FILES.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(
        bytes <= 28_000_000,
        "{bytes} bytes, at most 28 MB were agreed"
    );
}

#[test]
fn a_translation_is_nearer_than_another_subject() {
    let model = BuiltInModel {
        name: quintet_mini::NAME,
        config_json: quintet_mini::CONFIG_JSON,
        model_safetensors: quintet_mini::MODEL_SAFETENSORS,
        tokenizer_json: quintet_mini::TOKENIZER_JSON,
    };
    let checkpoint = Checkpoint::built_in(&model).unwrap();
    assert_eq!(checkpoint.adapters.len(), 5);
    let embedder = Embedder::load(&checkpoint, &LoadOptions::default()).unwrap();
    let task = embedder.task("text-matching").unwrap();
    let inputs = [
        "The weather is nice today.",
        "Das Wetter ist heute schön.",
        "The bank raised interest rates.",
    ]
    .map(|text| Input {
        content: Content::Text(text),
        task,
    });
    let vectors = embedder.embed(&inputs, &EmbedOptions::default()).unwrap();
    let cosine = |left: usize, right: usize| {
        let pairs = vectors[left]
            .embedding
            .iter()
            .zip(&vectors[right].embedding);
        pairs.map(|(left, right)| left * right).sum::<f32>()
    };
    assert!(
        cosine(0, 1) > cosine(0, 2) + 0.2,
        "{} and {}",
        cosine(0, 1),
        cosine(0, 2)
    );
}
