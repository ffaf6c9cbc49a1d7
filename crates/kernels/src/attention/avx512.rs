//! Softmax attention with AVX-512, with the bits of AVX2: the same sums in the same order, 32
//! queries at once.

use std::arch::x86_64::*;
use std::ops::Range;

use super::Head;
use super::stream::{self, Group, Scratch, Steps};
use crate::avx512::{exp2, load_line, store_line};
use crate::tile::{F32x16, ROWS};

/// Lines of a tile: 12 sums, 2 columns and a broadcast row in registers, and every multiply-add
/// has its operands there, so that the loads of a broadcast serve two.
const LINES: usize = 2;

/// 32 queries, or their sums at one place.
type Lines = [F32x16; LINES];

/// See [`super::attend`].
#[target_feature(enable = "avx2,fma,avx512f")]
pub(super) fn attend(
    head: &Head<'_>,
    queries: Range<usize>,
    scratch: &mut Scratch<LINES>,
    write: impl Fn(usize, &[f32]),
) {
    let steps = Steps {
        multiply: |factors: &[[f32; ROWS]], columns: &[Lines], sums: &mut [Lines], adds| {
            multiply(factors, columns, sums, adds);
        },
        rescale: |group: &mut Group<LINES>, scores: &mut [Lines]| rescale(group, scores),
    };
    stream::attend(head, queries, scratch, &steps, write);
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load<const L: usize>(lines: &[F32x16; L]) -> [__m512; L] {
    let mut lanes = [_mm512_setzero_ps(); L];
    for (lanes, line) in lanes.iter_mut().zip(lines) {
        *lanes = load_line(line);
    }
    lanes
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store<const L: usize>(lines: &mut [F32x16; L], lanes: [__m512; L]) {
    for (line, lanes) in lines.iter_mut().zip(lanes) {
        store_line(line, lanes);
    }
}

/// See [`Steps::rescale`].
#[target_feature(enable = "avx512f")]
pub(super) fn rescale<const L: usize>(group: &mut Group<L>, scores: &mut [[F32x16; L]]) {
    let before = load(&group.largest);
    // Several maxima, because one would wait for itself.
    let mut maxima = [before; 4];
    for scores in scores.chunks(4) {
        for (maxima, scores) in maxima.iter_mut().zip(scores) {
            for (largest, scores) in maxima.iter_mut().zip(load(scores)) {
                *largest = _mm512_max_ps(scores, *largest);
            }
        }
    }
    let mut largest = before;
    for (line, largest) in largest.iter_mut().enumerate() {
        for maxima in maxima {
            *largest = _mm512_max_ps(maxima[line], *largest);
        }
    }
    let mut block_totals = [_mm512_setzero_ps(); L];
    for scores in scores {
        let mut weights = load(scores);
        for line in 0..L {
            weights[line] = exp2(_mm512_sub_ps(weights[line], largest[line]));
            block_totals[line] = _mm512_add_ps(block_totals[line], weights[line]);
        }
        store(scores, weights);
    }
    let mut scale = before;
    let mut totals = load(&group.totals);
    for line in 0..L {
        scale[line] = exp2(_mm512_sub_ps(before[line], largest[line]));
        totals[line] = _mm512_mul_ps(totals[line], scale[line]);
        totals[line] = _mm512_add_ps(totals[line], block_totals[line]);
    }
    store(&mut group.largest, largest);
    store(&mut group.totals, totals);
    for sums in &mut group.sums {
        let mut lanes = load(sums);
        for (lanes, scale) in lanes.iter_mut().zip(scale) {
            *lanes = _mm512_mul_ps(*lanes, scale);
        }
        store(sums, lanes);
    }
}

/// See [`Steps::multiply`].
#[target_feature(enable = "avx512f")]
fn multiply(factors: &[[f32; ROWS]], columns: &[Lines], sums: &mut [Lines], adds: bool) {
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
#[target_feature(enable = "avx512f")]
fn multiply_rows<const R: usize>(
    factors: &[[f32; ROWS]],
    columns: &[Lines],
    sums: &mut [Lines],
    adds: bool,
) {
    let mut products = [[_mm512_setzero_ps(); LINES]; R];
    for (factors, columns) in factors.iter().zip(columns) {
        let columns = load(columns);
        for row in 0..R {
            multiply_add(factors[row], columns, &mut products[row]);
        }
    }
    for (lines, mut products) in sums.iter_mut().zip(products) {
        if adds {
            for (product, sum) in products.iter_mut().zip(load(lines)) {
                *product = _mm512_add_ps(sum, *product);
            }
        }
        store(lines, products);
    }
}

/// `sums += factor · columns`, rounded once.
#[inline]
#[target_feature(enable = "avx512f")]
fn multiply_add(factor: f32, columns: [__m512; LINES], sums: &mut [__m512; LINES]) {
    let factor = _mm512_set1_ps(factor);
    for (sum, columns) in sums.iter_mut().zip(columns) {
        *sum = _mm512_fmadd_ps(factor, columns, *sum);
    }
}
