//! What can be wrong with an input, always with its place.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use quintet_engine::{EmbedError, UnknownTask};

use super::lines::MAX_LINE_BYTES;

/// Where an input stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The n-th text of the command line, from 1.
    Argument(u64),
    /// A line of a file or of stdin, from 1.
    Line {
        /// From 1.
        number: u64,
        /// The file in backticks, or `stdin`.
        name: Arc<str>,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument(number) => write!(f, "text {number}"),
            Self::Line { number, name } => write!(f, "line {number} of {name}"),
        }
    }
}

/// Why an input was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    /// The file cannot be opened.
    #[error("cannot read `{}`", path.display())]
    Open { path: PathBuf, source: io::Error },
    /// The stream broke.
    #[error("cannot read {place}")]
    Read { place: Place, source: io::Error },
    /// A line has no end in sight.
    #[error("{place} is longer than {max_bytes} bytes")]
    TooLong { place: Place, max_bytes: usize },
    /// A line is no text.
    #[error("{place} is not UTF-8: byte {found:#04x} at column {byte}")]
    NotUtf8 {
        place: Place,
        found: u8,
        byte: usize,
        is_utf16: bool,
    },
    /// A line begins like an object and is none, or none was expected to be anything else.
    #[error("{place} is no JSON object that holds an input")]
    NotObject {
        place: Place,
        expected: &'static str,
        source: Option<NotParsed>,
    },
    /// An object lacks an input, or has two.
    #[error("{place} has {found}, expected {expected}")]
    Fields {
        place: Place,
        found: &'static str,
        expected: &'static str,
    },
    /// Plain lines and documents are mixed in late chunking.
    #[error("{place} is {found}, the lines before are {before}")]
    Mixed {
        place: Place,
        found: &'static str,
        before: &'static str,
    },
    /// An empty text cannot be a chunk.
    #[error("{place} is empty, a chunk needs text")]
    EmptyChunk { place: Place },
    /// All plain lines of late chunking are one document, held in memory.
    #[error("{place} makes the document longer than {max_bytes} bytes")]
    DocumentTooLong { place: Place, max_bytes: usize },
    /// The model has no such task.
    #[error("{place} names an unknown task")]
    Task { place: Place, source: UnknownTask },
    /// The model refused it.
    #[error("{}", refused(place, error))]
    Embed { place: Place, error: EmbedError },
}

/// What the JSON parser said about one line.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct NotParsed {
    reason: String,
}

impl From<serde_json::Error> for NotParsed {
    /// The parser saw one line and calls it line 1; the place knows better.
    fn from(error: serde_json::Error) -> Self {
        Self {
            reason: error.to_string().replace(" at line 1 column", " at column"),
        }
    }
}

/// The engine's words with the place in front: it counts the inputs of one call, people count lines.
fn refused(place: &Place, error: &EmbedError) -> String {
    match error {
        EmbedError::Empty { .. } => format!("{place} has no token ids, expected at least one"),
        EmbedError::TooLong { tokens, max, .. } => {
            format!("{place} has {tokens} tokens, expected at most {max}")
        }
        EmbedError::TokenOutOfRange {
            position,
            found,
            vocab_size,
            ..
        } => format!(
            "{place} has token id {found} at position {position}, expected ids below {vocab_size}"
        ),
        EmbedError::Tokenizer { source, .. } => format!("{place} is refused: {source}"),
        EmbedError::Dimensions { .. }
        | EmbedError::NoTokenizer
        | EmbedError::Document(_)
        | EmbedError::Forward(_)
        | _ => format!("{place}: {error}"),
    }
}

impl InputError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::TooLong { .. } | Self::DocumentTooLong { .. } => format!(
                "put one text on a line; at most {} MiB are read at once",
                MAX_LINE_BYTES >> 20
            ),
            Self::NotUtf8 { is_utf16: true, .. } => {
                "the input looks like UTF-16: `iconv -f UTF-16 -t UTF-8` converts it".into()
            }
            Self::NotUtf8 { .. } => {
                "convert it, for example with `iconv -f LATIN1 -t UTF-8`".into()
            }
            Self::NotObject { expected, .. } => format!(
                "write it as {expected}; when lines are plain texts that may begin with `{{`, \
                 say `--input-format text`"
            ),
            Self::Mixed { .. } => {
                "in late chunking all lines are chunks of one document, or each is a document"
                    .into()
            }
            Self::EmptyChunk { .. } => "leave empty lines out, for example with `grep .`".into(),
            Self::Task { source, .. } => return source.hint().map(str::to_owned),
            Self::Embed {
                error: EmbedError::TooLong { .. },
                ..
            } => "`--truncate end` cuts such texts, `--late-chunking` reads them whole".into(),
            Self::Embed { error, .. } => return error.hint().map(str::to_owned),
            Self::Open { .. } | Self::Read { .. } | Self::Fields { .. } => return None,
        })
    }
}
