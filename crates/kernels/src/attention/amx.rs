//! Softmax attention with AMX.
//!
//! A factor is one bf16 number for products of 8 bits, the sum of two for those of 16, within 2^-16 of
//! itself, or of three for those of f32, exactly. Of the products of the parts of two factors those are left out that
//! are too small to matter: the one of both small parts of two, and three of nine, each at most 2^-24 of
//! the whole. Keys, and values by place, are the rows of the left tiles; queries, and then their weights,
//! are the columns of the right ones. So scores and sums are lines of 16 queries as in `stream.rs`, and
//! the softmax between the two products is that of AVX-512, in f32.

use std::arch::x86_64::*;
use std::ops::Range;

use super::avx512::rescale;
use super::stream::{Group, start_groups, write_rows};
use super::{Head, KEY_BLOCK, Products};
use crate::amx::{TILE_ROWS, Tile, Tiles};
use crate::avx2::prefetch;
use crate::avx512::{load_line, load_partial, store_line, store_words, transpose, upper_halves};
use crate::tile::{COLUMNS, F32x16, Words};

/// Numbers in a row of a tile: steps of a sum that a product of tiles takes.
const STEP: usize = 2 * COLUMNS;

/// The parts of the same numbers, the largest first: 1 to 3.
type Parts<const P: usize> = [Tile; P];

/// Tiles of rows that are multiplied in turns, because one product waits long for another with the
/// same sums.
const TURNS: usize = 4;

/// Rows that are multiplied at once.
const ROWS: usize = TURNS * TILE_ROWS;

/// One step for those rows.
type RowParts<const P: usize> = [Parts<P>; TURNS];

/// Tokens between the one that is read and the one that is asked for.
const AHEAD: usize = 16;

/// Memory of one task.
#[derive(Default)]
pub(super) struct Scratch {
    bits8: PartsScratch<1>,
    bits16: PartsScratch<2>,
    f32: PartsScratch<3>,
}

/// That for factors of so many parts.
#[derive(Default)]
struct PartsScratch<const P: usize> {
    groups: Vec<Group<1>>,
    /// [groups, steps along head_dim].
    queries: Vec<Parts<P>>,
    /// [keys / 64, steps along head_dim].
    keys: Vec<RowParts<P>>,
    /// [head_dim / 64, steps along the keys].
    values: Vec<RowParts<P>>,
    /// Scores of a block, then weights: a line of 16 queries for each key.
    weights: Vec<Line>,
    /// [steps along the keys].
    weight_tiles: Vec<Parts<P>>,
    /// One row of the output.
    row: Vec<f32>,
}

/// Sixteen queries, or their sums at one place.
type Line = [F32x16; 1];

const NO_LINE: Line = [F32x16([0.0; COLUMNS])];
const NO_TILE: Tile = [Words([0; COLUMNS]); TILE_ROWS];

/// See [`super::attend`].
#[target_feature(enable = "avx2,fma,avx512f,avx512bw")]
pub(super) fn attend(
    head: &Head<'_>,
    queries: Range<usize>,
    products: Products,
    scratch: &mut Scratch,
    write: impl Fn(usize, &[f32]),
) {
    match products {
        Products::F32 => attend_in_parts(head, queries, &mut scratch.f32, write),
        Products::Bits8 => attend_in_parts(head, queries, &mut scratch.bits8, write),
        Products::Bits16 => attend_in_parts(head, queries, &mut scratch.bits16, write),
    }
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw")]
fn attend_in_parts<const P: usize>(
    head: &Head<'_>,
    queries: Range<usize>,
    scratch: &mut PartsScratch<P>,
    write: impl Fn(usize, &[f32]),
) {
    let head_dim = head.head_dim;
    let steps = head_dim.div_ceil(STEP);
    let groups = start_groups(&mut scratch.groups, head, queries.clone());
    scratch.queries.resize(groups.len() * steps, [NO_TILE; P]);
    for (group, tiles) in groups
        .iter_mut()
        .zip(scratch.queries.chunks_exact_mut(steps))
    {
        split_columns(&group.queries, tiles);
        group.sums.resize(head_dim.next_multiple_of(ROWS), NO_LINE);
    }
    let tiles = Tiles::take();
    for start in (0..head.tokens()).step_by(KEY_BLOCK) {
        let block = start..head.tokens().min(start + KEY_BLOCK);
        let len = block.len();
        split_keys(head, block.clone(), &mut scratch.keys);
        split_values(head, block, &mut scratch.values);
        scratch.weights.resize(len.next_multiple_of(ROWS), NO_LINE);
        scratch
            .weight_tiles
            .resize(len.div_ceil(STEP), [NO_TILE; P]);
        for (group, queries) in groups.iter_mut().zip(scratch.queries.chunks_exact(steps)) {
            for (rows, scores) in rows_with_sums(&scratch.keys, queries, &mut scratch.weights) {
                multiply(&tiles, rows, queries, scores);
            }
            rescale(group, &mut scratch.weights[..len]);
            let weights = &mut scratch.weight_tiles;
            split_columns(&scratch.weights[..len], weights);
            for (rows, sums) in rows_with_sums(&scratch.values, weights, &mut group.sums) {
                let mut products = [NO_SUMS; TURNS];
                multiply(&tiles, rows, weights, &mut products);
                add(sums, &products);
            }
        }
    }
    write_rows(groups, queries, head_dim, &mut scratch.row, write);
}

/// Sums of 16 rows for 16 queries.
type Sums = [F32x16; TILE_ROWS];

const NO_SUMS: Sums = [F32x16([0.0; COLUMNS]); TILE_ROWS];

/// Rows, which are [rows / 64, steps], with their sums.
#[inline(always)]
fn rows_with_sums<'a, const P: usize>(
    rows: &'a [RowParts<P>],
    columns: &[Parts<P>],
    sums: &'a mut [Line],
) -> impl Iterator<Item = (&'a [RowParts<P>], &'a mut [Sums; TURNS])> {
    let sums = sums.as_flattened_mut().as_chunks_mut::<TILE_ROWS>().0;
    rows.chunks_exact(columns.len())
        .zip(sums.as_chunks_mut::<TURNS>().0)
}

