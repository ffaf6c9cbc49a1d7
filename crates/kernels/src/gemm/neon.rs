//! Matrix products with NEON.
//!
//! # Integers
//! **16 bits.** Each line of weights is cut into the first and the second numbers of its words,
//! once for all rows, so that a widening multiply-add serves four columns and no sum needs a step
//! across lanes.
//!
//! **8 bits.** Rows come as signed bytes, 128 less than they are ([`Integers::flipped_bits`]); what
//! that takes from a sum is 128 times the sum of the weights, and `zero` being 128 less gives it
//! back. Where the processor has dot products of four bytes, one instruction does four columns.
//! Elsewhere products are summed by two in 16 bits, which hold them: no weight passes 127, and
//! 2 · 128 · 127 = 32 512 <= 32 767. Both are exact, so they give the same bits.

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};
use std::ops::Range;

use super::integers::{HEAD, Integers, RowScale};
use super::rows::SideRows;
use super::walk::{Place, Steps, walk};
use super::{Block, Finish, Lines};
use crate::gelu::neon::gelu;
use crate::neon::{load, prefetch, store_words, sum};
use crate::tile::neon::{
    Quad, add, load_bf16_line, load_line, load_words_of, multiply_add, store_line, zero,
};
use crate::tile::{COLUMNS, F32x16, ROWS, Words};

/// Sums of 16 columns as integers.
type IntegerQuad = [int32x4_t; 4];

/// What `zero` is less by, as the bytes of rows are.
const BYTE_OFFSET: i32 = 128;

