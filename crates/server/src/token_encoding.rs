//! Token ids of other vocabularies: LangChain sends texts as cl100k ids, which are decoded here.

use tiktoken_rs::{CoreBPE, cl100k_base_singleton, o200k_base_singleton};

use crate::batcher::OwnedContent;
use crate::error::{ApiError, shortened};

/// Whose ids a request's token arrays hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TokenEncoding {
    /// OpenAI's, of `text-embedding-3-*`; what clients use for model names that they do not know.
    #[default]
    Cl100k,
    /// OpenAI's newer one.
    O200k,
    /// The model's own, specials included.
    Model,
}

impl TokenEncoding {
    const ALL: [Self; 3] = [Self::Cl100k, Self::O200k, Self::Model];

    /// Its name in requests and in the response header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cl100k => "cl100k_base",
            Self::O200k => "o200k_base",
            Self::Model => "model",
        }
    }

    /// Reads the request's word.
    ///
    /// # Errors
    /// [`ApiError`] for an unknown one.
    pub fn parse(name: &str) -> Result<Self, ApiError> {
        let found = Self::ALL
            .into_iter()
            .find(|encoding| encoding.name() == name);
        found.ok_or_else(|| {
            let name = shortened(name);
            ApiError::invalid_param(
                "token_encoding",
                format!("There is no token encoding `{name}`, expected `cl100k_base`, `o200k_base` or `model`"),
            )
        })
    }

    fn vocabulary(self) -> Option<&'static CoreBPE> {
        match self {
            Self::Cl100k => Some(cl100k_base_singleton()),
            Self::O200k => Some(o200k_base_singleton()),
            Self::Model => None,
        }
    }

    /// What ids stand for: text, or themselves where they are the model's own. `index` is the input's
    /// place. A text whose cut falls inside a character gets U+FFFD for the broken one, as tiktoken
    /// gives. Builds the vocabulary's table when it is first needed, which takes a moment.
    ///
    /// # Errors
    /// [`ApiError`] for ids outside the vocabulary.
    pub fn decode(self, index: usize, ids: Vec<u32>) -> Result<OwnedContent, ApiError> {
        let Some(vocabulary) = self.vocabulary() else {
            return Ok(OwnedContent::TokenIds(ids));
        };
        let mut bytes = Vec::with_capacity(ids.len() * 5);
        for (position, &id) in ids.iter().enumerate() {
            let piece = vocabulary.decode_bytes(&[id]).map_err(|_| {
                ApiError::invalid_param(
                    format!("input[{index}]"),
                    format!(
                        "Input {index} has token id {id} at position {position}, which `{}` does not \
                         have; `token_encoding` names another vocabulary",
                        self.name()
                    ),
                )
            })?;
            bytes.extend(piece);
        }
        Ok(OwnedContent::Text(
            String::from_utf8_lossy(&bytes).into_owned(),
        ))
    }
}
