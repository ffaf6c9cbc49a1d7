//! Matrix products with AVX2 and FMA.

use std::arch::x86_64::*;
use std::ops::Range;

use super::integers::{HEAD, Integers, RowScale};
use super::rows::SideRows;
use super::walk::{Place, Steps, walk, walk_by_two};
use super::{Block, Finish, Lines};
use crate::avx2::{load, load_partial, prefetch, store, store_partial, store_words, sum};
use crate::gelu::avx2::gelu;
use crate::tile::avx2::{
    Pair, add, load_bf16_line, load_line, load_words_of, multiply_add, store_line, zero,
};
use crate::tile::{F32x16, ROWS, Words};

/// Sums of 16 columns as integers.
type IntegerPair = [__m256i; 2];

/// See [`super::portable::multiply`].
#[target_feature(enable = "avx2,fma")]
pub(super) fn multiply(block: &Block<'_>, tile: &mut [F32x16]) {
    match block.weights {
        Lines::F32(lines) => multiply_lines(block, lines, |line| load_line(line), tile),
        Lines::Bf16(lines) => multiply_lines(block, lines, |line| load_bf16_line(line), tile),
        Lines::Int16(lines) => multiply_16_bits(block, lines, tile),
        Lines::Int8(lines) => multiply_8_bits(block, lines, tile),
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn multiply_lines<L>(
    block: &Block<'_>,
    lines: &[L],
    load: impl Fn(&L) -> Pair,
    tile: &mut [F32x16],
) {
    let is_first = block.is_first();
    let steps = Steps {
        zero: zero(),
        load: |[line]: &[L; 1]| load(line),
        prefetch: |line: &L| prefetch(line),
        multiply_add: |[x]: [u32; 1], columns: &Pair, sums| {
            multiply_add(f32::from_bits(x), *columns, sums)
        },
        add: |sums, _, line: &mut F32x16| {
            let sums = if is_first {
                sums
            } else {
                add(load_line(line), sums)
            };
            store_line(line, sums);
        },
    };
    walk::<4, 3, 2, 1, 1, 1, _, _, _>(block, lines, 0, &steps, tile);
}

#[target_feature(enable = "avx2,fma")]
fn multiply_16_bits(block: &Block<'_>, lines: &[Words], tile: &mut [F32x16]) {
    let head = heads(block, lines, tile);
    let steps = Steps {
        zero: [_mm256_setzero_si256(); 2],
        load: |[line]: &[Words; 1]| load_words_of(line),
        prefetch: |line: &Words| prefetch(line),
        multiply_add: |[x]: [u32; 1], columns: &IntegerPair, sums: IntegerPair| {
            let x = _mm256_set1_epi32(x.cast_signed());
            [
                _mm256_add_epi32(sums[0], _mm256_madd_epi16(x, columns[0])),
                _mm256_add_epi32(sums[1], _mm256_madd_epi16(x, columns[1])),
            ]
        },
        add: |sums: IntegerPair, place: Place, line: &mut F32x16| {
            add_integers(block, head(place), sums, place, line);
        },
    };
    walk::<4, 3, 2, 1, 1, 1, _, _, _>(block, lines, HEAD, &steps, tile);
}

/// Products of two words are added up in 16 bits before they are widened, which saves every fourth
/// multiplication; four lines of weights then leave registers for 3 rows.
#[target_feature(enable = "avx2,fma")]
fn multiply_8_bits(block: &Block<'_>, lines: &[Words], tile: &mut [F32x16]) {
    let head = heads(block, lines, tile);
    let steps = Steps {
        zero: [_mm256_setzero_si256(); 2],
        load: |[first, second]: &[Words; 2]| [load_words_of(first), load_words_of(second)],
        prefetch: |line: &Words| prefetch(line),
        multiply_add: |x: [u32; 2], columns: &[IntegerPair; 2], sums: IntegerPair| {
            let x = x.map(|x| _mm256_set1_epi32(x.cast_signed()));
            let half = |half: usize| {
                let fours = _mm256_add_epi16(
                    _mm256_maddubs_epi16(x[0], columns[0][half]),
                    _mm256_maddubs_epi16(x[1], columns[1][half]),
                );
                let eights = _mm256_madd_epi16(fours, _mm256_set1_epi16(1));
                _mm256_add_epi32(sums[half], eights)
            };
            [half(0), half(1)]
        },
        add: |sums: IntegerPair, place: Place, line: &mut F32x16| {
            add_integers(block, head(place), sums, place, line);
        },
    };
    walk_by_two(block, lines, HEAD, &steps, tile);
}

/// Gives the head of the panel at a place of the task.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn heads<'a>(
    block: &Block<'_>,
    lines: &'a [Words],
    tile: &[F32x16],
) -> impl Fn(Place) -> &'a [Words] + use<'a> {
    let panel_len = lines.len() / (tile.len() / block.rows.len());
    move |place| &lines[place.panel * panel_len..][..HEAD]
}

/// Scales the sums of a block of k and adds them to a line of the tile.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn add_integers(
    block: &Block<'_>,
    head: &[Words],
    sums: IntegerPair,
    place: Place,
    line: &mut F32x16,
) {
    let (scales, weights) = (load_words_of(&head[0]), load_words_of(&head[1]));
    let (x_scale, x_zero) = block.x_scale(place.row);
    let (x_scale, x_zero) = (_mm256_set1_ps(x_scale), _mm256_set1_epi32(x_zero));
    let start = if block.is_first() {
        zero()
    } else {
        load_line(line)
    };
    let half = |half: usize| {
        // Both factors fit 16 bits, or `zero` is 0 (`integers.rs`).
        let zeros = _mm256_madd_epi16(weights[half], x_zero);
        let sum = _mm256_sub_epi32(sums[half], zeros);
        let sum = _mm256_cvtepi32_ps(sum);
        let scaled = _mm256_mul_ps(sum, _mm256_castsi256_ps(scales[half]));
        _mm256_fmadd_ps(scaled, x_scale, start[half])
    };
    store_line(line, [half(0), half(1)]);
}

