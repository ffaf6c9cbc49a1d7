//! Integer weights and rows: ranges, scales and rounding, the same on every machine.
//!
//! A weight is kept as `scale · integer`, a number of a row as `scale · (integer - zero)`, with one
//! scale for each column of the product (a row of the weights) and one scale and zero for each row
//! of `x`, both anew for every block of 256 steps of k. Within a block the products are summed as
//! 32-bit integers, which is exact; the blocks are added in f32, in order. A scale of a block
//! instead of the whole row keeps what one large number spoils to its block.
//!
//! # Ranges, and why no sum overflows
//! **16 bits.** Rows: the largest magnitude becomes 8191, zero is 0. Weights: as fine as the sum
//! of a column allows, up to 32767. With W = Σ|weight| over a block, no sum of products passes
//! 8191 · W, and the scale is chosen so that W <= 261 900 + 256/2 for the rounding:
//! 8191 · 262 028 = 2 146 271 348 < 2^31 - 1 = 2 147 483 647. Normally distributed weights get
//! about ±3600 that way; a bound by the largest weight alone would give ±1023.
//!
//! **8 bits.** Rows: from 0 to 191; the least number (or 0) becomes 0 and the largest (or 0) 191,
//! so that numbers which are all on one side, as after GELU, use the whole range; 192 where both
//! ends are rounded up. Weights: AVX2 sums four products in 16 bits, those of two words, and other
//! processors shall have the same integers. So the largest sum of four magnitudes becomes 168,
//! after rounding 170 at most: 192 · 170 = 32 640 <= 32 767. No weight passes 127.
//! A block: 64 · 32 640 = 2 088 960, and `zero` times the sum of the weights as much again. That sum
//! is 64 · 170 = 10 880 at most, 16 bits, as is `zero`.
//! 191 and 168 share the 16 bits out so that rows and normally distributed weights get steps of
//! about the same size.

use std::ops::Range;

use super::K_BLOCK;
use crate::Isa;
use crate::tile::{COLUMNS, Words};

/// The integers of a packed matrix and of the rows that it is multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Integers {
    /// Two in a word.
    Bits16,
    /// Four in a word.
    Bits8,
}

/// Largest magnitude of a row of 16 bits.
const ROW_MAX: f32 = 8191.0;
/// Largest weight of 16 bits, and largest sum of the magnitudes of a block before rounding.
const WEIGHT_MAX: f32 = 32_767.0;
const WEIGHT_SUM_MAX: f32 = 261_900.0;
/// Largest number of a row of 8 bits.
const ROW_RANGE: f32 = 191.0;
/// Largest weight of 8 bits, and largest sum of the magnitudes of a four before rounding.
pub(super) const BYTE_MAX: f32 = 127.0;
const WEIGHT_FOUR_MAX: f32 = 168.0;
/// And after rounding.
pub(super) const WEIGHT_FOUR_LIMIT: f32 = 170.0;
/// Weights of two words, of which each half of the words makes a four.
pub(super) const TWO_WORDS: usize = 8;

/// Words that a block of k takes at most.
pub(super) const WORDS: usize = K_BLOCK / 2;

/// Lines before the steps of a panel: the scales of the columns as f32, then the sums of their
/// integers, which are to be taken away once for each unit of a row's zero.
pub(super) const HEAD: usize = 2;

/// Lines before the side products of a panel of rows, for each block of k: scales, then zeros.
pub(super) const ROW_HEAD: usize = 2;

impl Integers {
    /// How many a word holds.
    pub(super) fn per_word(self) -> usize {
        match self {
            Integers::Bits16 => 2,
            Integers::Bits8 => 4,
        }
    }

    /// `integer` at its place of a word.
    pub(super) fn place(self, integer: i32, index: usize) -> u32 {
        let bits = 32 / self.per_word();
        let mask = u32::MAX >> (32 - bits);
        (integer.cast_unsigned() & mask) << (index % self.per_word() * bits)
    }

    /// Words of `count` numbers; the last is filled with zeros, and words of bytes come by two.
    pub(super) fn words(self, count: usize) -> usize {
        match self {
            Integers::Bits16 => count.div_ceil(2),
            Integers::Bits8 => count.div_ceil(TWO_WORDS) * 2,
        }
    }

    /// Bits of the words of rows that are the other way round for an instruction set. NEON
    /// multiplies signed bytes with signed ones: there a byte of a row is 128 less, and so is `zero`.
    pub(super) fn flipped_bits(self, isa: Isa) -> u32 {
        match (self, isa) {
            (Integers::Bits8, Isa::Neon) => 0x8080_8080,
            _ => 0,
        }
    }

