//! A model on disk: which layout lies at a path, and its weights checked and packed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use quintet_kernels::Cpu;
use quintet_kernels::gemm::PackedMatrix;

use super::CheckpointError;
use super::adapters::{Adapter, AdapterSource, Origin, STACKED_A, STACKED_B, lora_shapes};
use super::gguf::{GgufFile, GgufTokenizer};
use super::names::{Layout, Part, is_ignorable};
use super::tensors::{Dtype, Table, Tensor, TensorFile, rows};
use crate::config::ModelConfig;

/// Where the tokenizer of a checkpoint comes from.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum TokenizerSource {
    /// A `tokenizer.json` file.
    File(PathBuf),
    /// The vocabulary inside a GGUF file.
    Gguf(GgufTokenizer),
    /// None: only token ids can be embedded.
    Absent,
}

/// A model whose files are open and whose layout is known; no weight has been read yet.
#[derive(Debug)]
pub struct Checkpoint {
    /// The path that was opened, a directory or a file.
    pub path: PathBuf,
    /// Shapes and constants.
    pub config: ModelConfig,
    /// How the tensors are named.
    pub layout: Layout,
    /// The adapters that lie with the base weights, in the order of the tasks.
    pub adapters: Vec<AdapterSource>,
    /// Where the tokenizer comes from.
    pub tokenizer: TokenizerSource,
    config_path: PathBuf,
    files: Vec<TensorFile>,
    /// `roberta.` where the file has it.
    prefix: &'static str,
}

const PREFIX: &str = "roberta.";

