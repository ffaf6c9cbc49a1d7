//! The first hidden states: word row plus token-type row, each with the sequence's adapter.

use std::sync::{Mutex, PoisonError};

use quintet_kernels::Cpu;

use crate::batch::PackedBatch;
use crate::weights::Weights;

/// Tokens that one task of the pool gathers.
const TOKENS_PER_TASK: usize = 64;

/// Writes `W[id] + scale·A[id]·B + token_type` for every token to `out`, `[tokens, hidden]`.
///
/// LayerNorm is the caller's. Source: `JinaEmbeddingsV3Embeddings.forward`, spec sections 1 and 2.
pub(super) fn gather(
    cpu: &Cpu,
    weights: &Weights,
    batch: &PackedBatch,
    hidden: usize,
    out: &mut [f32],
) {
    let token_types = token_type_rows(weights);
    let adapters = token_adapters(batch);
    let chunks: Vec<Mutex<&mut [f32]>> = out
        .chunks_mut(TOKENS_PER_TASK * hidden)
        .map(Mutex::new)
        .collect();
    cpu.pool().run(chunks.len(), &|task, _| {
        let mut rows = chunks[task].lock().unwrap_or_else(PoisonError::into_inner);
        let first = task * TOKENS_PER_TASK;
        for (row, token) in rows.chunks_exact_mut(hidden).zip(first..) {
            let token_id = batch.token_ids[token] as usize;
            weights.word_embeddings.read_row(token_id, row);
            let adapter = adapters[token];
            if let Some(word) = adapter.and_then(|index| weights.adapters[index].word.as_ref()) {
                let a = &word.a[token_id * word.rank..(token_id + 1) * word.rank];
                for (factor, b) in a.iter().zip(word.b.chunks_exact(hidden)) {
                    for (value, b) in row.iter_mut().zip(b) {
                        *value += factor * b;
                    }
                }
            }
            let token_type = &token_types[adapter.map_or(0, |index| index + 1)];
            for (value, token_type) in row.iter_mut().zip(token_type) {
                *value += token_type;
            }
        }
    });
}

/// The constant token-type row without adapter, then with each.
fn token_type_rows(weights: &Weights) -> Vec<Vec<f32>> {
    let base = &weights.token_type_embedding;
    let with = weights
        .adapters
        .iter()
        .map(|adapter| match &adapter.token_type {
            Some(delta) => base
                .iter()
                .zip(delta)
                .map(|(base, delta)| base + delta)
                .collect(),
            None => base.clone(),
        });
    std::iter::once(base.clone()).chain(with).collect()
}

/// The adapter of every token.
fn token_adapters(batch: &PackedBatch) -> Vec<Option<usize>> {
    let lengths = batch
        .cu_seqlens
        .windows(2)
        .map(|ends| (ends[1] - ends[0]) as usize);
    let runs = lengths.zip(&batch.tasks);
    runs.flat_map(|(len, task)| std::iter::repeat_n(task.adapter(), len))
        .collect()
}
