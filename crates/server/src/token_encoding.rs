//! Token ids of other vocabularies: LangChain sends texts as cl100k ids, which are decoded here.

use tiktoken_rs::{CoreBPE, cl100k_base_singleton, o200k_base_singleton};

use crate::batcher::OwnedContent;
use crate::error::{ApiError, shortened};
use crate::wire::segment::TextToken;

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

    /// Runs of whole characters with the ids that make them, `None` for the model's own vocabulary,
    /// which is the engine's.
    ///
    /// # Errors
    /// [`ApiError`] for a text on which the vocabulary's pattern gives up.
    pub fn encode(self, text: &str) -> Result<Option<Vec<TextToken>>, ApiError> {
        let Some(vocabulary) = self.vocabulary() else {
            return Ok(None);
        };
        let refused = || {
            let message = format!("The text cannot be tokenised with `{}`", self.name());
            ApiError::invalid_param("content", message)
        };
        // The library panics when its regular expression exceeds a limit, on megabytes of spaces say.
        let encode = std::panic::AssertUnwindSafe(|| vocabulary.encode_ordinary(text));
        let ids = std::panic::catch_unwind(encode).map_err(|_| refused())?;
        let mut runs = Vec::new();
        let mut run = (Vec::new(), Vec::new());
        for id in ids {
            let piece = vocabulary.decode_bytes(&[id]).map_err(|_| refused())?;
            run.0.extend(piece);
            run.1.push(id);
            if let Ok(text) = str::from_utf8(&run.0) {
                runs.push((text.to_owned(), std::mem::take(&mut run.1)));
                run.0.clear();
            }
        }
        Ok(Some(runs))
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
