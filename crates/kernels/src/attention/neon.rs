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
        multiply: |factors: &[[f32; ROWS]], columns: &[Line], sums: &mut [Line], adds| {
            multiply(factors, columns, sums, adds);
        },
        rescale: |group: &mut Group<1>, scores: &mut [Line]| rescale(group, scores),
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
fn scaled(a: Quad, b: Quad) -> Quad {
    [
        vmulq_f32(a[0], b[0]),
        vmulq_f32(a[1], b[1]),
        vmulq_f32(a[2], b[2]),
        vmulq_f32(a[3], b[3]),
    ]
}

/// See [`Steps::multiply`].
#[target_feature(enable = "neon")]
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
#[target_feature(enable = "neon")]
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