impl Checkpoint {
    /// Opens what lies at `path`: a directory with `config.json` and safetensors files, a directory
    /// with a base GGUF file, or one such file. Headers are read, weights are not.
    ///
    /// # Errors
    /// [`CheckpointError`] naming the file and what is wrong with it.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let is_gguf = |path: &Path| {
            path.extension()
                .is_some_and(|extension| extension == "gguf")
        };
        if path.is_dir() {
            let single = path.join("model.safetensors");
            let index = path.join("model.safetensors.index.json");
            if single.is_file() {
                Self::open_safetensors(path, path, vec![single])
            } else if index.is_file() {
                Self::open_safetensors(path, path, shards(&index)?)
            } else {
                Self::open_gguf(path, &base_gguf(path)?)
            }
        } else if is_gguf(path) {
            Self::open_gguf(path, path)
        } else if path.is_file() {
            let directory = path.parent().unwrap_or(Path::new("."));
            Self::open_safetensors(path, directory, vec![path.to_owned()])
        } else {
            let source = std::io::Error::from(std::io::ErrorKind::NotFound);
            Err(CheckpointError::Read {
                path: path.to_owned(),
                source,
            })
        }
    }

    fn open_safetensors(
        path: &Path,
        directory: &Path,
        paths: Vec<PathBuf>,
    ) -> Result<Self, CheckpointError> {
        let files = paths
            .iter()
            .map(|path| TensorFile::open_safetensors(path))
            .collect::<Result<Vec<_>, _>>()?;
        let config_path = directory.join("config.json");
        let config = ModelConfig::read(&config_path)?;
        let prefixed = files
            .iter()
            .flat_map(|file| file.tensors.keys())
            .any(|k| k.starts_with(PREFIX));
        let mut checkpoint = Self {
            path: path.to_owned(),
            config,
            layout: Layout::Fused,
            adapters: Vec::new(),
            tokenizer: tokenizer_beside(directory),
            config_path,
            files,
            prefix: if prefixed { PREFIX } else { "" },
        };
        checkpoint.layout = checkpoint.detect_layout()?;
        checkpoint.adapters = match checkpoint.layout {
            Layout::Original => checkpoint.stacked_adapters(),
            Layout::Fused | Layout::Unfused | Layout::Gguf => checkpoint.peft_adapters(directory),
        };
        Ok(checkpoint)
    }

    fn open_gguf(path: &Path, base: &Path) -> Result<Self, CheckpointError> {
        let gguf = GgufFile::open(base)?;
        if gguf.is_adapter() {
            return Err(CheckpointError::NoModel {
                path: base.to_owned(),
                expected: "a base model, this GGUF file is a LoRA adapter",
            });
        }
        let config = gguf.config()?;
        let directory = base.parent().unwrap_or(Path::new("."));
        let tokenizer = match gguf.tokenizer()? {
            Some(tokenizer) => TokenizerSource::Gguf(tokenizer),
            None => tokenizer_beside(directory),
        };
        let adapters = gguf_adapters(directory, base, &config)?;
        Ok(Self {
            path: path.to_owned(),
            config,
            layout: Layout::Gguf,
            adapters,
            tokenizer,
            config_path: base.to_owned(),
            files: vec![gguf.file],
            prefix: "",
        })
    }

    /// The layout most of whose weights are there by name.
    fn detect_layout(&self) -> Result<Layout, CheckpointError> {
        let matches = |layout: Layout| {
            Part::all(&self.config)
                .filter(|part| !part.is_norm() && !matches!(part, Part::Pooler))
                .flat_map(|part| {
                    let suffix = part.weight_suffix(layout);
                    part.stems(layout)
                        .into_iter()
                        .map(move |stem| format!("{stem}{suffix}"))
                })
                .filter(|name| self.find(name).is_some())
                .count()
        };
        [Layout::Original, Layout::Fused, Layout::Unfused]
            .into_iter()
            .map(|layout| (matches(layout), layout))
            .filter(|(count, _)| *count > 0)
            .max_by_key(|(count, _)| *count)
            .map(|(_, layout)| layout)
            .ok_or_else(|| CheckpointError::UnknownLayout {
                path: self.weights_path(),
                found: self
                    .files
                    .iter()
                    .find_map(|f| f.tensors.keys().next().cloned())
                    .unwrap_or_default(),
                expected: "roberta.encoder.layers.0.mixer.Wqkv.parametrizations.weight.original",
            })
    }

    fn stacked_adapters(&self) -> Vec<AdapterSource> {
        let names = self.config.lora_adaptations.iter().enumerate();
        names
            .map(|(index, name)| AdapterSource {
                name: name.clone(),
                instruction: self.config.instruction(name).to_owned(),
                origin: Origin::Stacked { path: None, index },
            })
            .collect()
    }

    fn peft_adapters(&self, directory: &Path) -> Vec<AdapterSource> {
        let names = self.config.lora_adaptations.iter();
        names
            .map(|name| (name, directory.join(name.replace(['.', '-'], "_"))))
            .filter(|(_, folder)| folder.join("adapter_config.json").is_file())
            .map(|(name, folder)| AdapterSource {
                name: name.clone(),
                instruction: self.config.instruction(name).to_owned(),
                origin: Origin::Peft { directory: folder },
            })
            .collect()
    }

    /// Tensor of the base files by its name without prefix.
    fn find(&self, name: &str) -> Option<Tensor<'_>> {
        let full = format!("{}{name}", self.prefix);
        self.files.iter().find_map(|file| file.tensor(&full))
    }

    fn weights_path(&self) -> PathBuf {
        self.files
            .first()
            .map_or_else(|| self.path.clone(), |file| file.path.clone())
    }

    fn require(&self, name: &str, shape: &[usize]) -> Result<Tensor<'_>, CheckpointError> {
        let tensor = self.find(name).ok_or_else(|| CheckpointError::Missing {
            path: self.weights_path(),
            name: format!("{}{name}", self.prefix),
            expected: shape.to_vec(),
        })?;
        tensor.expect_shape(shape)?;
        Ok(tensor)
    }

    /// Parameters, tensors and bytes in the base files, by dtype, for `quintet info`.
    pub fn census(&self) -> Vec<DtypeCensus> {
        let mut census: Vec<DtypeCensus> = Vec::new();
        for info in self.files.iter().flat_map(|file| file.tensors.values()) {
            let dtype = match &info.dtype {
                Ok(dtype) => dtype.to_string(),
                Err(other) => other.clone(),
            };
            let entry = match census.iter_mut().find(|entry| entry.dtype == dtype) {
                Some(entry) => entry,
                None => {
                    census.push(DtypeCensus {
                        dtype,
                        ..DtypeCensus::default()
                    });
                    let last = census.len() - 1;
                    &mut census[last]
                }
            };
            entry.tensors += 1;
            entry.parameters += info.shape.iter().product::<usize>();
            entry.bytes += info.range.len();
        }
        census
    }

    /// Shape and dtype of every tensor in the base files, in name order.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &[usize], String)> {
        self.files
            .iter()
            .flat_map(|file| &file.tensors)
            .map(|(name, info)| {
                let dtype = info
                    .dtype
                    .as_ref()
                    .map_or_else(Clone::clone, Dtype::to_string);
                (name.as_str(), info.shape.as_slice(), dtype)
            })
    }

    /// Refuses contradictions between configuration and tensors, then missing and extra names.
    fn check_names(&self) -> Result<(), CheckpointError> {
        self.check_config()?;
        let mut known = BTreeSet::new();
        let mut stacked_missing = None;
        for part in Part::all(&self.config) {
            for stem in part.stems(self.layout) {
                known.insert(format!(
                    "{}{stem}{}",
                    self.prefix,
                    part.weight_suffix(self.layout)
                ));
                if part.has_bias() {
                    known.insert(format!("{}{stem}.bias", self.prefix));
                }
                if self.layout == Layout::Original && part.takes_lora() {
                    for (suffix, shape) in
                        [STACKED_A, STACKED_B]
                            .into_iter()
                            .zip(lora_shapes(part, &self.config, 4))
                    {
                        let name = format!("{}{stem}{suffix}", self.prefix);
                        if self.find(&format!("{stem}{suffix}")).is_none() && part != Part::Pooler {
                            let mut expected = vec![self.config.lora_adaptations.len()];
                            expected.extend(shape);
                            stacked_missing.get_or_insert((name.clone(), expected));
                        }
                        known.insert(name);
                    }
                }
            }
        }
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        for file in &self.files {
            for name in file.tensors.keys() {
                if !seen.insert(name) {
                    let first = self
                        .files
                        .iter()
                        .find(|first| first.tensors.contains_key(name));
                    return Err(CheckpointError::Twice {
                        path: first.unwrap_or(file).path.clone(),
                        other: file.path.clone(),
                        name: name.clone(),
                    });
                }
                if !known.contains(name) && !is_ignorable(name) {
                    return Err(CheckpointError::Unexpected {
                        path: file.path.clone(),
                        name: name.clone(),
                        layout: self.layout.to_string(),
                    });
                }
            }
        }
        match stacked_missing {
            Some((name, expected)) => Err(CheckpointError::Missing {
                path: self.weights_path(),
                name,
                expected,
            }),
            None => Ok(()),
        }
    }

    /// Compares sizes in the configuration with the tensors that show them.
    fn check_config(&self) -> Result<(), CheckpointError> {
        let contradiction = |field, configured: usize, found: usize, name: String| {
            if configured == found {
                return Ok(());
            }
            let path = self.config_path.clone();
            Err(CheckpointError::Contradiction {
                path,
                field,
                configured,
                found,
                name,
            })
        };
        let axis = |part: Part, axis: usize| {
            let name = format!(
                "{}{}",
                part.stems(self.layout)[0],
                part.weight_suffix(self.layout)
            );
            let size = self
                .find(&name)
                .and_then(|tensor| tensor.shape().get(axis).copied());
            size.map(|size| (size, name))
        };
        let config = &self.config;
        for (field, configured, found) in [
            (
                "vocab_size",
                config.vocab_size,
                axis(Part::WordEmbeddings, 0),
            ),
            (
                "hidden_size",
                config.hidden_size,
                axis(Part::WordEmbeddings, 1),
            ),
            (
                "intermediate_size",
                config.intermediate_size,
                axis(Part::Fc1(0), 0),
            ),
        ] {
            if let Some((found, name)) = found {
                contradiction(field, configured, found, name)?;
            }
        }
        let layers = (0..)
            .take_while(|layer| axis(Part::OutProj(*layer), 0).is_some())
            .count();
        let last = Part::OutProj(layers.saturating_sub(1))
            .stems(self.layout)
            .remove(0);
        // Fewer layers show as a missing tensor only when the run breaks off in the middle.
        let beyond = (layers..layers + 2).all(|layer| axis(Part::Fc1(layer), 0).is_none());
        if layers > 0 && beyond {
            contradiction("num_hidden_layers", config.num_hidden_layers, layers, last)?;
        }
        if self.layout == Layout::Original {
            let name = format!("{}{STACKED_A}", Part::Wqkv(0).stems(self.layout)[0]);
            if let Some(tasks) = self
                .find(&name)
                .and_then(|tensor| tensor.shape().first().copied())
            {
                contradiction(
                    "lora_adaptations",
                    config.lora_adaptations.len(),
                    tasks,
                    name,
                )?;
            }
        }
        Ok(())
    }
}

