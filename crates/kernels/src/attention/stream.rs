//! Softmax attention streamed over blocks of keys, the same for every instruction set.
//!
//! Sixteen queries share the lanes of a line, so that the maximum, the exponential and the sums of
//! the softmax need no step across lanes; keys and values are the broadcast side of the tile. The
//! softmax is streamed over blocks of keys (Milakov and Gimelshein 2018; FlashAttention, Dao et
//! al. 2022, alg. 1): when a larger score turns up, what was summed before is scaled down.

use std::ops::Range;

use super::{Head, KEY_BLOCK};
use crate::tile::{COLUMNS, F32x16};

/// What an instruction set does for a group and a block of keys.
pub(super) struct Steps<Score, Rescale, GatherValues> {
    /// `Fn(keys, queries, scores)`: `scores[key] = keys[key] · queries` for each key, one chain
    /// along head_dim.
    pub(super) score: Score,
    /// `Fn(group, scores)`: turns the scores of a block into weights relative to the largest score
    /// so far, adds them to the totals and scales what was gathered before to the same reference.
    pub(super) rescale: Rescale,
    /// `Fn(values, weights, sums)`: adds `weights · values` to the sums, for each of head_dim one
    /// chain over the keys of the block.
    pub(super) gather_values: GatherValues,
}

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
pub(super) struct Group {
    /// The queries divided by √head_dim, [head_dim] lines.
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
        impl Fn(&[f32], &[F32x16], &mut [F32x16]),
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
            (steps.score)(&scratch.keys, &group.queries, &mut scratch.weights);
            (steps.rescale)(group, &mut scratch.weights);
            (steps.gather_values)(&scratch.values, &scratch.weights, &mut group.sums);
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
}

/// Copies rows that lie far apart into one block.
fn gather<'a>(block: &mut Vec<f32>, rows: impl Iterator<Item = &'a [f32]>) {
    block.clear();
    rows.for_each(|row| block.extend_from_slice(row));
}
