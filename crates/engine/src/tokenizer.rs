//! Text to token ids: XLM-R's unigram pipeline from `tokenizer.json` or GGUF metadata.
//!
//! The ids are those of the `tokenizers` library, which is the reference here (SentencePiece itself
//! differs on rare strings). Truncation and padding that a file asks for are switched off: the engine
//! cuts by its own rule and never pads.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine as _;
use tokenizers::{Model as _, ModelWrapper};

use crate::weights::{GgufTokenizer, TokenizerSource};

/// Why a tokenizer could not be made or a text not be tokenised.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file is missing or unreadable.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The tokenizer file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no `tokenizer.json`.
    #[error("`{}` is not a tokenizer: {reason}", path.display())]
    Parse {
        /// The tokenizer file.
        path: PathBuf,
        /// What the parser found.
        reason: String,
    },
    /// The vocabulary lacks `<s>` or `</s>`, so texts cannot be framed.
    #[error("`{}` has no token `{token}`, expected XLM-R's `<s>` and `</s>`", path.display())]
    NoSpecial {
        /// The tokenizer file.
        path: PathBuf,
        /// The token that is missing.
        token: &'static str,
    },
    /// The vocabulary reaches beyond the model's embedding table.
    #[error("`{}` has ids up to {found}, the model's table ends at {expected}", path.display())]
    Vocabulary {
        /// The tokenizer file.
        path: PathBuf,
        /// Highest id of the tokenizer.
        found: usize,
        /// Highest id of the model.
        expected: usize,
    },
    /// The library refused a text.
    #[error("the text cannot be tokenised: {reason}")]
    Encode {
        /// What the library said.
        reason: String,
    },
}

/// A tokenizer bound to its special ids.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bos_id: u32,
    eos_id: u32,
}

/// Tokens of a text without specials, each with its place in the text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokensWithOffsets {
    /// Token ids.
    pub token_ids: Vec<u32>,
    /// Half-open ranges in characters (Unicode scalar values) of the text, one per token.
    pub offsets: Vec<(usize, usize)>,
}

impl Tokenizer {
    /// Makes the tokenizer of a checkpoint, `None` where it has none. `vocab_size` bounds the ids.
    ///
    /// # Errors
    /// [`TokenizerError`] when the file is unreadable, no tokenizer, or too large for the model.
    pub fn open(
        source: &TokenizerSource,
        vocab_size: usize,
    ) -> Result<Option<Self>, TokenizerError> {
        let (tokenizer, path) = match source {
            TokenizerSource::Absent => return Ok(None),
            TokenizerSource::File(path) => (Self::from_file(path)?, path.as_path()),
            TokenizerSource::BuiltIn(json) => {
                let path = Path::new("tokenizer.json");
                (Self::from_json(json, path)?, path)
            }
            TokenizerSource::Gguf(gguf) => {
                let path = gguf.path.as_path();
                (Self::from_json(&gguf_json(gguf), path)?, path)
            }
        };
        let highest = tokenizer.highest_id();
        if highest >= vocab_size {
            return Err(TokenizerError::Vocabulary {
                path: path.to_owned(),
                found: highest,
                expected: vocab_size.saturating_sub(1),
            });
        }
        Ok(Some(tokenizer))
    }

    /// Reads a `tokenizer.json` of either layout in use (classic and re-saved head).
    ///
    /// # Errors
    /// [`TokenizerError`] when the file is unreadable, no tokenizer, or without `<s>` and `</s>`.
    pub fn from_file(path: &Path) -> Result<Self, TokenizerError> {
        let json = std::fs::read_to_string(path).map_err(|source| TokenizerError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::from_json(&json, path)
    }

    fn from_json(json: &str, path: &Path) -> Result<Self, TokenizerError> {
        let parse = |reason: String| TokenizerError::Parse {
            path: path.to_owned(),
            reason,
        };
        let mut inner = guarded(|| tokenizers::Tokenizer::from_str(json)).map_err(parse)?;
        inner
            .with_truncation(None)
            .map_err(|error| parse(error.to_string()))?;
        inner.with_padding(None);
        let id = |token: &'static str| {
            inner
                .token_to_id(token)
                .ok_or_else(|| TokenizerError::NoSpecial {
                    path: path.to_owned(),
                    token,
                })
        };
        let (bos_id, eos_id) = (id("<s>")?, id("</s>")?);
        Ok(Self {
            inner,
            bos_id,
            eos_id,
        })
    }

