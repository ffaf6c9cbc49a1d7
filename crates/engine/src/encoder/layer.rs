//! One transformer layer, post-LayerNorm: attention, then the MLP, each with its adapter, cut into steps
//! that are short whatever the batch.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use quintet_kernels::Cpu;
use quintet_kernels::attention::{AttentionScratch, Products, Tasks, attention_tasks};
use quintet_kernels::gemm::{
    Epilogue, Format, GemmScratch, Moments, PackedLora, PackedMatrix, Product, ROWS_PER_TASK,
    Segment, product,
};
use quintet_kernels::layer_norm::layer_norm;
use quintet_kernels::rotary::{RopeTable, rotate_qk};

use crate::batch::PackedBatch;
use crate::config::ModelConfig;
use crate::weights::{Adapter, LayerAdapter, LayerWeights, Linear, MATRICES_PER_LAYER, Norm};

/// Rows that a thread takes through products at once, one block of the product's own, so that most of what one
/// product leaves is still in the L2 cache for the next. At the true size they are, by count, 38 ms of one core; an
/// 8192-token text would otherwise need 270 MB for the inner width of the MLP alone. Results do not depend on it.
const ROWS_PER_THREAD: usize = ROWS_PER_TASK;

/// With fewer rows for each, threads share the products instead: reading all weights would cost more than to meet.
const ROWS_ALONE: usize = 96;

/// Threads get whole tiles of rows.
const ROWS_OF_TILE: usize = 16;

/// Pairs of a query and a key that a step of attention scores, for each thread: by count twice as long as the rows.
const SCORES_PER_STEP: usize = 1 << 24;

/// Rows of a batch that run under one adapter, next to each other.
#[derive(Debug)]
pub(super) struct Run {
    rows: Range<usize>,
    adapter: Option<usize>,
}

/// Neighbouring sequences of the same task become one run.
pub(super) fn runs(batch: &PackedBatch) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (ends, task) in batch.cu_seqlens.windows(2).zip(&batch.tasks) {
        let rows = ends[0] as usize..ends[1] as usize;
        match runs.last_mut() {
            Some(run) if run.adapter == task.adapter() => run.rows.end = rows.end,
            _ => runs.push(Run {
                rows,
                adapter: task.adapter(),
            }),
        }
    }
    runs
}

/// Everything of a forward pass that stays the same from layer to layer.
pub(super) struct Layers<'a> {
    pub(super) cpu: &'a Cpu,
    /// One thread of it.
    pub(super) alone: &'a Cpu,
    pub(super) config: &'a ModelConfig,
    pub(super) adapters: &'a [Adapter],
    pub(super) rope: &'a RopeTable,
    pub(super) batch: &'a PackedBatch,
    pub(super) runs: &'a [Run],
    /// One of the model's matrices, and the one that is used in its place.
    pub(super) trial: Option<(&'a PackedMatrix, &'a PackedMatrix)>,
    /// A layer, and the moments of what its matrices are multiplied with, to be added to.
    pub(super) watched: Option<(&'a LayerWeights, &'a Mutex<LayerMoments>)>,
}

/// Of the rows that each matrix of a layer is multiplied with.
pub(crate) type LayerMoments = [Moments; MATRICES_PER_LAYER];

/// What a step of a layer does, from which row or task on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Rows to queries, keys and values.
    Projection(usize),
    /// Positions into queries and keys.
    Rotation,
    /// Tasks of attention.
    Attention(usize),
    /// Rows through the output projection, the MLP and both norms.
    Mlp(usize),
}

impl Part {
    /// Where a layer begins.
    pub(super) const FIRST: Self = Self::Projection(0);
}

/// The share of a layer, 0 to 1, that has run where `next` comes next, by multiply-adds.
pub(super) fn share_before(next: Part, batch: &PackedBatch, config: &ModelConfig) -> f64 {
    let hidden = config.hidden_size as f64;
    let tasks = Tasks::new(
        &batch.cu_seqlens,
        config.num_attention_heads,
        config.head_dim(),
    );
    let projection = |rows: usize| rows as f64 * 3.0 * hidden * hidden;
    let attention = |end: usize| tasks.scores_before(end) as f64 * 2.0 * config.head_dim() as f64;
    let mlp = |rows: usize| rows as f64 * hidden * (hidden + 2.0 * config.intermediate_size as f64);
    let (rows, count) = (batch.tokens(), tasks.count());
    let done = match next {
        Part::Projection(start) => projection(start),
        Part::Rotation => projection(rows),
        Part::Attention(first) => projection(rows) + attention(first),
        Part::Mlp(start) => projection(rows) + attention(count) + mlp(start),
    };
    done / (projection(rows) + attention(count) + mlp(rows))
}

/// What a pass keeps from step to step.
#[derive(Default)]
pub(super) struct Activations {
    tokens: usize,
    /// The residual stream, `[tokens, hidden]`.
    x: Vec<f32>,
    /// `[tokens, 3, heads, head_dim]`.
    qkv: Vec<f32>,
    /// Attention's output, `[tokens, hidden]`.
    context: Vec<f32>,
}

