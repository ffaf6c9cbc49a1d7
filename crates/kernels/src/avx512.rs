//! Registers of 16 f32 or words: loads, stores and powers of 2.
#![expect(unsafe_code, reason = "loads and stores take raw pointers")]

use std::arch::x86_64::*;

use crate::avx2::{EXP2, EXP2_VANISHES_BELOW};
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

/// Writes 4 words.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn store_four_words(words: &mut [u32; 4], lanes: __m128i) {
    // SAFETY: the array is 16 writable bytes and the store needs no alignment.
    unsafe { _mm_storeu_si128(words.as_mut_ptr().cast(), lanes) }
}

/// Reads up to 16 numbers; the other lanes are 0.
///
/// # Panics
/// If there are more.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn load_partial(numbers: &[f32]) -> __m512 {
    let lanes = first_lanes(numbers.len());
    // SAFETY: only the lanes of numbers that are there are read, and the load needs no alignment.
    unsafe { _mm512_maskz_loadu_ps(lanes, numbers.as_ptr()) }
}

/// Writes as many lanes as `numbers` has room for.
///
/// # Panics
/// If that is more than 16.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn store_partial(numbers: &mut [f32], lanes: __m512) {
    let kept = first_lanes(numbers.len());
    // SAFETY: only as many lanes as there is room for are written, and the store needs no alignment.
    unsafe { _mm512_mask_storeu_ps(numbers.as_mut_ptr(), kept, lanes) }
}

/// A mask of the first `count` of 16 lanes.
fn first_lanes(count: usize) -> __mmask16 {
    assert!(count <= 16, "{count} numbers for one register");
    ((1_u32 << count) - 1) as __mmask16
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

/// The upper halves of 32 words, in their order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) fn upper_halves(words: [__m512i; 2]) -> __m512i {
    _mm512_permutex2var_epi16(words[0], load_words(const { &odd_halves() }), words[1])
}

/// The places of the odd halves among those of two registers.
const fn odd_halves() -> Words {
    let mut words = [0; 16];
    let mut word = 0;
    while word < words.len() {
        words[word] = (4 * word as u32 + 1) | (4 * word as u32 + 3) << 16;
        word += 1;
    }
    Words(words)
}

/// Makes rows columns.
#[target_feature(enable = "avx512f")]
pub(crate) fn transpose(rows: &mut [Words; 16]) {
    let mut lanes = [_mm512_setzero_si512(); 16];
    for (lanes, row) in lanes.iter_mut().zip(&*rows) {
        *lanes = load_words(row);
    }
    // Words of two rows in turns, then of four: quarter q of `fours[4 * g + c]` is column 4 q + c
    // of rows 4 g to 4 g + 3.
    let mut twos = lanes;
    for (two, pair) in twos
        .as_chunks_mut::<2>()
        .0
        .iter_mut()
        .zip(lanes.as_chunks::<2>().0)
    {
        two[0] = _mm512_unpacklo_epi32(pair[0], pair[1]);
        two[1] = _mm512_unpackhi_epi32(pair[0], pair[1]);
    }
    let mut fours = twos;
    for (four, twos) in fours
        .as_chunks_mut::<4>()
        .0
        .iter_mut()
        .zip(twos.as_chunks::<4>().0)
    {
        four[0] = _mm512_unpacklo_epi64(twos[0], twos[2]);
        four[1] = _mm512_unpackhi_epi64(twos[0], twos[2]);
        four[2] = _mm512_unpacklo_epi64(twos[1], twos[3]);
        four[3] = _mm512_unpackhi_epi64(twos[1], twos[3]);
    }
    for column in 0..4 {
        let [a, b, c, d] = [0, 4, 8, 12].map(|group| fours[group + column]);
        let (low_ab, low_cd) = (quarters::<0x44>(a, b), quarters::<0x44>(c, d));
        let (high_ab, high_cd) = (quarters::<0xee>(a, b), quarters::<0xee>(c, d));
        store_words(&mut rows[column], quarters::<0x88>(low_ab, low_cd));
        store_words(&mut rows[4 + column], quarters::<0xdd>(low_ab, low_cd));
        store_words(&mut rows[8 + column], quarters::<0x88>(high_ab, high_cd));
        store_words(&mut rows[12 + column], quarters::<0xdd>(high_ab, high_cd));
    }
}

/// Two quarters of `a`, then two of `b`, by two bits each.
#[inline]
#[target_feature(enable = "avx512f")]
fn quarters<const CHOICE: i32>(a: __m512i, b: __m512i) -> __m512i {
    _mm512_shuffle_i32x4::<CHOICE>(a, b)
}

/// 2 to the power of each lane, for lanes that are not positive: the same bits as
/// [`avx2::exp2`](crate::avx2::exp2).
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn exp2(x: __m512) -> __m512 {
    let power = _mm512_cvtps_epi32(x);
    let rest = _mm512_sub_ps(x, _mm512_cvtepi32_ps(power));
    let mut series = _mm512_set1_ps(EXP2[0]);
    for coefficient in &EXP2[1..] {
        series = _mm512_fmadd_ps(series, rest, _mm512_set1_ps(*coefficient));
    }
    let scaled = _mm512_castsi512_ps(_mm512_add_epi32(
        _mm512_castps_si512(series),
        _mm512_slli_epi32::<23>(power),
    ));
    let stays = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(EXP2_VANISHES_BELOW));
    _mm512_maskz_mov_ps(stays, scaled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Isa, avx2};

    #[target_feature(enable = "avx2,fma,avx512f")]
    fn both_exp2_of(x: f32) -> [u32; 2] {
        let narrow = _mm256_cvtss_f32(avx2::exp2(_mm256_set1_ps(x)));
        let wide = _mm512_cvtss_f32(exp2(_mm512_set1_ps(x)));
        [narrow.to_bits(), wide.to_bits()]
    }

    #[test]
    fn transpose_makes_rows_columns() {
        if !Isa::Avx512.is_available() {
            eprintln!("not run: this processor lacks `avx512`");
            return;
        }
        let mut rows: [Words; 16] = std::array::from_fn(|row| {
            Words(std::array::from_fn(|column| (16 * row + column) as u32))
        });
        // SAFETY: the check above.
        unsafe { transpose(&mut rows) };
        for (row, words) in rows.iter().enumerate() {
            for (column, word) in words.0.iter().enumerate() {
                assert_eq!(*word as usize, 16 * column + row);
            }
        }
    }

    #[test]
    fn exp2_has_the_bits_of_the_narrow_one() {
        if !Isa::Avx512.is_available() {
            eprintln!("not run: this processor lacks `avx512`");
            return;
        }
        let steps = (0..=130_000).map(|step| -(step as f32) * 1e-3);
        for x in steps.chain([-1e30, f32::NEG_INFINITY, f32::NAN]) {
            // SAFETY: the check above.
            let [narrow, wide] = unsafe { both_exp2_of(x) };
            assert_eq!(narrow, wide, "exp2({x})");
        }
    }
}