    /// Fills the lines of one panel and block of k, head and steps, from the numbers of its columns.
    pub(super) fn pack_panel(self, columns: &[[f32; K_BLOCK]; COLUMNS], lines: &mut [Words]) {
        let (head, steps) = lines.split_at_mut(HEAD);
        let count = steps.len() * self.per_word();
        for (lane, column) in columns.iter().enumerate() {
            let column = &column[..count.min(K_BLOCK)];
            let inverse = finite_or_zero(self.weight_inverse(column));
            let mut sum = 0;
            for (index, number) in column.iter().enumerate() {
                let integer = round(number * inverse);
                sum += integer;
                steps[index / self.per_word()].0[lane] |= self.place(integer, index);
            }
            head[0].0[lane] = finite_or_zero(1.0 / inverse).to_bits();
            head[1].0[lane] = sum.cast_unsigned();
        }
    }

    /// What weights of a block are multiplied with to get integers.
    pub(super) fn weight_inverse(self, column: &[f32]) -> f32 {
        let magnitudes = column.iter().map(|number| number.abs());
        let largest = magnitudes.clone().fold(0.0, f32::max);
        match self {
            Integers::Bits16 => {
                let sum: f32 = magnitudes.sum();
                (WEIGHT_MAX / largest).min(WEIGHT_SUM_MAX / sum)
            }
            Integers::Bits8 => {
                let fours = column.chunks(TWO_WORDS).flat_map(|numbers| {
                    let mut fours = [0.0_f32; 2];
                    for (index, number) in numbers.iter().enumerate() {
                        fours[four_of(index)] += number.abs();
                    }
                    fours
                });
                (BYTE_MAX / largest).min(WEIGHT_FOUR_MAX / fours.fold(0.0, f32::max))
            }
        }
    }

    /// Writes the integers of some numbers of a row, at most a block, and returns what they mean.
    /// The specification of the versions by instruction set, which give the same bits.
    pub(super) fn pack_row(self, numbers: &[f32], words: &mut [u32]) -> RowScale {
        let least = numbers
            .iter()
            .fold(0.0, |least: f32, number| least.min(*number));
        let largest = numbers
            .iter()
            .fold(0.0, |largest: f32, number| largest.max(*number));
        let is_finite = numbers.iter().all(|number| number.is_finite());
        words.fill(0);
        let scale = self.row_scale(least, largest, is_finite);
        if !is_finite {
            return scale;
        }
        for (index, number) in numbers.iter().enumerate() {
            let integer = round(number * scale.inverse) + scale.zero;
            words[index / self.per_word()] |= self.place(integer, index);
        }
        scale
    }

    /// The scale of a row with these extremes, 0 included. Numbers too small for a finite inverse
    /// become zeros; numbers that are not finite become zeros of a scale that is not.
    pub(super) fn row_scale(self, least: f32, largest: f32, is_finite: bool) -> RowScale {
        let inverse = match self {
            Integers::Bits16 => ROW_MAX / largest.max(-least),
            Integers::Bits8 => ROW_RANGE / (largest - least),
        };
        if !is_finite {
            return RowScale {
                inverse: 0.0,
                scale: f32::NAN,
                zero: 0,
            };
        }
        let inverse = finite_or_zero(inverse);
        RowScale {
            inverse,
            scale: finite_or_zero(1.0 / inverse),
            zero: match self {
                Integers::Bits16 => 0,
                Integers::Bits8 => round(-least * inverse),
            },
        }
    }
}

/// What the integers of a row in a block mean.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowScale {
    /// What the numbers were multiplied with.
    pub(super) inverse: f32,
    pub(super) scale: f32,
    /// The integer that stands for 0.
    pub(super) zero: i32,
}

/// Which four of its two words a weight of 8 bits is in.
pub(super) fn four_of(index: usize) -> usize {
    index / 2 % 2
}

pub(super) fn finite_or_zero(number: f32) -> f32 {
    if number.is_finite() { number } else { 0.0 }
}

/// The nearest integer, even where two are as near, for magnitudes below 2^22.
pub(super) fn round(number: f32) -> i32 {
    // At 1.5 · 2^23 a unit in the last place is 1.
    const UNIT: f32 = 12_582_912.0;
    let bits = (number + UNIT).to_bits().cast_signed();
    bits.wrapping_sub(UNIT.to_bits().cast_signed())
}

/// The blocks of `0..k`, in order.
pub(super) fn k_blocks(k: usize) -> impl Iterator<Item = Range<usize>> {
    (0..k)
        .step_by(K_BLOCK)
        .map(move |start| start..k.min(start + K_BLOCK))
}
