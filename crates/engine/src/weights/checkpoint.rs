//! A model on disk or in the program: its layout, configuration, adapters and tokenizer.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::CheckpointError;
use super::adapters::{AdapterSource, Origin};
use super::gguf::{GgufFile, GgufTokenizer};
use super::mmap::FileMap;
use super::names::{Layout, Part};
use super::tensors::{Dtype, Tensor, TensorFile};
use crate::config::ModelConfig;

/// Where the tokenizer of a checkpoint comes from.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum TokenizerSource {
    /// A `tokenizer.json` file.
    File(PathBuf),
    /// The text of a `tokenizer.json` that is built into the program.
    BuiltIn(&'static str),
    /// The vocabulary inside a GGUF file.
    Gguf(GgufTokenizer),
    /// None: only token ids can be embedded.
    Absent,
}

/// A model that is built into a program: the files of the original layout.
#[derive(Debug, Clone, Copy)]
pub struct BuiltInModel {
    /// What it is called in messages.
    pub name: &'static str,
    /// `config.json`.
    pub config_json: &'static str,
    /// `model.safetensors`.
    pub model_safetensors: &'static [u8],
    /// `tokenizer.json`.
    pub tokenizer_json: &'static str,
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
    pub(super) config_path: PathBuf,
    pub(super) files: Vec<TensorFile>,
    /// `roberta.` where the file has it.
    pub(super) prefix: &'static str,
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
        let mut checkpoint = Self {
            path: path.to_owned(),
            config: ModelConfig::read(&config_path)?,
            layout: Layout::Fused,
            adapters: Vec::new(),
            tokenizer: tokenizer_beside(directory),
            config_path,
            files,
            prefix: "",
        };
        checkpoint.detect_names()?;
        if checkpoint.layout != Layout::Original {
            checkpoint.adapters = checkpoint.peft_adapters(directory);
        }
        Ok(checkpoint)
    }

    /// Opens a model that is built into the program.
    ///
    /// # Errors
    /// [`CheckpointError`] when its files are damaged.
    pub fn built_in(model: &BuiltInModel) -> Result<Self, CheckpointError> {
        let path = PathBuf::from(model.name);
        let config = ModelConfig::parse(&path.join("config.json"), model.config_json.as_bytes())?;
        let weights = Arc::new(FileMap::BuiltIn(model.model_safetensors));
        let weights_path = path.join("model.safetensors");
        let mut checkpoint = Self {
            config,
            layout: Layout::Fused,
            adapters: Vec::new(),
            tokenizer: TokenizerSource::BuiltIn(model.tokenizer_json),
            config_path: path.join("config.json"),
            files: vec![TensorFile::parse_safetensors(&weights_path, weights)?],
            prefix: "",
            path,
        };
        checkpoint.detect_names()?;
        Ok(checkpoint)
    }

    /// Finds prefix, layout and stacked adapters from the tensor names.
    fn detect_names(&mut self) -> Result<(), CheckpointError> {
        let mut names = self.files.iter().flat_map(|file| file.tensors.keys());
        if names.any(|name| name.starts_with(PREFIX)) {
            self.prefix = PREFIX;
        }
        self.layout = self.detect_layout()?;
        if self.layout == Layout::Original {
            self.adapters = self.stacked_adapters();
        }
        Ok(())
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
    pub(super) fn find(&self, name: &str) -> Option<Tensor<'_>> {
        let full = format!("{}{name}", self.prefix);
        self.files.iter().find_map(|file| file.tensor(&full))
    }

    pub(super) fn weights_path(&self) -> PathBuf {
        self.files
            .first()
            .map_or_else(|| self.path.clone(), |file| file.path.clone())
    }

    pub(super) fn require(
        &self,
        name: &str,
        shape: &[usize],
    ) -> Result<Tensor<'_>, CheckpointError> {
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
