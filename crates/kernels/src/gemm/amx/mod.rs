//! Matrix products with AMX: tiles of 16 rows by 16 columns, 64 bytes of a row at once.
//!
//! The unit multiplies bf16 and bytes only, so wider numbers go through it in parts:
//!
//! - **bf16 weights.** A number of `x` is the sum of three bf16 numbers, exactly: its 24 bits are
//!   three times 8 (what lies below 2^-126 counts as 0). So every product is exact too, and the sums are f32: those of 32 steps of k, a
//!   part at a time with the smallest first, join the total.
//! - **16-bit integers.** Both sides are `256 · high + low`, a byte with a sign and one without.
//!   Each of the four products is exact, and so is their sum by the bounds in `integers.rs`.
//! - **8-bit integers** as they are.
//!
//! Weights stay packed as they are for every other instruction set. Those of 8 bits lie in tiles
//! already; a task brings others of its panels into tiles before it uses them for all its rows. While
//! it multiplies, it asks for the weights that come next: few rows are done with their weights
//! sooner than memory brings more. f32 weights go through AVX-512.

mod tiles;

use std::arch::x86_64::*;

use super::avx512::RowScaleLanes;
use super::integers::HEAD;
use super::{Block, Lines, avx512};
use crate::amx::{TILE_ROWS, Tile, Tiles};
use crate::avx2::prefetch;
use crate::avx512::load_words;
use crate::tile::{F32x16, Words};

use tiles::{ColumnTiles, Cut, copy_lines, pair_lines, split_lines};
pub(super) use tiles::{Columns, TiledRows};

/// See [`super::portable::multiply`]. A panel of `tile` has room for whole tiles of rows.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
pub(super) fn multiply(
    block: &Block<'_>,
    is_wide: bool,
    columns: &mut Columns,
    tile: &mut [F32x16],
) {
    let k = block.k.len();
    let rows = block.x.tile_rows(block.rows.len());
    let panels = tile.len() / rows;
    let walk = |lines, columns| Walk {
        tiles: Tiles::take(),
        block,
        lines,
        columns,
        panels,
        rows,
    };
    match block.weights {
        Lines::F32(_) => avx512::multiply(block, is_wide, tile),
        Lines::Bf16(lines) => {
            let len = Cut::BF16.steps(k);
            let columns = columns.fill(lines, panels, len, |lines, tiles| pair_lines(lines, tiles));
            walk(&[], columns).multiply_numbers(tile);
        }
        Lines::Int16(_) | Lines::Int8(_) if !block.x.tiled().is_used() => {
            avx512::multiply(block, is_wide, tile);
        }
        Lines::Int16(lines) => {
            let len = Cut::INT16.tiles(k);
            let fill = |lines: &[Words], tiles: &mut [Tile]| split_lines(&lines[HEAD..], tiles);
            let columns = columns.fill(lines, panels, len, fill);
            walk(lines, columns).multiply_16_bits(tile);
        }
        Lines::Int8(lines) => {
            let fill = |lines: &[Words], tiles: &mut [Tile]| copy_lines(&lines[HEAD..], tiles);
            let columns = match ColumnTiles::of_lines(lines, panels, HEAD) {
                Some(columns) => columns,
                None => columns.fill(lines, panels, Cut::INT8.tiles(k), fill),
            };
            walk(lines, columns).multiply_8_bits(tile);
        }
    }
}

/// A task's block with what its products need.
struct Walk<'a> {
    tiles: Tiles,
    block: &'a Block<'a>,
    /// [panels, head and steps], of integers.
    lines: &'a [Words],
    columns: ColumnTiles<'a>,
    panels: usize,
    /// Lines of a panel of the tile.
    rows: usize,
}

/// Bytes of a line of the cache.
const CACHE_LINE: usize = 64;

/// Steps of k for which two tiles of rows in three parts stay in the L1 cache.
const STEPS_AT_ONCE: usize = 4;

