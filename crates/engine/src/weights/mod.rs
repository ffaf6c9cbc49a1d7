//! Weights from files: checkpoints in every layout people have, adapters, and the hub's cache.
//!
//! [`Checkpoint::open`] finds out what lies at a path, `Weights::load` checks every tensor and packs
//! it for the kernels. `names` maps the model's parts to tensor names, one table per layout; no other
//! place in the program knows a tensor name.

mod adapters;
mod checkpoint;
mod checks;
mod gguf;
pub mod hub;
mod mmap;
mod names;
mod pack_file;
mod packed;
mod tensors;

use std::path::PathBuf;

pub use adapters::AdapterSource;
pub(crate) use adapters::{Adapter, LayerAdapter};
pub use checkpoint::{BuiltInModel, Checkpoint, TokenizerSource};
pub use gguf::GgufTokenizer;
pub use names::Layout;
pub(crate) use pack_file::PackFile;
pub use pack_file::PackFileError;
pub(crate) use packed::{
    LayerWeights, Linear, MATRICES_PER_LAYER, Norm, Weights, compensated_matrix_of, matrix_name,
    matrix_of,
};
pub use tensors::Dtype;

use crate::config::ConfigError;

/// Why a checkpoint or an adapter was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(
    missing_docs,
    reason = "the fields are the facts that the message names"
)]
pub enum CheckpointError {
    /// A file is missing or unreadable.
    #[error("cannot read `{}`", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    /// Nothing at the path looks like a model.
    #[error("`{}` holds no model: expected {expected}", path.display())]
    NoModel {
        path: PathBuf,
        expected: &'static str,
    },
    /// Several base models lie in one directory.
    #[error("`{}` holds several base models: {}", path.display(), found.join(", "))]
    Ambiguous { path: PathBuf, found: Vec<String> },
    /// A file of another kind has the name of a weights file.
    #[error("`{}` is not a weights file but {found}", path.display())]
    NotWeights { path: PathBuf, found: &'static str },
    /// The header of a safetensors file or its index does not parse, or its offsets overlap.
    #[error("`{}` has a damaged header", path.display())]
    Header {
        path: PathBuf,
        source: serde_json::Error,
    },
    /// A GGUF header breaks the format.
    #[error("`{}` is no valid GGUF file: {rule}", path.display())]
    Gguf { path: PathBuf, rule: String },
    /// The file is shorter or longer than its header says.
    #[error(
        "`{}` has {found_bytes} bytes, its header describes {expected_bytes}{}",
        path.display(),
        tensor.as_ref().map(|name| format!(": tensor `{name}` is cut off")).unwrap_or_default()
    )]
    Truncated {
        path: PathBuf,
        tensor: Option<String>,
        expected_bytes: usize,
        found_bytes: usize,
    },
    /// The tensor names fit no layout.
    #[error(
        "the tensors of `{}` are named like no known layout of this model: found `{found}`, expected `{expected}`",
        path.display()
    )]
    UnknownLayout {
        path: PathBuf,
        found: String,
        expected: &'static str,
    },
    /// A tensor of the layout is not there.
    #[error("`{}` lacks tensor `{name}`, expected shape {expected:?}", path.display())]
    Missing {
        path: PathBuf,
        name: String,
        expected: Vec<usize>,
    },
    /// A tensor is there that the model has no place for.
    #[error("`{}` has tensor `{name}`, expected only those of the {layout} layout", path.display())]
    Unexpected {
        path: PathBuf,
        name: String,
        layout: String,
    },
    /// A tensor stands in two files.
    #[error("tensor `{name}` stands in `{}` and in `{}`, expected it once", path.display(), other.display())]
    Twice {
        path: PathBuf,
        other: PathBuf,
        name: String,
    },
    /// A tensor has another shape than the configuration asks for.
    #[error("tensor `{name}` in `{}` has shape {found:?}, expected {expected:?}", path.display())]
    Shape {
        path: PathBuf,
        name: String,
        found: Vec<usize>,
        expected: Vec<usize>,
    },
    /// A tensor has a dtype that no weight of this model has.
    #[error("tensor `{name}` in `{}` is {found}, expected f32, f16, bf16 or q8_0", path.display())]
    Dtype {
        path: PathBuf,
        name: String,
        found: String,
    },
    /// A weight is NaN or infinite.
    #[error("tensor `{name}` in `{}` holds {value} at element {index}, expected finite numbers", path.display())]
    NotFinite {
        path: PathBuf,
        name: String,
        index: usize,
        value: f32,
    },
    /// The configuration says one thing, the tensors another.
    #[error("`{}` says {field} {configured}, the tensors say {found} (`{name}`)", path.display())]
    Contradiction {
        path: PathBuf,
        field: &'static str,
        configured: usize,
        found: usize,
        name: String,
    },
    /// The configuration is unreadable or of another architecture.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An adapter's configuration asks for something that is not computed here.
    #[error("adapter `{name}`: `{}` says {field} {found}, expected {expected}", path.display())]
    AdapterConfig {
        name: String,
        path: PathBuf,
        field: &'static str,
        found: String,
        expected: String,
    },
    /// Two adapters have one name.
    #[error("adapter `{name}` is given twice, expected distinct names (`raw` is reserved)")]
    AdapterTwice { name: String },
    /// A stacked file holds several adapters and none has the asked name.
    #[error("`{}` stacks {found} adapters and none is named `{name}`, expected one of {known:?}", path.display())]
    AdapterNotInStack {
        path: PathBuf,
        name: String,
        found: usize,
        known: Vec<String>,
    },
}

impl CheckpointError {
    /// What the user can do next, where that is known.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "only some errors have a next step"
    )]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NotWeights { found, .. } if found.contains("git-LFS") => {
                "fetch the real file: `quintet pull`, or `git lfs pull` in that repository"
            }
            Self::NotWeights { found, .. } if found.contains("pickle") => {
                "use a repository with .safetensors files"
            }
            Self::NotWeights { .. }
            | Self::Truncated { .. }
            | Self::Header { .. }
            | Self::NotFinite { .. } => {
                "download the file again: `quintet pull` checks sizes and hashes"
            }
            Self::NoModel { .. } => {
                "give a directory with config.json and model.safetensors, a .gguf file, or a model id"
            }
            Self::Ambiguous { .. } => "name one of the files",
            Self::Contradiction { .. } | Self::Shape { .. } => {
                "config.json and the weights come from different models; take both from one source"
            }
            Self::AdapterTwice { .. } => "give the adapter another name: `--adapter NAME=PATH`",
            _ => return None,
        })
    }
}
