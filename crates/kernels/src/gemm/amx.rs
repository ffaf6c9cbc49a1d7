//! Matrix products with AMX: tiles of 16 rows by 16 columns, 64 bytes of a row at once.
//!
//! The unit multiplies bf16 and bytes only, so wider numbers go through it in parts:
//!
//! - **bf16 weights.** A number of `x` is the sum of three bf16 numbers, exactly: its 24 bits are
//!   three times 8. So every product is exact too, and the sums are f32: those of 32 steps of k, a
//!   part at a time with the smallest first, join the total.
//! - **16-bit integers.** Both sides are `256 · high + low`, a byte with a sign and one without.
//!   Each of the four products is exact, and so is their sum by the bounds in `integers.rs`.
//! - **8-bit integers** as they are.
//!
//! Weights stay packed as they are for every other instruction set; a task brings those of its
//! panels into tiles before it uses them for all its rows. f32 weights go through AVX-512.

use std::arch::x86_64::*;
use std::ops::Range;

use super::avx512::RowScaleLanes;
use super::integers::{self, HEAD, Integers, ROW_HEAD, k_blocks};
use super::rows::smooth;
use super::{Block, Format, K_BLOCK, Lines, PackedMatrix, avx2, avx512};
use crate::amx::{Tile, Tiles};
use crate::avx512::{load_bf16_pair, load_numbers, load_words, store_words};
use crate::isa::per_isa;
use crate::tile::{Bf16x16, COLUMNS, F32x16, Words};
use crate::{Cpu, Isa};

/// Rows of a tile.
pub(super) const TILE_ROWS: usize = 16;

/// Words of a row of a tile.
const WORDS: usize = COLUMNS;

/// How the numbers along k are cut into tiles.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// Numbers in a row of a tile.
    numbers: usize,
    /// Tiles that one row of numbers takes.
    parts: usize,
}

impl Cut {
    const BF16: Cut = Cut {
        numbers: 2 * WORDS,
        parts: 3,
    };
    const INT16: Cut = Cut {
        numbers: 4 * WORDS,
        parts: 2,
    };
    const INT8: Cut = Cut {
        numbers: 4 * WORDS,
        parts: 1,
    };

    /// That of so many rows of x for weights of a format; `None` if they do not go through the unit,
    /// which takes as long for one row as for 16: a few rows of integers are sooner done by AVX-512,
    /// with the same bits.
    fn of(format: Format, rows: usize) -> Option<Cut> {
        match format {
            Format::F32 => None,
            Format::Bf16 => Some(Cut::BF16),
            Format::Int16 => (rows >= 24).then_some(Cut::INT16),
            Format::Int8 => (rows >= 14).then_some(Cut::INT8),
        }
    }

    /// Tiles of 16 rows of `k` numbers.
    fn tiles(self, k: usize) -> usize {
        k.div_ceil(self.numbers) * self.parts
    }
}

/// Rows of x in tiles: for each 16 rows the tiles of all steps of k, then, for integers, as lines of
/// more tiles the scales and zeros of each block of k.
#[derive(Default)]
pub(super) struct TiledRows {
    /// `None` if the unit has no use for the rows.
    cut: Option<Cut>,
    /// Tiles of 16 rows that are numbers.
    steps: usize,
    /// All their tiles.
    depth: usize,
    tiles: Vec<Tile>,
}