impl Activations {
    /// Makes room for a batch and gives the residual stream to be filled.
    pub(super) fn begin(&mut self, tokens: usize, config: &ModelConfig) -> &mut [f32] {
        let numbers = tokens * config.hidden_size;
        self.tokens = tokens;
        self.x.resize(numbers, 0.0);
        self.qkv.resize(3 * numbers, 0.0);
        self.context.resize(numbers, 0.0);
        &mut self.x
    }

    pub(super) fn x(&self) -> &[f32] {
        &self.x
    }
}

/// Memory that no step leaves anything in; it grows to the largest batch.
#[derive(Default)]
pub(super) struct Scratch {
    attention: AttentionScratch,
    /// For each thread, or the first for all of them.
    rows: Vec<RowsScratch>,
}

/// Memory of some rows on their way through products.
#[derive(Default)]
struct RowsScratch {
    gemm: GemmScratch,
    /// The residual stream behind attention, `[rows, hidden]`.
    attended: Vec<f32>,
    /// `[rows, intermediate]`.
    inner: Vec<f32>,
}

/// Queries, keys and values of integer products are multiplied as exactly as those were.
fn products(wqkv: &Linear) -> Products {
    match wqkv.matrix.format() {
        Format::Int16 => Products::Bits16,
        Format::Int8 => Products::Bits8,
        Format::F32 | Format::Bf16 | _ => Products::F32,
    }
}

