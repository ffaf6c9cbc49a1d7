//! LoRA adapters from every layout, brought to one form: a low-rank side product per module.

mod gguf;
mod peft;
pub(super) mod stacked;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use quintet_kernels::gemm::PackedLora;

use super::CheckpointError;
use super::gguf::GgufFile;
use super::names::Part;
use super::tensors::{Tensor, TensorFile};
use crate::config::{ModelConfig, TASK_NAMES};

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
            if !path.join(peft::CONFIG_FILE).is_file() {
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
                stacked::factors(config, base, base_path, *index, true)?,
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
                (stacked::factors(config, &find, path, *index, false)?, None)
            }
            Origin::Peft { directory } => peft::factors(config, &self.name, directory)?,
            Origin::Gguf { path } => gguf::factors(config, path)?,
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

/// Shapes of one task's A and B in the original orientation (spec section 2).
pub(super) fn lora_shapes(part: Part, config: &ModelConfig, rank: usize) -> [Vec<usize>; 2] {
    let shape = part.weight_shape(config);
    if part.is_embedding() {
        [vec![shape[0], rank], vec![rank, shape[1]]]
    } else {
        [vec![rank, shape[1]], vec![shape[0], rank]]
    }
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

/// `rows` rows of a row-major matrix become columns.
fn transposed(matrix: &[f32], rows: usize) -> Vec<f32> {
    let columns = matrix.len() / rows;
    (0..matrix.len())
        .map(|index| matrix[index % rows * columns + index / rows])
        .collect()
}
