//! Softmax attention with AVX2 and FMA.
//!
//! Sixteen queries share the lanes of a line, so that the maximum, the exponential and the sums of
//! the softmax need no step across lanes; keys and values are the broadcast side of the tile. The
//! softmax is streamed over blocks of keys (Milakov and Gimelshein 2018; FlashAttention, Dao et
//! al. 2022, alg. 1): when a larger score turns up, what was summed before is scaled down.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{Head, KEY_BLOCK};
use crate::avx2::exp;
use crate::tile::avx2::{Pair, add, load_line, multiply_add, store_line, zero};
use crate::tile::{COLUMNS, F32x16, ROWS};

/// Memory of one task.
#[derive(Default)]
pub(super) struct Scratch {
    groups: Vec<Group>,
    /// Keys of a block, [keys, head_dim].
    keys: Vec<f32>,
    /// Values of a block, [keys, head_dim].
    values: Vec<f32>,
    /// Scores of a block, then weights: one line of 16 queries a key.
    weights: Vec<F32x16>,
    /// One row of the output.
    row: Vec<f32>,
}

/// Sixteen queries and what they have gathered so far.
#[derive(Default)]
struct Group {
    /// The queries divided by √head_dim, [head_dim] lines.
    queries: Vec<F32x16>,
    /// The weighted sums of the values, [head_dim] lines.
    sums: Vec<F32x16>,
    /// The largest score of each query.
    largest: F32x16,
    /// The sum of the weights of each query, relative to its largest score.
    totals: F32x16,
}

/// See [`super::attend`].
#[target_feature(enable = "avx2,fma")]
pub(super) fn attend(
    head: &Head<'_>,
    queries: Range<usize>,
    scratch: &mut Scratch,
    write: impl Fn(usize, &[f32]),
) {
    let head_dim = head.head_dim;
    let group_count = queries.len().div_ceil(COLUMNS);
    if scratch.groups.len() < group_count {
        scratch.groups.resize_with(group_count, Group::default);
    }
    let groups = &mut scratch.groups[..group_count];
    for (index, group) in groups.iter_mut().enumerate() {
        let first = queries.start + index * COLUMNS;
        group.start(head, first..queries.end.min(first + COLUMNS));
    }
    for start in (0..head.tokens()).step_by(KEY_BLOCK) {
        let block = start..head.tokens().min(start + KEY_BLOCK);
        gather(
            &mut scratch.keys,
            block.clone().map(|token| head.key(token)),
        );
        gather(
            &mut scratch.values,
            block.clone().map(|token| head.value(token)),
        );
        scratch.weights.resize(block.len(), F32x16::default());
        for group in &mut *groups {
            score(&scratch.keys, &group.queries, &mut scratch.weights);
            group.rescale(&mut scratch.weights);
            gather_values(&scratch.values, &scratch.weights, &mut group.sums);
        }
    }
    scratch.row.resize(head_dim, 0.0);
    for (query, place) in queries.zip(0..) {
        let (group, lane) = (&groups[place / COLUMNS], place % COLUMNS);
        for (number, sums) in scratch.row.iter_mut().zip(&group.sums) {
            *number = sums.0[lane] / group.totals.0[lane];
        }
        write(query, &scratch.row);
    }
}

impl Group {
    /// Takes up to 16 queries; the other lanes compute with zeros and are not read.
    fn start(&mut self, head: &Head<'_>, queries: Range<usize>) {
        let scale = 1.0 / (head.head_dim as f32).sqrt();
        self.queries.clear();
        self.queries.resize(head.head_dim, F32x16::default());
        for (lane, query) in queries.enumerate() {
            for (line, number) in self.queries.iter_mut().zip(head.query(query)) {
                line.0[lane] = number * scale;
            }
        }
        self.sums.clear();
        self.sums.resize(head.head_dim, F32x16::default());
        self.largest = F32x16([f32::NEG_INFINITY; COLUMNS]);
        self.totals = F32x16::default();
    }

