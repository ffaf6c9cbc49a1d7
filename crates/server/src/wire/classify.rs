//! Jina's `/v1/classify`.

use serde::{Deserialize, Serialize};

use super::embeddings::Usage;
use super::input::{InputList, TruncateField};

/// The request. Unknown fields are ignored.
#[derive(Debug, Clone, Deserialize)]
pub struct ClassifyRequest {
    /// Model id, perhaps with a task in place of `classification`.
    pub model: Option<String>,
    /// What is classified.
    pub input: Option<InputList>,
    /// The classes, in words.
    pub labels: Option<Vec<String>>,
    /// Jina's classifiers trained from examples, which we do not have.
    pub classifier_id: Option<String>,
    /// Cut texts that are too long.
    #[serde(alias = "truncation")]
    pub truncate: Option<TruncateField>,
}

/// The answer.
#[derive(Debug, Serialize)]
pub struct ClassifyResponse {
    /// `list`.
    pub object: &'static str,
    /// One element per input, in order.
    pub data: Vec<Classification>,
    /// The id of the model that answered.
    pub model: String,
    /// Tokens of the inputs and the labels.
    pub usage: Usage,
    /// Equal fingerprints mean equal scores for equal texts.
    pub system_fingerprint: String,
}

/// One input's class.
#[derive(Debug, Serialize)]
pub struct Classification {
    /// `classification`.
    pub object: &'static str,
    /// The input's place.
    pub index: usize,
    /// The label with the highest score.
    pub prediction: String,
    /// Its score.
    pub score: f64,
    /// All labels, in the order of the request.
    pub predictions: Vec<Prediction>,
    /// Whether a part of the input was cut off.
    pub truncated: bool,
}

/// How well a label fits.
#[derive(Debug, Serialize)]
pub struct Prediction {
    /// The label.
    pub label: String,
    /// Softmax over the labels' similarities; the scores of an input add up to 1.
    pub score: f64,
    /// Cosine of the angle between input and label.
    pub similarity: f32,
}
