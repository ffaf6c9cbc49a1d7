//! mini: a small model of jina-embeddings-v3's architecture, trained by `training/` and built into the
//! program, so that a fresh machine gives meaningful vectors without a network.
//!
//! The files are in the original jinaai layout (stacked LoRA, bf16). `README.md` beside this crate is
//! the model card: what it is for, what it was trained on, how good it is.

/// What the model is called on the command line and in messages.
pub const NAME: &str = "mini";

/// `config.json`.
pub const CONFIG_JSON: &str = include_str!("../model/config.json");

/// `model.safetensors`.
pub const MODEL_SAFETENSORS: &[u8] = include_bytes!("../model/model.safetensors");

/// `tokenizer.json`.
pub const TOKENIZER_JSON: &str = include_str!("../model/tokenizer.json");
