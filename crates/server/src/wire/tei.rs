//! Bodies of Text Embeddings Inference's routes.

use serde::{Deserialize, Serialize};

use super::OneOrMany;
use super::input::InputList;
use crate::batcher::Overlong;

/// Which side of a text that is too long is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum Direction {
    /// The start.
    #[serde(alias = "left", alias = "LEFT")]
    Left,
    /// The end.
    #[default]
    #[serde(alias = "right", alias = "RIGHT")]
    Right,
}

/// `/embed` and `/embed_all`. Unknown fields are ignored.
#[derive(Debug, Clone, Deserialize)]
pub struct EmbedRequest {
    /// A text, token ids of the model, or a list of either.
    pub inputs: InputList,
    /// Cut texts that are too long.
    pub truncate: Option<bool>,
    /// On this side.
    pub truncation_direction: Option<Direction>,
    /// The task.
    pub prompt_name: Option<String>,
    /// Whether vectors are scaled to length 1; true unless told.
    pub normalize: Option<bool>,
    /// Matryoshka size.
    pub dimensions: Option<i64>,
}

/// `/similarity`.
#[derive(Debug, Clone, Deserialize)]
pub struct SimilarityRequest {
    /// What is compared.
    pub inputs: SimilarityInputs,
    /// How.
    pub parameters: Option<SimilarityParameters>,
}

/// One sentence and those that it is compared with.
#[derive(Debug, Clone, Deserialize)]
pub struct SimilarityInputs {
    /// The one.
    pub source_sentence: String,
    /// The others.
    pub sentences: Vec<String>,
}

/// As the fields of [`EmbedRequest`].
#[derive(Debug, Clone, Default, Deserialize)]
pub struct SimilarityParameters {
    /// Cut texts that are too long.
    pub truncate: Option<bool>,
    /// On this side.
    pub truncation_direction: Option<Direction>,
    /// The task.
    pub prompt_name: Option<String>,
}

/// What `truncate` and `truncation_direction` mean together.
pub fn overlong(truncate: Option<bool>, direction: Option<Direction>) -> Overlong {
    match (truncate.unwrap_or(false), direction.unwrap_or_default()) {
        (false, _) => Overlong::Refuse,
        (true, Direction::Left) => Overlong::CutStart,
        (true, Direction::Right) => Overlong::CutEnd,
    }
}

/// `/tokenize`.
#[derive(Debug, Clone, Deserialize)]
pub struct TokenizeRequest {
    /// A text or a list of texts.
    pub inputs: OneOrMany<String>,
    /// Whether `<s>` and `</s>` are added; true unless told.
    pub add_special_tokens: Option<bool>,
    /// The task whose instruction is put before each text.
    pub prompt_name: Option<String>,
}

/// A token of `/tokenize`.
#[derive(Debug, Serialize)]
pub struct SimpleToken {
    /// Its id.
    pub id: u32,
    /// Its characters, or its name where it is special.
    pub text: String,
    /// Whether it was added around the text.
    pub special: bool,
    /// First character; null where it is special.
    pub start: Option<usize>,
    /// Behind the last character; null where it is special.
    pub stop: Option<usize>,
}

/// `/decode`.
#[derive(Debug, Clone, Deserialize)]
pub struct DecodeRequest {
    /// Token ids of one text, or of several.
    pub ids: InputList,
    /// Whether `<s>`, `</s>` and their like are left out; true unless told.
    pub skip_special_tokens: Option<bool>,
}

/// `/info`, with what is ours at its end.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the names are TEI's and say what they hold")]
pub struct Info<'a> {
    pub model_id: &'a str,
    pub model_sha: Option<&'a str>,
    pub model_dtype: &'static str,
    pub model_type: serde_json::Value,
    pub max_concurrent_requests: usize,
    pub max_input_length: usize,
    pub max_batch_tokens: usize,
    pub max_batch_requests: Option<usize>,
    pub max_client_batch_size: usize,
    pub auto_truncate: bool,
    pub tokenization_workers: usize,
    pub version: &'static str,
    pub sha: Option<&'a str>,
    pub docker_label: Option<&'a str>,
    pub tasks: Vec<&'a str>,
    pub system_fingerprint: &'a str,
}