    /// Id of `<s>`, which begins every sequence.
    pub fn bos_id(&self) -> u32 {
        self.bos_id
    }

    /// Id of `</s>`, which ends every sequence.
    pub fn eos_id(&self) -> u32 {
        self.eos_id
    }

    fn highest_id(&self) -> usize {
        let added = self.inner.get_added_tokens_decoder().into_keys().max();
        let of_model = match self.inner.get_model() {
            // Its ids are places in a list; a copy of the vocabulary would be a tenth of a start.
            ModelWrapper::Unigram(model) => model.get_vocab_size().saturating_sub(1) as u32,
            ModelWrapper::BPE(_) | ModelWrapper::WordPiece(_) | ModelWrapper::WordLevel(_) => {
                self.inner.get_vocab(false).into_values().max().unwrap_or(0)
            }
        };
        of_model.max(added.unwrap_or(0)) as usize
    }

    /// The piece that an id stands for.
    pub fn piece(&self, token_id: u32) -> Option<String> {
        self.inner.id_to_token(token_id)
    }

    /// Ids of `text` between `<s>` and `</s>`.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`] when the library refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let plain = self.encode_plain(text)?;
        let mut token_ids = Vec::with_capacity(plain.len() + 2);
        token_ids.push(self.bos_id);
        token_ids.extend(plain);
        token_ids.push(self.eos_id);
        Ok(token_ids)
    }

    /// Ids of `text` without specials.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`] when the library refuses the text.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = guarded(|| self.inner.encode_fast(text, false))
            .map_err(|reason| TokenizerError::Encode { reason })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Ids of `text` without specials, with their places in characters.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`] when the library refuses the text.
    pub fn encode_with_offsets(&self, text: &str) -> Result<TokensWithOffsets, TokenizerError> {
        let encoding = guarded(|| self.inner.encode_char_offsets(text, false))
            .map_err(|reason| TokenizerError::Encode { reason })?;
        Ok(TokensWithOffsets {
            token_ids: encoding.get_ids().to_vec(),
            offsets: encoding.get_offsets().to_vec(),
        })
    }
}

/// Runs the library and turns its panics into errors: it panics on a damaged character map, when it
/// parses one and perhaps later when it uses one.
fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the tokenizer library gave up on it, so the file is damaged".to_owned()),
    }
}

/// The `tokenizer.json` that XLM-R's classic head would have with a GGUF file's vocabulary.
fn gguf_json(gguf: &GgufTokenizer) -> String {
    let special = |id: usize, piece: &str| {
        serde_json::json!({
            "id": id, "content": piece, "single_word": false, "lstrip": piece == "<mask>",
            "rstrip": false, "normalized": false, "special": true,
        })
    };
    let mut special_ids = gguf.control_ids.clone();
    special_ids.push(gguf.unknown_id);
    special_ids.sort_unstable();
    let added: Vec<_> = special_ids
        .iter()
        .filter_map(|&id| gguf.pieces.get(id).map(|(piece, _)| special(id, piece)))
        .collect();
    let metaspace = serde_json::json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    serde_json::json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {
            "type": "Precompiled",
            "precompiled_charsmap":
                base64::engine::general_purpose::STANDARD.encode(&gguf.precompiled_charsmap),
        },
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": null,
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": gguf.unknown_id, "vocab": gguf.pieces, "byte_fallback": false},
    })
    .to_string()
}
