//! The vendors' words for a task, and which of a request's ways of naming one wins.

use quintet_engine::{Embedder, Task};

use crate::error::{ApiError, shortened};

/// Words of `input_type`: Cohere's, Voyage's, and the two that others use in their place.
const INPUT_TYPES: [(&str, &str); 7] = [
    ("search_query", "retrieval.query"),
    ("query", "retrieval.query"),
    ("search_document", "retrieval.passage"),
    ("document", "retrieval.passage"),
    ("passage", "retrieval.passage"),
    ("classification", "classification"),
    ("clustering", "separation"),
];

/// Gemini's words of `task_type`.
const TASK_TYPES: [(&str, &str); 7] = [
    ("RETRIEVAL_QUERY", "retrieval.query"),
    ("QUESTION_ANSWERING", "retrieval.query"),
    ("FACT_VERIFICATION", "retrieval.query"),
    ("RETRIEVAL_DOCUMENT", "retrieval.passage"),
    ("CLASSIFICATION", "classification"),
    ("CLUSTERING", "separation"),
    ("SEMANTIC_SIMILARITY", "text-matching"),
];

/// Gemini's word for none.
const UNSPECIFIED: &str = "TASK_TYPE_UNSPECIFIED";

/// The fields of a request that name a task.
#[derive(Debug, Clone, Copy, Default)]
pub struct TaskFields<'a> {
    /// Jina's: a task of the model, to the letter.
    pub task: Option<&'a str>,
    /// The same, or Gemini's words.
    pub task_type: Option<&'a str>,
    /// The same, or Cohere's and Voyage's words.
    pub input_type: Option<&'a str>,
}

impl TaskFields<'_> {
    /// The task that the fields name, `None` where they leave it open.
    ///
    /// # Errors
    /// [`ApiError`] for a word that no task has.
    pub fn resolve(&self, embedder: &Embedder) -> Result<Option<Task>, ApiError> {
        if let Some(name) = self.task {
            return find(embedder, "task", name).map(Some);
        }
        if let Some(name) = self.task_type {
            if name == UNSPECIFIED {
                return Ok(None);
            }
            return find(embedder, "task_type", translated(&TASK_TYPES, name)).map(Some);
        }
        if let Some(name) = self.input_type {
            return find(embedder, "input_type", translated(&INPUT_TYPES, name)).map(Some);
        }
        Ok(None)
    }
}

fn translated<'a>(table: &[(&str, &'static str)], name: &'a str) -> &'a str {
    table
        .iter()
        .find(|(word, _)| *word == name)
        .map_or(name, |(_, task)| task)
}

/// Finds a task of the model by name.
///
/// # Errors
/// [`ApiError`] naming `param` and the tasks that there are.
pub fn find(embedder: &Embedder, param: &str, name: &str) -> Result<Task, ApiError> {
    embedder.task(name).map_err(|unknown| {
        let known = unknown.known.iter().map(String::as_str).chain(["raw"]);
        let known: Vec<String> = known.map(|name| format!("`{name}`")).collect();
        let name = shortened(name);
        let message = format!(
            "The model has no task `{name}`, expected one of {}",
            known.join(", ")
        );
        ApiError::invalid_param(param, message)
    })
}