impl TiledRows {
    /// Replaces the content by the rows `x`, if AMX multiplies them with these weights.
    pub(super) fn pack(&mut self, cpu: &Cpu, weights: &PackedMatrix, x: &[f32]) -> bool {
        let is_amx = cpu.isa() == Isa::Amx;
        let k = weights.k();
        let cut = Cut::of(weights.format(), x.len() / k);
        self.cut = cut.filter(|_| is_amx);
        let Some(cut) = self.cut else {
            return false;
        };
        let scales = weights
            .integers()
            .map_or(0, |_| k.div_ceil(K_BLOCK) * ROW_HEAD);
        let steps = cut.tiles(k);
        self.steps = steps;
        self.depth = steps + scales.div_ceil(TILE_ROWS);
        let len = x.len().div_ceil(TILE_ROWS * k) * self.depth;
        self.tiles.resize(len, [Words::default(); TILE_ROWS]);
        let work = |index, tiles: &mut [Tile]| {
            let rows = index * TILE_ROWS * k..x.len().min((index + 1) * TILE_ROWS * k);
            let (tiles, scales) = tiles.split_at_mut(steps);
            let (x, scales) = (&x[rows], scales.as_flattened_mut());
            per_isa!(@call pack_rows (weights, x, tiles, scales));
        };
        cpu.pool()
            .for_each_chunk(&mut self.tiles, self.depth, &work);
        true
    }

    pub(super) fn is_used(&self) -> bool {
        self.cut.is_some()
    }

    /// The tiles of 16 rows over a block of k.
    #[inline(always)]
    pub(super) fn tiles(&self, index: usize, k: Range<usize>) -> &[Tile] {
        let steps = self
            .cut
            .map_or(0..0, |cut| cut.tiles(k.start)..cut.tiles(k.end));
        &self.tiles[index * self.depth..][steps]
    }

    /// Scales and zeros of 16 rows for a block of k.
    #[inline(always)]
    pub(super) fn scales(&self, index: usize, block: usize) -> &[Words] {
        let tiles = &self.tiles[index * self.depth + self.steps..];
        &tiles.as_flattened()[block * ROW_HEAD..][..ROW_HEAD]
    }
}

/// The weights of a task for one block of k, in tiles: [panels, steps of k].
#[derive(Default)]
pub(super) struct Columns(Vec<Tile>);

impl Columns {
    /// Replaces the content by the weights of some panels, which `fill` brings into the tiles of each.
    #[inline(always)]
    fn fill<L>(
        &mut self,
        lines: &[L],
        panels: usize,
        len: usize,
        fill: impl Fn(&[L], &mut [Tile]),
    ) {
        self.0.resize(panels * len, [Words::default(); TILE_ROWS]);
        let lines = lines.chunks_exact(lines.len() / panels);
        for (lines, tiles) in lines.zip(self.0.chunks_exact_mut(len)) {
            fill(lines, tiles);
        }
    }

    /// The tiles of one of `panels`.
    fn panel(&self, panel: usize, panels: usize) -> &[Tile] {
        let len = self.0.len() / panels;
        &self.0[panel * len..][..len]
    }
}

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
            let len = k.div_ceil(Cut::BF16.numbers);
            columns.fill(lines, panels, len, |lines, tiles| pair_lines(lines, tiles));
            walk(&[], columns).multiply_numbers(tile);
        }
        Lines::Int16(_) | Lines::Int8(_) if !block.x.tiled().is_used() => {
            avx512::multiply(block, is_wide, tile);
        }
        Lines::Int16(lines) => {
            let len = Cut::INT16.tiles(k);
            let fill = |lines: &[Words], tiles: &mut [Tile]| split_lines(&lines[HEAD..], tiles);
            columns.fill(lines, panels, len, fill);
            walk(lines, columns).multiply_16_bits(tile);
        }
        Lines::Int8(lines) => {
            let len = Cut::INT8.tiles(k);
            let fill = |lines: &[Words], tiles: &mut [Tile]| copy_lines(&lines[HEAD..], tiles);
            columns.fill(lines, panels, len, fill);
            walk(lines, columns).multiply_8_bits(tile);
        }
    }
}

/// A word of a tile is two steps of k for one column.
#[target_feature(enable = "avx512f,avx512bw")]
fn pair_lines(lines: &[Bf16x16], tiles: &mut [Tile]) {
    let rows = tiles.as_flattened_mut();
    let (pairs, last) = lines.as_chunks::<2>();
    for (row, pair) in rows.iter_mut().zip(pairs) {
        store_words(row, load_bf16_pair(pair));
    }
    let rest = &mut rows[pairs.len()..];
    rest.fill(Words::default());
    if let ([line], [row, ..]) = (last, rest) {
        store_words(row, load_bf16_pair(&[*line, Bf16x16::default()]));
    }
}

