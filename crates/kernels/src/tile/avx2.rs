//! The tile in registers of AVX2.

use std::arch::x86_64::*;

use super::{Bf16x16, F32x16, Words};
use crate::avx2::{load, load_words, store};

/// Sixteen lanes in two registers.
pub(crate) type Pair = [__m256; 2];

/// Reads a line.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(crate) fn load_line(line: &F32x16) -> Pair {
    let halves = line.0.as_chunks().0;
    [load(&halves[0]), load(&halves[1])]
}

/// Reads a line of bf16 weights and widens it.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(crate) fn load_bf16_line(line: &Bf16x16) -> Pair {
    let words = load_words(&line.0);
    let high = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
    [
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words)),
        _mm256_castsi256_ps(_mm256_and_si256(words, high)),
    ]
}

/// Reads a line of words.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(crate) fn load_words_of(line: &Words) -> [__m256i; 2] {
    let halves = line.0.as_chunks().0;
    [load_words(&halves[0]), load_words(&halves[1])]
}

/// Writes a line.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(crate) fn store_line(line: &mut F32x16, [low, high]: Pair) {
    let halves = line.0.as_chunks_mut().0;
    store(&mut halves[0], low);
    store(&mut halves[1], high);
}

/// The sum of two lines.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(crate) fn add([a, b]: Pair, [c, d]: Pair) -> Pair {
    [_mm256_add_ps(a, c), _mm256_add_ps(b, d)]
}

/// `factor · columns + sums`, rounded once.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(crate) fn multiply_add(factor: f32, columns: Pair, sums: Pair) -> Pair {
    let factor = _mm256_set1_ps(factor);
    [
        _mm256_fmadd_ps(factor, columns[0], sums[0]),
        _mm256_fmadd_ps(factor, columns[1], sums[1]),
    ]
}

/// A line of zeros.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(crate) fn zero() -> Pair {
    [_mm256_setzero_ps(); 2]
}
