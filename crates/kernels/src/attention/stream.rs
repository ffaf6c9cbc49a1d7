//! Softmax attention streamed over blocks of keys, the same for every instruction set.
//!
//! Sixteen queries share the lanes of a line, so that the maximum, the exponential and the sums of
//! the softmax need no step across lanes; keys and values are the broadcast side of the tile. The
//! softmax is streamed over blocks of keys (Milakov and Gimelshein 2018; FlashAttention, Dao et
//! al. 2022, alg. 1): when a larger score turns up, what was summed before is scaled down.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use super::{Head, KEY_BLOCK};
use crate::tile::{COLUMNS, F32x16, ROWS};

/// What an instruction set does for a group and a block of keys.
pub(super) struct Steps<Score, Rescale, GatherValues> {
    /// `Fn(keys, queries, scores)`: `scores[key] = keys[key] · queries` for each key, one chain
    /// along head_dim.
    pub(super) score: Score,
    /// `Fn(group, scores)`: turns the scores of a block, which are exponents of 2, into weights
    /// relative to the largest score so far, adds them to the totals and scales what was gathered
    /// before to the same reference.
    pub(super) rescale: Rescale,
    /// `Fn(values, weights, sums)`: adds `weights · values` to the sums of 1 to 6 places of head_dim,
    /// for each one chain over the keys of the block; `values` holds those places of each key.
    pub(super) gather_values: GatherValues,
}

/// Memory of one task.
#[derive(Default)]
pub(super) struct Scratch {
    groups: Vec<Group>,
    block: Gathered,
    /// Scores of a block, then weights: one line of 16 queries a key.
    weights: Vec<F32x16>,
    /// One row of the output.
    row: Vec<f32>,
}

/// Keys and values of a block, copied from places that lie far apart.
#[derive(Default)]
struct Gathered {
    /// [keys, head_dim].
    keys: Vec<f32>,
    /// By 6 places of head_dim, [head_dim / 6, keys], so that a tile reads them from start to end.
    values: Vec<[f32; ROWS]>,
}

/// Sixteen queries and what they have gathered so far.
#[derive(Default)]
pub(super) struct Group {
    /// The queries times log2 e / √head_dim, so that a weight is a power of 2: [head_dim] lines.
    queries: Vec<F32x16>,
    /// The weighted sums of the values, [head_dim] lines.
    pub(super) sums: Vec<F32x16>,
    /// The largest score of each query.
    pub(super) largest: F32x16,
    /// The sum of the weights of each query, relative to its largest score.
    pub(super) totals: F32x16,
}

/// See [`super::attend`].
#[inline(always)]
pub(super) fn attend(
    head: &Head<'_>,
    queries: Range<usize>,
    scratch: &mut Scratch,
    steps: &Steps<
        impl Fn(&[f32], &[F32x16], &mut [F32x16]),
        impl Fn(&mut Group, &mut [F32x16]),
        impl Fn(&[[f32; ROWS]], &[F32x16], &mut [F32x16]),
    >,
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
        scratch.block.gather(head, block.clone());
        scratch.weights.resize(block.len(), F32x16::default());
        for group in &mut *groups {
            (steps.score)(&scratch.block.keys, &group.queries, &mut scratch.weights);
            (steps.rescale)(group, &mut scratch.weights);
            let values = scratch.block.values.chunks_exact(block.len());
            for (values, sums) in values.zip(group.sums.chunks_mut(ROWS)) {
                (steps.gather_values)(values, &scratch.weights, sums);
            }
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

impl Gathered {
    /// Replaces the content by the keys and values of some tokens.
    fn gather(&mut self, head: &Head<'_>, tokens: Range<usize>) {
        self.keys.clear();
        for token in tokens.clone() {
            self.keys.extend_from_slice(head.key(token));
        }
        let tiles = head.head_dim.div_ceil(ROWS);
        self.values.resize(tiles * tokens.len(), [0.0; ROWS]);
        for (key, token) in tokens.clone().enumerate() {
            for (tile, part) in head.value(token).chunks(ROWS).enumerate() {
                self.values[tile * tokens.len() + key][..part.len()].copy_from_slice(part);
            }
        }
    }
}

impl Group {
    /// Takes up to 16 queries; the other lanes compute with zeros and are not read.
    fn start(&mut self, head: &Head<'_>, queries: Range<usize>) {
        let scale = LOG2_E / (head.head_dim as f32).sqrt();
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
}
