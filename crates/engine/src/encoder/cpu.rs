//! The encoder on CPUs, over `quintet-kernels`.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use quintet_kernels::Cpu;
use quintet_kernels::gemm::{Moments, PackedMatrix};
use quintet_kernels::pooling::span_sums;
use quintet_kernels::rotary::RopeTable;

use super::embeddings::gather;
use super::layer::{Activations, LayerMoments, Layers, Part, Run, Scratch, runs, share_before};
use super::{Encoder, ForwardError, PooledRows};
use crate::batch::PackedBatch;
use crate::config::ModelConfig;
use crate::weights::Weights;

/// Runs the model on the processor's own threads, in f32 over the checkpoint's weights.
pub struct CpuEncoder {
    cpu: Arc<Cpu>,
    /// One thread of it, for rows that a thread takes through products by itself.
    alone: Cpu,
    config: ModelConfig,
    weights: Arc<Weights>,
    rope: RopeTable,
    /// A matrix in the place of one of the model's, which is named by its place among them.
    trial: Option<(usize, PackedMatrix)>,
    scratch: Scratch,
    /// Of passes that ended, to be used again: the last to end was the first to begin, so the largest
    /// stay with the passes that others run in between.
    spare: Vec<Activations>,
}

/// A batch between two steps of [`CpuEncoder`].
pub struct CpuPass {
    batch: PackedBatch,
    runs: Vec<Run>,
    activations: Activations,
    next: Next,
}

/// The step that comes next.
enum Next {
    Embeddings,
    Layer(usize, Part),
    Pooling,
}

impl Next {
    /// The start of a layer; behind the last of `count` comes the pooling.
    fn layer(index: usize, count: usize) -> Self {
        if index < count {
            Self::Layer(index, Part::FIRST)
        } else {
            Self::Pooling
        }
    }
}

impl CpuPass {
    /// Layers behind it.
    fn layers_done(&self) -> usize {
        match self.next {
            Next::Embeddings => 0,
            Next::Layer(index, _) => index,
            Next::Pooling => usize::MAX,
        }
    }
}

impl CpuEncoder {
    pub(crate) fn new(cpu: Arc<Cpu>, config: ModelConfig, weights: Arc<Weights>) -> Self {
        let rope = RopeTable::new(config.rope_theta, config.head_dim(), config.max_tokens);
        Self {
            alone: Cpu::new(cpu.isa(), NonZeroUsize::MIN),
            cpu,
            config,
            weights,
            rope,
            trial: None,
            scratch: Scratch::default(),
            spare: Vec::new(),
        }
    }

    /// Puts a matrix in the place of one of the model's, or takes it away again.
    pub(crate) fn set_trial(&mut self, trial: Option<(usize, PackedMatrix)>) {
        self.trial = trial;
    }

    /// Runs passes on to the end of a layer, which none has passed, and gives the moments of all rows
    /// that each of its matrices is multiplied with.
    pub(crate) fn moments(
        &mut self,
        layer: usize,
        passes: &mut [CpuPass],
    ) -> Result<LayerMoments, ForwardError> {
        let matrices = self.weights.layers[layer].matrices();
        let moments = Mutex::new(matrices.map(|matrix| Moments::new(matrix.k())));
        for pass in passes {
            while pass.layers_done() <= layer {
                self.run_step(pass, Some((layer, &moments)))?;
            }
        }
        Ok(moments.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs the next step of a pass; `watched` is a layer, and the moments of what its matrices are
    /// multiplied with, which the step adds to.
    fn run_step(
        &mut self,
        pass: &mut CpuPass,
        watched: Option<(usize, &Mutex<LayerMoments>)>,
    ) -> Result<Option<PooledRows>, ForwardError> {
        let hidden = self.config.hidden_size;
        let layers = Layers {
            cpu: &self.cpu,
            alone: &self.alone,
            config: &self.config,
            adapters: &self.weights.adapters,
            rope: &self.rope,
            batch: &pass.batch,
            runs: &pass.runs,
            trial: self.trial.as_ref().and_then(|(index, matrix)| {
                let replaced = self.weights.matrices().nth(*index)?;
                Some((replaced, matrix))
            }),
            watched: watched.map(|(layer, moments)| (&self.weights.layers[layer], moments)),
        };
        let activations = &mut pass.activations;
        let count = self.weights.layers.len();
        pass.next = match pass.next {
            Next::Embeddings => {
                let x = activations.begin(pass.batch.tokens(), &self.config);
                gather(&self.cpu, &self.weights, &pass.batch, hidden, x);
                layers.norm(&self.weights.emb_ln, x);
                Next::layer(0, count)
            }
            Next::Layer(index, part) => {
                let layer = &self.weights.layers[index];
                let scratch = &mut self.scratch;
                match layers.part(index, layer, part, activations, scratch) {
                    Some(part) => Next::Layer(index, part),
                    None => Next::layer(index + 1, count),
                }
            }
            Next::Pooling => {
                let spans = &pass.batch.spans;
                let mut sums = vec![0.0; spans.len() * hidden];
                span_sums(&self.cpu, activations.x(), hidden, spans, &mut sums);
                self.spare.push(std::mem::take(activations));
                return Ok(Some(PooledRows {
                    hidden_size: hidden,
                    sums,
                }));
            }
        };
        Ok(None)
    }
}

impl Encoder for CpuEncoder {
    type Pass = CpuPass;

    fn begin(&mut self, batch: PackedBatch) -> Result<CpuPass, ForwardError> {
        Ok(CpuPass {
            runs: runs(&batch),
            batch,
            activations: self.spare.pop().unwrap_or_default(),
            next: Next::Embeddings,
        })
    }

    fn step(&mut self, pass: &mut CpuPass) -> Result<Option<PooledRows>, ForwardError> {
        self.run_step(pass, None)
    }

    fn done(&self, pass: &CpuPass) -> f64 {
        let layers = self.weights.layers.len();
        let done = match pass.next {
            Next::Embeddings => 0.0,
            Next::Layer(index, part) => {
                index as f64 + share_before(part, &pass.batch, &self.config)
            }
            Next::Pooling => layers as f64,
        };
        done / layers as f64
    }
}
