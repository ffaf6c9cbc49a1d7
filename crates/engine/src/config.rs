//! `config.json` (or a GGUF file's metadata) parsed into a [`ModelConfig`] that cannot be inconsistent.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Tokens that the model was trained to read at once, the specials included (model card).
pub const CONTEXT_TOKENS: usize = 8192;

/// The five task adapters of jina-embeddings-v3, in the order of the stacked tensors.
pub const TASK_NAMES: [&str; 5] = [
    "retrieval.query",
    "retrieval.passage",
    "separation",
    "classification",
    "text-matching",
];

/// Rotary base that the model uses at inference when no file says otherwise (transformers' class default).
const DEFAULT_ROPE_THETA: f64 = 20000.0;

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The configuration file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not JSON, or a field has the wrong type or is missing.
    #[error("`{}` is not a model configuration", path.display())]
    Parse {
        /// The configuration file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A field holds a value that this model cannot have.
    #[error("`{}` says {field} {found}, expected {expected}", path.display())]
    Field {
        /// The configuration file.
        path: PathBuf,
        /// Name of the field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What would be valid.
        expected: String,
    },
}

/// Shapes and constants of one model of the jina-embeddings-v3 architecture.
///
/// Made by [`ModelConfig::read`] or from GGUF metadata and checked once: head size, dimensions and
/// counts fit each other.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Rows of the word embedding table.
    pub vocab_size: usize,
    /// Width of a hidden state, and of a full embedding.
    pub hidden_size: usize,
    /// Transformer layers.
    pub num_hidden_layers: usize,
    /// Attention heads in a layer.
    pub num_attention_heads: usize,
    /// Width of the MLP's inner layer.
    pub intermediate_size: usize,
    /// Epsilon inside LayerNorm's square root.
    pub layer_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Longest sequence in tokens, specials included.
    pub max_tokens: usize,
    /// Sizes that Matryoshka training covered, ascending, all <= `hidden_size`.
    pub matryoshka_dimensions: Vec<usize>,
    /// Names of the stacked adapters, in the order of the stack.
    pub lora_adaptations: Vec<String>,
    /// LoRA `alpha`; the scale of an adapter is alpha / rank.
    pub lora_alpha: f32,
    /// Instruction prefix of a task, where it has one: (task, prefix).
    pub task_instructions: Vec<(String, String)>,
}