/// Tensors of one dtype in a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DtypeCensus {
    /// Name of the dtype.
    pub dtype: String,
    /// How many tensors have it.
    pub tensors: usize,
    /// Numbers in them.
    pub parameters: usize,
    /// Bytes on disk.
    pub bytes: usize,
}

/// The files that a sharded checkpoint's index names.
fn shards(index: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let text = std::fs::read(index).map_err(|source| CheckpointError::Read {
        path: index.to_owned(),
        source,
    })?;
    let parsed: Index =
        serde_json::from_slice(&text).map_err(|source| CheckpointError::Header {
            path: index.to_owned(),
            source,
        })?;
    let names: BTreeSet<&String> = parsed.weight_map.values().collect();
    // Only plain file names: an index must not reach outside its directory.
    let plain = |name: &&&String| Path::new(name).components().count() == 1 && !name.contains("..");
    Ok(names
        .iter()
        .filter(plain)
        .map(|name| index.with_file_name(name))
        .collect())
}

fn tokenizer_beside(directory: &Path) -> TokenizerSource {
    let path = directory.join("tokenizer.json");
    if path.is_file() {
        TokenizerSource::File(path)
    } else {
        TokenizerSource::Absent
    }
}

fn gguf_files(directory: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let read = |source| CheckpointError::Read {
        path: directory.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "gguf")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn is_lora_file(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with("lora-"))
}

