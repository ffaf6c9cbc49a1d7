//! Adapters in PEFT folders: the hub's own, saved again, or trained by a user.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::{Factors, FactorsByPart, finite, transposed};
use crate::config::{ConfigError, ModelConfig};
use crate::weights::CheckpointError;
use crate::weights::names::{LoraPlace, Part, peft_place};
use crate::weights::tensors::{Tensor, TensorFile};

pub(super) const CONFIG_FILE: &str = "adapter_config.json";
const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// The fields of PEFT's `LoraConfig` that change the arithmetic.
#[derive(Deserialize)]
struct PeftConfig {
    peft_type: String,
    r: usize,
    lora_alpha: f32,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default)]
    lora_bias: bool,
    bias: Option<String>,
    rank_pattern: Option<serde_json::Value>,
    alpha_pattern: Option<serde_json::Value>,
    modules_to_save: Option<serde_json::Value>,
}

impl PeftConfig {
    fn read(name: &str, path: &Path) -> Result<Self, CheckpointError> {
        let text = std::fs::read(path).map_err(|source| CheckpointError::Read {
            path: path.to_owned(),
            source,
        })?;
        let config: Self = serde_json::from_slice(&text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            source,
        })?;
        let empty = |value: &Option<serde_json::Value>| match value {
            None | Some(serde_json::Value::Null) => true,
            Some(serde_json::Value::Object(map)) => map.is_empty(),
            Some(serde_json::Value::Array(list)) => list.is_empty(),
            Some(_) => false,
        };
        let checks = [
            ("peft_type", config.peft_type == "LORA", "`LORA`"),
            ("r", config.r > 0, "a rank of at least 1"),
            (
                "lora_alpha",
                config.lora_alpha.is_finite(),
                "a finite number",
            ),
            ("use_dora", !config.use_dora, "`false`"),
            ("fan_in_fan_out", !config.fan_in_fan_out, "`false`"),
            ("lora_bias", !config.lora_bias, "`false`"),
            (
                "bias",
                config.bias.as_deref().is_none_or(|bias| bias == "none"),
                "`none`",
            ),
            (
                "rank_pattern",
                empty(&config.rank_pattern),
                "an empty pattern",
            ),
            (
                "alpha_pattern",
                empty(&config.alpha_pattern),
                "an empty pattern",
            ),
            ("modules_to_save", empty(&config.modules_to_save), "none"),
        ];
        for (field, valid, expected) in checks {
            if !valid {
                return Err(CheckpointError::AdapterConfig {
                    name: name.to_owned(),
                    path: path.to_owned(),
                    field,
                    found: "something else".to_owned(),
                    expected: expected.to_owned(),
                });
            }
        }
        Ok(config)
    }
}

/// All factors of a PEFT folder, with the scale that its configuration fixes.
pub(super) fn factors(
    config: &ModelConfig,
    name: &str,
    directory: &Path,
) -> Result<(FactorsByPart, Option<f32>), CheckpointError> {
    let peft = PeftConfig::read(name, &directory.join(CONFIG_FILE))?;
    let file = TensorFile::open_safetensors(&directory.join(WEIGHTS_FILE))?;
    let mut by_place: BTreeMap<LoraPlace, Tensor<'_>> = BTreeMap::new();
    for tensor_name in file.tensors.keys() {
        let place = peft_place(tensor_name).filter(|place| layer_exists(place.part, config));
        match place.zip(file.tensor(tensor_name)) {
            Some((place, tensor)) => {
                if let Some(other) = by_place.insert(place, tensor) {
                    return Err(CheckpointError::Unexpected {
                        path: file.path.clone(),
                        name: other.name.to_owned(),
                        layout: "PEFT (the same module occurs under two names)".to_owned(),
                    });
                }
            }
            None => {
                return Err(CheckpointError::Unexpected {
                    path: file.path.clone(),
                    name: tensor_name.clone(),
                    layout: "PEFT".to_owned(),
                });
            }
        }
    }
    let rank = peft.r;
    // A module's pair, both checked against `[out, in]`; PEFT stores embeddings transposed.
    let pair = |part: Part, third: Option<usize>| -> Result<Option<Factors>, CheckpointError> {
        let find = |is_b| by_place.get(&LoraPlace { part, third, is_b }).copied();
        let (a, b) = match (find(false), find(true)) {
            (None, None) => return Ok(None),
            (Some(a), Some(b)) => (a, b),
            (Some(one), None) | (None, Some(one)) => {
                return Err(CheckpointError::Missing {
                    path: file.path.clone(),
                    name: format!("the other half of {}", one.name),
                    expected: vec![],
                });
            }
        };
        let mut shape = part.weight_shape(config);
        if third.is_some() {
            shape[0] /= 3;
        }
        if part.is_embedding() {
            a.expect_shape(&[rank, shape[0]])?;
            b.expect_shape(&[shape[1], rank])?;
            let a = transposed(&finite(a, a.to_f32()?)?, rank);
            let b = transposed(&finite(b, b.to_f32()?)?, shape[1]);
            return Ok(Some(Factors { rank, a, b }));
        }
        a.expect_shape(&[rank, shape[1]])?;
        b.expect_shape(&[shape[0], rank])?;
        let (a, b) = (finite(a, a.to_f32()?)?, finite(b, b.to_f32()?)?);
        Ok(Some(Factors { rank, a, b }))
    };
    let mut factors = FactorsByPart::new();
    for part in Part::all(config).filter(|part| part.takes_lora() && *part != Part::Pooler) {
        let mut found = pair(part, None)?;
        if found.is_none() && matches!(part, Part::Wqkv(_)) {
            let thirds = [
                pair(part, Some(0))?,
                pair(part, Some(1))?,
                pair(part, Some(2))?,
            ];
            found = join_thirds(thirds, config.hidden_size);
        }
        if let Some(found) = found {
            factors.insert(part, found);
        }
    }
    let rank = rank as f32;
    let scale = peft.lora_alpha / if peft.use_rslora { rank.sqrt() } else { rank };
    Ok((factors, Some(scale)))
}

