//! The model as clients see it: its ids, its tasks, and the proof that it computes right.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use quintet_engine::{Content, EmbedError, EmbedOptions, Embedder, Input, RAW, Task};
use sha2::{Digest, Sha256};

use crate::error::ApiError;
use crate::task_names;

/// A loaded model with the names that clients may use.
#[derive(Debug)]
pub struct Model {
    /// The engine.
    pub embedder: Arc<Embedder>,
    /// Ids, the one that answers carry first.
    pub names: Vec<String>,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
    /// Hash of the bits that this model gives for fixed texts: equal where weights, kernels and
    /// precision give equal vectors.
    pub fingerprint: String,
}

/// Why a model was not taken into service.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SelfTestError {
    /// The engine refused or failed.
    #[error("the self-test's texts cannot be embedded")]
    Embed(#[from] EmbedError),
    /// A vector is not of length 1, or not a number.
    #[error("the self-test's vector for task `{task}` has length {found}, expected 1")]
    Length {
        /// The task.
        task: String,
        /// What was found; NaN where a component is.
        found: f64,
    },
    /// A text gave other bits in a batch than alone.
    #[error("the self-test's vector for task `{task}` differs between a batch and a text alone")]
    Batch {
        /// The task.
        task: String,
    },
}

/// Texts of the self-test: scripts, lengths and an emoji.
const PROBES: [&str; 3] = [
    "Where do storks spend the winter?",
    "Störche überwintern in Afrika, südlich der Sahara. 鹳在非洲过冬。",
    "🙂",
];

impl Model {
    /// Proves the model on fixed texts and gives it its names; `names` has at least one.
    ///
    /// # Errors
    /// [`SelfTestError`] when the vectors cannot be right.
    pub fn new(embedder: Embedder, names: Vec<String>) -> Result<Self, SelfTestError> {
        let fingerprint = self_test(&embedder)?;
        let created = SystemTime::now().duration_since(UNIX_EPOCH);
        Ok(Self {
            embedder: Arc::new(embedder),
            names,
            created: created.map_or(0, |since| since.as_secs()),
            fingerprint,
        })
    }

    /// The id that answers carry.
    pub fn id(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// The names of all tasks, `raw` last.
    pub fn tasks(&self) -> impl Iterator<Item = &str> {
        self.embedder.tasks().chain([RAW])
    }

    /// The name of one of its tasks.
    pub fn task_name(&self, task: Task) -> &str {
        let is_it = |name: &&str| self.embedder.task(name) == Ok(task);
        self.embedder.tasks().find(is_it).unwrap_or(RAW)
    }

    /// Every id that a request may name: the model alone and with each task.
    pub fn ids(&self) -> Vec<String> {
        let with_tasks = |name: &String| {
            let tasks = self.tasks().map(|task| format!("{name}:{task}"));
            std::iter::once(name.clone())
                .chain(tasks)
                .collect::<Vec<_>>()
        };
        self.names.iter().flat_map(with_tasks).collect()
    }

    /// Reads a model id, with the task of its suffix if it has one.
    ///
    /// # Errors
    /// [`ApiError`] for an id that is none of [`Model::ids`].
    pub fn resolve(&self, id: &str) -> Result<Option<Task>, ApiError> {
        let is_ours = |name: &str| self.names.iter().any(|known| known == name);
        if is_ours(id) {
            return Ok(None);
        }
        match id.rsplit_once(':') {
            Some((name, task)) if is_ours(name) => {
                task_names::find(&self.embedder, "model", task).map(Some)
            }
            _ => Err(ApiError::unknown_model(id, &self.ids())),
        }
    }
}

/// Embeds the probes under every task, alone and together, and gives the fingerprint.
fn self_test(embedder: &Embedder) -> Result<String, SelfTestError> {
    let texts: Vec<Vec<u32>> = match embedder.tokenizer() {
        // A checkpoint without a tokenizer serves token ids only.
        None => vec![vec![0, 2], vec![0, 3, 4, 2]],
        Some(tokenizer) => {
            let encode = |text: &&str| tokenizer.encode(text);
            let encoded: Result<_, _> = PROBES.iter().map(encode).collect();
            encoded.map_err(|source| EmbedError::Tokenizer { index: 0, source })?
        }
    };
    let names: Vec<String> = embedder.tasks().chain([RAW]).map(str::to_owned).collect();
    let mut inputs = Vec::new();
    for name in &names {
        let Ok(task) = embedder.task(name) else {
            continue;
        };
        inputs.extend(texts.iter().map(|token_ids| {
            let content = Content::TokenIds(token_ids);
            (name, Input { content, task })
        }));
    }
    let batch: Vec<Input<'_>> = inputs.iter().map(|(_, input)| *input).collect();
    let options = EmbedOptions::default();
    let together = embedder.embed(&batch, &options)?;
    let mut hash = Sha256::new();
    for ((task, input), embedded) in inputs.iter().zip(&together) {
        let task = (*task).clone();
        let alone = embedder.embed(&[*input], &options)?;
        if alone[0].embedding != embedded.embedding {
            return Err(SelfTestError::Batch { task });
        }
        let squares = embedded
            .embedding
            .iter()
            .map(|&value| f64::from(value).powi(2));
        let length = squares.sum::<f64>().sqrt();
        if length.is_nan() || (length - 1.0).abs() > 1e-3 {
            return Err(SelfTestError::Length {
                task,
                found: length,
            });
        }
        embedded
            .embedding
            .iter()
            .for_each(|value| hash.update(value.to_le_bytes()));
    }
    let digest = hash.finalize();
    let hex: String = digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(format!("fp_{hex}"))
}