/// The one base model among a directory's GGUF files.
fn base_gguf(directory: &Path) -> Result<PathBuf, CheckpointError> {
    let mut bases = gguf_files(directory)?;
    bases.retain(|path| !is_lora_file(path));
    match bases.len() {
        1 => Ok(bases.remove(0)),
        0 => Err(CheckpointError::NoModel {
            path: directory.to_owned(),
            expected: "model.safetensors with config.json, or a base .gguf file",
        }),
        _ => Err(CheckpointError::Ambiguous {
            path: directory.to_owned(),
            found: bases
                .iter()
                .filter_map(|path| path.file_name())
                .map(|name| name.to_string_lossy().into_owned())
                .collect(),
        }),
    }
}

/// LoRA files beside a base file: those that carry its name, or all when none does.
fn gguf_adapters(
    directory: &Path,
    base: &Path,
    config: &ModelConfig,
) -> Result<Vec<AdapterSource>, CheckpointError> {
    let stem = base
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let mut files = gguf_files(directory)?;
    files.retain(|path| is_lora_file(path));
    let names_base = |path: &PathBuf| {
        path.file_stem()
            .is_some_and(|name| name.to_string_lossy().ends_with(&format!("-{stem}")))
    };
    if files.iter().any(names_base) {
        files.retain(names_base);
    }
    let mut adapters: Vec<AdapterSource> = Vec::new();
    for path in files {
        let file = GgufFile::open(&path)?;
        let Some(task) = file.text("adapter.lora.task_name") else {
            continue;
        };
        if adapters.iter().any(|adapter| adapter.name == task) {
            return Err(CheckpointError::AdapterTwice {
                name: task.to_owned(),
            });
        }
        let instruction = file.text("adapter.lora.prompt_prefix");
        adapters.push(AdapterSource {
            name: task.to_owned(),
            instruction: instruction
                .unwrap_or_else(|| config.instruction(task))
                .to_owned(),
            origin: Origin::Gguf { path: path.clone() },
        });
    }
    let rank = |adapter: &AdapterSource| {
        config
            .lora_adaptations
            .iter()
            .position(|name| *name == adapter.name)
            .unwrap_or(usize::MAX)
    };
    adapters.sort_by_key(rank);
    Ok(adapters)
}

