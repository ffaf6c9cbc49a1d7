//! LoRA adapters from every layout, brought to one form: a low-rank side product per module.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use quintet_kernels::gemm::PackedLora;
use serde::Deserialize;

use super::CheckpointError;
use super::gguf::GgufFile;
use super::names::{Layout, LoraPlace, Part, peft_place};
use super::tensors::{Tensor, TensorFile};
use crate::config::{ConfigError, ModelConfig, TASK_NAMES};

/// An adapter's name and where its tensors lie.
#[derive(Debug, Clone)]
pub struct AdapterSource {
    /// The task's name, or the one that the user gave a custom adapter.
    pub name: String,
    /// Text put before every input of this adapter; empty for none.
    pub instruction: String,
    pub(super) origin: Origin,
}

#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// Slice `index` of the stacked tensors; in the checkpoint's own files where `path` is `None`.
    Stacked { path: Option<PathBuf>, index: usize },
    /// A folder with `adapter_config.json` and `adapter_model.safetensors`.
    Peft { directory: PathBuf },
    /// A `lora-<task>-*.gguf` file.
    Gguf { path: PathBuf },
}

impl AdapterSource {
    /// Finds a user's own adapter at `path`: a PEFT folder, an original-layout safetensors file
    /// (`FILE#TASK` chooses from a stack of several), or a GGUF LoRA file.
    ///
    /// # Errors
    /// [`CheckpointError`] when nothing of the kind lies there or the stack has no such task.
    pub fn custom(name: &str, path: &Path) -> Result<Self, CheckpointError> {
        let source = |instruction: &str, origin| Self {
            name: name.to_owned(),
            instruction: instruction.to_owned(),
            origin,
        };
        if path.is_dir() {
            if !path.join(PEFT_CONFIG).is_file() {
                return Err(CheckpointError::NoModel {
                    path: path.to_owned(),
                    expected: "adapter_config.json and adapter_model.safetensors",
                });
            }
            return Ok(source(
                "",
                Origin::Peft {
                    directory: path.to_owned(),
                },
            ));
        }
        if path
            .extension()
            .is_some_and(|extension| extension == "gguf")
        {
            let file = GgufFile::open(path)?;
            let instruction = file.text("adapter.lora.prompt_prefix").unwrap_or_default();
            return Ok(source(
                instruction,
                Origin::Gguf {
                    path: path.to_owned(),
                },
            ));
        }
        let (file, task) = match path.to_str().and_then(|text| text.rsplit_once('#')) {
            Some((file, task)) if !path.exists() => (PathBuf::from(file), Some(task.to_owned())),
            _ => (path.to_owned(), None),
        };
        let opened = TensorFile::open_safetensors(&file)?;
        let stacked = opened
            .tensors
            .iter()
            .find(|(name, _)| name.contains(".parametrizations.weight.0.lora_"))
            .and_then(|(_, info)| info.shape.first().copied());
        let Some(found) = stacked else {
            return Err(CheckpointError::NoModel {
                path: file,
                expected: "stacked LoRA tensors (`….parametrizations.weight.0.lora_A`)",
            });
        };
        let config_path = file.with_file_name("config.json");
        let config = config_path
            .is_file()
            .then(|| ModelConfig::read(&config_path))
            .transpose()?;
        let known = match &config {
            Some(config) => config.lora_adaptations.clone(),
            None if found == TASK_NAMES.len() => TASK_NAMES.map(str::to_owned).to_vec(),
            None => Vec::new(),
        };
        let asked = task.unwrap_or_else(|| name.to_owned());
        let index = match known.iter().position(|known| *known == asked) {
            Some(index) if index < found => index,
            _ if found == 1 => 0,
            _ => {
                return Err(CheckpointError::AdapterNotInStack {
                    path: file,
                    name: asked,
                    found,
                    known,
                });
            }
        };
        let instruction = config.as_ref().map_or(String::new(), |config| {
            config.instruction(&asked).to_owned()
        });
        Ok(source(
            &instruction,
            Origin::Stacked {
                path: Some(file),
                index,
            },
        ))
    }

