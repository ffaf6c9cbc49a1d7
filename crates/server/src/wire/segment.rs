//! Jina's segmenter.

use serde::{Deserialize, Serialize};

/// The request. Unknown fields are ignored.
#[derive(Debug, Clone, Deserialize)]
pub struct SegmentRequest {
    /// The text.
    pub content: Option<String>,
    /// `cl100k_base`, `o200k_base` or `model`.
    pub tokenizer: Option<String>,
    /// Give the tokens.
    pub return_tokens: Option<bool>,
    /// Cut the text into chunks.
    pub return_chunks: Option<bool>,
    /// Characters of a chunk at most; 1000 unless told.
    pub max_chunk_length: Option<usize>,
    /// Only the first so many tokens.
    pub head: Option<usize>,
    /// Only the last so many tokens.
    pub tail: Option<usize>,
}

/// The answer.
#[derive(Debug, Serialize)]
pub struct SegmentResponse {
    /// Tokens of the text, or of its head or tail.
    pub num_tokens: usize,
    /// Whose tokens they are.
    pub tokenizer: &'static str,
    /// Nothing is metered.
    pub usage: SegmentUsage,
    /// How many chunks there are, where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_chunks: Option<usize>,
    /// Half-open ranges in characters of `content`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk_positions: Option<Vec<(usize, usize)>>,
    /// The chunks' texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunks: Option<Vec<String>>,
    /// A list for each chunk, one list without chunks: text and the ids that make it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Vec<Vec<TextToken>>>,
}

/// The shortest run of characters that whole tokens make, with their ids.
pub type TextToken = (String, Vec<u32>);

/// What is metered.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct SegmentUsage {
    /// 0: the model is not asked.
    pub tokens: usize,
}
