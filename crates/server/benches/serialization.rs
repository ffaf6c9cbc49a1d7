//! What it costs to write a vector of 1024 into an answer, by type.
//!
//!     cargo bench -p quintet-server --bench serialization
#![expect(clippy::print_stdout, reason = "a bench prints")]

use std::time::{Duration, Instant};

use quintet_engine::embedding::{EmbeddingType, encode};
use quintet_server::wire::embeddings::{EmbeddingData, EmbeddingsResponse, Usage};

const DIMENSIONS: usize = 1024;
const VECTORS: usize = 1000;
const ROUNDS: usize = 10;

fn main() {
    // All digits that a component of a vector has.
    let component = |place: usize| (place as f32).sin() / 32.0;
    let numbers: Vec<f32> = (0..VECTORS * DIMENSIONS).map(component).collect();
    println!("type      us/vector  bytes/vector");
    for (name, embedding_type) in EmbeddingType::ALL {
        let (mut best, mut bytes) = (Duration::MAX, 0);
        for _ in 0..ROUNDS {
            let started = Instant::now();
            bytes = written(&numbers, embedding_type);
            best = best.min(started.elapsed());
        }
        let micros = best.as_secs_f64() * 1e6 / VECTORS as f64;
        println!("{name:10}{micros:9.1}{:14}", bytes / VECTORS);
    }
}

/// Bytes of an answer.
fn written(numbers: &[f32], embedding_type: EmbeddingType) -> usize {
    let vectors = numbers.chunks_exact(DIMENSIONS).enumerate();
    let data = vectors.map(|(index, embedding)| EmbeddingData {
        object: "embedding",
        index,
        embedding: encode(embedding, embedding_type).into(),
        embeddings: None,
        tokens: 16,
        truncated: false,
        cut_at: None,
    });
    let response = EmbeddingsResponse {
        object: "list",
        data: data.collect(),
        model: "jina-embeddings-v3".to_owned(),
        usage: Usage::new(16 * VECTORS),
        system_fingerprint: "fp_0000000000000000".to_owned(),
    };
    serde_json::to_vec(&response).map_or(0, |json| json.len())
}
