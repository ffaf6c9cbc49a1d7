//! Softmax attention within each sequence of a packed batch.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod stream;

use std::ops::{Range, RangeInclusive};

use crate::isa::per_isa;
use crate::threads::{DisjointSlice, PerWorker};
use crate::{Cpu, Isa};

/// Keys whose weights are summed before they join the total: the softmax is streamed over blocks
/// of them from the start of the sequence. Changing it changes the results.
const KEY_BLOCK: usize = 256;

/// Queries of a task: more in long sequences, since each task copies all keys and values of its
/// head once, but never so many that what they gather leaves the L2 cache.
const QUERIES_PER_TASK: RangeInclusive<usize> = 128..=512;

/// Tokens of a sequence from which on AMX is faster with products of f32 than AVX-512.
const AMX_F32_FROM: usize = 512;

/// How near the products of attention are to those of f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Products {
    /// Those of f32, or of factors in three parts whose products are within 2^-22 of them (AMX).
    F32,
    /// Factors of 16 bits, each product within 2^-16 of itself, where the processor multiplies
    /// those faster (AMX); else [`Products::F32`]. Sums and softmax are f32.
    Bits16,
    /// The same with factors of 8 bits (bf16), each product within 2^-8 of itself.
    Bits8,
}

/// Memory of [`attention`], kept between calls.
#[derive(Default)]
pub struct AttentionScratch {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    stream: PerWorker<stream::Scratch<1>>,
    #[cfg(target_arch = "x86_64")]
    wide_stream: PerWorker<stream::Scratch<2>>,
    #[cfg(target_arch = "x86_64")]
    tiles: PerWorker<amx::Scratch>,
    scores: PerWorker<Vec<f32>>,
}

/// Writes `softmax(q · kᵀ / √head_dim) · v` to `out` [tokens, num_heads · head_dim] (Vaswani et al.
/// 2017, eq. 1), each token attending to all tokens of its sequence.
///
/// `qkv` is [tokens, 3, num_heads, head_dim] with queries and keys already rotated.
///
/// # Panics
/// If the lengths do not agree.
pub fn attention(
    cpu: &Cpu,
    scratch: &mut AttentionScratch,
    products: Products,
    qkv: &[f32],
    tasks: &Tasks<'_>,
    out: &mut [f32],
) {
    attention_tasks(cpu, scratch, products, qkv, tasks, 0..tasks.count(), out);
}

/// Does a part of [`attention`]: the tasks of a range, with their part of `out`. All of them once, in
/// whatever calls, write what [`attention`] writes.
///
/// # Panics
/// If the lengths do not agree.
pub fn attention_tasks(
    cpu: &Cpu,
    scratch: &mut AttentionScratch,
    products: Products,
    qkv: &[f32],
    tasks: &Tasks<'_>,
    part: Range<usize>,
    out: &mut [f32],
) {
    let &Tasks {
        num_heads,
        head_dim,
        ..
    } = tasks;
    check_sequences(tasks.cu_seqlens, qkv.len(), 3 * num_heads * head_dim);
    assert_eq!(out.len() * 3, qkv.len(), "output for the tokens of qkv");
    assert!(part.end <= tasks.count, "tasks of this batch");
    let out = DisjointSlice::new(out);
    scratch.scores.prepare(cpu.threads());
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    scratch.stream.prepare(cpu.threads());
    #[cfg(target_arch = "x86_64")]
    {
        scratch.wide_stream.prepare(cpu.threads());
        scratch.tiles.prepare(cpu.threads());
    }
    let scratch = &*scratch;
    cpu.pool().run(part.len(), &|task, worker| {
        let (sequence, head, queries) = tasks.task(part.start + task);
        let head = Head {
            qkv: &qkv[sequence.start * 3 * num_heads * head_dim
                ..sequence.end * 3 * num_heads * head_dim],
            head,
            num_heads,
            head_dim,
        };
        let write = |query: usize, numbers: &[f32]| {
            let start = ((sequence.start + query) * num_heads + head.head) * head_dim;
            #[expect(unsafe_code, reason = "tasks write disjoint parts of the output")]
            // SAFETY: no other task has this query of this head, and the part dies here.
            unsafe { out.range(start..start + head_dim) }.copy_from_slice(numbers);
        };
        let isa = match (cpu.isa(), products) {
            // The unit is slower to start with than to go on.
            (Isa::Amx, Products::F32) if head.tokens() < AMX_F32_FROM => Isa::Avx512,
            (isa, _) => isa,
        };
        per_isa!(
            isa,
            portable => attend(&head, queries, &mut scratch.scores.of(worker), write),
            avx2 => avx2::attend(&head, queries, &mut scratch.stream.of(worker), write),
            avx512 => avx512::attend(&head, queries, &mut scratch.wide_stream.of(worker), write),
            amx => amx::attend(&head, queries, products, &mut scratch.tiles.of(worker), write),
            neon => neon::attend(&head, queries, &mut scratch.stream.of(worker), write),
        );
    });
}

