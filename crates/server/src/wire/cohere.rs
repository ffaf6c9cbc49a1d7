//! Cohere's `/v2/embed`.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::embeddings::Vector;
use super::input::TruncateField;

/// The request. Unknown fields are ignored.
#[derive(Debug, Clone, Deserialize)]
pub struct CohereEmbedRequest {
    /// Model id, perhaps with a task.
    pub model: Option<String>,
    /// Cohere's word for the task.
    pub input_type: Option<String>,
    /// What is embedded.
    pub texts: Option<Vec<String>>,
    /// The newer form of the same.
    pub inputs: Option<Vec<CohereInput>>,
    /// Not ours.
    pub images: Option<Vec<IgnoredAny>>,
    /// Output types; float unless told.
    pub embedding_types: Option<Vec<String>>,
    /// `NONE`, `START` or `END`; `END` unless told.
    pub truncate: Option<TruncateField>,
    /// Matryoshka size.
    pub output_dimension: Option<i64>,
}

/// One text in parts.
#[derive(Debug, Clone, Deserialize)]
pub struct CohereInput {
    /// The parts, which follow each other.
    pub content: Vec<CohereContent>,
}

/// A part of a text.
#[derive(Debug, Clone, Deserialize)]
pub struct CohereContent {
    /// The text; an image has none.
    pub text: Option<String>,
}

/// The answer.
#[derive(Debug, Serialize)]
pub struct CohereEmbedResponse {
    /// The request's id.
    pub id: String,
    /// `embeddings_by_type`.
    pub response_type: &'static str,
    /// The vectors of each type, in the order of the texts.
    pub embeddings: BTreeMap<&'static str, Vec<Vector>>,
    /// The texts.
    pub texts: Vec<String>,
    /// What is metered and what was cut.
    pub meta: CohereMeta,
}

/// Beside the vectors.
#[derive(Debug, Serialize)]
pub struct CohereMeta {
    /// Version 2.
    pub api_version: ApiVersion,
    /// What is metered.
    pub billed_units: BilledUnits,
    /// Texts that were cut.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// The version of the contract.
#[derive(Debug, Serialize)]
pub struct ApiVersion {
    /// `2`.
    pub version: &'static str,
}

/// What is metered.
#[derive(Debug, Serialize)]
pub struct BilledUnits {
    /// Every token that the model saw.
    pub input_tokens: usize,
}
