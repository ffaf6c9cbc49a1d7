//! Softmax attention with AMX, for products of 16 bits.
//!
//! A factor is the sum of two bf16 numbers, and of the four products of two factors the one of both
//! small parts is left out: together a relative error of about 2^-17 a product. Keys, and values by
//! place, are the rows of the left tiles; queries, and then their weights, are the columns of the right
//! ones. So scores and sums are lines of 16 queries as in `stream.rs`, and the softmax between the two
//! products is that of AVX-512, in f32.

use std::arch::x86_64::*;
use std::ops::Range;

use super::avx512::rescale;
use super::stream::{Group, start_groups, write_rows};
use super::{Head, KEY_BLOCK};
use crate::amx::{TILE_ROWS, Tile, Tiles};
use crate::avx2::prefetch;
use crate::avx512::{load_line, load_partial, store_words, transpose, upper_halves};
use crate::tile::{COLUMNS, F32x16, Words};

/// Numbers in a row of a tile: steps of a sum that a product of tiles takes.
const STEP: usize = 2 * COLUMNS;

/// The large and the small parts of the same numbers.
type Parts = [Tile; 2];

/// Tiles of rows that are multiplied in turns, because one product waits long for another with the
/// same sums.
const TURNS: usize = 4;

/// Rows that are multiplied at once.
const ROWS: usize = TURNS * TILE_ROWS;

/// One step for those rows.
type RowParts = [Parts; TURNS];

/// Tokens between the one that is read and the one that is asked for.
const AHEAD: usize = 16;

/// Memory of one task.
#[derive(Default)]
pub(super) struct Scratch {
    groups: Vec<Group<1>>,
    /// [groups, steps along head_dim].
    queries: Vec<Parts>,
    /// [keys / 64, steps along head_dim].
    keys: Vec<RowParts>,
    /// [head_dim / 64, steps along the keys].
    values: Vec<RowParts>,
    /// Scores of a block, then weights: a line of 16 queries for each key.
    weights: Vec<Line>,
    /// [steps along the keys].
    weight_tiles: Vec<Parts>,
    /// One row of the output.
    row: Vec<f32>,
}

/// Sixteen queries, or their sums at one place.
type Line = [F32x16; 1];

const NO_LINE: Line = [F32x16([0.0; COLUMNS])];
const NO_PARTS: Parts = [[Words([0; COLUMNS]); TILE_ROWS]; 2];

/// See [`super::attend`].
#[target_feature(enable = "avx2,fma,avx512f,avx512bw")]
pub(super) fn attend(
    head: &Head<'_>,
    queries: Range<usize>,
    scratch: &mut Scratch,
    write: impl Fn(usize, &[f32]),
) {
    let head_dim = head.head_dim;
    let steps = head_dim.div_ceil(STEP);
    let groups = start_groups(&mut scratch.groups, head, queries.clone());
    scratch.queries.resize(groups.len() * steps, NO_PARTS);
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
        scratch.weight_tiles.resize(len.div_ceil(STEP), NO_PARTS);
        for (group, queries) in groups.iter_mut().zip(scratch.queries.chunks_exact(steps)) {
            multiply::<false>(&tiles, &scratch.keys, queries, &mut scratch.weights);
            rescale(group, &mut scratch.weights[..len]);
            split_columns(&scratch.weights[..len], &mut scratch.weight_tiles);
            multiply::<true>(
                &tiles,
                &scratch.values,
                &scratch.weight_tiles,
                &mut group.sums,
            );
        }
    }
    write_rows(groups, queries, head_dim, &mut scratch.row, write);
}

/// The sums, or zeros if they are not `KEPT`, and rows times columns. `rows` is [rows / 64, steps].
#[inline(always)]
fn multiply<const KEPT: bool>(
    tiles: &Tiles,
    rows: &[RowParts],
    columns: &[Parts],
    sums: &mut [Line],
) {
    let sums = sums.as_flattened_mut().as_chunks_mut::<TILE_ROWS>().0;
    let turns = sums.as_chunks_mut::<TURNS>().0;
    for (rows, sums) in rows.chunks_exact(columns.len()).zip(turns) {
        if KEPT {
            tiles.load_sums::<0>(&sums[0]);
            tiles.load_sums::<1>(&sums[1]);
            tiles.load_sums::<2>(&sums[2]);
            tiles.load_sums::<3>(&sums[3]);
        } else {
            tiles.zero::<0>();
            tiles.zero::<1>();
            tiles.zero::<2>();
            tiles.zero::<3>();
        }
        for (rows, [large, small]) in rows.iter().zip(columns) {
            tiles.load::<6>(large);
            tiles.load::<7>(small);
            multiply_parts::<0>(tiles, &rows[0]);
            multiply_parts::<1>(tiles, &rows[1]);
            multiply_parts::<2>(tiles, &rows[2]);
            multiply_parts::<3>(tiles, &rows[3]);
        }
        tiles.store_sums::<0>(&mut sums[0]);
        tiles.store_sums::<1>(&mut sums[1]);
        tiles.store_sums::<2>(&mut sums[2]);
        tiles.store_sums::<3>(&mut sums[3]);
    }
}

