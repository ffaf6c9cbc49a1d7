//! Adapters in llama.cpp's LoRA files.

use std::path::Path;

use super::{Factors, FactorsByPart, finite, lora_shapes, transposed};
use crate::config::ModelConfig;
use crate::weights::CheckpointError;
use crate::weights::gguf::GgufFile;
use crate::weights::names::{Layout, Part};

/// All factors of a GGUF LoRA file (spec section 4), with the scale that it fixes.
pub(super) fn factors(
    config: &ModelConfig,
    path: &Path,
) -> Result<(FactorsByPart, Option<f32>), CheckpointError> {
    let file = GgufFile::open(path)?;
    let alpha = file.lora_alpha()?;
    let parts = || Part::all(config).filter(|part| part.takes_lora() && *part != Part::Pooler);
    let name = |part: Part, letter| format!("{}.weight.lora_{letter}", part.stems(Layout::Gguf)[0]);
    let known: Vec<String> = parts()
        .flat_map(|part| [name(part, 'a'), name(part, 'b')])
        .collect();
    if let Some(extra) = file.file.tensors.keys().find(|name| !known.contains(name)) {
        return Err(CheckpointError::Unexpected {
            path: path.to_owned(),
            name: extra.clone(),
            layout: "GGUF LoRA".to_owned(),
        });
    }
    let mut factors = FactorsByPart::new();
    let mut common_rank = None;
    for part in parts() {
        let (a, b) = match (
            file.file.tensor(&name(part, 'a')),
            file.file.tensor(&name(part, 'b')),
        ) {
            (None, None) => continue,
            (Some(a), Some(b)) => (a, b),
            (a, _) => {
                let name = name(part, if a.is_none() { 'a' } else { 'b' });
                return Err(CheckpointError::Missing {
                    path: path.to_owned(),
                    name,
                    expected: vec![],
                });
            }
        };
        // Token types swap names: their `lora_a` is B and their `lora_b` is A.
        let (a, b) = if part == Part::TokenTypeEmbeddings {
            (b, a)
        } else {
            (a, b)
        };
        let rank = if part.is_embedding() {
            a.shape().last()
        } else {
            a.shape().first()
        };
        let rank = rank.copied().unwrap_or(0).max(1);
        let [shape_a, mut shape_b] = lora_shapes(part, config, rank);
        if part == Part::WordEmbeddings {
            shape_b.reverse();
        }
        // Re-saving drops leading sizes of 1, which only the token-type row has.
        if !(part == Part::TokenTypeEmbeddings && a.shape() == [rank]) {
            a.expect_shape(&shape_a)?;
        }
        b.expect_shape(&shape_b)?;
        let a = finite(a, a.to_f32()?)?;
        let mut b = finite(b, b.to_f32()?)?;
        if part == Part::WordEmbeddings {
            b = transposed(&b, config.hidden_size);
        }
        factors.insert(part, Factors { rank, a, b });
        common_rank = Some(rank);
    }
    Ok((factors, common_rank.map(|rank| alpha / rank as f32)))
}