/// A linear layer: packed weight `[out, in]` and bias `[out]`.
pub(crate) struct Linear {
    pub(crate) matrix: PackedMatrix,
    pub(crate) bias: Vec<f32>,
}

/// LayerNorm's gain and shift, `[hidden]` each.
#[derive(Debug)]
pub(crate) struct Norm {
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Vec<f32>,
}

/// One transformer layer, fields named as the checkpoint names them.
pub(crate) struct LayerWeights {
    pub(crate) wqkv: Linear,
    pub(crate) out_proj: Linear,
    pub(crate) norm1: Norm,
    pub(crate) fc1: Linear,
    pub(crate) fc2: Linear,
    pub(crate) norm2: Norm,
}

/// The base model and its adapters, checked and packed.
pub(crate) struct Weights {
    pub(crate) word_embeddings: Table,
    pub(crate) token_type_embedding: Vec<f32>,
    pub(crate) emb_ln: Norm,
    pub(crate) layers: Vec<LayerWeights>,
    pub(crate) adapters: Vec<Adapter>,
}

impl Weights {
    /// Reads every tensor once: shape, dtype and finiteness are checked, matrices packed, and their
    /// file pages given back. `custom` adapters come behind the checkpoint's own.
    /// `progress` hears how many of how many steps are done.
    pub(crate) fn load(
        checkpoint: &Checkpoint,
        custom: &[AdapterSource],
        cpu: &Cpu,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Self, CheckpointError> {
        checkpoint.check_names()?;
        let sources: Vec<&AdapterSource> = checkpoint.adapters.iter().chain(custom).collect();
        for (index, source) in sources.iter().enumerate() {
            let earlier = &sources[..index];
            if source.name == "raw" || earlier.iter().any(|earlier| earlier.name == source.name) {
                return Err(CheckpointError::AdapterTwice {
                    name: source.name.clone(),
                });
            }
        }
        let config = &checkpoint.config;
        let steps = config.num_hidden_layers + sources.len() + 1;
        let read = WeightReader { checkpoint, cpu };
        progress(0, steps);
        let word_embeddings = read.table(Part::WordEmbeddings)?;
        let token_type_embedding = read.token_type()?;
        let emb_ln = read.norm(Part::EmbeddingNorm)?;
        let pooler = Part::Pooler.stems(checkpoint.layout).remove(0);
        if checkpoint.find(&format!("{pooler}.bias")).is_some() {
            read.check_linear(Part::Pooler)?;
        }
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for layer in 0..config.num_hidden_layers {
            progress(1 + layer, steps);
            layers.push(LayerWeights {
                wqkv: read.linear(Part::Wqkv(layer))?,
                out_proj: read.linear(Part::OutProj(layer))?,
                norm1: read.norm(Part::Norm1(layer))?,
                fc1: read.linear(Part::Fc1(layer))?,
                fc2: read.linear(Part::Fc2(layer))?,
                norm2: read.norm(Part::Norm2(layer))?,
            });
        }
        let mut adapters = Vec::with_capacity(sources.len());
        for (index, source) in sources.iter().enumerate() {
            progress(1 + config.num_hidden_layers + index, steps);
            let find = |name: &str| checkpoint.find(name);
            adapters.push(source.load(config, &find, &checkpoint.weights_path())?);
        }
        progress(steps, steps);
        Ok(Self {
            word_embeddings,
            token_type_embedding,
            emb_ln,
            layers,
            adapters,
        })
    }
}

/// Reads parts of one checkpoint, checking shape, dtype and finiteness of each tensor.
struct WeightReader<'a> {
    checkpoint: &'a Checkpoint,
    cpu: &'a Cpu,
}

