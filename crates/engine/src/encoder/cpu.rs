//! The encoder on CPUs, over `quintet-kernels`.

use std::sync::Arc;

use quintet_kernels::Cpu;
use quintet_kernels::gemm::PackedMatrix;
use quintet_kernels::pooling::span_sums;
use quintet_kernels::rotary::RopeTable;

use super::embeddings::gather;
use super::layer::{Buffers, Pass, runs};
use super::{Encoder, ForwardError, PooledRows};
use crate::batch::PackedBatch;
use crate::config::ModelConfig;
use crate::weights::Weights;

/// Runs the model on the processor's own threads, in f32 over the checkpoint's weights.
pub struct CpuEncoder {
    cpu: Arc<Cpu>,
    config: ModelConfig,
    weights: Arc<Weights>,
    rope: RopeTable,
    buffers: Buffers,
    /// A matrix in the place of one of the model's, which is named by its place among them.
    trial: Option<(usize, PackedMatrix)>,
}

impl CpuEncoder {
    pub(crate) fn new(cpu: Arc<Cpu>, config: ModelConfig, weights: Arc<Weights>) -> Self {
        let rope = RopeTable::new(config.rope_theta, config.head_dim(), config.max_tokens);
        Self {
            cpu,
            config,
            weights,
            rope,
            buffers: Buffers::default(),
            trial: None,
        }
    }

    /// Puts a matrix in the place of one of the model's, or takes it away again.
    pub(crate) fn set_trial(&mut self, trial: Option<(usize, PackedMatrix)>) {
        self.trial = trial;
    }
}

impl Encoder for CpuEncoder {
    fn forward(&mut self, batch: &PackedBatch) -> Result<PooledRows, ForwardError> {
        let hidden = self.config.hidden_size;
        let runs = runs(batch);
        let pass = Pass {
            cpu: &self.cpu,
            config: &self.config,
            adapters: &self.weights.adapters,
            rope: &self.rope,
            batch,
            runs: &runs,
            trial: self.trial.as_ref().and_then(|(index, matrix)| {
                let replaced = self.weights.matrices().nth(*index)?;
                Some((replaced, matrix))
            }),
        };
        let mut x = vec![0.0; batch.tokens() * hidden];
        gather(&self.cpu, &self.weights, batch, hidden, &mut x);
        pass.norm(&self.weights.emb_ln, &mut x);
        for (index, layer) in self.weights.layers.iter().enumerate() {
            pass.layer(index, layer, &mut x, &mut self.buffers);
        }
        let mut sums = vec![0.0; batch.spans.len() * hidden];
        span_sums(&self.cpu, &x, hidden, &batch.spans, &mut sums);
        Ok(PooledRows {
            hidden_size: hidden,
            sums,
        })
    }
}
