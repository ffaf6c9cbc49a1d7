//! Integer weights and rows: ranges, scales and rounding, the same on every machine.
//!
//! A number is kept as `scale · integer`, with one scale for each column of the product (a row of
//! the weights) and one for each row of `x`, both anew for every block of 256 steps of k: the
//! largest magnitude of those numbers becomes the largest integer of the range. Within a block the
//! products are summed as 32-bit integers, which is exact; the blocks are added in f32, in order.
//! A scale of a block instead of the whole row keeps what one large number spoils to its block.
//!
//! # Why no sum overflows
//! | | weights | rows of x | of 256 products at most | fits |
//! |---|---|---|---|---|
//! | [`INT16`] | 12 bits, ±2047 | 13 bits, ±4095 | 256 · 2047 · 4095 = 2 145 914 880 | i32: 2 147 483 647 |
//! | [`INT8`] | 7 bits, ±63 | 8 bits, ±127, kept as 1..=255 | 256 · 63 · 255 = 4 112 640 | i32 |
//! | [`INT8`], AVX2's sum of two | | | 2 · 63 · 255 = 32 130 | i16: 32 767 |
//!
//! AVX-512 VNNI would take 8-bit weights, but two machines shall have the same integers.

use std::ops::Range;

use super::K_BLOCK;
use crate::tile::{COLUMNS, Words};

/// The range of integers of a packed matrix and of the rows that it is multiplied with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Integers {
    /// Numbers in a word of 32 bits.
    pub(super) per_word: usize,
    /// Largest magnitude of a weight.
    pub(super) weight_max: f32,
    /// Largest magnitude of a number of x.
    pub(super) row_max: f32,
    /// Added to each number of x, so that none is negative.
    pub(super) row_offset: i32,
}

/// 12-bit weights, 13-bit rows, in 16 bits each.
pub(super) const INT16: Integers = Integers {
    per_word: 2,
    weight_max: 2047.0,
    row_max: 4095.0,
    row_offset: 0,
};

/// 7-bit weights, 8-bit rows, in 8 bits each.
pub(super) const INT8: Integers = Integers {
    per_word: 4,
    weight_max: 63.0,
    row_max: 127.0,
    row_offset: 128,
};

/// Words that a block of k takes at most.
pub(super) const WORDS: usize = K_BLOCK / 2;

/// Lines before the steps of a panel: the scales of the columns as f32, then what the offset of
/// the rows adds to their sums, as i32.
pub(super) const HEAD: usize = 2;

impl Integers {
    /// The bits of a word that an integer takes.
    fn bits(self) -> usize {
        32 / self.per_word
    }

    /// `integer` at its place of a word.
    fn place(self, integer: i32, index: usize) -> u32 {
        let mask = u32::MAX >> (32 - self.bits());
        (integer.cast_unsigned() & mask) << (index % self.per_word * self.bits())
    }

    /// Words of `count` numbers; the last is filled with zeros.
    pub(super) fn words(self, count: usize) -> usize {
        count.div_ceil(self.per_word)
    }

    /// Fills the lines of one panel and block of k, head and steps, from the numbers of its columns.
    pub(super) fn pack_panel(self, columns: &[[f32; K_BLOCK]; COLUMNS], lines: &mut [Words]) {
        let (head, steps) = lines.split_at_mut(HEAD);
        let count = steps.len() * self.per_word;
        for (lane, column) in columns.iter().enumerate() {
            let column = &column[..count.min(K_BLOCK)];
            let Scale { scale, inverse } = Scale::new(magnitude(column), self.weight_max);
            let mut sum = 0;
            for (index, number) in column.iter().enumerate() {
                let integer = round(number * inverse);
                sum += integer;
                steps[index / self.per_word].0[lane] |= self.place(integer, index);
            }
            head[0].0[lane] = scale.to_bits();
            head[1].0[lane] = (sum * self.row_offset).cast_unsigned();
        }
    }

    /// Writes the integers of some numbers of a row, at most a block, and returns their scale.
    /// The specification of the versions by instruction set, which give the same bits.
    pub(super) fn pack_row(self, numbers: &[f32], words: &mut [u32]) -> f32 {
        let Scale { scale, inverse } = Scale::new(magnitude(numbers), self.row_max);
        words.fill(0);
        for (index, number) in numbers.iter().enumerate() {
            let integer = round(number * inverse).wrapping_add(self.row_offset);
            words[index / self.per_word] |= self.place(integer, index);
        }
        scale
    }
}

/// A scale and what numbers are multiplied with to get integers.
pub(super) struct Scale {
    pub(super) scale: f32,
    pub(super) inverse: f32,
}

impl Scale {
    /// For numbers up to `magnitude` and integers up to `max`. Numbers too small for a finite
    /// inverse become zeros; a magnitude that is not finite becomes a scale that is not.
    pub(super) fn new(magnitude: f32, max: f32) -> Scale {
        let inverse = max / magnitude;
        if inverse.is_infinite() {
            return Scale {
                scale: 0.0,
                inverse: 0.0,
            };
        }
        Scale {
            scale: magnitude / max,
            inverse,
        }
    }
}

/// The largest magnitude; NaN if a number is.
fn magnitude(numbers: &[f32]) -> f32 {
    // Magnitudes are ordered as their bits are, and NaN above all.
    let bits = numbers.iter().map(|number| number.abs().to_bits());
    f32::from_bits(bits.max().unwrap_or(0))
}

/// The nearest integer, even where two are as near, for magnitudes below 2^22.
fn round(number: f32) -> i32 {
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