/// The high bytes of 16-bit weights make one tile, the low ones the next.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn split_lines(lines: &[Words], tiles: &mut [Tile]) {
    let steps = lines.chunks(2 * TILE_ROWS);
    for (lines, parts) in steps.zip(tiles.as_chunks_mut::<2>().0) {
        *parts = [[Words::default(); TILE_ROWS]; 2];
        let [high, low] = parts;
        for (row, pair) in lines.chunks(2).enumerate() {
            let first = load_words(&pair[0]);
            let second = pair
                .get(1)
                .map_or(_mm512_setzero_si512(), |line| load_words(line));
            let bytes = |places| _mm512_permutex2var_epi8(first, load_words(places), second);
            store_words(&mut high[row], bytes(const { &column_bytes(1) }));
            store_words(&mut low[row], bytes(const { &column_bytes(0) }));
        }
    }
}

/// Where byte `byte` of both halves of a word, and of the word below it, come from.
const fn column_bytes(byte: u8) -> Words {
    let mut words = [0; COLUMNS];
    let mut column = 0;
    while column < COLUMNS {
        let place = 4 * column as u8 + byte;
        words[column] = u32::from_le_bytes([place, place + 2, place + 64, place + 66]);
        column += 1;
    }
    Words(words)
}

/// Lines of 8-bit weights are rows of tiles.
fn copy_lines(lines: &[Words], tiles: &mut [Tile]) {
    let (copied, rest) = tiles.as_flattened_mut().split_at_mut(lines.len());
    copied.copy_from_slice(lines);
    rest.fill(Words::default());
}

/// Writes up to 16 rows of x into their tiles; for integers, scales and zeros of each block of k
/// into `scales`.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
pub(super) fn pack_rows(
    weights: &PackedMatrix,
    x: &[f32],
    tiles: &mut [Tile],
    scales: &mut [Words],
) {
    let k = weights.k();
    let Some(integers) = weights.integers() else {
        return split_numbers(x, k, tiles);
    };
    let mut words = [0; integers::WORDS];
    let mut smoothed = [0.0; K_BLOCK];
    let cut = match integers {
        Integers::Bits16 => Cut::INT16,
        Integers::Bits8 => Cut::INT8,
    };
    for (row, numbers) in x.chunks_exact(k).enumerate() {
        let blocks = k_blocks(k).zip(tiles.chunks_mut(cut.tiles(K_BLOCK)));
        for ((k, tiles), scales) in blocks.zip(scales.chunks_exact_mut(ROW_HEAD)) {
            let words = &mut words[..integers.words(k.len())];
            let numbers = smooth(weights, numbers, k, &mut smoothed);
            let scale = avx2::pack_row(integers, numbers, words);
            scales[0].0[row] = scale.scale.to_bits();
            scales[1].0[row] = scale.zero.cast_unsigned();
            place_words(integers, words, row, tiles);
        }
    }
}

/// Writes up to 16 rows of `k` numbers as tiles: for each 32 steps of k the three parts.
#[target_feature(enable = "avx512f,avx512bw")]
fn split_numbers(x: &[f32], k: usize, tiles: &mut [Tile]) {
    for (row, numbers) in x.chunks_exact(k).enumerate() {
        let steps = numbers.chunks(Cut::BF16.numbers);
        for (numbers, [low, middle, high]) in steps.zip(tiles.as_chunks_mut::<3>().0) {
            let mut halves = load_numbers(numbers);
            for part in [high, middle, low] {
                store_words(&mut part[row], take_upper_halves(&mut halves));
            }
        }
    }
}

