//! `/v1/quality`.

use serde::{Deserialize, Serialize};

use super::embeddings::Usage;
use super::input::TruncateField;

/// The request. Unknown fields are ignored.
#[derive(Debug, Clone, Deserialize)]
pub struct QualityRequest {
    /// Model id.
    pub model: Option<String>,
    /// Documents, queries and what is relevant.
    pub collection: Option<CollectionField>,
    /// Places that recall is taken over; 10 unless told.
    pub recall_at: Option<i64>,
    /// The share of nDCG@10 that the recommended vectors shall keep; 0.98 unless told.
    pub keep: Option<f64>,
    /// Cut texts that are too long.
    pub truncate: Option<TruncateField>,
}

/// A collection in one text or in three.
#[derive(Debug, Clone, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a text, or an object with the texts `corpus`, `queries` and `qrels`"
)]
pub enum CollectionField {
    /// JSONL or CSV.
    Text(String),
    /// The files of a folder as BEIR lays it out.
    Beir {
        /// `corpus.jsonl`.
        corpus: String,
        /// `queries.jsonl`.
        queries: String,
        /// One of `qrels/*.tsv`.
        qrels: String,
    },
}

/// The answer.
#[derive(Debug, Serialize)]
pub struct QualityResponse {
    /// `quality`.
    pub object: &'static str,
    /// What is searched.
    pub documents: Texts,
    /// What for.
    pub queries: Texts,
    /// Places that recall is taken over.
    pub recall_at: usize,
    /// How the model's weights are multiplied: `exact`, `balanced` or `fast`.
    pub precision: &'static str,
    /// Sizes from the smallest, each as float, int8 and binary.
    pub measurements: Vec<Measured>,
    /// As asked for.
    pub keep: f64,
    /// The place of the smallest vectors that keep so much; `None` where nothing is found at all.
    pub recommended: Option<usize>,
    /// The id of the model that answered.
    pub model: String,
    /// Tokens of all texts.
    pub usage: Usage,
    /// Equal fingerprints mean equal numbers for equal collections.
    pub system_fingerprint: String,
}

/// How many there are.
#[derive(Debug, Serialize)]
pub struct Texts {
    /// Texts.
    pub count: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Documents of a BEIR folder that have no text, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out: Option<usize>,
}

/// How well one size and type finds the relevant documents.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// Components.
    pub dimensions: usize,
    /// `float`, `int8` or `binary`.
    pub embedding_type: &'static str,
    /// Of one vector.
    pub bytes: usize,
    /// nDCG@10, mean over the queries.
    pub ndcg: f64,
    /// Recall, mean over the queries.
    pub recall: f64,
    /// nDCG less that of floats at full size.
    pub difference: f64,
    /// Half of its 95 % interval; `None` for a single query.
    pub interval: Option<f64>,
}