/// Asserts that `cu_seqlens` cuts all tokens of `width` numbers into sequences.
pub(crate) fn check_sequences(cu_seqlens: &[u32], len: usize, width: usize) {
    assert_eq!(cu_seqlens.first(), Some(&0), "cu_seqlens starts with 0");
    assert!(cu_seqlens.is_sorted(), "cu_seqlens ascends");
    let tokens = cu_seqlens.last().map_or(0, |&end| end as usize);
    assert_eq!(len, tokens * width, "{tokens} tokens of {width} numbers");
}

/// How the work is cut: for each sequence, for each head, chunks of queries. The chunks of a head
/// follow each other, so that its keys and values stay in a cache.
#[derive(Debug)]
pub struct Tasks<'a> {
    cu_seqlens: &'a [u32],
    num_heads: usize,
    head_dim: usize,
    /// The first task of each sequence.
    first: Vec<usize>,
    count: usize,
}

impl Tasks<'_> {
    /// The tasks of a batch: sequence s is the tokens `cu_seqlens[s]..cu_seqlens[s + 1]`.
    pub fn new(cu_seqlens: &[u32], num_heads: usize, head_dim: usize) -> Tasks<'_> {
        let mut first = Vec::with_capacity(cu_seqlens.len());
        let mut count = 0;
        for ends in cu_seqlens.windows(2) {
            first.push(count);
            let len = (ends[1] - ends[0]) as usize;
            count += num_heads * len.div_ceil(queries_per_task(len));
        }
        Tasks {
            cu_seqlens,
            num_heads,
            head_dim,
            first,
            count,
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The tasks from `first` on that score about `scores` pairs of a query and a key, but at least one.
    pub fn part(&self, first: usize, scores: usize) -> Range<usize> {
        let mut end = first;
        let mut sum = 0;
        while end < self.count && (end == first || sum < scores) {
            let (tokens, _, queries) = self.task(end);
            sum += tokens.len() * queries.len();
            end += 1;
        }
        first..end
    }

    /// Pairs of a query and a key that the tasks before `end` score.
    pub fn scores_before(&self, end: usize) -> usize {
        let scores = |task| {
            let (tokens, _, queries) = self.task(task);
            tokens.len() * queries.len()
        };
        (0..end).map(scores).sum()
    }

    /// The tokens of the sequence, the head, and the queries counted from the sequence's start.
    fn task(&self, task: usize) -> (Range<usize>, usize, Range<usize>) {
        let sequence = self.first.partition_point(|&first| first <= task) - 1;
        let tokens = self.cu_seqlens[sequence] as usize..self.cu_seqlens[sequence + 1] as usize;
        let per_task = queries_per_task(tokens.len());
        let chunks = tokens.len().div_ceil(per_task);
        let within = task - self.first[sequence];
        let query = within % chunks * per_task;
        let queries = query..tokens.len().min(query + per_task);
        debug_assert!(within / chunks < self.num_heads);
        (tokens, within / chunks, queries)
    }
}

fn queries_per_task(len: usize) -> usize {
    (len / 2)
        .clamp(*QUERIES_PER_TASK.start(), *QUERIES_PER_TASK.end())
        .next_multiple_of(16)
}

/// One head of one sequence.
#[derive(Clone, Copy)]
struct Head<'a> {
    /// The tokens of the sequence, [tokens, 3, num_heads, head_dim].
    qkv: &'a [f32],
    head: usize,
    num_heads: usize,
    head_dim: usize,
}