fn layer_exists(part: Part, config: &ModelConfig) -> bool {
    match part {
        Part::Wqkv(layer)
        | Part::OutProj(layer)
        | Part::Norm1(layer)
        | Part::Fc1(layer)
        | Part::Fc2(layer)
        | Part::Norm2(layer) => layer < config.num_hidden_layers,
        Part::WordEmbeddings | Part::TokenTypeEmbeddings | Part::EmbeddingNorm | Part::Pooler => {
            true
        }
    }
}

/// Query, key and value adapters as one adapter of the fused Wqkv.
///
/// The released adapters share A over the three, so B is stacked and the rank stays. Adapters trained
/// on the split modules have an A each: then A is stacked and B is block-diagonal.
fn join_thirds(thirds: [Option<Factors>; 3], hidden: usize) -> Option<Factors> {
    let present: Vec<&Factors> = thirds.iter().flatten().collect();
    let first = *present.first()?;
    if present.len() == 3 && present.iter().all(|factors| factors.a == first.a) {
        let b = present
            .iter()
            .flat_map(|factors| factors.b.iter().copied())
            .collect();
        return Some(Factors {
            rank: first.rank,
            a: first.a.clone(),
            b,
        });
    }
    let rank = present.iter().map(|factors| factors.rank).sum();
    let a = present
        .iter()
        .flat_map(|factors| factors.a.iter().copied())
        .collect();
    let mut b = vec![0.0; 3 * hidden * rank];
    let mut column = 0;
    for (third, factors) in thirds.iter().enumerate() {
        let Some(factors) = factors else { continue };
        for (row, values) in factors.b.chunks_exact(factors.rank).enumerate() {
            let start = (third * hidden + row) * rank + column;
            b[start..start + factors.rank].copy_from_slice(values);
        }
        column += factors.rank;
    }
    Some(Factors { rank, a, b })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirds_with_one_a_keep_their_rank_and_others_become_block_diagonal() {
        let factors = |a: f32, b: f32| {
            Some(Factors {
                rank: 1,
                a: vec![a, a],
                b: vec![b, b + 1.0],
            })
        };
        let shared =
            join_thirds([factors(1.0, 1.0), factors(1.0, 3.0), factors(1.0, 5.0)], 2).unwrap();
        assert_eq!(
            (shared.rank, shared.b),
            (1, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        );
        let apart = join_thirds([factors(1.0, 1.0), None, factors(2.0, 5.0)], 2).unwrap();
        assert_eq!(apart.rank, 2);
        assert_eq!(apart.a, [1.0, 1.0, 2.0, 2.0]);
        assert_eq!(apart.b, [1., 0., 2., 0., 0., 0., 0., 0., 0., 5., 0., 6.]);
        assert!(join_thirds([None, None, None], 2).is_none());
    }

    #[test]
    fn transposing_swaps_rows_and_columns() {
        assert_eq!(
            transposed(&[1., 2., 3., 4., 5., 6.], 2),
            [1., 4., 2., 5., 3., 6.]
        );
    }
}
