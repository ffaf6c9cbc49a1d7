//! What a caller hands in and gets back, and the reading of inputs into token ids.

use std::sync::OnceLock;

use quintet_kernels::Cpu;

use crate::batch::Sequence;
use crate::config::ModelConfig;
use crate::error::EmbedError;
use crate::task::Task;
use crate::tokenizer::Tokenizer;
use crate::weights::Adapter;

/// A text, or token ids of the model's own vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'a> {
    /// A text; the task's instruction is put before it and `<s>`, `</s>` around both.
    Text(&'a str),
    /// Token ids exactly as the model shall see them, specials included.
    TokenIds(&'a [u32]),
}

/// One input with its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Input<'a> {
    /// What is embedded.
    pub content: Content<'a>,
    /// The adapter that it is embedded with.
    pub task: Task,
}

/// What happens to an input that is longer than the model's context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Truncate {
    /// It is refused.
    #[default]
    Error,
    /// Its tail is cut off; the last token, `</s>`, is kept.
    End,
}

/// A Matryoshka size that the model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dimensions {
    value: usize,
    trained: bool,
}

impl Dimensions {
    /// Checks a size against the model.
    ///
    /// # Errors
    /// [`EmbedError::Dimensions`] outside `1..=hidden_size`.
    pub fn new(value: usize, config: &ModelConfig) -> Result<Self, EmbedError> {
        if !(1..=config.hidden_size).contains(&value) {
            return Err(EmbedError::Dimensions {
                found: value,
                max: config.hidden_size,
            });
        }
        Ok(Self {
            value,
            trained: config.matryoshka_dimensions.contains(&value),
        })
    }

    /// Components that are kept.
    pub fn value(self) -> usize {
        self.value
    }

    /// Whether Matryoshka training covered this size; others work, a little worse than the next larger.
    pub fn is_trained(self) -> bool {
        self.trained
    }
}

/// How embeddings are cut and scaled, and how long inputs are met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbedOptions {
    /// Matryoshka size, the full width by default.
    pub dimensions: Option<Dimensions>,
    /// Scale to length 1; the default.
    pub normalize: bool,
    /// What happens to inputs that are too long.
    pub truncate: Truncate,
}

impl Default for EmbedOptions {
    fn default() -> Self {
        Self {
            dimensions: None,
            normalize: true,
            truncate: Truncate::Error,
        }
    }
}

/// One embedding and what it was made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    /// Tokens that the model saw, specials and instruction included: the number to meter by.
    pub tokens: usize,
    /// Whether the tail of the input was cut off.
    pub truncated: bool,
    /// The vector.
    pub embedding: Vec<f32>,
}

/// An input as the model will see it, and whether its tail was cut off.
#[derive(Debug, Clone)]
pub(crate) struct ReadInput {
    pub(crate) sequence: Sequence,
    pub(crate) truncated: bool,
}

/// Turns inputs into checked token ids.
pub(crate) struct InputReader<'a> {
    pub(crate) cpu: &'a Cpu,
    pub(crate) tokenizer: Option<&'a Tokenizer>,
    pub(crate) adapters: &'a [Adapter],
    pub(crate) config: &'a ModelConfig,
}

impl InputReader<'_> {
    /// Reads all inputs on the pool. The first input that is refused decides the error.
    pub(crate) fn read_all(
        &self,
        inputs: &[Input<'_>],
        truncate: Truncate,
    ) -> Result<Vec<ReadInput>, EmbedError> {
        let read: Vec<OnceLock<Result<ReadInput, EmbedError>>> =
            inputs.iter().map(|_| OnceLock::new()).collect();
        self.cpu.pool().run(inputs.len(), &|index, _| {
            read[index].get_or_init(|| self.read(index, inputs[index], truncate));
        });
        // Every slot was filled by its task of the run above.
        read.into_iter().filter_map(OnceLock::into_inner).collect()
    }

    fn read(
        &self,
        index: usize,
        input: Input<'_>,
        truncate: Truncate,
    ) -> Result<ReadInput, EmbedError> {
        let mut token_ids = match input.content {
            Content::TokenIds(token_ids) => token_ids.to_vec(),
            Content::Text(text) => {
                let tokenizer = self.tokenizer.ok_or(EmbedError::NoTokenizer)?;
                let instruction = input
                    .task
                    .adapter()
                    .map_or("", |index| self.adapters[index].instruction.as_str());
                let encoded = if instruction.is_empty() {
                    tokenizer.encode(text)
                } else {
                    tokenizer.encode(&format!("{instruction}{text}"))
                };
                encoded.map_err(|source| EmbedError::Tokenizer { index, source })?
            }
        };
        let max = self.config.max_tokens;
        let truncated = token_ids.len() > max;
        if truncated {
            if truncate == Truncate::Error {
                return Err(EmbedError::TooLong {
                    index,
                    tokens: token_ids.len(),
                    max,
                });
            }
            let last = token_ids.pop();
            token_ids.truncate(max - 1);
            token_ids.extend(last);
        }
        self.check_ids(index, &token_ids)?;
        Ok(ReadInput {
            sequence: Sequence::whole(token_ids, input.task),
            truncated,
        })
    }

    /// Refuses an empty sequence, one beyond the context, and ids outside the vocabulary.
    pub(crate) fn check_ids(&self, index: usize, token_ids: &[u32]) -> Result<(), EmbedError> {
        if token_ids.is_empty() {
            return Err(EmbedError::Empty { index });
        }
        let (tokens, max) = (token_ids.len(), self.config.max_tokens);
        if tokens > max {
            return Err(EmbedError::TooLong { index, tokens, max });
        }
        let vocab_size = self.config.vocab_size;
        match token_ids.iter().position(|&id| id as usize >= vocab_size) {
            None => Ok(()),
            Some(position) => {
                let found = token_ids[position];
                Err(EmbedError::TokenOutOfRange {
                    index,
                    position,
                    found,
                    vocab_size,
                })
            }
        }
    }
}
