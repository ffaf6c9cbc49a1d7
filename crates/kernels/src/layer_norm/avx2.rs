//! Layer normalisation with AVX2 and FMA.

use std::arch::x86_64::*;

use crate::avx2::{first_lanes, load, load_partial, store, store_partial, sum};

/// See [`super::normalise`].
#[target_feature(enable = "avx2,fma")]
pub(super) fn normalise(rows: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    let hidden = weight.len() as f32;
    for row in rows.chunks_exact_mut(weight.len()) {
        let mean = _mm256_set1_ps(sum_of(row, |x| x) / hidden);
        let squares = sum_of(row, |x| {
            let difference = _mm256_sub_ps(x, mean);
            _mm256_mul_ps(difference, difference)
        });
        let scale = _mm256_set1_ps(1.0 / (squares / hidden + eps).sqrt());
        affine(row, weight, bias, |x, weight, bias| {
            let unit = _mm256_mul_ps(_mm256_sub_ps(x, mean), scale);
            _mm256_fmadd_ps(unit, weight, bias)
        });
    }
}

/// The sum of `term` over a row, in 32 partial sums by position.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn sum_of(row: &[f32], term: impl Fn(__m256) -> __m256) -> f32 {
    let (chunks, rest) = row.as_chunks::<8>();
    let (groups, chunks) = chunks.as_chunks::<4>();
    let mut sums = [_mm256_setzero_ps(); 4];
    for group in groups {
        for (sum, chunk) in sums.iter_mut().zip(group) {
            *sum = _mm256_add_ps(*sum, term(load(chunk)));
        }
    }
    for (sum, chunk) in sums.iter_mut().zip(chunks) {
        *sum = _mm256_add_ps(*sum, term(load(chunk)));
    }
    if !rest.is_empty() {
        let last = _mm256_and_ps(term(load_partial(rest)), first_lanes(rest.len()));
        sums[3] = _mm256_add_ps(sums[3], last);
    }
    let [a, b, c, d] = sums;
    sum(_mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d)))
}

/// Replaces each number of a row by `map(number, weight, bias)`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn affine(
    row: &mut [f32],
    weight: &[f32],
    bias: &[f32],
    map: impl Fn(__m256, __m256, __m256) -> __m256,
) {
    let (chunks, rest) = row.as_chunks_mut::<8>();
    let (weights, weight_rest) = weight.as_chunks::<8>();
    let (biases, bias_rest) = bias.as_chunks::<8>();
    for ((chunk, weight), bias) in chunks.iter_mut().zip(weights).zip(biases) {
        store(chunk, map(load(chunk), load(weight), load(bias)));
    }
    if !rest.is_empty() {
        let mapped = map(
            load_partial(rest),
            load_partial(weight_rest),
            load_partial(bias_rest),
        );
        store_partial(rest, mapped);
    }
}
