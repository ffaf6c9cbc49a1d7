//! Softmax attention streamed over blocks of keys, the same for every instruction set.
//!
//! Sixteen queries share the lanes of a line, so that the maximum, the exponential and the sums of
//! the softmax need no step across lanes; keys and values are the broadcast side of the tile. A group
//! is as many lines as the tile of an instruction set is wide, which changes no query's bits. The
//! softmax is streamed over blocks of keys (Milakov and Gimelshein 2018; FlashAttention, Dao et
//! al. 2022, alg. 1): when a larger score turns up, what was summed before is scaled down.

use std::array::from_fn;
use std::f32::consts::LOG2_E;
use std::ops::Range;

use super::{Head, KEY_BLOCK};
use crate::tile::{COLUMNS, F32x16, ROWS};

/// What an instruction set does for a group and a block of keys.
pub(super) struct Steps<Multiply, Rescale> {
    /// `Fn(factors, columns, sums, adds)`: for 1 to 6 rows the products of `factors` and `columns` over
    /// all steps, one chain each, added to the sums or in their place. A step holds those rows' factors.
    pub(super) multiply: Multiply,
    /// `Fn(group, scores)`: turns the scores of a block, which are exponents of 2, into weights
    /// relative to the largest score so far, adds them to the totals and scales what was gathered
    /// before to the same reference.
    pub(super) rescale: Rescale,
}

/// Memory of one task.
#[derive(Default)]
pub(super) struct Scratch<const LINES: usize> {
    groups: Vec<Group<LINES>>,
    block: Gathered,
    /// Scores of a block, then weights: the queries of a group for each key.
    weights: Vec<[F32x16; LINES]>,
    /// One row of the output.
    row: Vec<f32>,
}

/// Keys and values of a block, copied from places that lie far apart.
#[derive(Default)]
struct Gathered {
    /// By 6 keys, [keys / 6, head_dim], so that a tile reads them from start to end.
    keys: Vec<[f32; ROWS]>,
    /// By 6 places of head_dim, [head_dim / 6, keys].
    values: Vec<[f32; ROWS]>,
}

/// Sixteen queries a line and what they have gathered so far.
pub(super) struct Group<const LINES: usize> {
    /// The queries times log2 e / √head_dim, so that a weight is a power of 2: for each place of
    /// head_dim.
    pub(super) queries: Vec<[F32x16; LINES]>,
    /// The weighted sums of the values, for each place of head_dim.
    pub(super) sums: Vec<[F32x16; LINES]>,
    /// The largest score of each query.
    pub(super) largest: [F32x16; LINES],
    /// The sum of the weights of each query, relative to its largest score.
    pub(super) totals: [F32x16; LINES],
}

/// See [`super::attend`].
#[inline(always)]
pub(super) fn attend<const LINES: usize>(
    head: &Head<'_>,
    queries: Range<usize>,
    scratch: &mut Scratch<LINES>,
    steps: &Steps<
        impl Fn(&[[f32; ROWS]], &[[F32x16; LINES]], &mut [[F32x16; LINES]], bool),
        impl Fn(&mut Group<LINES>, &mut [[F32x16; LINES]]),
    >,
    write: impl Fn(usize, &[f32]),
) {
    let head_dim = head.head_dim;
    let groups = start_groups(&mut scratch.groups, head, queries.clone());
    for start in (0..head.tokens()).step_by(KEY_BLOCK) {
        let block = start..head.tokens().min(start + KEY_BLOCK);
        scratch.block.gather(head, block.clone());
        scratch
            .weights
            .resize(block.len(), [F32x16::default(); LINES]);
        for group in &mut *groups {
            let keys = scratch.block.keys.chunks_exact(head_dim);
            for (keys, scores) in keys.zip(scratch.weights.chunks_mut(ROWS)) {
                (steps.multiply)(keys, &group.queries, scores, false);
            }
            (steps.rescale)(group, &mut scratch.weights);
            let values = scratch.block.values.chunks_exact(block.len());
            for (values, sums) in values.zip(group.sums.chunks_mut(ROWS)) {
                (steps.multiply)(values, &scratch.weights, sums, true);
            }
        }
    }
    write_rows(groups, queries, head_dim, &mut scratch.row, write);
}