/// 64 rows times 16 columns, over all steps. Of three parts the products of small ones are summed
/// before those of the large ones, whose sum would round them.
#[inline(always)]
fn multiply<const P: usize>(
    tiles: &Tiles,
    rows: &[RowParts<P>],
    columns: &[Parts<P>],
    sums: &mut [Sums; TURNS],
) {
    tiles.zero::<0>();
    tiles.zero::<1>();
    tiles.zero::<2>();
    tiles.zero::<3>();
    for (rows, columns) in rows.iter().zip(columns) {
        tiles.load::<5>(&columns[0]);
        if P > 1 {
            tiles.load::<6>(&columns[1]);
        }
        if P == 3 {
            tiles.load::<7>(&columns[P - 1]);
        }
        multiply_parts::<0, P>(tiles, &rows[0]);
        multiply_parts::<1, P>(tiles, &rows[1]);
        multiply_parts::<2, P>(tiles, &rows[2]);
        multiply_parts::<3, P>(tiles, &rows[3]);
    }
    if P == 3 {
        for (rows, columns) in rows.iter().zip(columns) {
            tiles.load::<5>(&columns[0]);
            multiply_large::<0, P>(tiles, &rows[0]);
            multiply_large::<1, P>(tiles, &rows[1]);
            multiply_large::<2, P>(tiles, &rows[2]);
            multiply_large::<3, P>(tiles, &rows[3]);
        }
    }
    tiles.store_sums::<0>(&mut sums[0]);
    tiles.store_sums::<1>(&mut sums[1]);
    tiles.store_sums::<2>(&mut sums[2]);
    tiles.store_sums::<3>(&mut sums[3]);
}

/// Adds one step of 16 rows to register `S`, of three parts without the product of the large ones. The
/// parts of the columns are in registers 5 and up, the largest first.
#[inline(always)]
fn multiply_parts<const S: u8, const P: usize>(tiles: &Tiles, parts: &Parts<P>) {
    if P == 3 {
        tiles.load::<4>(&parts[P - 1]);
        tiles.multiply_bf16::<S, 4, 5>();
        tiles.load::<4>(&parts[1]);
        tiles.multiply_bf16::<S, 4, 6>();
        tiles.multiply_bf16::<S, 4, 5>();
        tiles.load::<4>(&parts[0]);
        tiles.multiply_bf16::<S, 4, 7>();
        tiles.multiply_bf16::<S, 4, 6>();
        return;
    }
    if P == 2 {
        tiles.load::<4>(&parts[1]);
        tiles.multiply_bf16::<S, 4, 5>();
    }
    tiles.load::<4>(&parts[0]);
    if P == 2 {
        tiles.multiply_bf16::<S, 4, 6>();
    }
    tiles.multiply_bf16::<S, 4, 5>();
}

/// Adds the products of large parts; that of the columns is in register 5.
#[inline(always)]
fn multiply_large<const S: u8, const P: usize>(tiles: &Tiles, parts: &Parts<P>) {
    tiles.load::<4>(&parts[0]);
    tiles.multiply_bf16::<S, 4, 5>();
}

/// Adds the products of a block to the sums.
#[target_feature(enable = "avx512f")]
fn add(sums: &mut [Sums; TURNS], products: &[Sums; TURNS]) {
    let products = products.as_flattened();
    for (sums, products) in sums.as_flattened_mut().iter_mut().zip(products) {
        let sum = _mm512_add_ps(load_line(sums), load_line(products));
        store_line(sums, sum);
    }
}

