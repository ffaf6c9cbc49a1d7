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

use super::integers::{self, HEAD, Integers, RowScale, k_blocks};
use super::rows::smooth;
use super::{Block, Format, K_BLOCK, Lines, PackedMatrix, avx2, avx512};
use crate::amx::{Tile, Tiles};
use crate::avx512::{load_bf16_pair, load_numbers, load_words, store_words};
use crate::tile::{Bf16x16, COLUMNS, F32x16, Words};

/// Rows of a tile.
pub(super) const TILE_ROWS: usize = 16;

/// Words of a row of a tile.
const WORDS: usize = COLUMNS;

/// How the numbers along k are cut into tiles.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
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

    /// That of the rows of x for weights of a format; `None` if the unit has no use for them.
    pub(super) fn of(format: Format) -> Option<Cut> {
        match format {
            Format::F32 => None,
            Format::Bf16 => Some(Cut::BF16),
            Format::Int16 => Some(Cut::INT16),
            Format::Int8 => Some(Cut::INT8),
        }
    }

    /// Tiles of 16 rows of `k` numbers.
    pub(super) fn tiles(self, k: usize) -> usize {
        k.div_ceil(self.numbers) * self.parts
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
    let panels = tile.len() / tile_rows(block);
    match block.weights {
        Lines::F32(_) => avx512::multiply(block, is_wide, tile),
        Lines::Bf16(lines) => {
            let len = k.div_ceil(Cut::BF16.numbers);
            columns.fill(lines, panels, len, |lines, tiles| pair_lines(lines, tiles));
            multiply_numbers(block, columns, panels, tile);
        }
        Lines::Int16(lines) => {
            let len = Cut::INT16.tiles(k);
            columns.fill(lines, panels, len, |lines, tiles| {
                split_lines(&lines[HEAD..], tiles)
            });
            multiply_16_bits(block, lines, columns, panels, tile);
        }
        Lines::Int8(lines) => {
            let len = Cut::INT8.tiles(k);
            columns.fill(lines, panels, len, |lines, tiles| {
                copy_lines(&lines[HEAD..], tiles)
            });
            multiply_8_bits(block, lines, columns, panels, tile);
        }
    }
}