/// See [`Integers::pack_row`]: the same bits.
#[target_feature(enable = "avx2,fma")]
pub(super) fn pack_row(integers: Integers, numbers: &[f32], words: &mut [u32]) -> RowScale {
    // Whole groups of 32 numbers: every block of k but an odd last one.
    let (groups, []) = numbers.as_chunks::<32>() else {
        return integers.pack_row(numbers, words);
    };
    let quarters = |group: &[f32; 32]| {
        let quarters = group.as_chunks::<8>().0;
        [
            load(&quarters[0]),
            load(&quarters[1]),
            load(&quarters[2]),
            load(&quarters[3]),
        ]
    };
    let (mut least, mut largest) = (_mm256_setzero_ps(), _mm256_setzero_ps());
    // Magnitudes are ordered as their bits are, with infinity and NaN above all numbers.
    let mut magnitude = _mm256_setzero_si256();
    for group in groups {
        for lanes in quarters(group) {
            least = _mm256_min_ps(lanes, least);
            largest = _mm256_max_ps(lanes, largest);
            let bits = _mm256_and_si256(_mm256_castps_si256(lanes), _mm256_set1_epi32(i32::MAX));
            magnitude = _mm256_max_epu32(magnitude, bits);
        }
    }
    let [mut lows, mut highs] = [[0.0; 8]; 2];
    store(&mut lows, least);
    store(&mut highs, largest);
    let mut bits = [0; 8];
    store_words(&mut bits, magnitude);
    let is_finite = bits.iter().all(|bits| f32::from_bits(*bits).is_finite());
    let least = lows.into_iter().fold(0.0, f32::min);
    let largest = highs.into_iter().fold(0.0, f32::max);
    let scale = integers.row_scale(least, largest, is_finite);
    if !is_finite {
        words.fill(0);
        return scale;
    }
    let inverse = _mm256_set1_ps(scale.inverse);
    let zero = _mm256_set1_epi32(scale.zero);
    // Packing takes the halves of both registers in turn.
    let in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let mut words = words.as_chunks_mut::<8>().0.iter_mut();
    for group in groups {
        let [a, b, c, d] = quarters(group)
            .map(|lanes| _mm256_add_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(lanes, inverse)), zero));
        let (low, high) = (_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
        let mut put = |lanes| {
            if let Some(words) = words.next() {
                store_words(words, lanes);
            }
        };
        match integers {
            Integers::Bits16 => {
                put(_mm256_permute4x64_epi64::<0b11_01_10_00>(low));
                put(_mm256_permute4x64_epi64::<0b11_01_10_00>(high));
            }
            Integers::Bits8 => {
                let bytes = _mm256_packus_epi16(low, high);
                put(_mm256_permutevar8x32_epi32(bytes, in_order));
            }
        }
    }
    scale
}

