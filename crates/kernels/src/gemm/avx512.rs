//! Matrix products with AVX-512, integer ones with VNNI.

use std::arch::x86_64::*;
use std::ops::Range;

use super::integers::{HEAD, Integers, RowScale};
use super::rows::SideRows;
use super::walk::{Place, Steps, walk};
use super::{Block, Finish, Lines, avx2};
use crate::avx2::{prefetch, store_words, sum};
use crate::avx512::{
    load_bf16_line, load_line, load_partial, load_words, store_four_words, store_line,
    store_partial,
};
use crate::gelu::avx512::gelu;
use crate::tile::{COLUMNS, F32x16, ROWS, Words};

/// See [`super::portable::multiply`]. Unless `is_wide`, products in f32 are those of AVX2: the same
/// bits, sooner.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn multiply(block: &Block<'_>, is_wide: bool, tile: &mut [F32x16]) {
    match block.weights {
        Lines::F32(_) | Lines::Bf16(_) if !is_wide => avx2::multiply(block, tile),
        Lines::F32(lines) => multiply_lines(block, lines, |line| load_line(line), tile),
        Lines::Bf16(lines) => multiply_lines(block, lines, |line| load_bf16_line(line), tile),
        Lines::Int16(lines) => multiply_integers(
            block,
            lines,
            |sums, x, weights| _mm512_dpwssd_epi32(sums, x, weights),
            tile,
        ),
        Lines::Int8(lines) => multiply_integers(
            block,
            lines,
            |sums, x, weights| _mm512_dpbusd_epi32(sums, x, weights),
            tile,
        ),
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn multiply_lines<L>(
    block: &Block<'_>,
    lines: &[L],
    load: impl Fn(&L) -> __m512,
    tile: &mut [F32x16],
) {
    let is_first = block.is_first();
    let steps = Steps {
        zero: _mm512_setzero_ps(),
        load: |[line]: &[L; 1]| load(line),
        prefetch: |line: &L| prefetch(line),
        multiply_add: |[x]: [u32; 1], columns: &__m512, sums| {
            _mm512_fmadd_ps(_mm512_set1_ps(f32::from_bits(x)), *columns, sums)
        },
        add: |sums, _, line: &mut F32x16| {
            let sums = if is_first {
                sums
            } else {
                _mm512_add_ps(load_line(line), sums)
            };
            store_line(line, sums);
        },
    };
    walk::<4, 4, 4, 4, 4, 4, _, _, _>(block, lines, 0, &steps, tile);
}

/// `dot` multiplies the numbers of words and adds those of each word to its sum.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn multiply_integers(
    block: &Block<'_>,
    lines: &[Words],
    dot: impl Fn(__m512i, __m512i, __m512i) -> __m512i,
    tile: &mut [F32x16],
) {
    let is_first = block.is_first();
    let panel_len = lines.len() / (tile.len() / block.rows.len());
    let steps = Steps {
        zero: _mm512_setzero_si512(),
        load: |[line]: &[Words; 1]| load_words(line),
        prefetch: |line: &Words| prefetch(line),
        multiply_add: |[x]: [u32; 1], columns: &__m512i, sums| {
            dot(sums, _mm512_set1_epi32(x.cast_signed()), *columns)
        },
        add: |sums, place: Place, line: &mut F32x16| {
            let head = &lines[place.panel * panel_len..][..HEAD];
            let head = [load_words(&head[0]), load_words(&head[1])];
            let (scale, zero) = block.x_scale(place.row);
            let x = RowScaleLanes {
                scale: _mm512_set1_ps(scale),
                zero: _mm512_set1_epi32(zero),
            };
            add_integers(is_first, head, x, sums, line);
        },
    };
    walk::<4, 4, 4, 4, 4, 4, _, _, _>(block, lines, HEAD, &steps, tile);
}

/// Scale and zero of a row, in every lane.
pub(super) struct RowScaleLanes {
    pub(super) scale: __m512,
    pub(super) zero: __m512i,
}

/// Scales the sums of a row over a block of k, given the two lines of the panel's head, and adds
/// them to the line of the row unless they are the first.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn add_integers(
    is_first: bool,
    [scales, weights]: [__m512i; HEAD],
    x: RowScaleLanes,
    sums: __m512i,
    line: &mut F32x16,
) {
    // Both factors fit 16 bits, or `zero` is 0 (`integers.rs`).
    let zeros = _mm512_madd_epi16(weights, x.zero);
    let sums = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums, zeros));
    let scaled = _mm512_mul_ps(sums, _mm512_castsi512_ps(scales));
    let start = if is_first {
        _mm512_setzero_ps()
    } else {
        load_line(line)
    };
    store_line(line, _mm512_fmadd_ps(scaled, x.scale, start));
}

