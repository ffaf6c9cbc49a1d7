//! What stands in bodies: fields and shapes, and nothing that acts on them.
//!
//! - `embeddings`: OpenAI's and Jina's `/v1/embeddings`
//! - `classify`, `rerank`, `segment`: Jina's other routes
//! - `quality`: recall and nDCG of vector sizes and types
//! - `tei`: Text Embeddings Inference's routes; `cohere`: Cohere's `/v2/embed`
//! - `admin`: what operators change in a hosted service
//! - `input`: texts, token ids and objects, alone or in lists
//! - `one_or_many`: a value or a list of it

pub mod admin;
pub mod classify;
pub mod cohere;
pub mod embeddings;
pub mod input;
mod one_or_many;
pub mod quality;
pub mod rerank;
pub mod segment;
pub mod tei;

pub use one_or_many::OneOrMany;