impl ModelConfig {
    /// Reads and checks a `config.json` of any of the safetensors layouts.
    ///
    /// # Errors
    /// [`ConfigError`] when the file cannot be read, is no JSON, or describes another architecture.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let json = std::fs::read(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, &json)
    }

    /// Parses and checks the text of a `config.json`; `path` is for messages.
    ///
    /// # Errors
    /// [`ConfigError`] when the text is no JSON or describes another architecture.
    pub fn parse(path: &Path, json: &[u8]) -> Result<Self, ConfigError> {
        let fields: ConfigFields =
            serde_json::from_slice(json).map_err(|source| ConfigError::Parse {
                path: path.to_owned(),
                source,
            })?;
        fields.check_architecture(path)?;
        let rope_theta = fields
            .rope_parameters
            .and_then(|rope| rope.rope_theta)
            .or(fields.rope_theta)
            .or(fields.rotary_emb_base)
            .unwrap_or(DEFAULT_ROPE_THETA);
        Self {
            vocab_size: fields.vocab_size,
            hidden_size: fields.hidden_size,
            num_hidden_layers: fields.num_hidden_layers,
            num_attention_heads: fields.num_attention_heads,
            intermediate_size: fields.intermediate_size,
            layer_norm_eps: fields.layer_norm_eps,
            rope_theta,
            max_tokens: fields.max_position_embeddings.min(CONTEXT_TOKENS),
            matryoshka_dimensions: fields.matryoshka_dimensions.unwrap_or_default(),
            lora_adaptations: fields
                .lora_adaptations
                .unwrap_or_else(|| TASK_NAMES.map(str::to_owned).to_vec()),
            lora_alpha: fields.lora_alpha.unwrap_or(1.0),
            task_instructions: match fields.task_instructions {
                Some(map) => map.into_iter().collect(),
                None => default_task_instructions(),
            },
        }
        .checked(path)
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Instruction that is put before a text of `task`; empty where the task has none.
    pub fn instruction(&self, task: &str) -> &str {
        self.task_instructions
            .iter()
            .find(|(name, _)| name == task)
            .map_or("", |(_, instruction)| instruction)
    }

    /// Bounds every field and fills what files may leave out.
    pub(crate) fn checked(mut self, path: &Path) -> Result<Self, ConfigError> {
        let field = |field, found: String, expected: &str| {
            Err(ConfigError::Field {
                path: path.to_owned(),
                field,
                found: format!("`{found}`"),
                expected: expected.to_owned(),
            })
        };
        // Upper bounds keep products of sizes far from overflow and refuse nonsense early.
        let sizes = [
            ("vocab_size", self.vocab_size, 5, 16_000_000),
            ("hidden_size", self.hidden_size, 2, 65_536),
            ("num_hidden_layers", self.num_hidden_layers, 1, 1024),
            ("num_attention_heads", self.num_attention_heads, 1, 1024),
            ("intermediate_size", self.intermediate_size, 1, 1_048_576),
            (
                "max_position_embeddings",
                self.max_tokens,
                3,
                CONTEXT_TOKENS,
            ),
        ];
        for (name, value, low, high) in sizes {
            if !(low..=high).contains(&value) {
                return field(
                    name,
                    value.to_string(),
                    &format!("a value in {low}..={high}"),
                );
            }
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads)
            || !self.head_dim().is_multiple_of(2)
        {
            return field(
                "num_attention_heads",
                self.num_attention_heads.to_string(),
                &format!(
                    "a divisor of hidden_size {} with even heads",
                    self.hidden_size
                ),
            );
        }
        if !(self.layer_norm_eps > 0.0 && self.layer_norm_eps < 1.0) {
            return field(
                "layer_norm_eps",
                self.layer_norm_eps.to_string(),
                "a value in (0, 1)",
            );
        }
        if !(self.rope_theta >= 1.0 && self.rope_theta.is_finite()) {
            return field(
                "rope_theta",
                self.rope_theta.to_string(),
                "a finite value >= 1",
            );
        }
        if !self.lora_alpha.is_finite() {
            return field("lora_alpha", self.lora_alpha.to_string(), "a finite value");
        }
        if self
            .matryoshka_dimensions
            .iter()
            .any(|&size| size == 0 || size > self.hidden_size)
        {
            return field(
                "matryoshka_dimensions",
                format!("{:?}", self.matryoshka_dimensions),
                &format!("sizes in 1..={}", self.hidden_size),
            );
        }
        if self.matryoshka_dimensions.is_empty() {
            let trained = [32, 64, 128, 256, 512, 768, 1024];
            self.matryoshka_dimensions = trained
                .into_iter()
                .filter(|&size| size <= self.hidden_size)
                .collect();
        }
        self.matryoshka_dimensions.push(self.hidden_size);
        self.matryoshka_dimensions.sort_unstable();
        self.matryoshka_dimensions.dedup();
        Ok(self)
    }
}

/// The instruction prefixes of jina-embeddings-v3's own `config.json`, each ending in one space.
pub fn default_task_instructions() -> Vec<(String, String)> {
    [
        (
            "retrieval.query",
            "Represent the query for retrieving evidence documents: ",
        ),
        (
            "retrieval.passage",
            "Represent the document for retrieval: ",
        ),
    ]
    .map(|(task, instruction)| (task.to_owned(), instruction.to_owned()))
    .to_vec()
}

/// The fields of `config.json` that decide something; others are ignored.
#[derive(Deserialize)]
struct ConfigFields {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    layer_norm_eps: f32,
    max_position_embeddings: usize,
    rope_parameters: Option<RopeParameters>,
    rope_theta: Option<f64>,
    rotary_emb_base: Option<f64>,
    rotary_emb_interleaved: Option<bool>,
    hidden_act: Option<String>,
    position_embedding_type: Option<String>,
    emb_pooler: Option<String>,
    type_vocab_size: Option<usize>,
    matryoshka_dimensions: Option<Vec<usize>>,
    lora_adaptations: Option<Vec<String>>,
    lora_alpha: Option<f32>,
    task_instructions: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
}

