//! Jina's `/v1/rerank`, and Text Embeddings Inference's `/rerank`.

use serde::{Deserialize, Serialize};

use super::embeddings::Usage;
use super::input::{InputList, TruncateField};
use super::tei::Direction;

/// Either's request. Unknown fields are ignored.
#[derive(Debug, Clone, Deserialize)]
pub struct RerankRequest {
    /// Model id, perhaps with a task for both sides in place of the retrieval tasks.
    pub model: Option<String>,
    /// What is looked for.
    pub query: Option<InputList>,
    /// Where it is looked for.
    pub documents: Option<InputList>,
    /// TEI's name of the documents.
    pub texts: Option<InputList>,
    /// So many results at most.
    pub top_n: Option<usize>,
    /// Whether results repeat their documents; true unless told.
    pub return_documents: Option<bool>,
    /// TEI's name of that; false there unless told.
    pub return_text: Option<bool>,
    /// Whether TEI's scores are cosines, -1 to 1, in place of 0 to 1; false unless told.
    pub raw_scores: Option<bool>,
    /// Cut texts that are too long.
    #[serde(alias = "truncation")]
    pub truncate: Option<TruncateField>,
    /// On this side, in TEI's words.
    pub truncation_direction: Option<Direction>,
}

/// Jina's answer.
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

/// One element of TEI's answer, which is a list, best first.
#[derive(Debug, Serialize)]
pub struct TeiRank {
    /// The text's place in the request.
    pub index: usize,
    /// The text, if it was wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// How near it is to the query.
    pub score: f32,
}
