//! Jina's `/v1/rerank`.

use serde::{Deserialize, Serialize};

use super::embeddings::Usage;
use super::input::{InputList, TruncateField};

/// The request. Unknown fields are ignored.
#[derive(Debug, Clone, Deserialize)]
pub struct RerankRequest {
    /// Model id, perhaps with a task for both sides in place of the retrieval tasks.
    pub model: Option<String>,
    /// What is looked for.
    pub query: Option<InputList>,
    /// Where it is looked for.
    #[serde(alias = "texts")]
    pub documents: Option<InputList>,
    /// So many results at most.
    pub top_n: Option<usize>,
    /// Whether results repeat their documents; true unless told.
    #[serde(alias = "return_text")]
    pub return_documents: Option<bool>,
    /// Cut texts that are too long.
    #[serde(alias = "truncation")]
    pub truncate: Option<TruncateField>,
}

/// The answer.
#[derive(Debug, Serialize)]
pub struct RerankResponse {
    /// `list`.
    pub object: &'static str,
    /// Best first; equal scores in the order of the request.
    pub results: Vec<Ranked>,
    /// The id of the model that answered.
    pub model: String,
    /// `bi-encoder`: query and documents are embedded apart and compared, not read together.
    pub method: &'static str,
    /// Tokens of the query and the documents.
    pub usage: Usage,
    /// Equal fingerprints mean equal scores for equal texts.
    pub system_fingerprint: String,
}

/// One document's place.
#[derive(Debug, Serialize)]
pub struct Ranked {
    /// The document's place in the request.
    pub index: usize,
    /// Cosine of the angle between query and document, -1 to 1.
    pub relevance_score: f32,
    /// The document, unless it was not wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<RankedDocument>,
    /// Whether a part of the document was cut off.
    pub truncated: bool,
}

/// A document that is given back.
#[derive(Debug, Serialize)]
pub struct RankedDocument {
    /// Its text.
    pub text: String,
}
