//! Layer normalisation with NEON.

use std::arch::aarch64::*;

use crate::neon::{first_lanes, load, load_partial, store, store_partial, sum};

/// See [`super::normalise`].
#[target_feature(enable = "neon")]
pub(super) fn normalise(rows: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    let hidden = weight.len() as f32;
    for row in rows.chunks_exact_mut(weight.len()) {
        let mean = vdupq_n_f32(sum_of(row, |x| x) / hidden);
        let squares = sum_of(row, |x| {
            let difference = vsubq_f32(x, mean);
            vmulq_f32(difference, difference)
        });
        let scale = vdupq_n_f32(1.0 / (squares / hidden + eps).sqrt());
        affine(row, weight, bias, |x, weight, bias| {
            let unit = vmulq_f32(vsubq_f32(x, mean), scale);
            vfmaq_f32(bias, unit, weight)
        });
    }
}

/// The sum of `term` over a row, in 32 partial sums by position.
#[inline]
#[target_feature(enable = "neon")]
fn sum_of(row: &[f32], term: impl Fn(float32x4_t) -> float32x4_t) -> f32 {
    let (chunks, rest) = row.as_chunks::<4>();
    let (groups, chunks) = chunks.as_chunks::<8>();
    let mut sums = [vdupq_n_f32(0.0); 8];
    for group in groups {
        for (sum, chunk) in sums.iter_mut().zip(group) {
            *sum = vaddq_f32(*sum, term(load(chunk)));
        }
    }
    for (sum, chunk) in sums.iter_mut().zip(chunks) {
        *sum = vaddq_f32(*sum, term(load(chunk)));
    }
    if !rest.is_empty() {
        let last = first_lanes(rest.len(), term(load_partial(rest)));
        sums[7] = vaddq_f32(sums[7], last);
    }
    let [a, b, c, d, e, f, g, h] = sums;
    let first = vaddq_f32(vaddq_f32(a, b), vaddq_f32(c, d));
    let second = vaddq_f32(vaddq_f32(e, f), vaddq_f32(g, h));
    sum(vaddq_f32(first, second))
}

/// Replaces each number of a row by `map(number, weight, bias)`.
#[inline]
#[target_feature(enable = "neon")]
fn affine(
    row: &mut [f32],
    weight: &[f32],
    bias: &[f32],
    map: impl Fn(float32x4_t, float32x4_t, float32x4_t) -> float32x4_t,
) {
    let (chunks, rest) = row.as_chunks_mut::<4>();
    let (weights, weight_rest) = weight.as_chunks::<4>();
    let (biases, bias_rest) = bias.as_chunks::<4>();
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
