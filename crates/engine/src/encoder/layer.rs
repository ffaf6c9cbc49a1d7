//! One transformer layer, post-LayerNorm: attention, then the MLP, each with its adapter.

use std::ops::Range;

use quintet_kernels::Cpu;
use quintet_kernels::attention::{AttentionScratch, attention};
use quintet_kernels::gemm::{
    Epilogue, GemmScratch, PackedLora, PackedMatrix, Product, Segment, product,
};
use quintet_kernels::layer_norm::layer_norm;
use quintet_kernels::rotary::{RopeTable, rotate_qk};

use crate::batch::PackedBatch;
use crate::config::ModelConfig;
use crate::weights::{Adapter, LayerAdapter, LayerWeights, Linear, Norm};

/// Rows that go through the MLP at once: its inner width is four times the hidden size, so an
/// 8192-token text would need 270 MB of buffers. Results do not depend on it.
const MLP_ROWS: usize = 1024;

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
pub(super) struct Pass<'a> {
    pub(super) cpu: &'a Cpu,
    pub(super) config: &'a ModelConfig,
    pub(super) adapters: &'a [Adapter],
    pub(super) rope: &'a RopeTable,
    pub(super) batch: &'a PackedBatch,
    pub(super) runs: &'a [Run],
    /// One of the model's matrices, and the one that is used in its place.
    pub(super) trial: Option<(&'a PackedMatrix, &'a PackedMatrix)>,
}

/// Buffers that grow to the largest batch and are used again.
#[derive(Default)]
pub(super) struct Buffers {
    gemm: GemmScratch,
    attention: AttentionScratch,
    /// `[tokens, 3, heads, head_dim]`.
    qkv: Vec<f32>,
    /// Attention's output, then the residual stream behind it, `[tokens, hidden]` each.
    context: Vec<f32>,
    attended: Vec<f32>,
    /// `[MLP_ROWS, intermediate]`.
    inner: Vec<f32>,
}

impl Pass<'_> {
    /// Runs layer `index` over `x`, `[tokens, hidden]`, in place.
    ///
    /// `x = norm1(x + out_proj(attention(x)))`, then `x = norm2(x + fc2(gelu(fc1(x))))`
    /// (`JinaEmbeddingsV3Layer.forward`, spec section 1.3).
    pub(super) fn layer(
        &self,
        index: usize,
        layer: &LayerWeights,
        x: &mut [f32],
        buffers: &mut Buffers,
    ) {
        let hidden = self.config.hidden_size;
        let tokens = self.batch.tokens();
        let (heads, head_dim) = (self.config.num_attention_heads, self.config.head_dim());
        let cu_seqlens = &self.batch.cu_seqlens;
        let qkv = grown(&mut buffers.qkv, tokens * 3 * hidden);
        let context = grown(&mut buffers.context, tokens * hidden);
        let attended = grown(&mut buffers.attended, tokens * hidden);
        let gemm = &mut buffers.gemm;

        let segments = self.segments(index, 0..tokens, |adapter| adapter.wqkv.as_ref());
        self.linear(gemm, x, &layer.wqkv, &segments, Epilogue::Bias, qkv);
        rotate_qk(self.cpu, qkv, cu_seqlens, heads, head_dim, self.rope);
        attention(
            self.cpu,
            &mut buffers.attention,
            qkv,
            cu_seqlens,
            heads,
            head_dim,
            context,
        );
        let segments = self.segments(index, 0..tokens, |adapter| adapter.out_proj.as_ref());
        self.linear(
            gemm,
            context,
            &layer.out_proj,
            &segments,
            Epilogue::BiasResidual(x),
            attended,
        );
        self.norm(&layer.norm1, attended);

        for start in (0..tokens).step_by(MLP_ROWS) {
            let rows = start..(start + MLP_ROWS).min(tokens);
            let elements = rows.start * hidden..rows.end * hidden;
            let inner = grown(
                &mut buffers.inner,
                rows.len() * self.config.intermediate_size,
            );
            let input = &attended[elements.clone()];
            let segments = self.segments(index, rows.clone(), |adapter| adapter.fc1.as_ref());
            self.linear(
                gemm,
                input,
                &layer.fc1,
                &segments,
                Epilogue::BiasGelu,
                inner,
            );
            let segments = self.segments(index, rows, |adapter| adapter.fc2.as_ref());
            let residual = Epilogue::BiasResidual(input);
            self.linear(
                gemm,
                inner,
                &layer.fc2,
                &segments,
                residual,
                &mut x[elements],
            );
        }
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
