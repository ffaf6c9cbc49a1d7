//! The encoder: a packed batch in, sums of hidden states out.
//!
//! [`Encoder`] is the one seam for devices. [`CpuEncoder`] runs the layers over `quintet-kernels`;
//! `embeddings` gathers the first hidden states, `layer` is one transformer layer.

mod cpu;
mod embeddings;
mod layer;

pub use cpu::CpuEncoder;

use crate::batch::PackedBatch;

/// A device that runs the model.
pub trait Encoder {
    /// Runs all layers over a batch and sums the final hidden states of each span.
    ///
    /// Token ids lie below the vocabulary size and sequences within the model's context: the caller
    /// has checked. A row depends on its own sequence only, to the bit.
    ///
    /// # Errors
    /// [`ForwardError`] when the device fails.
    fn forward(&mut self, batch: &PackedBatch) -> Result<PooledRows, ForwardError>;
}

/// The device could not run a batch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForwardError {
    /// The device reported a failure.
    #[error("the device failed: {reason}")]
    Device {
        /// What it reported.
        reason: String,
    },
}

/// Sums of hidden states, one row per span of the batch, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct PooledRows {
    /// Width of a row.
    pub hidden_size: usize,
    /// `[spans, hidden]`.
    pub sums: Vec<f32>,
}

impl PooledRows {
    /// The rows, in the order of the batch's spans.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.sums.chunks_exact(self.hidden_size)
    }
}
