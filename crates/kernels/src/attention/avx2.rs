//! Softmax attention with AVX2 and FMA.

use std::arch::x86_64::*;
use std::ops::Range;

use super::Head;
use super::stream::{self, Group, Scratch, Steps};
use crate::avx2::exp2;
use crate::tile::avx2::{Pair, add, load_line, multiply_add, store_line, zero};
use crate::tile::{F32x16, ROWS};

/// Sixteen queries, or their sums at one place.
type Line = [F32x16; 1];

/// See [`super::attend`].
#[target_feature(enable = "avx2,fma")]
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
#[target_feature(enable = "avx2,fma")]
fn rescale(group: &mut Group<1>, scores: &mut [Line]) {
    let before = load_line(&group.largest[0]);
    let mut largest = before;
    for [line] in &*scores {
        let [low, high] = load_line(line);
        largest = [
            _mm256_max_ps(low, largest[0]),
            _mm256_max_ps(high, largest[1]),
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
#[target_feature(enable = "avx2,fma")]
fn exp2_difference(a: Pair, b: Pair) -> Pair {
    [
        exp2(_mm256_sub_ps(a[0], b[0])),
        exp2(_mm256_sub_ps(a[1], b[1])),
    ]
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn multiply(a: Pair, b: Pair) -> Pair {
    [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])]
}

/// See [`Steps::score`].
#[target_feature(enable = "avx2,fma")]
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
#[target_feature(enable = "avx2,fma")]
fn score_tile<const R: usize>(keys: &[[f32; ROWS]], queries: &[Line], scores: &mut [Line]) {
    for ([line], sums) in scores.iter_mut().zip(tile::<R>(keys, queries)) {
        store_line(line, sums);
    }
}

/// See [`Steps::gather_values`].
#[target_feature(enable = "avx2,fma")]
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
#[target_feature(enable = "avx2,fma")]
fn value_tile<const R: usize>(values: &[[f32; ROWS]], weights: &[Line], sums: &mut [Line]) {
    for ([line], block_sums) in sums.iter_mut().zip(tile::<R>(values, weights)) {
        store_line(line, add(load_line(line), block_sums));
    }
}

/// The sums over all steps of `R` factors times the columns, for each one chain.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn tile<const R: usize>(factors: &[[f32; ROWS]], columns: &[Line]) -> [Pair; R] {
    let mut sums = [zero(); R];
    for (factors, [columns]) in factors.iter().zip(columns) {
        let columns = load_line(columns);
        for row in 0..R {
            sums[row] = multiply_add(factors[row], columns, sums[row]);
        }
    }
    sums
}