    /// Turns the scores of a block into weights relative to the largest score so far, adds them to
    /// the totals and scales what was gathered before to the same reference.
    #[target_feature(enable = "avx2,fma")]
    fn rescale(&mut self, scores: &mut [F32x16]) {
        let before = load_line(&self.largest);
        let mut largest = before;
        for line in &*scores {
            let [low, high] = load_line(line);
            largest = [
                _mm256_max_ps(low, largest[0]),
                _mm256_max_ps(high, largest[1]),
            ];
        }
        let mut block_totals = zero();
        for line in scores {
            let weights = exp_difference(load_line(line), largest);
            block_totals = add(block_totals, weights);
            store_line(line, weights);
        }
        let scale = exp_difference(before, largest);
        let totals = add(multiply(load_line(&self.totals), scale), block_totals);
        store_line(&mut self.largest, largest);
        store_line(&mut self.totals, totals);
        for line in &mut self.sums {
            let scaled = multiply(load_line(line), scale);
            store_line(line, scaled);
        }
    }
}

/// exp(a - b), where no a is above its b.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn exp_difference(a: Pair, b: Pair) -> Pair {
    [
        exp(_mm256_sub_ps(a[0], b[0])),
        exp(_mm256_sub_ps(a[1], b[1])),
    ]
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn multiply(a: Pair, b: Pair) -> Pair {
    [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])]
}

/// Copies rows that lie far apart into one block.
fn gather<'a>(block: &mut Vec<f32>, rows: impl Iterator<Item = &'a [f32]>) {
    block.clear();
    rows.for_each(|row| block.extend_from_slice(row));
}

/// `scores[key] = keys[key] · queries` for each key, one chain along head_dim.
#[target_feature(enable = "avx2,fma")]
fn score(keys: &[f32], queries: &[F32x16], scores: &mut [F32x16]) {
    for (keys, scores) in keys
        .chunks(ROWS * queries.len())
        .zip(scores.chunks_mut(ROWS))
    {
        match scores.len() {
            1 => score_tile::<1>(keys, queries, scores),
            2 => score_tile::<2>(keys, queries, scores),
            3 => score_tile::<3>(keys, queries, scores),
            4 => score_tile::<4>(keys, queries, scores),
            5 => score_tile::<5>(keys, queries, scores),
            _ => score_tile::<ROWS>(keys, queries, scores),
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn score_tile<const R: usize>(keys: &[f32], queries: &[F32x16], scores: &mut [F32x16]) {
    let mut rows = [&keys[..0]; R];
    for (row, key) in rows.iter_mut().zip(keys.chunks_exact(queries.len())) {
        *row = key;
    }
    let mut sums = [zero(); R];
    for (step, queries) in queries.iter().enumerate() {
        let queries = load_line(queries);
        for row in 0..R {
            sums[row] = multiply_add(rows[row][step], queries, sums[row]);
        }
    }
    for (line, sum) in scores.iter_mut().zip(sums) {
        store_line(line, sum);
    }
}

/// Adds `weights · values` to the sums: for each of head_dim one chain over the keys of the block.
#[target_feature(enable = "avx2,fma")]
fn gather_values(values: &[f32], weights: &[F32x16], sums: &mut [F32x16]) {
    let head_dim = sums.len();
    for (tile, sums) in sums.chunks_mut(ROWS).enumerate() {
        let values = &values[tile * ROWS..];
        match sums.len() {
            1 => value_tile::<1>(values, head_dim, weights, sums),
            2 => value_tile::<2>(values, head_dim, weights, sums),
            3 => value_tile::<3>(values, head_dim, weights, sums),
            4 => value_tile::<4>(values, head_dim, weights, sums),
            5 => value_tile::<5>(values, head_dim, weights, sums),
            _ => value_tile::<ROWS>(values, head_dim, weights, sums),
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn value_tile<const R: usize>(
    values: &[f32],
    head_dim: usize,
    weights: &[F32x16],
    sums: &mut [F32x16],
) {
    let mut block_sums = [zero(); R];
    for (values, weights) in values.chunks(head_dim).zip(weights) {
        let (values, weights) = (&values[..R], load_line(weights));
        for row in 0..R {
            block_sums[row] = multiply_add(values[row], weights, block_sums[row]);
        }
    }
    for (line, block_sum) in sums.iter_mut().zip(block_sums) {
        store_line(line, add(load_line(line), block_sum));
    }
}