/// Takes all queries of a task.
#[inline(always)]
pub(super) fn start_groups<'g, const LINES: usize>(
    groups: &'g mut Vec<Group<LINES>>,
    head: &Head<'_>,
    queries: Range<usize>,
) -> &'g mut [Group<LINES>] {
    let group_len = LINES * COLUMNS;
    let count = queries.len().div_ceil(group_len);
    if groups.len() < count {
        groups.resize_with(count, Group::default);
    }
    let groups = &mut groups[..count];
    for (group, first) in groups.iter_mut().zip(queries.clone().step_by(group_len)) {
        group.start(head, first..queries.end.min(first + group_len));
    }
    groups
}

/// Writes what the groups of a task have gathered; `row` is memory for one query's.
#[inline(always)]
pub(super) fn write_rows<const LINES: usize>(
    groups: &mut [Group<LINES>],
    queries: Range<usize>,
    head_dim: usize,
    row: &mut Vec<f32>,
    write: impl Fn(usize, &[f32]),
) {
    for group in &mut *groups {
        group.divide();
    }
    row.resize(head_dim, 0.0);
    for (query, place) in queries.zip(0..) {
        let group = &groups[place / (LINES * COLUMNS)];
        let (line, lane) = (place / COLUMNS % LINES, place % COLUMNS);
        for (number, sums) in row.iter_mut().zip(&group.sums) {
            *number = sums[line].0[lane];
        }
        write(query, row);
    }
}

impl Gathered {
    /// Replaces the content by the keys and values of some tokens.
    #[inline(always)]
    fn gather(&mut self, head: &Head<'_>, tokens: Range<usize>) {
        let (len, places) = (tokens.len(), head.head_dim);
        let zeros = [0.0; ROWS];
        self.keys.resize(len.div_ceil(ROWS) * places, zeros);
        self.values.resize(places.div_ceil(ROWS) * len, zeros);
        let parts = self.keys.chunks_exact_mut(places);
        for (part, first) in parts.zip(tokens.clone().step_by(ROWS)) {
            // Rows past the last key repeat it and are not read.
            let row = |row: usize| head.key((first + row).min(tokens.end - 1));
            let rows: [&[f32]; ROWS] = from_fn(row);
            for (place, numbers) in part.iter_mut().enumerate() {
                *numbers = from_fn(|row| rows[row][place]);
            }
        }
        for (key, token) in tokens.enumerate() {
            let (tiles, rest) = head.value(token).as_chunks::<ROWS>();
            let mut parts = self.values.iter_mut().skip(key).step_by(len);
            for (tile, part) in tiles.iter().zip(&mut parts) {
                *part = *tile;
            }
            for (number, part) in rest.iter().zip(parts.next().into_iter().flatten()) {
                *part = *number;
            }
        }
    }
}

impl<const LINES: usize> Default for Group<LINES> {
    fn default() -> Group<LINES> {
        Group {
            queries: Vec::new(),
            sums: Vec::new(),
            largest: [F32x16([f32::NEG_INFINITY; COLUMNS]); LINES],
            totals: [F32x16::default(); LINES],
        }
    }
}

impl<const LINES: usize> Group<LINES> {
    /// Takes queries; lanes past the last one repeat it and are not read.
    #[inline(always)]
    fn start(&mut self, head: &Head<'_>, queries: Range<usize>) {
        let scale = LOG2_E / (head.head_dim as f32).sqrt();
        let zeros = [F32x16::default(); LINES];
        self.queries.resize(head.head_dim, zeros);
        for line in 0..LINES {
            let first = queries.start + line * COLUMNS;
            let row = |lane: usize| head.query((first + lane).min(queries.end - 1));
            let rows: [&[f32]; COLUMNS] = from_fn(row);
            for (place, lines) in self.queries.iter_mut().enumerate() {
                lines[line].0 = from_fn(|lane| rows[lane][place] * scale);
            }
        }
        self.sums.clear();
        self.sums.resize(head.head_dim, zeros);
        self.largest = [F32x16([f32::NEG_INFINITY; COLUMNS]); LINES];
        self.totals = zeros;
    }

    /// Makes the sums the means that are the result.
    fn divide(&mut self) {
        for sums in &mut self.sums {
            for (sums, totals) in sums.iter_mut().zip(&self.totals) {
                for (sum, total) in sums.0.iter_mut().zip(totals.0) {
                    *sum /= total;
                }
            }
        }
    }
}