/// See [`super::portable::multiply`].
#[target_feature(enable = "neon")]
pub(super) fn multiply(block: &Block<'_>, tile: &mut [F32x16]) {
    match block.weights {
        Lines::F32(lines) => multiply_lines(block, lines, |line| load_line(line), tile),
        Lines::Bf16(lines) => multiply_lines(block, lines, |line| load_bf16_line(line), tile),
        Lines::Int16(lines) => multiply_16_bits(block, lines, tile),
        Lines::Int8(lines) if is_aarch64_feature_detected!("dotprod") => {
            #[expect(unsafe_code, reason = "the call needs a processor with dot products")]
            // SAFETY: the line above.
            unsafe {
                multiply_8_bits_by_dot(block, lines, tile);
            }
        }
        Lines::Int8(lines) => multiply_8_bits(block, lines, tile),
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn multiply_lines<L>(
    block: &Block<'_>,
    lines: &[L],
    load: impl Fn(&L) -> Quad,
    tile: &mut [F32x16],
) {
    let is_first = block.is_first();
    let steps = Steps {
        zero: zero(),
        load: |[line]: &[L; 1]| load(line),
        prefetch: |line: &L| prefetch(line),
        multiply_add: |[x]: [u32; 1], columns: &Quad, sums| {
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

#[target_feature(enable = "neon")]
fn multiply_16_bits(block: &Block<'_>, lines: &[Words], tile: &mut [F32x16]) {
    let head = heads(block, lines, tile);
    let steps = Steps {
        zero: [vdupq_n_s32(0); 4],
        // The first numbers of the words of columns 0 to 7, the second ones, both of 8 to 15.
        load: |[line]: &[Words; 1]| {
            let words = load_words_of(line);
            let part = |part: usize| vreinterpretq_s16_u32(words[part]);
            [
                vuzp1q_s16(part(0), part(1)),
                vuzp2q_s16(part(0), part(1)),
                vuzp1q_s16(part(2), part(3)),
                vuzp2q_s16(part(2), part(3)),
            ]
        },
        prefetch: |line: &Words| prefetch(line),
        multiply_add: |[x]: [u32; 1], columns: &[int16x8_t; 4], sums: IntegerQuad| {
            let x = vreinterpret_s16_u32(vdup_n_u32(x));
            let halves = |first: int16x8_t, second: int16x8_t, low, high| {
                let low = vmlal_lane_s16::<0>(low, vget_low_s16(first), x);
                let high = vmlal_high_lane_s16::<0>(high, first, x);
                [
                    vmlal_lane_s16::<1>(low, vget_low_s16(second), x),
                    vmlal_high_lane_s16::<1>(high, second, x),
                ]
            };
            let [a, b] = halves(columns[0], columns[1], sums[0], sums[1]);
            let [c, d] = halves(columns[2], columns[3], sums[2], sums[3]);
            [a, b, c, d]
        },
        add: |sums: IntegerQuad, place: Place, line: &mut F32x16| {
            add_integers(block, head(place), 0, sums, place, line);
        },
    };
    walk::<4, 3, 2, 1, 1, 1, _, _, _>(block, lines, HEAD, &steps, tile);
}

#[target_feature(enable = "neon")]
fn multiply_8_bits(block: &Block<'_>, lines: &[Words], tile: &mut [F32x16]) {
    let head = heads(block, lines, tile);
    let steps = Steps {
        zero: [vdupq_n_s32(0); 4],
        load: |[line]: &[Words; 1]| load_bytes(line),
        prefetch: |line: &Words| prefetch(line),
        multiply_add: |[x]: [u32; 1], columns: &[int8x16_t; 4], sums: IntegerQuad| {
            let x = vreinterpretq_s8_u32(vdupq_n_u32(x));
            let part = |part: usize| {
                let low = vmull_s8(vget_low_s8(columns[part]), vget_low_s8(x));
                let high = vmull_high_s8(columns[part], x);
                vpadalq_s16(sums[part], vpaddq_s16(low, high))
            };
            [part(0), part(1), part(2), part(3)]
        },
        add: |sums: IntegerQuad, place: Place, line: &mut F32x16| {
            add_integers(block, head(place), BYTE_OFFSET, sums, place, line);
        },
    };
    walk::<4, 3, 2, 1, 1, 1, _, _, _>(block, lines, HEAD, &steps, tile);
}

#[target_feature(enable = "neon,dotprod")]
fn multiply_8_bits_by_dot(block: &Block<'_>, lines: &[Words], tile: &mut [F32x16]) {
    let head = heads(block, lines, tile);
    let steps = Steps {
        zero: [vdupq_n_s32(0); 4],
        load: |[line]: &[Words; 1]| load_bytes(line),
        prefetch: |line: &Words| prefetch(line),
        multiply_add: |[x]: [u32; 1], columns: &[int8x16_t; 4], sums: IntegerQuad| {
            let x = f32::from_bits(x);
            [
                dot(columns[0], x, sums[0]),
                dot(columns[1], x, sums[1]),
                dot(columns[2], x, sums[2]),
                dot(columns[3], x, sums[3]),
            ]
        },
        add: |sums: IntegerQuad, place: Place, line: &mut F32x16| {
            add_integers(block, head(place), BYTE_OFFSET, sums, place, line);
        },
    };
    walk::<4, 3, 2, 1, 1, 1, _, _, _>(block, lines, HEAD, &steps, tile);
}

/// Reads four weights of each of 16 columns.
#[inline]
#[target_feature(enable = "neon")]
fn load_bytes(line: &Words) -> [int8x16_t; 4] {
    let words = load_words_of(line);
    [
        vreinterpretq_s8_u32(words[0]),
        vreinterpretq_s8_u32(words[1]),
        vreinterpretq_s8_u32(words[2]),
        vreinterpretq_s8_u32(words[3]),
    ]
}

/// Adds to each of four sums the four products of its weights with the bytes of `x`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot(weights: int8x16_t, x: f32, sums: int32x4_t) -> int32x4_t {
    let mut sums = sums;
    #[expect(
        unsafe_code,
        reason = "stable Rust has no intrinsic for the instruction"
    )]
    // SAFETY: it reads and writes the named registers only.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {weights:v}.16b, {x:v}.4b[0]",
            sums = inout(vreg) sums,
            weights = in(vreg) weights,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// Gives the head of the panel at a place of the task.
#[inline]
#[target_feature(enable = "neon")]
fn heads<'a>(
    block: &Block<'_>,
    lines: &'a [Words],
    tile: &[F32x16],
) -> impl Fn(Place) -> &'a [Words] + use<'a> {
    let panel_len = lines.len() / (tile.len() / block.rows.len());
    move |place| &lines[place.panel * panel_len..][..HEAD]
}

/// Scales the sums of a block of k and adds them to a line of the tile. `offset` is what the
/// numbers of rows are less by.
#[inline]
#[target_feature(enable = "neon")]
fn add_integers(
    block: &Block<'_>,
    head: &[Words],
    offset: i32,
    sums: IntegerQuad,
    place: Place,
    line: &mut F32x16,
) {
    let (scales, weights) = (load_words_of(&head[0]), load_words_of(&head[1]));
    let (x_scale, x_zero) = block.x_scale(place.row);
    let start = if block.is_first() {
        zero()
    } else {
        load_line(line)
    };
    let part = |part: usize| {
        let weights = vreinterpretq_s32_u32(weights[part]);
        let sum = vcvtq_f32_s32(vmlsq_n_s32(sums[part], weights, x_zero - offset));
        let scaled = vmulq_f32(sum, vreinterpretq_f32_u32(scales[part]));
        vfmaq_n_f32(start[part], scaled, x_scale)
    };
    store_line(line, [part(0), part(1), part(2), part(3)]);
}

/// See [`Integers::pack_row`]: the same bits.
#[target_feature(enable = "neon")]
pub(super) fn pack_row(integers: Integers, numbers: &[f32], words: &mut [u32]) -> RowScale {
    // Whole groups of 16 numbers: every block of k but an odd last one.
    let (groups, []) = numbers.as_chunks::<16>() else {
        return integers.pack_row(numbers, words);
    };
    let quarters = |group: &[f32; 16]| -> Quad {
        let quarters = group.as_chunks::<4>().0;
        [
            load(&quarters[0]),
            load(&quarters[1]),
            load(&quarters[2]),
            load(&quarters[3]),
        ]
    };
    let (mut least, mut largest) = (vdupq_n_f32(0.0), vdupq_n_f32(0.0));
    // Magnitudes are ordered as their bits are, with infinity and NaN above all numbers.
    let mut magnitude = vdupq_n_u32(0);
    for group in groups {
        for lanes in quarters(group) {
            least = vminq_f32(lanes, least);
            largest = vmaxq_f32(lanes, largest);
            magnitude = vmaxq_u32(magnitude, vreinterpretq_u32_f32(vabsq_f32(lanes)));
        }
    }
    let is_finite = f32::from_bits(vmaxvq_u32(magnitude)).is_finite();
    let scale = integers.row_scale(vminvq_f32(least), vmaxvq_f32(largest), is_finite);
    if !is_finite {
        words.fill(0);
        return scale;
    }
    let zero = vdupq_n_s32(scale.zero);
    let mut words = words.as_chunks_mut::<4>().0.iter_mut();
    let mut put = |lanes| {
        if let Some(words) = words.next() {
            store_words(words, lanes);
        }
    };
    for group in groups {
        let [a, b, c, d] = quarters(group).map(|lanes| {
            let integers = vcvtnq_s32_f32(vmulq_n_f32(lanes, scale.inverse));
            vqmovn_s32(vaddq_s32(integers, zero))
        });
        let (low, high) = (vcombine_s16(a, b), vcombine_s16(c, d));
        match integers {
            Integers::Bits16 => {
                put(vreinterpretq_u32_s16(low));
                put(vreinterpretq_u32_s16(high));
            }
            Integers::Bits8 => {
                let bytes = vcombine_u8(vqmovun_s16(low), vqmovun_s16(high));
                put(vreinterpretq_u32_u8(bytes));
            }
        }
    }
    scale
}

/// See [`super::portable::finish`].
#[target_feature(enable = "neon")]
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
#[target_feature(enable = "neon")]
fn load_columns(columns: &[f32]) -> Quad {
    match columns.as_chunks::<4>() {
        ([a, b, c, d], []) => [load(a), load(b), load(c), load(d)],
        _ => load_line(&F32x16::padded(columns)),
    }
}

/// Writes up to 16 columns.
#[inline]
#[target_feature(enable = "neon")]
fn store_columns(columns: &mut [f32], lanes: Quad) {
    let mut line = F32x16::default();
    store_line(&mut line, lanes);
    match columns.as_chunks_mut::<COLUMNS>() {
        ([columns], []) => *columns = line.0,
        (_, columns) => columns.copy_from_slice(&line.0[..columns.len()]),
    }
}

/// See [`super::portable::side_products`].
#[target_feature(enable = "neon")]
pub(super) fn side_products(rows: &SideRows<'_>, side: &mut [[u32; ROWS]]) {
    let one = |x: &[f32], lora_a: &[f32]| dots::<1>(x, lora_a)[0];
    rows.multiply(side, |x, lora_a| [dots::<4>(x, lora_a)], one);
}

/// The products of `x` with `N` rows as long as it, each in 16 partial sums by position.
#[inline]
#[target_feature(enable = "neon")]
fn dots<const N: usize>(x: &[f32], rows: &[f32]) -> [f32; N] {
    let rows: [_; N] =
        std::array::from_fn(|row| rows[row * x.len()..][..x.len()].as_chunks::<COLUMNS>());
    let (chunks, rest) = x.as_chunks::<COLUMNS>();
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
    sums.map(|[a, b, c, d]| sum(vaddq_f32(vaddq_f32(a, b), vaddq_f32(c, d))))
}

/// `a · b + sums` lane by lane, rounded once.
#[inline]
#[target_feature(enable = "neon")]
fn multiply_add_each(a: Quad, b: Quad, sums: Quad) -> Quad {
    [
        vfmaq_f32(sums[0], a[0], b[0]),
        vfmaq_f32(sums[1], a[1], b[1]),
        vfmaq_f32(sums[2], a[2], b[2]),
        vfmaq_f32(sums[3], a[3], b[3]),
    ]
}