impl Walk<'_> {
    fn row_tiles(&self) -> usize {
        self.rows / TILE_ROWS
    }

    fn column_tiles(&self, panel: usize) -> &[Tile] {
        self.columns.panel(panel)
    }

    /// Bytes of the next weights that each of `units` parts of the work asks for.
    fn ahead(&self, units: usize) -> usize {
        let bytes = self.block.next_weights.len().div_ceil(units);
        bytes.next_multiple_of(CACHE_LINE)
    }

    /// Asks for the share of one of them.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn prefetch(&self, unit: usize, ahead: usize) {
        let rest = self.block.next_weights.get(unit * ahead..);
        let share = rest.map_or(&[][..], |rest| &rest[..rest.len().min(ahead)]);
        for line in share.iter().step_by(CACHE_LINE) {
            prefetch(line);
        }
    }

    /// The lines of a tile of rows in a panel.
    fn sums<'t>(&self, tile: &'t mut [F32x16], row: usize, panel: usize) -> &'t mut [F32x16] {
        &mut tile[panel * self.rows + row * TILE_ROWS..][..TILE_ROWS]
    }

    /// Products of numbers, by pairs of row tiles and of panels.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn multiply_numbers(&self, tile: &mut [F32x16]) {
        let steps = self.column_tiles(0).len();
        let pairs = self.row_tiles().div_ceil(2) * self.panels.div_ceil(2);
        let ahead = self.ahead(steps.div_ceil(STEPS_AT_ONCE) * pairs);
        let mut unit = 0;
        for start in (0..steps).step_by(STEPS_AT_ONCE) {
            for row in (0..self.row_tiles()).step_by(2) {
                for panel in (0..self.panels).step_by(2) {
                    self.prefetch(unit, ahead);
                    unit += 1;
                    match (self.row_tiles() - row, self.panels - panel) {
                        (1, 1) => self.multiply_numbers_of::<1, 1>(start, row, panel, tile),
                        (1, _) => self.multiply_numbers_of::<1, 2>(start, row, panel, tile),
                        (_, 1) => self.multiply_numbers_of::<2, 1>(start, row, panel, tile),
                        _ => self.multiply_numbers_of::<2, 2>(start, row, panel, tile),
                    }
                }
            }
        }
    }

    /// `R` tiles of rows by `P` panels, some steps from `start`. Register 2 · r + p is their sums.
    #[inline(always)]
    fn multiply_numbers_of<const R: usize, const P: usize>(
        &self,
        start: usize,
        row: usize,
        panel: usize,
        tile: &mut [F32x16],
    ) {
        const PARTS: usize = Cut::BF16.parts;
        let tiles = &self.tiles;
        macro_rules! each_sum {
            ($register:literal, $row:literal, $panel:literal, $do:ident) => {
                if $row < R && $panel < P {
                    let sums = self.sums(tile, row + $row, panel + $panel);
                    if let Some(sums) = sums.first_chunk_mut() {
                        tiles.$do::<$register>(sums);
                    }
                }
            };
            ($do:ident) => {
                each_sum!(0, 0, 0, $do);
                each_sum!(1, 0, 1, $do);
                each_sum!(2, 1, 0, $do);
                each_sum!(3, 1, 1, $do);
            };
        }
        if self.block.is_first() && start == 0 {
            tiles.zero::<0>();
            tiles.zero::<1>();
            tiles.zero::<2>();
            tiles.zero::<3>();
        } else {
            each_sum!(load_sums);
        }
        let x: [_; R] = std::array::from_fn(|r| {
            let steps = self.block.x_tiles(row + r).as_chunks::<PARTS>().0;
            &steps[start..steps.len().min(start + STEPS_AT_ONCE)]
        });
        let columns: [_; P] =
            std::array::from_fn(|p| &self.column_tiles(panel + p)[start..][..x[0].len()]);
        for (step, parts) in x[0].iter().enumerate() {
            tiles.load::<6>(&columns[0][step]);
            if P == 2 {
                tiles.load::<7>(&columns[P - 1][step]);
            }
            for (part, rows) in parts.iter().enumerate() {
                tiles.load::<4>(rows);
                tiles.multiply_bf16::<0, 4, 6>();
                if P == 2 {
                    tiles.multiply_bf16::<1, 4, 7>();
                }
                if R == 2 {
                    tiles.load::<5>(&x[R - 1][step][part]);
                    tiles.multiply_bf16::<2, 5, 6>();
                    if P == 2 {
                        tiles.multiply_bf16::<3, 5, 7>();
                    }
                }
            }
        }
        each_sum!(store_sums);
    }

    /// Products of integers. While the unit computes some sums, those before them are scaled.
    #[inline]
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
    fn multiply_8_bits(&self, tile: &mut [F32x16]) {
        let pairs = self.panels.div_ceil(2);
        let place = |unit: usize| (unit % self.row_tiles(), unit / self.row_tiles() * 2);
        let units = self.row_tiles() * pairs;
        let mut sums = [[Words::default(); TILE_ROWS]; 2];
        let ahead = self.ahead(units);
        for unit in 0..=units {
            if unit < units {
                self.prefetch(unit, ahead);
                let (row, panel) = place(unit);
                match unit % 2 {
                    0 => self.multiply_bytes::<0, 1>(row, panel),
                    _ => self.multiply_bytes::<2, 3>(row, panel),
                }
            }
            if let Some(before) = unit.checked_sub(1) {
                match before % 2 {
                    0 => {
                        self.tiles.store::<0>(&mut sums[0]);
                        self.tiles.store::<1>(&mut sums[1]);
                    }
                    _ => {
                        self.tiles.store::<2>(&mut sums[0]);
                        self.tiles.store::<3>(&mut sums[1]);
                    }
                }
                let (row, panel) = place(before);
                for (panel, sums) in (panel..self.panels).zip(&sums) {
                    self.add_sums(row, panel, tile, |row| load_words(&sums[row]));
                }
            }
        }
    }

    /// A tile of rows by a panel into register `C`, by the next into `D`.
    #[inline(always)]
    fn multiply_bytes<const C: u8, const D: u8>(&self, row: usize, panel: usize) {
        let tiles = &self.tiles;
        tiles.zero::<C>();
        tiles.zero::<D>();
        let first = self.column_tiles(panel);
        let second = match panel + 1 < self.panels {
            true => self.column_tiles(panel + 1),
            false => first,
        };
        for ((x, first), second) in self.block.x_tiles(row).iter().zip(first).zip(second) {
            tiles.load::<4>(x);
            tiles.load::<6>(first);
            tiles.multiply_u8_i8::<C, 4, 6>();
            tiles.load::<7>(second);
            tiles.multiply_u8_i8::<D, 4, 7>();
        }
    }

    /// The same in four products of bytes.
    #[inline]
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
    fn multiply_16_bits(&self, tile: &mut [F32x16]) {
        let place = |unit: usize| (unit % self.row_tiles(), unit / self.row_tiles());
        let units = self.row_tiles() * self.panels;
        let mut sums = [[Words::default(); TILE_ROWS]; 3];
        let ahead = self.ahead(units);
        for unit in 0..=units {
            if unit < units {
                self.prefetch(unit, ahead);
                let (row, panel) = place(unit);
                match unit % 2 {
                    0 => self.multiply_parts::<0, 1, 2>(row, panel),
                    _ => self.multiply_parts::<3, 4, 5>(row, panel),
                }
            }
            if let Some(before) = unit.checked_sub(1) {
                let [high, middle, low] = &mut sums;
                match before % 2 {
                    0 => {
                        self.tiles.store::<0>(high);
                        self.tiles.store::<1>(middle);
                        self.tiles.store::<2>(low);
                    }
                    _ => {
                        self.tiles.store::<3>(high);
                        self.tiles.store::<4>(middle);
                        self.tiles.store::<5>(low);
                    }
                }
                let (row, panel) = place(before);
                self.add_sums(row, panel, tile, |row| {
                    let [high, middle, low] = sums.each_ref().map(|part| load_words(&part[row]));
                    // The parts may leave 32 bits on the way; their sum does not.
                    let upper = _mm512_add_epi32(_mm512_slli_epi32::<8>(high), middle);
                    _mm512_add_epi32(_mm512_slli_epi32::<8>(upper), low)
                });
            }
        }
    }

    /// Products of high bytes into register `HH`, of high and low ones into `M`, of low ones
    /// into `LL`.
    #[inline(always)]
    fn multiply_parts<const HH: u8, const M: u8, const LL: u8>(&self, row: usize, panel: usize) {
        let tiles = &self.tiles;
        tiles.zero::<HH>();
        tiles.zero::<M>();
        tiles.zero::<LL>();
        let x = self.block.x_tiles(row).as_chunks::<2>().0;
        let columns = self.column_tiles(panel).as_chunks::<2>().0;
        for ([x_high, x_low], [high, low]) in x.iter().zip(columns) {
            tiles.load::<6>(x_high);
            tiles.load::<7>(high);
            tiles.multiply_i8_i8::<HH, 6, 7>();
            tiles.load::<7>(low);
            tiles.multiply_i8_u8::<M, 6, 7>();
            tiles.load::<6>(x_low);
            tiles.multiply_u8_u8::<LL, 6, 7>();
            tiles.load::<7>(high);
            tiles.multiply_u8_i8::<M, 6, 7>();
        }
    }

    /// Scales the sums of a block of k for a tile of rows and a panel, and adds them to their lines.
    #[inline]
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
    fn add_sums(
        &self,
        row: usize,
        panel: usize,
        tile: &mut [F32x16],
        sums: impl Fn(usize) -> __m512i,
    ) {
        let head = &self.lines[panel * (self.lines.len() / self.panels)..][..HEAD];
        let (scales, weights) = (load_words(&head[0]), load_words(&head[1]));
        let x_scales = self.block.x_tile_scales(row);
        let is_first = self.block.is_first();
        for (index, line) in self.sums(tile, row, panel).iter_mut().enumerate() {
            let x_scale = RowScaleLanes {
                scale: _mm512_set1_ps(f32::from_bits(x_scales[0].0[index])),
                zero: _mm512_set1_epi32(x_scales[1].0[index].cast_signed()),
            };
            avx512::add_integers(is_first, [scales, weights], x_scale, sums(index), line);
        }
    }
}