/// Adds one step of 16 rows to register `S`; the columns are in registers 6 and 7.
#[inline(always)]
fn multiply_parts<const S: u8>(tiles: &Tiles, [large, small]: &Parts) {
    tiles.load::<4>(large);
    tiles.load::<5>(small);
    tiles.multiply_bf16::<S, 5, 6>();
    tiles.multiply_bf16::<S, 4, 7>();
    tiles.multiply_bf16::<S, 4, 6>();
}

/// Lines are steps of a sum: a word of a tile holds those of two.
#[target_feature(enable = "avx512f,avx512bw")]
fn split_columns(lines: &[Line], tiles: &mut [Parts]) {
    for (lines, [large, small]) in lines.chunks(STEP).zip(tiles) {
        let mut pairs = lines.chunks(2);
        for (large, small) in large.iter_mut().zip(small) {
            let pair = pairs.next().unwrap_or_default();
            let line = |index: usize| pair.get(index).map_or(NO_LINE, |line| *line);
            let (first, second) = (split(load_line(&line(0)[0])), split(load_line(&line(1)[0])));
            store_words(large, interleaved(first[0], second[0]));
            store_words(small, interleaved(first[1], second[1]));
        }
    }
}

/// Rows are keys, and steps go along head_dim. Rows past the last key are not read.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw")]
fn split_keys(head: &Head<'_>, tokens: Range<usize>, tiles: &mut Vec<RowParts>) {
    let steps = head.head_dim.div_ceil(STEP);
    tiles.resize(tokens.len().div_ceil(ROWS) * steps, [NO_PARTS; TURNS]);
    for (key, token) in tokens.enumerate() {
        if token + AHEAD < head.tokens() {
            prefetch_all(head.key(token + AHEAD));
        }
        let tiles = &mut tiles[key / ROWS * steps..][..steps];
        for (numbers, tiles) in head.key(token).chunks(STEP).zip(tiles) {
            let [large, small] = &mut tiles[key % ROWS / TILE_ROWS];
            let (first, second) = numbers.split_at(numbers.len().min(COLUMNS));
            let (first, second) = (split(load_partial(first)), split(load_partial(second)));
            let row = key % TILE_ROWS;
            store_words(&mut large[row], upper_halves([first[0], second[0]]));
            store_words(&mut small[row], upper_halves([first[1], second[1]]));
        }
    }
}

/// Rows are places of head_dim, and steps go along the keys. Rows past head_dim are not read.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw")]
fn split_values(head: &Head<'_>, tokens: Range<usize>, tiles: &mut Vec<RowParts>) {
    let steps = tokens.len().div_ceil(STEP);
    tiles.resize(head.head_dim.div_ceil(ROWS) * steps, [NO_PARTS; TURNS]);
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
                split(load_partial(&numbers[..numbers.len().min(COLUMNS)]))
            };
            let [large, small] = &mut tiles[place / ROWS * steps + step][place % ROWS / TILE_ROWS];
            for (pair, (large, small)) in large.iter_mut().zip(&mut *small).enumerate() {
                let (first, second) = (value(first + 2 * pair), value(first + 2 * pair + 1));
                store_words(large, interleaved(first[0], second[0]));
                store_words(small, interleaved(first[1], second[1]));
            }
            transpose(large);
            transpose(small);
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

/// Two bf16 numbers, in the upper halves of words, whose sum is next to each number.
#[inline]
#[target_feature(enable = "avx512f")]
fn split(numbers: __m512) -> [__m512i; 2] {
    let large = nearest_bf16(numbers);
    let rest = _mm512_sub_ps(numbers, _mm512_castsi512_ps(large));
    [large, nearest_bf16(rest)]
}

/// Rounded to the upper halves of words; halves away from zero.
#[inline]
#[target_feature(enable = "avx512f")]
fn nearest_bf16(numbers: __m512) -> __m512i {
    let half = _mm512_set1_epi32(0x8000);
    let upper = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
    _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(numbers), half), upper)
}

/// Words of the upper halves of two, whose lower ones are zero.
#[inline]
#[target_feature(enable = "avx512f")]
fn interleaved(low: __m512i, high: __m512i) -> __m512i {
    _mm512_or_si512(_mm512_srli_epi32::<16>(low), high)
}
