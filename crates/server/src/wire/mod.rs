//! What stands in bodies: fields and shapes, and nothing that acts on them.
//!
//! - `embeddings`: OpenAI's and Jina's `/v1/embeddings`
//! - `input`: texts, token ids and objects, alone or in lists
//! - `one_or_many`: a value or a list of it

pub mod embeddings;
pub mod input;
mod one_or_many;

pub use one_or_many::OneOrMany;