/// Lines are steps of a sum: a word of a tile holds those of two.
#[target_feature(enable = "avx512f,avx512bw")]
fn split_columns<const P: usize>(lines: &[Line], tiles: &mut [Parts<P>]) {
    for (lines, parts) in lines.chunks(STEP).zip(tiles) {
        let mut pairs = lines.chunks(2);
        for row in 0..TILE_ROWS {
            let pair = pairs.next().unwrap_or_default();
            let line = |index: usize| pair.get(index).map_or(NO_LINE, |line| *line);
            let (first, second) = (load_line(&line(0)[0]), load_line(&line(1)[0]));
            let (first, second) = (split::<P>(first), split::<P>(second));
            store_pair(parts, row, first, second);
        }
    }
}

/// Rows are keys, and steps go along head_dim. Rows past the last key are not read.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw")]
fn split_keys<const P: usize>(head: &Head<'_>, tokens: Range<usize>, tiles: &mut Vec<RowParts<P>>) {
    let steps = head.head_dim.div_ceil(STEP);
    tiles.resize(tokens.len().div_ceil(ROWS) * steps, [[NO_TILE; P]; TURNS]);
    for (key, token) in tokens.enumerate() {
        if token + AHEAD < head.tokens() {
            prefetch_all(head.key(token + AHEAD));
        }
        let tiles = &mut tiles[key / ROWS * steps..][..steps];
        for (numbers, tiles) in head.key(token).chunks(STEP).zip(tiles) {
            let parts = &mut tiles[key % ROWS / TILE_ROWS];
            let (first, second) = numbers.split_at(numbers.len().min(COLUMNS));
            let (first, second) = (load_partial(first), load_partial(second));
            let (first, second) = (split::<P>(first), split::<P>(second));
            for part in 0..P {
                let words = upper_halves([first[part], second[part]]);
                store_words(&mut parts[part][key % TILE_ROWS], words);
            }
        }
    }
}

/// Rows are places of head_dim, and steps go along the keys. Rows past head_dim are not read.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw")]
fn split_values<const P: usize>(
    head: &Head<'_>,
    tokens: Range<usize>,
    tiles: &mut Vec<RowParts<P>>,
) {
    let steps = tokens.len().div_ceil(STEP);
    tiles.resize(head.head_dim.div_ceil(ROWS) * steps, [[NO_TILE; P]; TURNS]);
    for (step, first) in tokens.clone().step_by(STEP).enumerate() {
        for token in head.tokens().min(first + STEP)..head.tokens().min(first + 2 * STEP) {
            prefetch_all(head.value(token));
        }
        for place in (0..head.head_dim).step_by(COLUMNS) {
            let value = |token| {
                let numbers = match token {
                    token if token < tokens.end => &head.value(token)[place..],
                    _ => &[],
                };
                load_partial(&numbers[..numbers.len().min(COLUMNS)])
            };
            let parts = &mut tiles[place / ROWS * steps + step][place % ROWS / TILE_ROWS];
            for pair in 0..TILE_ROWS {
                let (first, second) = (value(first + 2 * pair), value(first + 2 * pair + 1));
                let (first, second) = (split::<P>(first), split::<P>(second));
                store_pair(parts, pair, first, second);
            }
            for tile in parts {
                transpose(tile);
            }
        }
    }
}

/// Asks for the numbers of a token: tokens lie pages apart, so the processor does not foresee them.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn prefetch_all(numbers: &[f32]) {
    numbers
        .iter()
        .step_by(COLUMNS)
        .for_each(|number| prefetch(number));
}

/// bf16 numbers, in the upper halves of words, whose sum is next to each number, or is it.
#[inline]
#[target_feature(enable = "avx512f")]
fn split<const P: usize>(mut numbers: __m512) -> [__m512i; P] {
    let mut parts = [_mm512_setzero_si512(); P];
    for part in &mut parts {
        *part = nearest_bf16(numbers);
        numbers = _mm512_sub_ps(numbers, _mm512_castsi512_ps(*part));
    }
    parts
}

/// Rounded to the upper halves of words; halves away from zero.
#[inline]
#[target_feature(enable = "avx512f")]
fn nearest_bf16(numbers: __m512) -> __m512i {
    let half = _mm512_set1_epi32(0x8000);
    let upper = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
    _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(numbers), half), upper)
}

/// Writes the parts of two steps into a row of their tiles.
#[inline]
#[target_feature(enable = "avx512f")]
fn store_pair<const P: usize>(
    parts: &mut Parts<P>,
    row: usize,
    first: [__m512i; P],
    second: [__m512i; P],
) {
    for part in 0..P {
        store_words(
            &mut parts[part][row],
            interleaved(first[part], second[part]),
        );
    }
}

/// Words of the upper halves of two, whose lower ones are zero.
#[inline]
#[target_feature(enable = "avx512f")]
fn interleaved(low: __m512i, high: __m512i) -> __m512i {
    _mm512_or_si512(_mm512_srli_epi32::<16>(low), high)
}