impl<'a> Head<'a> {
    fn tokens(&self) -> usize {
        self.qkv.len() / (3 * self.num_heads * self.head_dim)
    }

    fn query(&self, token: usize) -> &'a [f32] {
        self.part(token, 0)
    }

    fn key(&self, token: usize) -> &'a [f32] {
        self.part(token, 1)
    }

    fn value(&self, token: usize) -> &'a [f32] {
        self.part(token, 2)
    }

    fn part(&self, token: usize, part: usize) -> &'a [f32] {
        let start = ((token * 3 + part) * self.num_heads + self.head) * self.head_dim;
        &self.qkv[start..start + self.head_dim]
    }
}

/// The specification: for each query all scores, their maximum, the weights, and the weighted sum
/// of the values in blocks of keys.
fn attend(
    head: &Head<'_>,
    queries: Range<usize>,
    scores: &mut Vec<f32>,
    write: impl Fn(usize, &[f32]),
) {
    let scale = 1.0 / (head.head_dim as f32).sqrt();
    let mut sums = vec![0.0; head.head_dim];
    let mut block_sums = vec![0.0; head.head_dim];
    for query in queries {
        let scaled: Vec<f32> = head.query(query).iter().map(|x| x * scale).collect();
        scores.clear();
        scores.extend((0..head.tokens()).map(|key| dot(&scaled, head.key(key))));
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut total = 0.0;
        sums.fill(0.0);
        for (block, scores) in scores.chunks(KEY_BLOCK).enumerate() {
            let mut block_total = 0.0;
            block_sums.fill(0.0);
            for (key, score) in scores.iter().enumerate() {
                let weight = libm::expf(score - largest);
                block_total += weight;
                for (sum, x) in block_sums
                    .iter_mut()
                    .zip(head.value(block * KEY_BLOCK + key))
                {
                    *sum += weight * x;
                }
            }
            total += block_total;
            for (sum, block_sum) in sums.iter_mut().zip(&block_sums) {
                *sum += block_sum;
            }
        }
        sums.iter_mut().for_each(|sum| *sum /= total);
        write(query, &sums);
    }
}

