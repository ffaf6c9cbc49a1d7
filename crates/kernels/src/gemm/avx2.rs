//! Matrix products with AVX2 and FMA.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{Block, Finish, Lines};
use crate::avx2::{load, load_partial, prefetch, store, store_partial, sum};
use crate::gelu::avx2::gelu;
use crate::tile::avx2::{Pair, add, load_bf16_line, load_line, multiply_add, store_line, zero};
use crate::tile::{F32x16, ROWS};

/// See [`super::portable::multiply`].
#[target_feature(enable = "avx2,fma")]
pub(super) fn multiply(block: &Block<'_>, tile: &mut [F32x16]) {
    match block.weights {
        Lines::F32(lines) => multiply_lines(block, lines, |line| load_line(line), tile),
        Lines::Bf16(lines) => multiply_lines(block, lines, |line| load_bf16_line(line), tile),
    }
}

/// Full tiles panel by panel, then the last rows, of several panels at once if they are few: each
/// sum is one chain, and it takes eight or more chains to hide the latency of a multiply-add.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn multiply_lines<L>(
    block: &Block<'_>,
    lines: &[L],
    load: impl Fn(&L) -> Pair + Copy,
    tile: &mut [F32x16],
) {
    let (rows, k) = (block.rows.len(), block.k.len());
    let panels = lines.chunks_exact(k);
    for (panel, (lines_of_panel, sums)) in panels.zip(tile.chunks_exact_mut(rows)).enumerate() {
        let mut next = &lines[(panel + 1) * k..];
        for (x, sums) in block.tiles(sums) {
            if sums.len() == ROWS {
                let is_first = block.is_first();
                multiply_tile::<ROWS, 1, L>(x, lines_of_panel, next, load, is_first, rows, sums);
                next = &[];
            }
        }
    }
    match rows % ROWS {
        1 => multiply_last::<1, 4, L>(block, lines, load, tile),
        2 => multiply_last::<2, 3, L>(block, lines, load, tile),
        3 => multiply_last::<3, 2, L>(block, lines, load, tile),
        4 => multiply_last::<4, 1, L>(block, lines, load, tile),
        5 => multiply_last::<5, 1, L>(block, lines, load, tile),
        _ => {}
    }
}

/// The last `R` rows, by `P` panels at once.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn multiply_last<const R: usize, const P: usize, L>(
    block: &Block<'_>,
    lines: &[L],
    load: impl Fn(&L) -> Pair + Copy,
    tile: &mut [F32x16],
) {
    let (rows, k) = (block.rows.len(), block.k.len());
    let x = &block.x.panel((block.rows.end - 1) / ROWS)[block.k.clone()];
    let groups = lines.chunks(P * k).zip(tile.chunks_mut(P * rows));
    for (group, (lines_of_group, sums)) in groups.enumerate() {
        if lines_of_group.len() == P * k {
            let sums = &mut sums[rows - R..];
            // After full tiles the lines are in the cache already.
            let next = if rows == R {
                &lines[(group + 1) * P * k..]
            } else {
                &[]
            };
            multiply_tile::<R, P, L>(x, lines_of_group, next, load, block.is_first(), rows, sums);
        } else {
            for (lines, sums) in lines_of_group
                .chunks_exact(k)
                .zip(sums.chunks_exact_mut(rows))
            {
                let sums = &mut sums[rows - R..];
                multiply_tile::<R, 1, L>(x, lines, &[], load, block.is_first(), rows, sums);
            }
        }
    }
}

/// `R` rows by `P` panels over one block of k. The sums of a panel are `stride` lines after those
/// of the one before. `next` are the lines that will be wanted after this panel, which the first
/// tile over a panel asks for while it computes; empty otherwise.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn multiply_tile<const R: usize, const P: usize, L>(
    x: &[[f32; ROWS]],
    lines: &[L],
    next: &[L],
    load: impl Fn(&L) -> Pair,
    is_first: bool,
    stride: usize,
    sums: &mut [F32x16],
) {
    let panels: [&[L]; P] = std::array::from_fn(|panel| &lines[panel * x.len()..][..x.len()]);
    let mut block_sums = [[zero(); P]; R];
    for (step, x) in x.iter().enumerate() {
        for panel in 0..P {
            let columns = load(&panels[panel][step]);
            if let Some(line) = next.get(panel * panels[panel].len() + step) {
                prefetch(line);
            }
            for row in 0..R {
                block_sums[row][panel] = multiply_add(x[row], columns, block_sums[row][panel]);
            }
        }
    }
    for panel in 0..P {
        for row in 0..R {
            let line = &mut sums[panel * stride + row];
            let block_sum = block_sums[row][panel];
            let sum = if is_first {
                block_sum
            } else {
                add(load_line(line), block_sum)
            };
            store_line(line, sum);
        }
    }
}

/// See [`super::portable::finish`].
#[target_feature(enable = "avx2,fma")]
pub(super) fn finish(finish: &Finish<'_>, rows: Range<usize>, panel: usize, sums: &[F32x16]) {
    let bias = load_line(&finish.bias(panel));
    let is_gelu = finish.is_gelu();
    finish.each_row(rows, panel, sums, |row| {
        let mut sums = add(load_line(row.sums), bias);
        for (side, lora_b) in row.side.iter().zip(row.lora_b) {
            sums = multiply_add(side[row.lane], load_line(lora_b), sums);
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

/// See [`super::portable::side_products`]. Four products at once hide the latency; each has one
/// order of its own.
#[target_feature(enable = "avx2,fma")]
pub(super) fn side_products(x: &[f32], lora_a: &[f32], lane: usize, side: &mut [[f32; ROWS]]) {
    let k = x.len();
    for (side, lora_a) in side.chunks_mut(4).zip(lora_a.chunks(4 * k)) {
        if lora_a.len() == 4 * k {
            for (side, product) in side.iter_mut().zip(dots::<4>(x, lora_a)) {
                side[lane] = product;
            }
        } else {
            for (side, lora_a) in side.iter_mut().zip(lora_a.chunks_exact(k)) {
                [side[lane]] = dots::<1>(x, lora_a);
            }
        }
    }
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
