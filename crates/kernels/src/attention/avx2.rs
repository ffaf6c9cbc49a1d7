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
        multiply: |factors: &[[f32; ROWS]], columns: &[Line], sums: &mut [Line], adds| {
            multiply(factors, columns, sums, adds);
        },
        rescale: |group: &mut Group<1>, scores: &mut [Line]| rescale(group, scores),
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
    let totals = add(scaled(load_line(&group.totals[0]), scale), block_totals);
    store_line(&mut group.largest[0], largest);
    store_line(&mut group.totals[0], totals);
    for [line] in &mut group.sums {
        let lanes = scaled(load_line(line), scale);
        store_line(line, lanes);
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
fn scaled(a: Pair, b: Pair) -> Pair {
    [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])]
}

/// See [`Steps::multiply`].
#[target_feature(enable = "avx2,fma")]
fn multiply(factors: &[[f32; ROWS]], columns: &[Line], sums: &mut [Line], adds: bool) {
    match sums.len() {
        1 => multiply_rows::<1>(factors, columns, sums, adds),
        2 => multiply_rows::<2>(factors, columns, sums, adds),
        3 => multiply_rows::<3>(factors, columns, sums, adds),
        4 => multiply_rows::<4>(factors, columns, sums, adds),
        5 => multiply_rows::<5>(factors, columns, sums, adds),
        _ => multiply_rows::<ROWS>(factors, columns, sums, adds),
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn multiply_rows<const R: usize>(
    factors: &[[f32; ROWS]],
    columns: &[Line],
    sums: &mut [Line],
    adds: bool,
) {
    let mut products = [zero(); R];
    for (factors, [columns]) in factors.iter().zip(columns) {
        let columns = load_line(columns);
        for row in 0..R {
            products[row] = multiply_add(factors[row], columns, products[row]);
        }
    }
    for ([line], mut products) in sums.iter_mut().zip(products) {
        if adds {
            products = add(load_line(line), products);
        }
        store_line(line, products);
    }
}