/// The sum of the products, in 16 partial sums by position, so that it vectorises.
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
    const LANES: usize = 16;
    let (x_chunks, x_rest) = x.as_chunks::<LANES>();
    let (y_chunks, y_rest) = y.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (x, y) in x_chunks.iter().zip(y_chunks) {
        for ((sum, x), y) in sums.iter_mut().zip(x).zip(y) {
            *sum += x * y;
        }
    }
    for ((sum, x), y) in sums.iter_mut().zip(x_rest).zip(y_rest) {
        *sum += x * y;
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::testing::{bits, cpus, uniform};

    /// Each output is a mean of values of size 1 at most. Its weights carry the error of their
    /// scores, a few times 2^-24 of |q| |k| / √head_dim, which is some units here.
    /// Products of 16 bits are within 2^-16 of themselves instead of 2^-24, those of 8 within 2^-8.
    fn tolerance(products: Products) -> f64 {
        match products {
            Products::F32 => 4e-6,
            Products::Bits16 => 4e-5,
            Products::Bits8 => 3e-2,
        }
    }

    const ALL: [Products; 3] = [Products::F32, Products::Bits16, Products::Bits8];

    const LONG: usize = 2048;

    fn run(cpu: &Cpu, qkv: &[f32], cu_seqlens: &[u32], shape: (usize, usize)) -> Vec<f32> {
        run_with(cpu, Products::F32, qkv, cu_seqlens, shape)
    }

    fn run_with(
        cpu: &Cpu,
        products: Products,
        qkv: &[f32],
        cu_seqlens: &[u32],
        (num_heads, head_dim): (usize, usize),
    ) -> Vec<f32> {
        let mut out = vec![f32::NAN; qkv.len() / 3];
        let mut scratch = AttentionScratch::default();
        let tasks = Tasks::new(cu_seqlens, num_heads, head_dim);
        attention(cpu, &mut scratch, products, qkv, &tasks, &mut out);
        out
    }

    /// One output row in f64.
    fn expected(head: &Head<'_>, query: usize) -> Vec<f64> {
        let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|&x| f64::from(x)).collect() };
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
        let q = wide(head.query(query));
        let scale = (head.head_dim as f64).sqrt();
        let scores: Vec<f64> = (0..head.tokens())
            .map(|key| dot(&q, &wide(head.key(key))) / scale)
            .collect();
        let largest = scores.iter().copied().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut sums = vec![0.0; head.head_dim];
        for (key, weight) in weights.iter().enumerate() {
            for (sum, value) in sums.iter_mut().zip(head.value(key)) {
                *sum += weight / total * f64::from(*value);
            }
        }
        sums
    }

    proptest! {
        #[test]
        fn agrees_with_the_reference(
            lens in prop::collection::vec(0_usize..40, 0..4),
            num_heads in 1_usize..=3,
            head_dim in select(vec![2, 6, 10, 16, 32, 64, 128]),
            spread in 0.1_f32..8.0,
            seed: u64,
        ) {
            let cu_seqlens = ends_of(&lens);
            let tokens: usize = lens.iter().sum();
            let width = 3 * num_heads * head_dim;
            let mut qkv = uniform(seed, tokens * width);
            // Larger queries make sharper weights.
            for token in qkv.chunks_exact_mut(width) {
                token[..num_heads * head_dim].iter_mut().for_each(|q| *q *= spread);
            }
            for (cpu, products) in cpus(1).iter().flat_map(|cpu| ALL.map(|products| (cpu, products))) {
                let out = run_with(cpu, products, &qkv, &cu_seqlens, (num_heads, head_dim));
                let mut rows = out.chunks_exact(head_dim);
                for ends in cu_seqlens.windows(2) {
                    let qkv = &qkv[ends[0] as usize * width..ends[1] as usize * width];
                    for query in 0..(ends[1] - ends[0]) as usize {
                        for head in 0..num_heads {
                            let head = Head { qkv, head, num_heads, head_dim };
                            let row = rows.next().unwrap();
                            for (found, expected) in row.iter().zip(expected(&head, query)) {
                                let error = (f64::from(*found) - expected).abs();
                                let bound = tolerance(products);
                                prop_assert!(error <= bound, "{products:?} {found} {expected}");
                            }
                        }
                    }
                }
            }
        }

        #[test]
        fn a_sequence_alone_has_the_bits_it_has_among_others(
            lens in prop::collection::vec(0_usize..60, 1..5),
            threads in 1_usize..=3,
            seed: u64,
        ) {
            let shape = (2, 16);
            let cu_seqlens = ends_of(&lens);
            let qkv = uniform(seed, lens.iter().sum::<usize>() * 96);
            for (cpu, alone) in cpus(threads).iter().zip(cpus(1)) {
                for products in ALL {
                    let packed = run_with(cpu, products, &qkv, &cu_seqlens, shape);
                    for ends in cu_seqlens.windows(2) {
                        let tokens = ends[0] as usize..ends[1] as usize;
                        let qkv = &qkv[tokens.start * 96..tokens.end * 96];
                        let one =
                            run_with(&alone, products, qkv, &[0, tokens.len() as u32], shape);
                        let rows = tokens.start * 32..tokens.end * 32;
                        prop_assert_eq!(bits(&one), bits(&packed[rows]));
                    }
                }
            }
        }
    }

    #[test]
    fn parts_write_what_one_call_writes() {
        let (shape, cu_seqlens) = ((2, 16), ends_of(&[300, 0, 7, 40]));
        let qkv = uniform(3, 347 * 96);
        let tasks = Tasks::new(&cu_seqlens, shape.0, shape.1);
        for (cpu, products) in cpus(2).iter().zip(ALL.into_iter().cycle()) {
            let whole = run_with(cpu, products, &qkv, &cu_seqlens, shape);
            for scores in [0, 5000, usize::MAX] {
                let mut out = vec![f32::NAN; qkv.len() / 3];
                let mut scratch = AttentionScratch::default();
                let mut first = 0;
                while first < tasks.count() {
                    let part = tasks.part(first, scores);
                    first = part.end;
                    let out = &mut out;
                    attention_tasks(cpu, &mut scratch, products, &qkv, &tasks, part, out);
                }
                assert_eq!(bits(&out), bits(&whole));
            }
        }
    }

    fn ends_of(lens: &[usize]) -> Vec<u32> {
        let ends = lens.iter().scan(0, |end, len| {
            *end += *len as u32;
            Some(*end)
        });
        [0].into_iter().chain(ends).collect()
    }

    #[test]
    fn long_sequences_agree_and_keep_their_bits() {
        let (num_heads, head_dim) = (1, 72);
        let width = 3 * head_dim;
        let tokens = 701 + LONG + 77;
        let cu_seqlens = [0, 3, 700, 701, tokens as u32];
        let qkv = uniform(11, tokens * width);
        let shape = (num_heads, head_dim);
        for (index, alone) in cpus(1).iter().enumerate() {
            for products in ALL {
                let expected_bits = bits(&run_with(alone, products, &qkv, &cu_seqlens, shape));
                for threads in [2, 3] {
                    let cpu = &cpus(threads)[index];
                    let found = bits(&run_with(cpu, products, &qkv, &cu_seqlens, shape));
                    assert_eq!(found, expected_bits);
                }
                let last = &qkv[701 * width..];
                let one = run_with(alone, products, last, &[0, LONG as u32 + 77], shape);
                assert_eq!(bits(&one), expected_bits[701 * head_dim..]);
                let head = Head {
                    qkv: last,
                    head: 0,
                    num_heads,
                    head_dim,
                };
                for query in [0, 127, 128, 255, 256, LONG, LONG + 76] {
                    let row = &one[query * head_dim..][..head_dim];
                    for (found, expected) in row.iter().zip(expected(&head, query)) {
                        let error = (f64::from(*found) - expected).abs();
                        assert!(error <= tolerance(products), "{found} {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn avx2_and_avx512_give_the_same_bits() {
        let cpus = cpus(1);
        let of = |isa| cpus.iter().find(|cpu| cpu.isa() == isa);
        let (Some(avx2), Some(avx512)) = (of(Isa::Avx2), of(Isa::Avx512)) else {
            eprintln!("not run: this processor lacks `avx512`");
            return;
        };
        for (len, head_dim) in [(1, 64), (17, 10), (33, 64), (700, 16)] {
            let qkv = uniform(5, len * 3 * 2 * head_dim);
            let results =
                [avx2, avx512].map(|cpu| bits(&run(cpu, &qkv, &[0, len as u32], (2, head_dim))));
            assert_eq!(results[0], results[1], "{len} tokens of {head_dim}");
        }
    }

    #[test]
    fn scores_far_apart_give_the_value_of_the_largest() {
        // Key 300 lies 1e4 above the others, in the second block.
        let mut qkv = vec![0.0; 400 * 6];
        for (token, numbers) in qkv.chunks_exact_mut(6).enumerate() {
            numbers[0] = 1e3;
            numbers[2] = if token == 300 { 10.0 } else { -10.0 };
            numbers[4] = token as f32;
        }
        for (cpu, products) in cpus(1)
            .iter()
            .flat_map(|cpu| ALL.map(|products| (cpu, products)))
        {
            let out = run_with(cpu, products, &qkv, &[0, 400], (1, 2));
            assert!(out.chunks_exact(2).all(|row| row == [300.0, 0.0]));
        }
    }

    /// `qkv = torch.sin(torch.arange(36.)).reshape(3, 3, 1, 4);
    /// q, k, v = [qkv[:, i].transpose(0, 1) for i in range(3)];
    /// F.scaled_dot_product_attention(q, k, v).transpose(0, 1)`, torch 2.15.
    #[test]
    fn equals_torch() {
        let qkv: Vec<f32> = (0..36).map(|i| (i as f32).sin()).collect();
        for cpu in cpus(1) {
            let out = run(&cpu, &qkv, &[0, 3], (1, 4));
            for (found, expected) in out.iter().zip(TORCH) {
                assert!((found - expected).abs() <= 3e-7, "{found} {expected}");
            }
        }
    }

    const TORCH: [f32; 12] = [
        0.834_653,
        0.718_401_4,
        -0.058_345_098,
        -0.781_449_4,
        0.878_268_4,
        0.656_748_06,
        -0.168_583_51,
        -0.838_920_1,
        0.898_669_5,
        0.627_996,
        -0.220_054_09,
        -0.865_787_5,
    ];
}