impl<'a> WeightReader<'a> {
    /// The tensors that make up a part's weight, stacked along the first axis.
    fn weight(&self, part: Part) -> Result<Vec<Tensor<'a>>, CheckpointError> {
        let layout = self.checkpoint.layout;
        let stems = part.stems(layout);
        let mut shape = part.weight_shape(&self.checkpoint.config);
        shape[0] /= stems.len();
        stems
            .iter()
            .map(|stem| {
                let name = format!("{stem}{}", part.weight_suffix(layout));
                let tensor = self.checkpoint.require(&name, &shape)?;
                tensor.check_finite(self.cpu)?;
                Ok(tensor)
            })
            .collect()
    }

    fn bias(&self, part: Part) -> Result<Vec<f32>, CheckpointError> {
        let stems = part.stems(self.checkpoint.layout);
        let len = part.weight_shape(&self.checkpoint.config)[0] / stems.len();
        let mut bias = Vec::with_capacity(len * stems.len());
        for stem in stems {
            let tensor = self.checkpoint.require(&format!("{stem}.bias"), &[len])?;
            tensor.check_finite(self.cpu)?;
            bias.extend(tensor.to_f32()?);
        }
        Ok(bias)
    }

    fn table(&self, part: Part) -> Result<Table, CheckpointError> {
        let tensor = self.weight(part)?.remove(0);
        tensor.release();
        tensor.to_table()
    }

    /// The one token-type row; GGUF may store it without its leading size of 1.
    fn token_type(&self) -> Result<Vec<f32>, CheckpointError> {
        let part = Part::TokenTypeEmbeddings;
        let layout = self.checkpoint.layout;
        let name = format!("{}{}", part.stems(layout)[0], part.weight_suffix(layout));
        let hidden = self.checkpoint.config.hidden_size;
        let flat = self
            .checkpoint
            .find(&name)
            .is_some_and(|tensor| tensor.shape() == [hidden]);
        let shape: &[usize] = if flat && layout == Layout::Gguf {
            &[hidden]
        } else {
            &[1, hidden]
        };
        let tensor = self.checkpoint.require(&name, shape)?;
        tensor.check_finite(self.cpu)?;
        tensor.to_f32()
    }

    fn norm(&self, part: Part) -> Result<Norm, CheckpointError> {
        let weight = self.weight(part)?.remove(0).to_f32()?;
        Ok(Norm {
            weight,
            bias: self.bias(part)?,
        })
    }

    fn check_linear(&self, part: Part) -> Result<(), CheckpointError> {
        self.weight(part)?;
        self.bias(part).map(|_| ())
    }

    fn linear(&self, part: Part) -> Result<Linear, CheckpointError> {
        let tensors = self.weight(part)?;
        let bytes = tensors
            .iter()
            .map(Tensor::packable)
            .collect::<Result<Vec<_>, _>>()?;
        let blocks: Vec<_> = bytes
            .iter()
            .map(|(dtype, bytes)| rows(*dtype, bytes))
            .collect();
        let inputs = part.weight_shape(&self.checkpoint.config)[1];
        let matrix = PackedMatrix::pack(self.cpu, &blocks, inputs);
        tensors.iter().for_each(Tensor::release);
        Ok(Linear {
            matrix,
            bias: self.bias(part)?,
        })
    }
}