/// Lines of a panel of the task's tile.
fn tile_rows(block: &Block<'_>) -> usize {
    block.rows.len().next_multiple_of(TILE_ROWS)
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

/// Writes up to 16 rows of x into their tiles, and calls `put_scale(row, block of k, scale)` for
/// what becomes integers.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
pub(super) fn pack_rows(
    weights: &PackedMatrix,
    x: &[f32],
    tiles: &mut [Tile],
    put_scale: &mut impl FnMut(usize, usize, RowScale),
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
        for (block, (k, tiles)) in blocks.enumerate() {
            let words = &mut words[..integers.words(k.len())];
            let numbers = smooth(weights, numbers, k, &mut smoothed);
            put_scale(row, block, avx2::pack_row(integers, numbers, words));
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

/// A product of registers, and how many parts of x take part in it.
trait Dot {
    const PARTS: usize;
    fn dot<const C: u8, const A: u8, const B: u8>(tiles: &Tiles);
}

struct Bf16;

impl Dot for Bf16 {
    const PARTS: usize = Cut::BF16.parts;

    #[inline(always)]
    fn dot<const C: u8, const A: u8, const B: u8>(tiles: &Tiles) {
        tiles.multiply_bf16::<C, A, B>();
    }
}

struct Bytes;

impl Dot for Bytes {
    const PARTS: usize = Cut::INT8.parts;

    #[inline(always)]
    fn dot<const C: u8, const A: u8, const B: u8>(tiles: &Tiles) {
        tiles.multiply_u8_i8::<C, A, B>();
    }
}

/// Adds the products of up to two tiles of rows with up to two panels to registers 0 to 3: row by
/// row, panel by panel.
#[inline(always)]
fn accumulate<D: Dot, const R: usize, const P: usize>(
    tiles: &Tiles,
    x: [&[Tile]; R],
    columns: [&[Tile]; P],
) {
    for (step, first) in columns[0].iter().enumerate() {
        tiles.load::<6>(first);
        if P == 2 {
            tiles.load::<7>(&columns[P - 1][step]);
        }
        for part in step * D::PARTS..(step + 1) * D::PARTS {
            tiles.load::<4>(&x[0][part]);
            if R == 2 {
                tiles.load::<5>(&x[R - 1][part]);
            }
            D::dot::<0, 4, 6>(tiles);
            if P == 2 {
                D::dot::<1, 4, 7>(tiles);
            }
            if R == 2 {
                D::dot::<2, 5, 6>(tiles);
                if P == 2 {
                    D::dot::<3, 5, 7>(tiles);
                }
            }
        }
    }
}

/// Calls `each(tile of rows, panel)` for pairs of both, and for what is left over.
macro_rules! by_pairs {
    ($block:expr, $panels:expr, $of_size:ident($($argument:expr),*)) => {
        let row_tiles = tile_rows($block) / TILE_ROWS;
        for row in (0..row_tiles).step_by(2) {
            for panel in (0..$panels).step_by(2) {
                match (row_tiles - row, $panels - panel) {
                    (1, 1) => $of_size::<1, 1>($($argument,)* row, panel),
                    (1, _) => $of_size::<1, 2>($($argument,)* row, panel),
                    (_, 1) => $of_size::<2, 1>($($argument,)* row, panel),
                    _ => $of_size::<2, 2>($($argument,)* row, panel),
                }
            }
        }
    };
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
fn multiply_numbers(block: &Block<'_>, columns: &Columns, panels: usize, tile: &mut [F32x16]) {
    let tiles = Tiles::take();
    by_pairs!(
        block,
        panels,
        multiply_numbers_of(&tiles, block, columns, panels, tile)
    );
}

#[inline(always)]
fn multiply_numbers_of<const R: usize, const P: usize>(
    tiles: &Tiles,
    block: &Block<'_>,
    columns: &Columns,
    panels: usize,
    tile: &mut [F32x16],
    row: usize,
    panel: usize,
) {
    let rows = tile_rows(block);
    // The lines of tile $row and panel $panel, which are those of register $register.
    macro_rules! each_sum {
        ($register:literal, $row:literal, $panel:literal, $do:ident) => {
            if $row < R && $panel < P {
                let start = (panel + $panel) * rows + (row + $row) * TILE_ROWS;
                if let Some(sums) = tile[start..].first_chunk_mut() {
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
    if block.is_first() {
        tiles.zero::<0>();
        tiles.zero::<1>();
        tiles.zero::<2>();
        tiles.zero::<3>();
    } else {
        each_sum!(load_sums);
    }
    accumulate::<Bf16, R, P>(
        tiles,
        std::array::from_fn(|r| block.x_tiles(row + r)),
        std::array::from_fn(|p| columns.panel(panel + p, panels)),
    );
    each_sum!(store_sums);
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
fn multiply_8_bits(
    block: &Block<'_>,
    lines: &[Words],
    columns: &Columns,
    panels: usize,
    tile: &mut [F32x16],
) {
    let tiles = Tiles::take();
    by_pairs!(
        block,
        panels,
        multiply_8_bits_of(&tiles, block, lines, columns, panels, tile)
    );
}

#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
#[expect(clippy::too_many_arguments, reason = "a place and its operands")]
fn multiply_8_bits_of<const R: usize, const P: usize>(
    tiles: &Tiles,
    block: &Block<'_>,
    lines: &[Words],
    columns: &Columns,
    panels: usize,
    tile: &mut [F32x16],
    row: usize,
    panel: usize,
) {
    tiles.zero::<0>();
    tiles.zero::<1>();
    tiles.zero::<2>();
    tiles.zero::<3>();
    accumulate::<Bytes, R, P>(
        tiles,
        std::array::from_fn(|r| block.x_tiles(row + r)),
        std::array::from_fn(|p| columns.panel(panel + p, panels)),
    );
    let mut sums = [[Words::default(); TILE_ROWS]; 4];
    tiles.store::<0>(&mut sums[0]);
    tiles.store::<1>(&mut sums[1]);
    tiles.store::<2>(&mut sums[2]);
    tiles.store::<3>(&mut sums[3]);
    for r in 0..R {
        for p in 0..P {
            let sums = &sums[2 * r + p];
            add_sums(block, lines, panels, tile, row + r, panel + p, |row| {
                load_words(&sums[row])
            });
        }
    }
}

/// Scales the sums of a block of k for a tile of rows and a panel, and adds them to their lines.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
fn add_sums(
    block: &Block<'_>,
    lines: &[Words],
    panels: usize,
    tile: &mut [F32x16],
    row: usize,
    panel: usize,
    sums: impl Fn(usize) -> __m512i,
) {
    let head = &lines[panel * (lines.len() / panels)..][..HEAD];
    let first = row * TILE_ROWS;
    let rows = first..block.rows.len().min(first + TILE_ROWS);
    let start = panel * tile_rows(block);
    let tile = &mut tile[start + rows.start..start + rows.end];
    for (index, line) in tile.iter_mut().enumerate() {
        avx512::add_integers(block, head, sums(index), rows.start + index, line);
    }
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
fn multiply_16_bits(
    block: &Block<'_>,
    lines: &[Words],
    columns: &Columns,
    panels: usize,
    tile: &mut [F32x16],
) {
    let tiles = Tiles::take();
    for row in 0..tile_rows(block) / TILE_ROWS {
        for panel in (0..panels).step_by(2) {
            match panels - panel {
                1 => multiply_16_bits_of::<1>(
                    &tiles, block, lines, columns, panels, tile, row, panel,
                ),
                _ => multiply_16_bits_of::<2>(
                    &tiles, block, lines, columns, panels, tile, row, panel,
                ),
            }
        }
    }
}

/// Registers 0 and 1 sum products of high bytes, 2 and 3 those of high and low, 4 and 5 of low ones.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
#[expect(clippy::too_many_arguments, reason = "a place and its operands")]
fn multiply_16_bits_of<const P: usize>(
    tiles: &Tiles,
    block: &Block<'_>,
    lines: &[Words],
    columns: &Columns,
    panels: usize,
    tile: &mut [F32x16],
    row: usize,
    panel: usize,
) {
    tiles.zero::<0>();
    tiles.zero::<1>();
    tiles.zero::<2>();
    tiles.zero::<3>();
    tiles.zero::<4>();
    tiles.zero::<5>();
    let x = block.x_tiles(row).as_chunks::<2>().0;
    let columns: [&[[Tile; 2]]; P] =
        std::array::from_fn(|p| columns.panel(panel + p, panels).as_chunks::<2>().0);
    for (step, [x_high, x_low]) in x.iter().enumerate() {
        tiles.load::<6>(x_high);
        let [high, low] = &columns[0][step];
        tiles.load::<7>(high);
        tiles.multiply_i8_i8::<0, 6, 7>();
        tiles.load::<7>(low);
        tiles.multiply_i8_u8::<2, 6, 7>();
        if P == 2 {
            let [high, low] = &columns[P - 1][step];
            tiles.load::<7>(high);
            tiles.multiply_i8_i8::<1, 6, 7>();
            tiles.load::<7>(low);
            tiles.multiply_i8_u8::<3, 6, 7>();
        }
        tiles.load::<6>(x_low);
        tiles.load::<7>(high);
        tiles.multiply_u8_i8::<2, 6, 7>();
        tiles.load::<7>(low);
        tiles.multiply_u8_u8::<4, 6, 7>();
        if P == 2 {
            let [high, low] = &columns[P - 1][step];
            tiles.load::<7>(high);
            tiles.multiply_u8_i8::<3, 6, 7>();
            tiles.load::<7>(low);
            tiles.multiply_u8_u8::<5, 6, 7>();
        }
    }
    let mut sums = [[[Words::default(); TILE_ROWS]; 2]; 3];
    tiles.store::<0>(&mut sums[0][0]);
    tiles.store::<1>(&mut sums[0][1]);
    tiles.store::<2>(&mut sums[1][0]);
    tiles.store::<3>(&mut sums[1][1]);
    tiles.store::<4>(&mut sums[2][0]);
    tiles.store::<5>(&mut sums[2][1]);
    for p in 0..P {
        add_sums(block, lines, panels, tile, row, panel + p, |row| {
            let [high, middle, low] = [0, 1, 2].map(|part| load_words(&sums[part][p][row]));
            // The sums of the parts may leave 32 bits on the way; the total does not.
            let upper = _mm512_add_epi32(_mm512_slli_epi32::<8>(high), middle);
            _mm512_add_epi32(_mm512_slli_epi32::<8>(upper), low)
        });
    }
}
