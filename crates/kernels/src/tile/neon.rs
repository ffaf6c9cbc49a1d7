//! The tile in registers of NEON.

use std::arch::aarch64::*;

use super::{Bf16x16, F32x16, Words};
use crate::neon::{load, load_words, store};

/// Sixteen lanes in four registers.
pub(crate) type Quad = [float32x4_t; 4];

/// Reads a line.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn load_line(line: &F32x16) -> Quad {
    let parts = line.0.as_chunks().0;
    [
        load(&parts[0]),
        load(&parts[1]),
        load(&parts[2]),
        load(&parts[3]),
    ]
}

/// Reads a line of bf16 weights and widens it.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn load_bf16_line(line: &Bf16x16) -> Quad {
    let parts = line.0.as_chunks().0;
    let (first, second) = (load_words(&parts[0]), load_words(&parts[1]));
    let high = vdupq_n_u32(0xffff_0000);
    [
        vreinterpretq_f32_u32(vshlq_n_u32::<16>(first)),
        vreinterpretq_f32_u32(vshlq_n_u32::<16>(second)),
        vreinterpretq_f32_u32(vandq_u32(first, high)),
        vreinterpretq_f32_u32(vandq_u32(second, high)),
    ]
}

/// Reads a line of words.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn load_words_of(line: &Words) -> [uint32x4_t; 4] {
    let parts = line.0.as_chunks().0;
    [
        load_words(&parts[0]),
        load_words(&parts[1]),
        load_words(&parts[2]),
        load_words(&parts[3]),
    ]
}

/// Writes a line.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn store_line(line: &mut F32x16, lanes: Quad) {
    let parts = line.0.as_chunks_mut().0;
    store(&mut parts[0], lanes[0]);
    store(&mut parts[1], lanes[1]);
    store(&mut parts[2], lanes[2]);
    store(&mut parts[3], lanes[3]);
}

/// The sum of two lines.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn add(a: Quad, b: Quad) -> Quad {
    [
        vaddq_f32(a[0], b[0]),
        vaddq_f32(a[1], b[1]),
        vaddq_f32(a[2], b[2]),
        vaddq_f32(a[3], b[3]),
    ]
}

/// `factor · columns + sums`, rounded once.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn multiply_add(factor: f32, columns: Quad, sums: Quad) -> Quad {
    [
        vfmaq_n_f32(sums[0], columns[0], factor),
        vfmaq_n_f32(sums[1], columns[1], factor),
        vfmaq_n_f32(sums[2], columns[2], factor),
        vfmaq_n_f32(sums[3], columns[3], factor),
    ]
}

/// A line of zeros.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn zero() -> Quad {
    [vdupq_n_f32(0.0); 4]
}