/// See [`super::portable::finish`].
#[target_feature(enable = "avx2,fma")]
pub(super) fn finish(finish: &Finish<'_>, rows: Range<usize>, panel: usize, sums: &[F32x16]) {
    let bias = load_line(&finish.bias(panel));
    let is_gelu = finish.is_gelu();
    finish.each_row(rows, panel, sums, |row| {
        let mut sums = add(load_line(row.sums), bias);
        for (side, lora_b) in row.side.iter().zip(row.lora_b) {
            sums = multiply_add(f32::from_bits(side[row.lane]), load_line(lora_b), sums);
        }
        if is_gelu {
            sums = sums.map(|lanes| gelu(lanes));
        }
        if !row.residual.is_empty() {
            sums = add(sums, load_columns(row.residual));
        }
        store_columns(row.out, sums);
    });
}

/// Reads up to 16 columns.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn load_columns(columns: &[f32]) -> Pair {
    match columns.as_chunks::<8>() {
        ([low, high], []) => [load(low), load(high)],
        ([low], rest) => [load(low), load_partial(rest)],
        (_, rest) => [load_partial(rest), zero()[1]],
    }
}

/// Writes up to 16 columns.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn store_columns(columns: &mut [f32], lanes: Pair) {
    match columns.as_chunks_mut::<8>() {
        ([low, high], []) => {
            store(low, lanes[0]);
            store(high, lanes[1]);
        }
        ([low], rest) => {
            store(low, lanes[0]);
            store_partial(rest, lanes[1]);
        }
        (_, rest) => store_partial(rest, lanes[0]),
    }
}

/// See [`super::portable::side_products`].
#[target_feature(enable = "avx2,fma")]
pub(super) fn side_products(rows: &SideRows<'_>, side: &mut [[u32; ROWS]]) {
    let one = |x: &[f32], lora_a: &[f32]| dots::<1>(x, lora_a)[0];
    rows.multiply(side, |x, lora_a| [dots::<4>(x, lora_a)], one);
}

/// The products of `x` with `N` rows as long as it, each in 16 partial sums by position.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn dots<const N: usize>(x: &[f32], rows: &[f32]) -> [f32; N] {
    let rows: [_; N] =
        std::array::from_fn(|row| rows[row * x.len()..][..x.len()].as_chunks::<16>());
    let (chunks, rest) = x.as_chunks::<16>();
    let mut sums = [zero(); N];
    for (index, chunk) in chunks.iter().enumerate() {
        let x = load_columns(chunk);
        for (sums, (row, _)) in sums.iter_mut().zip(&rows) {
            *sums = multiply_add_each(x, load_columns(&row[index]), *sums);
        }
    }
    if !rest.is_empty() {
        let x = load_columns(rest);
        for (sums, (_, rest)) in sums.iter_mut().zip(&rows) {
            *sums = multiply_add_each(x, load_columns(rest), *sums);
        }
    }
    sums.map(|[low, high]| sum(_mm256_add_ps(low, high)))
}

/// `a · b + sums` lane by lane, rounded once.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn multiply_add_each(a: Pair, b: Pair, sums: Pair) -> Pair {
    [
        _mm256_fmadd_ps(a[0], b[0], sums[0]),
        _mm256_fmadd_ps(a[1], b[1], sums[1]),
    ]
}
