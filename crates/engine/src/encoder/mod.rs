//! The encoder: a packed batch in, sums of hidden states out.
//!
//! [`Encoder`] is the one seam for devices. [`CpuEncoder`] runs the layers over `quintet-kernels`;
//! `embeddings` gathers the first hidden states, `layer` is one transformer layer and its steps.

mod cpu;
mod embeddings;
mod layer;

pub use cpu::{CpuEncoder, CpuPass};
pub(crate) use layer::LayerMoments;

use crate::batch::PackedBatch;

/// A device that runs the model.
///
/// A forward pass is made of steps, so that a caller can run a short batch between two steps of a long
/// one. Passes do not see each other: no interleaving changes a bit of any.
pub trait Encoder {
    /// A batch on its way through the layers, with all that outlasts a step. It can be dropped half-way.
    type Pass;

    /// Takes a batch; nothing of it has run yet.
    ///
    /// Token ids lie below the vocabulary size and sequences within the model's context: the caller
    /// has checked.
    ///
    /// # Errors
    /// [`ForwardError`] when the device fails.
    fn begin(&mut self, batch: PackedBatch) -> Result<Self::Pass, ForwardError>;

    /// Runs the next step, short whatever the batch. The last one sums the final hidden states of each
    /// span and gives the rows; nothing may be asked of the pass afterwards. A row depends on its own
    /// sequence only, to the bit.
    ///
    /// # Errors
    /// [`ForwardError`] when the device fails; the pass is lost then.
    fn step(&mut self, pass: &mut Self::Pass) -> Result<Option<PooledRows>, ForwardError>;

    /// The share of a pass that has run, 0 to 1.
    fn done(&self, pass: &Self::Pass) -> f64;

    /// Runs all steps over a batch.
    ///
    /// # Errors
    /// [`ForwardError`] when the device fails.
    fn forward(&mut self, batch: PackedBatch) -> Result<PooledRows, ForwardError> {
        let mut pass = self.begin(batch)?;
        loop {
            if let Some(rows) = self.step(&mut pass)? {
                return Ok(rows);
            }
        }
    }
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
