//! How near the kernels come to what the machine can do.
//!
//! `cargo bench -p quintet-kernels --bench roofline -- [--threads N] [--isa NAME] [--m M] [PART]...`
//! prints, for one thread and the fastest instruction set unless told otherwise, the parts `bf16`,
//! `int16`, `int8` (matrix products), `attention` and `rows`, or those named:
//!
//! - matrix products: GFLOP/s and the share of the measured multiply-add peak of the threads, over
//!   the four weight shapes of jina-embeddings-v3 and some batch sizes m or the one named, for
//!   weights in bf16, as 16-bit and as 8-bit integers; the share is always that of the f32 peak. Every
//!   row has an adapter of rank 4, the output gets its bias. The weights go round through copies
//!   of 96 MiB together, as they would in the layers of a model, so they come from memory or the
//!   last cache, not from L2.
//! - attention: the same for one sequence of S tokens, 16 heads of 64, counting 4·S² · 64 · 16
//!   operations; exponentials are not counted.
//! - layer normalisation of [512, 1024]: GB/s, each number read and written once.
//!
//! Each figure is the best of many runs: on a shared machine the others only show the neighbours.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use quintet_kernels::attention::{AttentionScratch, Products, Tasks, attention};
use quintet_kernels::gemm::{
    Epilogue, Format, GemmScratch, PackedLora, PackedMatrix, Product, Rows, Segment, product,
};
use quintet_kernels::layer_norm::layer_norm;
use quintet_kernels::{Cpu, Isa};

/// (n, k) of Wqkv, out_proj, fc1 and fc2.
const SHAPES: [(usize, usize); 4] = [(3072, 1024), (1024, 1024), (4096, 1024), (1024, 4096)];
const RANK: usize = 4;
/// Bytes of weights that the copies of one shape fill.
const COPIES_BYTES: usize = 96 << 20;
const TIME_PER_FIGURE: Duration = Duration::from_millis(600);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value_of = |flag| {
        arguments
            .iter()
            .skip_while(|argument| *argument != flag)
            .nth(1)
    };
    let threads = value_of("--threads").and_then(|threads| threads.parse().ok());
    let threads = threads.unwrap_or(NonZeroUsize::MIN);
    let isa = value_of("--isa").and_then(|isa| isa.parse().ok());
    let isa = isa.unwrap_or(Isa::best());
    let named = |part| arguments.iter().any(|argument| argument == part);
    let formats = [
        ("bf16", Format::Bf16),
        ("int16", Format::Int16),
        ("int8", Format::Int8),
    ];
    let parts = formats.map(|(part, _)| part);
    let all = !parts.into_iter().chain(["attention", "rows"]).any(named);
    let sizes = match value_of("--m").and_then(|m| m.parse().ok()) {
        Some(m) => vec![m],
        None => vec![1, 16, 128, 512],
    };

    let cpu = Cpu::new(isa, threads);
    let peak = cpu.measure_peak_gflops() * threads.get() as f64;
    println!("{}, {threads} threads, peak {peak:.0} GFLOP/s", cpu.isa());
    for (part, format) in formats {
        if all || named(part) {
            products(&cpu, peak, format, &sizes);
        }
    }
    if all || named("attention") {
        attentions(&cpu, peak);
    }
    if all || named("rows") {
        layer_norms(&cpu);
    }
}

fn products(cpu: &Cpu, peak: f64, format: Format, sizes: &[usize]) {
    println!("\n{format:?}\n     n     k     m  GFLOP/s  of peak");
    for (n, k) in SHAPES {
        let bytes: Vec<u8> = uniform(n * k)
            .iter()
            .flat_map(|number| ((number.to_bits() >> 16) as u16).to_le_bytes())
            .collect();
        let copies: Vec<PackedMatrix> = (0..COPIES_BYTES.div_ceil(bytes.len()))
            .map(|_| PackedMatrix::pack(cpu, &[Rows::Bf16(&bytes)], k, format))
            .collect();
        let lora = PackedLora::new(&uniform(RANK * k), &uniform(n * RANK), n, k, RANK, 0.25);
        let bias = uniform(n);
        for &m in sizes {
            let x = uniform(m * k);
            let mut out = vec![0.0; m * n];
            let mut scratch = GemmScratch::default();
            let segments = [Segment {
                rows: 0..m,
                lora: Some(&lora),
            }];
            let mut run = 0;
            let seconds = best(|| {
                let weights = &copies[run % copies.len()];
                run += 1;
                let operands = Product {
                    x: &x,
                    weights,
                    bias: &bias,
                    segments: &segments,
                    epilogue: Epilogue::Bias,
                };
                product(cpu, &mut scratch, &operands, &mut out);
            });
            let gflops = (2 * m * n * k) as f64 / seconds / 1e9;
            let share = gflops / peak * 100.0;
            println!("{n:6}{k:6}{m:6}{gflops:9.1}{share:8.0} %");
        }
    }
}

fn attentions(cpu: &Cpu, peak: f64) {
    let (num_heads, head_dim) = (16, 64);
    for products in [Products::F32, Products::Bits16, Products::Bits8] {
        println!("\nattention, {products:?}\n     S  GFLOP/s  of peak");
        for len in [128, 512, 2048, 8192] {
            let qkv = uniform(len * 3 * num_heads * head_dim);
            let mut out = vec![0.0; len * num_heads * head_dim];
            let mut scratch = AttentionScratch::default();
            let cu_seqlens = [0, len as u32];
            let tasks = Tasks::new(&cu_seqlens, num_heads, head_dim);
            let seconds = best(|| attention(cpu, &mut scratch, products, &qkv, &tasks, &mut out));
            let gflops = (4 * len * len * num_heads * head_dim) as f64 / seconds / 1e9;
            println!("{len:6}{gflops:9.1}{:8.0} %", gflops / peak * 100.0);
        }
    }
}

fn layer_norms(cpu: &Cpu) {
    let (rows, hidden) = (512, 1024);
    let (weight, bias) = (vec![1.0; hidden], vec![0.0; hidden]);
    let mut x = uniform(rows * hidden);
    let seconds = best(|| layer_norm(cpu, &mut x, &weight, &bias, 1e-5));
    let bytes = 2 * size_of_val(&x[..]);
    println!("\nlayer norm {:.1} GB/s", bytes as f64 / seconds / 1e9);
}

/// Seconds of the fastest of many runs.
fn best(mut run: impl FnMut()) -> f64 {
    run();
    let begin = Instant::now();
    let mut best = f64::INFINITY;
    while begin.elapsed() < TIME_PER_FIGURE {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

/// Numbers in [-1, 1), always the same (Weyl's sequence of the golden ratio).
fn uniform(len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| ((i as f64 * 0.618_033_988_749_894_9).fract() * 2.0 - 1.0) as f32)
        .collect()
}
