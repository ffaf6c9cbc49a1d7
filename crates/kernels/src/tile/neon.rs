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
    std::array::from_fn(|part| load(&parts[part]))
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
    std::array::from_fn(|part| load_words(&parts[part]))
}

/// Writes a line.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn store_line(line: &mut F32x16, lanes: Quad) {
    for (part, lanes) in line.0.as_chunks_mut().0.iter_mut().zip(lanes) {
        store(part, lanes);
    }
}

/// The sum of two lines.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn add(a: Quad, b: Quad) -> Quad {
    std::array::from_fn(|part| vaddq_f32(a[part], b[part]))
}

/// `factor · columns + sums`, rounded once.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn multiply_add(factor: f32, columns: Quad, sums: Quad) -> Quad {
    std::array::from_fn(|part| vfmaq_n_f32(sums[part], columns[part], factor))
}

/// A line of zeros.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn zero() -> Quad {
    [vdupq_n_f32(0.0); 4]
}
