//! Registers of 16 f32 or words: loads and stores.
#![expect(unsafe_code, reason = "loads and stores take raw pointers")]

use std::arch::x86_64::*;

use crate::tile::{Bf16x16, F32x16, Words};

/// Reads a line.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn load_line(line: &F32x16) -> __m512 {
    // SAFETY: a line is 64 readable bytes and the load needs no alignment.
    unsafe { _mm512_loadu_ps(line.0.as_ptr()) }
}

/// Writes a line.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn store_line(line: &mut F32x16, lanes: __m512) {
    // SAFETY: a line is 64 writable bytes and the store needs no alignment.
    unsafe { _mm512_storeu_ps(line.0.as_mut_ptr(), lanes) }
}

/// Reads 16 words.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn load_words(line: &Words) -> __m512i {
    // SAFETY: a line is 64 readable bytes and the load needs no alignment.
    unsafe { _mm512_loadu_si512(line.0.as_ptr().cast()) }
}

/// Writes 16 words.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn store_words(line: &mut Words, words: __m512i) {
    // SAFETY: a line is 64 writable bytes and the store needs no alignment.
    unsafe { _mm512_storeu_si512(line.0.as_mut_ptr().cast(), words) }
}

/// Reads up to 32 numbers; the other lanes are 0.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn load_numbers(numbers: &[f32]) -> [__m512; 2] {
    let mut chunk = [0.0; 32];
    let numbers = match numbers.try_into() {
        Ok(numbers) => numbers,
        Err(_) => {
            chunk[..numbers.len()].copy_from_slice(numbers);
            &chunk
        }
    };
    // SAFETY: 32 readable numbers and the loads need no alignment.
    unsafe { [0, 16].map(|start| _mm512_loadu_ps(numbers.as_ptr().add(start))) }
}

/// Reads two lines of bf16 weights: word j is column j of both.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) fn load_bf16_pair(lines: &[Bf16x16; 2]) -> __m512i {
    // Halves of the second line stand 16 halves after those of the first.
    const PLACES: [u32; 16] = {
        let mut places = [0; 16];
        let mut column = 0;
        while column < 16 {
            // Columns 0 to 7 are low halves, 8 to 15 high ones.
            let half = (column % 8 * 2 + column / 8) as u32;
            places[column] = half | (half + 16) << 16;
            column += 1;
        }
        places
    };
    // SAFETY: two lines are 64 readable bytes and the load needs no alignment.
    let halves = unsafe { _mm512_loadu_si512(lines.as_ptr().cast()) };
    _mm512_permutexvar_epi16(load_words(&Words(PLACES)), halves)
}

/// Reads a line of bf16 weights and widens it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
pub(crate) fn load_bf16_line(line: &Bf16x16) -> __m512 {
    // SAFETY: a line is 32 readable bytes and the load needs no alignment.
    let words = unsafe { _mm256_loadu_si256(line.0.as_ptr().cast()) };
    // All words in both halves; then the bytes that become the upper ones of each f32, and zeros.
    let low = _mm_setr_epi8(-1, -1, 0, 1, -1, -1, 4, 5, -1, -1, 8, 9, -1, -1, 12, 13);
    let high = _mm_setr_epi8(-1, -1, 2, 3, -1, -1, 6, 7, -1, -1, 10, 11, -1, -1, 14, 15);
    let places = _mm512_inserti64x4::<1>(
        _mm512_broadcast_i32x4(low),
        _mm256_broadcastsi128_si256(high),
    );
    _mm512_castsi512_ps(_mm512_shuffle_epi8(_mm512_broadcast_i32x8(words), places))
}