    /// Reads, checks and packs the adapter. `base` finds a tensor of the checkpoint itself by its stem
    /// and suffix.
    pub(super) fn load<'a>(
        &self,
        config: &ModelConfig,
        base: &dyn Fn(&str) -> Option<Tensor<'a>>,
        base_path: &Path,
    ) -> Result<Adapter, CheckpointError> {
        let (factors, scale) = match &self.origin {
            Origin::Stacked { path: None, index } => (
                stacked_factors(config, base, base_path, *index, true)?,
                None,
            ),
            Origin::Stacked {
                path: Some(path),
                index,
            } => {
                let file = TensorFile::open_safetensors(path)?;
                let find = |name: &str| {
                    file.tensor(name)
                        .or_else(|| file.tensor(&format!("roberta.{name}")))
                };
                (stacked_factors(config, &find, path, *index, false)?, None)
            }
            Origin::Peft { directory } => peft_factors(config, &self.name, directory)?,
            Origin::Gguf { path } => gguf_factors(config, path)?,
        };
        Ok(Adapter::pack(self, config, factors, scale))
    }
}

/// One adapter ready for the encoder.
pub(crate) struct Adapter {
    pub(crate) name: String,
    pub(crate) instruction: String,
    pub(crate) word: Option<EmbeddingLora>,
    /// Added to the token-type row: scale · A\[0\] · B, `[hidden]`.
    pub(crate) token_type: Option<Vec<f32>>,
    pub(crate) layers: Vec<LayerAdapter>,
}

/// The side products of one layer; `None` where the adapter leaves a module alone.
#[derive(Default)]
pub(crate) struct LayerAdapter {
    pub(crate) wqkv: Option<PackedLora>,
    pub(crate) out_proj: Option<PackedLora>,
    pub(crate) fc1: Option<PackedLora>,
    pub(crate) fc2: Option<PackedLora>,
}

/// LoRA on the word embedding table: row v gets `a[v] · b`.
#[derive(Debug)]
pub(crate) struct EmbeddingLora {
    pub(crate) rank: usize,
    /// `[rows, rank]`.
    pub(crate) a: Vec<f32>,
    /// `[rank, hidden]`, the scale folded in.
    pub(crate) b: Vec<f32>,
}

/// LoRA factors of one module. Linear: `a` is `[rank, in]`, `b` is `[out, rank]`, delta = b·a.
/// Embedding: `a` is `[rows, rank]`, `b` is `[rank, hidden]`, delta = a·b.
struct Factors {
    rank: usize,
    a: Vec<f32>,
    b: Vec<f32>,
}

type FactorsByPart = BTreeMap<Part, Factors>;

impl Adapter {
    /// `scale` is alpha / rank where the file fixes it, else the configuration's alpha over each rank.
    fn pack(
        source: &AdapterSource,
        config: &ModelConfig,
        mut factors: FactorsByPart,
        scale: Option<f32>,
    ) -> Self {
        let scale_of = |rank: usize| scale.unwrap_or(config.lora_alpha / rank as f32);
        let word = factors.remove(&Part::WordEmbeddings).map(|factors| {
            let scale = scale_of(factors.rank);
            let b = factors.b.iter().map(|value| value * scale).collect();
            EmbeddingLora {
                rank: factors.rank,
                a: factors.a,
                b,
            }
        });
        let token_type = factors.remove(&Part::TokenTypeEmbeddings).map(|factors| {
            let scale = scale_of(factors.rank);
            let columns = 0..config.hidden_size;
            let rows = factors.b.chunks_exact(config.hidden_size);
            let pairs: Vec<_> = factors.a.iter().zip(rows).collect();
            columns
                .map(|column| scale * pairs.iter().map(|(a, b)| *a * b[column]).sum::<f32>())
                .collect()
        });
        let mut linear = |part: Part| {
            factors.remove(&part).map(|factors| {
                let shape = part.weight_shape(config);
                let scale = scale_of(factors.rank);
                PackedLora::new(
                    &factors.a,
                    &factors.b,
                    shape[0],
                    shape[1],
                    factors.rank,
                    scale,
                )
            })
        };
        let layers = (0..config.num_hidden_layers)
            .map(|layer| LayerAdapter {
                wqkv: linear(Part::Wqkv(layer)),
                out_proj: linear(Part::OutProj(layer)),
                fc1: linear(Part::Fc1(layer)),
                fc2: linear(Part::Fc2(layer)),
            })
            .collect();
        Self {
            name: source.name.clone(),
            instruction: source.instruction.clone(),
            word,
            token_type,
            layers,
        }
    }
}