/// See [`Integers::pack_row`]: the same bits.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq")]
pub(super) fn pack_row(integers: Integers, numbers: &[f32], words: &mut [u32]) -> RowScale {
    // Whole groups of 32 numbers: every block of k but an odd last one.
    let (groups, []) = numbers.as_chunks::<32>() else {
        return integers.pack_row(numbers, words);
    };
    let chunks = groups.as_flattened().as_chunks::<16>().0;
    let lanes = || chunks.iter().map(|chunk| load_partial(chunk));
    let (mut least, mut largest) = (_mm512_setzero_ps(), _mm512_setzero_ps());
    // Magnitudes are ordered as their bits are, with infinity and NaN above all numbers.
    let mut magnitude = _mm512_setzero_si512();
    for lanes in lanes() {
        least = _mm512_min_ps(lanes, least);
        largest = _mm512_max_ps(lanes, largest);
        magnitude = _mm512_max_epu32(magnitude, _mm512_castps_si512(_mm512_abs_ps(lanes)));
    }
    let is_finite = f32::from_bits(_mm512_reduce_max_epu32(magnitude)).is_finite();
    let (least, largest) = (_mm512_reduce_min_ps(least), _mm512_reduce_max_ps(largest));
    let scale = integers.row_scale(least, largest, is_finite);
    if !is_finite {
        words.fill(0);
        return scale;
    }
    let inverse = _mm512_set1_ps(scale.inverse);
    let zero = _mm512_set1_epi32(scale.zero);
    let rounded = lanes()
        .map(|lanes| _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(lanes, inverse)), zero));
    match integers {
        Integers::Bits16 => {
            for (words, rounded) in words.as_chunks_mut().0.iter_mut().zip(rounded) {
                store_words(words, _mm512_cvtepi32_epi16(rounded));
            }
        }
        Integers::Bits8 => {
            for (words, rounded) in words.as_chunks_mut().0.iter_mut().zip(rounded) {
                store_four_words(words, _mm512_cvtepi32_epi8(rounded));
            }
        }
    }
    scale
}

/// See [`super::portable::finish`]; the bits of AVX2.
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn finish(finish: &Finish<'_>, rows: Range<usize>, panel: usize, sums: &[F32x16]) {
    let bias = load_line(&finish.bias(panel));
    let is_gelu = finish.is_gelu();
    finish.each_row(rows, panel, sums, |row| {
        let mut sums = _mm512_add_ps(load_line(row.sums), bias);
        let mut add_rank = |side: &[u32; ROWS], lora_b| {
            let side = _mm512_set1_ps(f32::from_bits(side[row.lane]));
            sums = _mm512_fmadd_ps(side, load_line(lora_b), sums);
        };
        match (row.side, row.lora_b) {
            // The rank of the model: without a loop.
            ([s0, s1, s2, s3, ..], [b0, b1, b2, b3]) => {
                add_rank(s0, b0);
                add_rank(s1, b1);
                add_rank(s2, b2);
                add_rank(s3, b3);
            }
            (side, lora_b) => {
                side.iter()
                    .zip(lora_b)
                    .for_each(|(side, lora_b)| add_rank(side, lora_b));
            }
        }
        if is_gelu {
            sums = gelu(sums);
        }
        if !row.residual.is_empty() {
            prefetch_next::<_MM_HINT_T0>(row.residual);
            sums = _mm512_add_ps(sums, load_partial(row.residual));
        }
        prefetch_next::<_MM_HINT_ET0>(row.out);
        store_partial(row.out, sums);
    });
}

/// Asks for the line of the next panel: rows lie pages apart, so the processor does not foresee it. An address that
/// is nobody's, behind the last row, is not read.
#[inline]
#[target_feature(enable = "avx512f")]
fn prefetch_next<const HINT: i32>(line: &[f32]) {
    _mm_prefetch::<HINT>(line.as_ptr().wrapping_add(COLUMNS).cast());
}

/// See [`super::portable::side_products`]; the bits of AVX2.
#[target_feature(enable = "avx2,fma,avx512f,avx512dq")]
pub(super) fn side_products(rows: &SideRows<'_>, side: &mut [[u32; ROWS]]) {
    let k = rows.k;
    let one = |x: &[f32], lora_a: &[f32]| dots::<1, 1>(x, lora_a, k)[0][0];
    rows.multiply(side, |x, lora_a| dots::<2, 4>(x, lora_a, k), one);
}

/// The products of `R` rows of `k` numbers with `N` rows, each in 16 partial sums by position.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512dq")]
fn dots<const R: usize, const N: usize>(x: &[f32], rows: &[f32], k: usize) -> [[f32; N]; R] {
    // Loops instead of closures over arrays, which are not compiled for these registers.
    let mut sums = [[_mm512_setzero_ps(); N]; R];
    for start in (0..k).step_by(COLUMNS) {
        let end = k.min(start + COLUMNS);
        let mut columns = [_mm512_setzero_ps(); N];
        for (row, columns) in columns.iter_mut().enumerate() {
            *columns = load_partial(&rows[row * k + start..row * k + end]);
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            let x = load_partial(&x[row * k + start..row * k + end]);
            for (columns, sums) in columns.iter().zip(sums) {
                *sums = _mm512_fmadd_ps(x, *columns, *sums);
            }
        }
    }
    let mut products = [[0.0; N]; R];
    for (products, sums) in products.iter_mut().zip(sums) {
        for (product, lanes) in products.iter_mut().zip(sums) {
            *product = sum(halves_added(lanes));
        }
    }
    products
}

/// The lower half plus the upper one.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn halves_added(lanes: __m512) -> __m256 {
    _mm256_add_ps(
        _mm512_castps512_ps256(lanes),
        _mm512_extractf32x8_ps::<1>(lanes),
    )
}
