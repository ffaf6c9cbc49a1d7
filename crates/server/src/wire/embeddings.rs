//! `/v1/embeddings`: OpenAI's and Jina's fields side by side, and ours.

use quintet_engine::embedding::EncodedEmbedding;
use serde::{Deserialize, Serialize};

use super::OneOrMany;
use super::input::{InputList, TruncateField};
use crate::metering::PicoUsd;

/// The request. Clients send fields of other vendors too, so unknown ones are ignored.
#[derive(Debug, Clone, Deserialize)]
pub struct EmbeddingsRequest {
    /// Model id, perhaps with a task: `jina-embeddings-v3:retrieval.query`.
    pub model: Option<String>,
    /// What is embedded.
    #[serde(alias = "content", alias = "texts")]
    pub input: Option<InputList>,
    /// Jina's.
    pub task: Option<String>,
    /// Jina's other name, and Gemini's.
    pub task_type: Option<String>,
    /// Cohere's and Voyage's.
    pub input_type: Option<String>,
    /// Matryoshka sizes; a list gives each text in all of them.
    #[serde(alias = "output_dimension", alias = "output_dimensionality")]
    pub dimensions: Option<OneOrMany<i64>>,
    /// Whether vectors are scaled to length 1.
    #[serde(alias = "normalize")]
    pub normalized: Option<bool>,
    /// The inputs are one document, each a chunk of it.
    pub late_chunking: Option<bool>,
    /// Chunks of one text as half-open ranges; they mean late chunking.
    pub spans: Option<Vec<(usize, usize)>>,
    /// What the spans count.
    pub span_unit: Option<SpanUnit>,
    /// Cut texts that are too long.
    #[serde(alias = "truncation")]
    pub truncate: Option<TruncateField>,
    /// Jina's output types. OpenAI's clients send `encoding_format` unasked, so this wins.
    #[serde(alias = "embedding_types")]
    pub embedding_type: Option<OneOrMany<String>>,
    /// LlamaIndex's word for the same.
    pub encoding_type: Option<OneOrMany<String>>,
    /// OpenAI's `float` or `base64`.
    pub encoding_format: Option<OneOrMany<String>>,
    /// Whose ids token arrays hold: `cl100k_base`, `o200k_base` or `model`.
    pub token_encoding: Option<String>,
    /// OpenRouter's wish for the price.
    pub usage: Option<UsageWish>,
}

/// What the answer's `usage` shall hold beside tokens.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct UsageWish {
    /// The price.
    pub include: Option<bool>,
}

/// What a span counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpanUnit {
    /// Unicode scalar values, as Python's strings do.
    #[default]
    Characters,
    /// Tokens of the text, specials and instruction not counted.
    Tokens,
}

/// The answer.
#[derive(Debug, Serialize)]
pub struct EmbeddingsResponse {
    /// `list`.
    pub object: &'static str,
    /// One element per input, in order.
    pub data: Vec<EmbeddingData>,
    /// The id of the model that answered.
    pub model: String,
    /// What is metered.
    pub usage: Usage,
    /// Equal fingerprints mean equal vectors for equal texts.
    pub system_fingerprint: String,
}

/// One input's vectors and receipt.
#[derive(Debug, Serialize)]
pub struct EmbeddingData {
    /// `embedding`.
    pub object: &'static str,
    /// The input's place.
    pub index: usize,
    /// The vector of the first size and type that was asked for.
    pub embedding: Vector,
    /// All of them, where several were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embeddings: Option<Vec<Variant>>,
    /// Tokens that the model saw. In late chunking those of the chunk.
    pub tokens: usize,
    /// Whether the tail was cut off.
    pub truncated: bool,
    /// Characters before the cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut_at: Option<usize>,
}

/// A vector in one size and type.
#[derive(Debug, Serialize)]
pub struct Variant {
    /// Components of the vector.
    pub dimensions: usize,
    /// Its type's name.
    pub embedding_type: &'static str,
    /// The vector.
    pub embedding: Vector,
}

/// A vector in JSON: a list of numbers or a string.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Vector {
    /// float.
    Float(Vec<f32>),
    /// int8 and binary.
    Signed(Vec<i8>),
    /// uint8 and ubinary.
    Unsigned(Vec<u8>),
    /// base64.
    Text(String),
}

impl From<EncodedEmbedding> for Vector {
    fn from(encoded: EncodedEmbedding) -> Self {
        match encoded {
            EncodedEmbedding::Float(values) => Self::Float(values),
            EncodedEmbedding::Signed(values) => Self::Signed(values),
            EncodedEmbedding::Unsigned(values) => Self::Unsigned(values),
            EncodedEmbedding::Text(text) => Self::Text(text),
        }
    }
}

/// What is metered: every token that the model saw.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Usage {
    /// Tokens of the inputs.
    pub prompt_tokens: usize,
    /// The same: nothing is generated.
    pub total_tokens: usize,
    /// What they cost in dollars, where it was asked for and is billed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<PicoUsd>,
}

impl Usage {
    /// Of so many tokens.
    pub fn new(tokens: usize) -> Self {
        Self {
            prompt_tokens: tokens,
            total_tokens: tokens,
            cost_usd: None,
        }
    }
}
