//! Softmax attention with NEON.

use std::arch::aarch64::*;
use std::ops::Range;

use super::Head;
use super::stream::{self, Group, Scratch, Steps};
use crate::neon::exp2;
use crate::tile::neon::{Quad, add, load_line, multiply_add, store_line, zero};
use crate::tile::{F32x16, ROWS};

/// Sixteen queries, or their sums at one place.
type Line = [F32x16; 1];

/// See [`super::attend`].
#[target_feature(enable = "neon")]
pub(super) fn attend(
    head: &Head<'_>,
    queries: Range<usize>,
    scratch: &mut Scratch<1>,
    write: impl Fn(usize, &[f32]),
) {
    let steps = Steps {
        score: |keys: &[[f32; ROWS]], queries: &[Line], scores: &mut [Line]| {
            score(keys, queries, scores);
        },
        rescale: |group: &mut Group<1>, scores: &mut [Line]| rescale(group, scores),
        gather_values: |values: &[[f32; ROWS]], weights: &[Line], sums: &mut [Line]| {
            gather_values(values, weights, sums);
        },
    };
    stream::attend(head, queries, scratch, &steps, write);
}

/// See [`Steps::rescale`].
#[target_feature(enable = "neon")]
fn rescale(group: &mut Group<1>, scores: &mut [Line]) {
    let before = load_line(&group.largest[0]);
    let mut largest = before;
    for [line] in &*scores {
        let line = load_line(line);
        largest = [
            vmaxq_f32(line[0], largest[0]),
            vmaxq_f32(line[1], largest[1]),
            vmaxq_f32(line[2], largest[2]),
            vmaxq_f32(line[3], largest[3]),
        ];
    }
    let mut block_totals = zero();
    for [line] in scores {
        let weights = exp2_difference(load_line(line), largest);
        block_totals = add(block_totals, weights);
        store_line(line, weights);
    }
    let scale = exp2_difference(before, largest);
    let totals = add(multiply(load_line(&group.totals[0]), scale), block_totals);
    store_line(&mut group.largest[0], largest);
    store_line(&mut group.totals[0], totals);
    for [line] in &mut group.sums {
        let scaled = multiply(load_line(line), scale);
        store_line(line, scaled);
    }
}

/// 2 to the power of a - b, where no a is above its b.
#[inline]
#[target_feature(enable = "neon")]
fn exp2_difference(a: Quad, b: Quad) -> Quad {
    [
        exp2(vsubq_f32(a[0], b[0])),
        exp2(vsubq_f32(a[1], b[1])),
        exp2(vsubq_f32(a[2], b[2])),
        exp2(vsubq_f32(a[3], b[3])),
    ]
}

#[inline]
#[target_feature(enable = "neon")]
fn multiply(a: Quad, b: Quad) -> Quad {
    [
        vmulq_f32(a[0], b[0]),
        vmulq_f32(a[1], b[1]),
        vmulq_f32(a[2], b[2]),
        vmulq_f32(a[3], b[3]),
    ]
}

/// See [`Steps::score`].
#[target_feature(enable = "neon")]
fn score(keys: &[[f32; ROWS]], queries: &[Line], scores: &mut [Line]) {
    match scores.len() {
        1 => score_tile::<1>(keys, queries, scores),
        2 => score_tile::<2>(keys, queries, scores),
        3 => score_tile::<3>(keys, queries, scores),
        4 => score_tile::<4>(keys, queries, scores),
        5 => score_tile::<5>(keys, queries, scores),
        _ => score_tile::<ROWS>(keys, queries, scores),
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn score_tile<const R: usize>(keys: &[[f32; ROWS]], queries: &[Line], scores: &mut [Line]) {
    for ([line], sums) in scores.iter_mut().zip(tile::<R>(keys, queries)) {
        store_line(line, sums);
    }
}

/// See [`Steps::gather_values`].
#[target_feature(enable = "neon")]
fn gather_values(values: &[[f32; ROWS]], weights: &[Line], sums: &mut [Line]) {
    match sums.len() {
        1 => value_tile::<1>(values, weights, sums),
        2 => value_tile::<2>(values, weights, sums),
        3 => value_tile::<3>(values, weights, sums),
        4 => value_tile::<4>(values, weights, sums),
        5 => value_tile::<5>(values, weights, sums),
        _ => value_tile::<ROWS>(values, weights, sums),
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn value_tile<const R: usize>(values: &[[f32; ROWS]], weights: &[Line], sums: &mut [Line]) {
    for ([line], block_sums) in sums.iter_mut().zip(tile::<R>(values, weights)) {
        store_line(line, add(load_line(line), block_sums));
    }
}

/// The sums over all steps of `R` factors times the columns, for each one chain.
#[inline]
#[target_feature(enable = "neon")]
fn tile<const R: usize>(factors: &[[f32; ROWS]], columns: &[Line]) -> [Quad; R] {
    let mut sums = [zero(); R];
    for (factors, [columns]) in factors.iter().zip(columns) {
        let columns = load_line(columns);
        for row in 0..R {
            sums[row] = multiply_add(factors[row], columns, sums[row]);
        }
    }
    sums
}
