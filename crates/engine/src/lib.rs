//! jina-embeddings-v3: text in, embeddings out, for all five task adapters and none.
//!
//! ```text
//! text -> tokenizer -> token ids -> plan -> PackedBatch -> Encoder::forward -> sums -> finish -> embedding
//! ```
//!
//! - [`Checkpoint`] finds out what lies at a path: one of four safetensors layouts or GGUF.
//! - [`Embedder`] is the façade: [`Embedder::load`], then [`Embedder::embed`] for texts and token ids,
//!   each with its own [`Task`], and [`Embedder::embed_document`] for late chunking.
//! - [`Embedder::prepare`], [`Embedder::forward`] and [`Embedder::finish`] are the same flow in three
//!   steps, for a server that packs batches of many callers' texts.
//! - [`tokenizer`] makes ids, [`batch`] packs them without padding, [`encoder`] runs the layers,
//!   [`embedding`] cuts, scales and encodes.
//!
//! The same text gives the same bits alone or in any batch, at any number of threads.
//!
//! ```no_run
//! use quintet_engine::{Checkpoint, Content, EmbedOptions, Embedder, Input, LoadOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let checkpoint = Checkpoint::open("jina-embeddings-v3".as_ref())?;
//! let embedder = Embedder::load(&checkpoint, &LoadOptions::default())?;
//! let task = embedder.task("retrieval.query")?;
//! let input = Input { content: Content::Text("Where do storks spend the winter?"), task };
//! let embedded = embedder.embed(&[input], &EmbedOptions::default())?;
//! assert_eq!(embedded[0].embedding.len(), 1024);
//! # Ok(())
//! # }
//! ```

pub mod batch;
pub mod calibration;
pub mod config;
mod embedder;
pub mod embedding;
pub mod encoder;
mod error;
mod input;
pub mod late_chunking;
mod precision;
pub mod quality;
mod task;
pub mod tokenizer;
pub mod weights;

pub use calibration::Sensitivity;
pub use config::ModelConfig;
pub use embedder::{DocumentSums, EmbeddedDocument, Embedder, LoadOptions, Pass, Prepared};
pub use error::{EmbedError, LoadError};
pub use input::{Content, Dimensions, EmbedOptions, Embedded, Input, Truncate};
pub use precision::{Precision, UnknownPrecision};
pub use quintet_kernels::{Cpu, Isa};
pub use task::{RAW, Task, UnknownTask};
pub use tokenizer::Tokenizer;
pub use weights::{AdapterSource, BuiltInModel, Checkpoint, CheckpointError, PackFileError};