impl ConfigFields {
    /// Refuses what would silently compute another model.
    fn check_architecture(&self, path: &Path) -> Result<(), ConfigError> {
        let text = |value: &Option<String>| value.as_deref().unwrap_or("absent").to_owned();
        let rope_type = self
            .rope_parameters
            .as_ref()
            .and_then(|rope| rope.rope_type.clone());
        let checks = [
            (
                "hidden_act",
                text(&self.hidden_act),
                &["gelu", "absent"][..],
            ),
            (
                "position_embedding_type",
                text(&self.position_embedding_type),
                &["rotary", "absent"],
            ),
            ("emb_pooler", text(&self.emb_pooler), &["mean", "absent"]),
            ("rope_type", text(&rope_type), &["default", "absent"]),
        ];
        for (field, found, allowed) in checks {
            if !allowed.contains(&found.as_str()) {
                return Err(ConfigError::Field {
                    path: path.to_owned(),
                    field,
                    found: format!("`{found}`"),
                    expected: format!("`{}`", allowed[0]),
                });
            }
        }
        let type_vocab_size = self.type_vocab_size.unwrap_or(1);
        if type_vocab_size != 1 || self.rotary_emb_interleaved == Some(true) {
            let (field, found, expected) = if type_vocab_size == 1 {
                ("rotary_emb_interleaved", "true".to_owned(), "`false`")
            } else {
                ("type_vocab_size", type_vocab_size.to_string(), "`1`")
            };
            return Err(ConfigError::Field {
                path: path.to_owned(),
                field,
                found: format!("`{found}`"),
                expected: expected.to_owned(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(change: impl FnOnce(&mut serde_json::Value)) -> Result<ModelConfig, ConfigError> {
        let mut json = serde_json::json!({
            "vocab_size": 250002, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
            "intermediate_size": 4096, "layer_norm_eps": 1e-5, "max_position_embeddings": 8194,
            "hidden_act": "gelu", "position_embedding_type": "rotary", "emb_pooler": null,
            "rotary_emb_base": 20000.0, "type_vocab_size": 1,
            "matryoshka_dimensions": [32, 64, 128, 256, 512, 768, 1024],
        });
        change(&mut json);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        std::fs::write(&path, json.to_string()).unwrap();
        ModelConfig::read(&path)
    }

    #[test]
    fn the_published_config_is_read() {
        let config = read(|_| ()).unwrap();
        assert_eq!(config.head_dim(), 64);
        assert_eq!(config.max_tokens, 8192);
        assert_eq!(
            config.matryoshka_dimensions,
            [32, 64, 128, 256, 512, 768, 1024]
        );
        assert_eq!(config.lora_adaptations, TASK_NAMES);
    }

    #[test]
    fn the_rotary_base_is_taken_in_the_order_of_the_specification() {
        let all = |json: &mut serde_json::Value| {
            json["rope_parameters"] = serde_json::json!({"rope_theta": 1.0});
            json["rope_theta"] = 2.0.into();
        };
        assert_eq!(read(all).unwrap().rope_theta, 1.0);
        assert_eq!(
            read(|json| json["rope_theta"] = 2.0.into())
                .unwrap()
                .rope_theta,
            2.0
        );
        assert_eq!(read(|_| ()).unwrap().rope_theta, 20000.0);
        let none = |json: &mut serde_json::Value| {
            json.as_object_mut().unwrap().remove("rotary_emb_base");
        };
        assert_eq!(read(none).unwrap().rope_theta, 20000.0);
    }

    #[test]
    fn another_architecture_is_refused_by_field() {
        for (field, value) in [
            ("hidden_act", serde_json::json!("gelu_new")),
            ("position_embedding_type", "absolute".into()),
            ("emb_pooler", "cls".into()),
            ("type_vocab_size", 2.into()),
            ("num_attention_heads", 7.into()),
            ("num_attention_heads", 0.into()),
            ("hidden_size", 0.into()),
            ("layer_norm_eps", 0.into()),
            ("rotary_emb_base", 0.into()),
            ("matryoshka_dimensions", serde_json::json!([2048])),
        ] {
            let error = read(|json| json[field] = value.clone())
                .unwrap_err()
                .to_string();
            let named = if field == "rotary_emb_base" {
                "rope_theta"
            } else {
                field
            };
            assert!(error.contains(named), "{field}: {error}");
        }
    }
}
