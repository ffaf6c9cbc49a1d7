//! Errors of loading a model and of embedding with it.

use crate::encoder::ForwardError;
use crate::late_chunking::{LateTokenizeError, SpanError};
use crate::tokenizer::TokenizerError;
use crate::weights::{CheckpointError, PackFileError};

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A weight or an adapter was refused.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The tokenizer was refused.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The file of packed weights was refused; without it the model loads.
    #[error(transparent)]
    PackFile(#[from] PackFileError),
}

impl LoadError {
    /// What the user can do next, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Checkpoint(error) => error.hint(),
            Self::Tokenizer(_) => None,
            Self::PackFile(_) => Some("`quintet pack` makes the file anew"),
        }
    }
}

/// Why an input could not be embedded. `index` counts the inputs of the call from 0.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(
    missing_docs,
    reason = "the fields are the facts that the message names"
)]
pub enum EmbedError {
    /// An input holds no token ids.
    #[error("input {index} has no token ids, expected at least one")]
    Empty { index: usize },
    /// An input is longer than the model's context and truncation was not asked for.
    #[error("input {index} has {tokens} tokens, expected at most {max}")]
    TooLong {
        index: usize,
        tokens: usize,
        max: usize,
    },
    /// A token id is outside the vocabulary.
    #[error(
        "input {index} has token id {found} at position {position}, expected ids below {vocab_size}"
    )]
    TokenOutOfRange {
        index: usize,
        position: usize,
        found: u32,
        vocab_size: usize,
    },
    /// A Matryoshka size is outside the model.
    #[error("{found} dimensions were asked for, expected 1 to {max}")]
    Dimensions { found: usize, max: usize },
    /// The checkpoint has no tokenizer, so texts cannot be read.
    #[error("the checkpoint has no tokenizer, expected token ids as input")]
    NoTokenizer,
    /// The tokenizer refused a text.
    #[error("input {index} cannot be tokenised")]
    Tokenizer {
        index: usize,
        source: TokenizerError,
    },
    /// A late-chunking document or its chunks were refused.
    #[error(transparent)]
    Document(#[from] LateTokenizeError),
    /// The device failed.
    #[error(transparent)]
    Forward(#[from] ForwardError),
}

impl From<SpanError> for EmbedError {
    fn from(error: SpanError) -> Self {
        Self::Document(error.into())
    }
}

impl EmbedError {
    /// What the user can do next, where that is known.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "only some errors have a next step"
    )]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::TooLong { .. } => {
                "cut on request with truncate `end`, or embed the whole by late chunking"
            }
            Self::TokenOutOfRange { .. } => {
                "token ids of another vocabulary (cl100k, say) must be decoded to text first"
            }
            Self::NoTokenizer => "put the model's tokenizer.json beside its weights",
            _ => return None,
        })
    }

    /// Index of the input that was refused, where the error is one input's.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "only some errors are one input's"
    )]
    pub fn input_index(&self) -> Option<usize> {
        match self {
            Self::Empty { index }
            | Self::TooLong { index, .. }
            | Self::TokenOutOfRange { index, .. }
            | Self::Tokenizer { index, .. } => Some(*index),
            _ => None,
        }
    }
}