/// The upper halves of 32 numbers, which lose them: what is left is exact.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn take_upper_halves(numbers: &mut [__m512; 2]) -> __m512i {
    let bits = numbers.map(|lanes| _mm512_castps_si512(lanes));
    for (lanes, bits) in numbers.iter_mut().zip(bits) {
        let upper = _mm512_and_si512(bits, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()));
        *lanes = _mm512_sub_ps(*lanes, _mm512_castsi512_ps(upper));
    }
    _mm512_permutex2var_epi16(bits[0], load_words(const { &odd_halves() }), bits[1])
}

/// The places of the odd halves among those of two registers.
const fn odd_halves() -> Words {
    let mut words = [0; COLUMNS];
    let mut word = 0;
    while word < COLUMNS {
        words[word] = (4 * word as u32 + 1) | (4 * word as u32 + 3) << 16;
        word += 1;
    }
    Words(words)
}

/// Writes the words of a row for one block of k into row `row` of its tiles.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn place_words(integers: Integers, words: &[u32], row: usize, tiles: &mut [Tile]) {
    match integers {
        Integers::Bits8 => {
            for (words, tile) in words.chunks(WORDS).zip(tiles) {
                tile[row] = padded(words);
            }
        }
        Integers::Bits16 => {
            let steps = words.chunks(2 * WORDS);
            for (words, [high, low]) in steps.zip(tiles.as_chunks_mut::<2>().0) {
                let (first, second) = words.split_at(words.len().min(WORDS));
                let (first, second) = (load_words(&padded(first)), load_words(&padded(second)));
                let bytes = |places| _mm512_permutex2var_epi8(first, load_words(places), second);
                store_words(&mut high[row], bytes(const { &row_bytes(1) }));
                store_words(&mut low[row], bytes(const { &row_bytes(0) }));
            }
        }
    }
}

/// The places of every second byte among those of two registers.
const fn row_bytes(byte: u8) -> Words {
    let mut words = [0; COLUMNS];
    let mut word = 0;
    while word < COLUMNS {
        let place = 8 * word as u8 + byte;
        words[word] = u32::from_le_bytes([place, place + 2, place + 4, place + 6]);
        word += 1;
    }
    Words(words)
}

/// Up to 16 words, then zeros.
#[inline(always)]
fn padded(words: &[u32]) -> Words {
    match words.try_into() {
        Ok(words) => Words(words),
        Err(_) => {
            let mut line = Words::default();
            line.0[..words.len()].copy_from_slice(words);
            line
        }
    }
}

/// A task's block with what its products need.
struct Walk<'a> {
    tiles: Tiles,
    block: &'a Block<'a>,
    /// [panels, head and steps], of integers.
    lines: &'a [Words],
    columns: &'a Columns,
    panels: usize,
    /// Lines of a panel of the tile.
    rows: usize,
}

/// Steps of k for which two tiles of rows in three parts stay in the L1 cache.
const STEPS_AT_ONCE: usize = 4;

impl Walk<'_> {
    fn row_tiles(&self) -> usize {
        self.rows / TILE_ROWS
    }

    fn column_tiles(&self, panel: usize) -> &[Tile] {
        self.columns.panel(panel, self.panels)
    }

    /// The lines of a tile of rows in a panel.
    fn sums<'t>(&self, tile: &'t mut [F32x16], row: usize, panel: usize) -> &'t mut [F32x16] {
        &mut tile[panel * self.rows + row * TILE_ROWS..][..TILE_ROWS]
    }

    /// Products of numbers, by pairs of row tiles and of panels.
    fn multiply_numbers(&self, tile: &mut [F32x16]) {
        for start in (0..self.column_tiles(0).len()).step_by(STEPS_AT_ONCE) {
            for row in (0..self.row_tiles()).step_by(2) {
                for panel in (0..self.panels).step_by(2) {
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
        for unit in 0..=units {
            if unit < units {
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
        for unit in 0..=units {
            if unit < units {
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