impl Layers<'_> {
    /// Runs a part of layer `index` and gives the next one, `None` behind the last.
    ///
    /// All parts in order are `x = norm1(x + out_proj(attention(x)))`, then
    /// `x = norm2(x + fc2(gelu(fc1(x))))` (`JinaEmbeddingsV3Layer.forward`, spec section 1.3).
    pub(super) fn part(
        &self,
        index: usize,
        layer: &LayerWeights,
        part: Part,
        activations: &mut Activations,
        scratch: &mut Scratch,
    ) -> Option<Part> {
        let Activations {
            tokens,
            x,
            qkv,
            context,
        } = activations;
        let hidden = self.config.hidden_size;
        let (heads, head_dim) = (self.config.num_attention_heads, self.config.head_dim());
        let cu_seqlens = &self.batch.cu_seqlens;
        match part {
            Part::Projection(start) => {
                let rows = self.rows_of_step(start, *tokens);
                let end = rows.end;
                let out = &mut qkv[start * 3 * hidden..end * 3 * hidden];
                self.by_rows(
                    rows,
                    out,
                    &mut scratch.rows,
                    |layers, rows, out, scratch| {
                        let input = &x[rows.start * hidden..rows.end * hidden];
                        let segments =
                            layers.segments(index, rows, |adapter| adapter.wqkv.as_ref());
                        let gemm = &mut scratch.gemm;
                        layers.linear(gemm, input, &layer.wqkv, &segments, Epilogue::Bias, out);
                    },
                );
                Some(if end < *tokens {
                    Part::Projection(end)
                } else {
                    Part::Rotation
                })
            }
            Part::Rotation => {
                rotate_qk(self.cpu, qkv, cu_seqlens, heads, head_dim, self.rope);
                Some(Part::Attention(0))
            }
            Part::Attention(first) => {
                let tasks = Tasks::new(cu_seqlens, heads, head_dim);
                let part = tasks.part(first, SCORES_PER_STEP * self.cpu.threads());
                let end = part.end;
                let scratch = &mut scratch.attention;
                let products = products(&layer.wqkv);
                attention_tasks(self.cpu, scratch, products, qkv, &tasks, part, context);
                Some(if end < tasks.count() {
                    Part::Attention(end)
                } else {
                    Part::Mlp(0)
                })
            }
            Part::Mlp(start) => {
                let rows = self.rows_of_step(start, *tokens);
                let end = rows.end;
                let x = &mut x[start * hidden..end * hidden];
                self.by_rows(rows, x, &mut scratch.rows, |layers, rows, x, scratch| {
                    let context = &context[rows.start * hidden..rows.end * hidden];
                    layers.mlp(index, layer, rows, context, x, scratch);
                });
                (end < *tokens).then_some(Part::Mlp(end))
            }
        }
    }

    /// The rows of the next step that is made of products; all steps of a batch are about as long.
    fn rows_of_step(&self, start: usize, tokens: usize) -> Range<usize> {
        let (left, threads) = (tokens - start, self.cpu.threads());
        let steps = left.div_ceil(ROWS_PER_THREAD * threads);
        let rows = left.div_ceil(steps);
        start..tokens.min(start + rows.next_multiple_of(ROWS_OF_TILE * threads))
    }

    /// Runs `work` for each thread's part of `rows` and of `out`, which is `[rows, …]`: a thread that takes its own
    /// rows through several products need not wait between them, nor fetch what another has left. Too few rows
    /// are one part, that the threads share.
    fn by_rows(
        &self,
        rows: Range<usize>,
        out: &mut [f32],
        scratch: &mut Vec<RowsScratch>,
        work: impl Fn(&Layers<'_>, Range<usize>, &mut [f32], &mut RowsScratch) + Sync,
    ) {
        let threads = self.cpu.threads();
        scratch.resize_with(threads, RowsScratch::default);
        let each = rows.len().div_ceil(threads);
        // Moments are added up in the order of the rows.
        if threads == 1 || each < ROWS_ALONE || self.watched.is_some() {
            return work(self, rows, out, &mut scratch[0]);
        }
        let each = each.next_multiple_of(ROWS_OF_TILE);
        let width = out.len() / rows.len();
        let alone = Layers {
            cpu: self.alone,
            ..*self
        };
        let parts = rows
            .clone()
            .step_by(each)
            .zip(out.chunks_mut(each * width))
            .zip(scratch);
        let parts: Vec<_> = parts
            .map(|((start, out), scratch)| {
                Mutex::new((start..rows.end.min(start + each), out, scratch))
            })
            .collect();
        self.cpu.pool().run(parts.len(), &|part, _| {
            let (rows, out, scratch) = &mut *lock(&parts[part]);
            work(&alone, rows.clone(), out, scratch);
        });
    }

    /// What comes behind attention, for some rows: `context` and `x` are `[rows, hidden]`.
    fn mlp(
        &self,
        index: usize,
        layer: &LayerWeights,
        rows: Range<usize>,
        context: &[f32],
        x: &mut [f32],
        scratch: &mut RowsScratch,
    ) {
        let RowsScratch {
            gemm,
            attended,
            inner,
        } = scratch;
        let attended = grown(attended, x.len());
        let inner = grown(inner, rows.len() * self.config.intermediate_size);
        let segments = self.segments(index, rows.clone(), |adapter| adapter.out_proj.as_ref());
        let residual = Epilogue::BiasResidual(x);
        self.linear(
            gemm,
            context,
            &layer.out_proj,
            &segments,
            residual,
            attended,
        );
        self.norm(&layer.norm1, attended);
        let segments = self.segments(index, rows.clone(), |adapter| adapter.fc1.as_ref());
        let gelu = Epilogue::BiasGelu;
        self.linear(gemm, attended, &layer.fc1, &segments, gelu, inner);
        let segments = self.segments(index, rows, |adapter| adapter.fc2.as_ref());
        let residual = Epilogue::BiasResidual(attended);
        self.linear(gemm, inner, &layer.fc2, &segments, residual, x);
        self.norm(&layer.norm2, x);
    }

    pub(super) fn norm(&self, norm: &Norm, x: &mut [f32]) {
        layer_norm(
            self.cpu,
            x,
            &norm.weight,
            &norm.bias,
            self.config.layer_norm_eps,
        );
    }

    fn linear(
        &self,
        scratch: &mut GemmScratch,
        x: &[f32],
        linear: &Linear,
        segments: &[Segment<'_>],
        epilogue: Epilogue<'_>,
        out: &mut [f32],
    ) {
        if let Some((layer, moments)) = self.watched {
            let is_this = |matrix: &PackedMatrix| std::ptr::eq(matrix, &linear.matrix);
            let mut moments = lock(moments);
            let pairs = layer.matrices().into_iter().zip(moments.iter_mut());
            let of_this = pairs.filter(|(matrix, _)| is_this(matrix));
            of_this.for_each(|(_, moments)| moments.add(self.cpu, x));
        }
        let weights = match self.trial {
            Some((replaced, trial)) if std::ptr::eq(replaced, &linear.matrix) => trial,
            _ => &linear.matrix,
        };
        let operands = Product {
            x,
            weights,
            bias: &linear.bias,
            segments,
            epilogue,
        };
        product(self.cpu, scratch, &operands, out);
    }

    /// The adapters of one module over `rows` of the batch, counted from the start of `rows`.
    fn segments<'a>(
        &'a self,
        layer: usize,
        rows: Range<usize>,
        module: impl Fn(&'a LayerAdapter) -> Option<&'a PackedLora>,
    ) -> Vec<Segment<'a>> {
        let clipped = |run: &Run| run.rows.start.max(rows.start)..run.rows.end.min(rows.end);
        self.runs
            .iter()
            .map(|run| (clipped(run), run.adapter))
            .filter(|(clipped, _)| clipped.start < clipped.end)
            .map(|(clipped, adapter)| Segment {
                rows: clipped.start - rows.start..clipped.end - rows.start,
                lora: adapter.and_then(|adapter| module(&self.adapters[adapter].layers[layer])),
            })
            .collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first `len` numbers of a buffer that grows when it must.
fn grown(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Sequence;
    use crate::task::Task;

    #[test]
    fn neighbours_of_one_task_share_a_run() {
        let sequence = |len| Sequence::whole(vec![0; len], Task::RAW);
        let batch = PackedBatch::pack([&sequence(3), &sequence(2)]);
        let runs = runs(&batch);
        assert_eq!(runs.len(), 1);
        assert_eq!(runs[0].rows, 0..5);
    }
}