/// Names of a module's stacked tensors behind its stem.
pub(super) const STACKED_A: &str = ".parametrizations.weight.0.lora_A";
pub(super) const STACKED_B: &str = ".parametrizations.weight.0.lora_B";

/// Shapes of one task's A and B in the original orientation (spec section 2).
pub(super) fn lora_shapes(part: Part, config: &ModelConfig, rank: usize) -> [Vec<usize>; 2] {
    let shape = part.weight_shape(config);
    if part.is_embedding() {
        [vec![shape[0], rank], vec![rank, shape[1]]]
    } else {
        [vec![rank, shape[1]], vec![shape[0], rank]]
    }
}

/// Task `index` of tensors stacked `[tasks, …]`. `complete` demands them for every module.
fn stacked_factors<'a>(
    config: &ModelConfig,
    find: &dyn Fn(&str) -> Option<Tensor<'a>>,
    path: &Path,
    index: usize,
    complete: bool,
) -> Result<FactorsByPart, CheckpointError> {
    let mut factors = FactorsByPart::new();
    for part in Part::all(config).filter(|part| part.takes_lora() && *part != Part::Pooler) {
        let stem = &part.stems(Layout::Original)[0];
        let (name_a, name_b) = (format!("{stem}{STACKED_A}"), format!("{stem}{STACKED_B}"));
        let (a, b) = match (find(&name_a), find(&name_b)) {
            (Some(a), Some(b)) => (a, b),
            (None, None) if !complete => continue,
            (a, _) => {
                let name = if a.is_none() { name_a } else { name_b };
                return Err(CheckpointError::Missing {
                    path: path.to_owned(),
                    name,
                    expected: vec![],
                });
            }
        };
        let rank_axis = if part.is_embedding() { 2 } else { 1 };
        let rank = a.shape().get(rank_axis).copied().unwrap_or(0).max(1);
        let tasks = a.shape().first().copied().unwrap_or(0).max(index + 1);
        let [shape_a, shape_b] = lora_shapes(part, config, rank);
        let slice = |tensor: Tensor<'_>, shape: Vec<usize>| {
            let len: usize = shape.iter().product();
            let mut stacked = vec![tasks];
            stacked.extend(shape);
            tensor.expect_shape(&stacked)?;
            finite(tensor, tensor.slice_f32(index * len, len)?)
        };
        let (a, b) = (slice(a, shape_a)?, slice(b, shape_b)?);
        factors.insert(part, Factors { rank, a, b });
    }
    Ok(factors)
}

fn finite(tensor: Tensor<'_>, values: Vec<f32>) -> Result<Vec<f32>, CheckpointError> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(values),
        Some(index) => Err(CheckpointError::NotFinite {
            path: tensor.path().to_owned(),
            name: tensor.name.to_owned(),
            index,
            value: values[index],
        }),
    }
}

const PEFT_CONFIG: &str = "adapter_config.json";
const PEFT_WEIGHTS: &str = "adapter_model.safetensors";

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
fn peft_factors(
    config: &ModelConfig,
    name: &str,
    directory: &Path,
) -> Result<(FactorsByPart, Option<f32>), CheckpointError> {
    let peft = PeftConfig::read(name, &directory.join(PEFT_CONFIG))?;
    let file = TensorFile::open_safetensors(&directory.join(PEFT_WEIGHTS))?;
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

/// `rows` rows of a row-major matrix become columns.
fn transposed(matrix: &[f32], rows: usize) -> Vec<f32> {
    let columns = matrix.len() / rows;
    (0..matrix.len())
        .map(|index| matrix[index % rows * columns + index / rows])
        .collect()
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

/// All factors of a GGUF LoRA file (spec section 4), with the scale that it fixes.
fn gguf_factors(
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
