//! Rotary position embedding of queries and keys.

#[cfg(target_arch = "x86_64")]
mod avx2;

use crate::Cpu;
use crate::isa::per_isa;

/// Tokens per task: some microseconds of work.
const TOKENS_PER_TASK: usize = 16;

/// Cosines and sines of every position, both [positions, head_dim / 2].
///
/// As PyTorch computes them (`transformers`, `JinaEmbeddingsV3RotaryEmbedding`): the frequency of
/// pair i is `1 / theta^(2i / head_dim)` with the power rounded to f32 before the division, the
/// angle is the f32 product of position and frequency, and cosine and sine are those of that angle,
/// rounded to f32.
pub struct RopeTable {
    head_dim: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    /// A table for positions `0..positions`.
    ///
    /// # Panics
    /// If `head_dim` is odd or 0.
    pub fn new(theta: f64, head_dim: usize, positions: usize) -> RopeTable {
        assert!(
            head_dim > 0 && head_dim.is_multiple_of(2),
            "head_dim {head_dim} is no number of pairs"
        );
        let frequencies = inverse_frequencies(theta, head_dim);
        let angles = (0..positions)
            .flat_map(|position| frequencies.iter().map(move |f| position as f32 * f))
            .map(f64::from);
        RopeTable {
            head_dim,
            cos: angles
                .clone()
                .map(|angle| libm::cos(angle) as f32)
                .collect(),
            sin: angles.map(|angle| libm::sin(angle) as f32).collect(),
        }
    }

    /// How many positions the table has.
    pub fn positions(&self) -> usize {
        self.cos.len() / (self.head_dim / 2)
    }

    /// Cosines and sines of one position, each [head_dim / 2].
    #[inline(always)]
    fn row(&self, position: usize) -> (&[f32], &[f32]) {
        let half = self.head_dim / 2;
        let range = position * half..(position + 1) * half;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

/// `1 / theta^(2i / head_dim)` for each pair i.
fn inverse_frequencies(theta: f64, head_dim: usize) -> Vec<f32> {
    (0..head_dim)
        .step_by(2)
        .map(|double| 1.0 / (libm::pow(theta, double as f64 / head_dim as f64) as f32))
        .collect()
}

/// Rotates query and key pairs in place by their position (RoPE, Su et al. 2021, eq. 34).
///
/// `qkv` is [tokens, 3, num_heads, head_dim]; values stay as they are. Sequence s is the tokens
/// `cu_seqlens[s]..cu_seqlens[s + 1]`, and its positions start at 0. Pairs are
/// (i, i + head_dim / 2), the "rotate half" layout of the checkpoint.
///
/// # Panics
/// If the lengths do not agree, or a sequence is longer than the table.
pub fn rotate_qk(
    cpu: &Cpu,
    qkv: &mut [f32],
    cu_seqlens: &[u32],
    num_heads: usize,
    head_dim: usize,
    table: &RopeTable,
) {
    assert_eq!(head_dim, table.head_dim, "head_dim of the table");
    let width = 3 * num_heads * head_dim;
    crate::attention::check_sequences(cu_seqlens, qkv.len(), width);
    for ends in cu_seqlens.windows(2) {
        let len = (ends[1] - ends[0]) as usize;
        let positions = table.positions();
        assert!(len <= positions, "{len} tokens, {positions} positions");
    }
    let chunk_len = TOKENS_PER_TASK * width;
    cpu.pool().for_each_chunk(qkv, chunk_len, &|chunk, tokens| {
        let positions = Positions::starting_at(chunk * TOKENS_PER_TASK, cu_seqlens);
        per_isa!(
            cpu.isa(),
            portable => rotate(tokens, width, positions, table),
            avx2 => avx2::rotate(tokens, width, positions, table),
        );
    });
}

/// The specification; also compiled for wider registers, with the same bits.
#[inline(always)]
fn rotate(tokens: &mut [f32], width: usize, positions: Positions<'_>, table: &RopeTable) {
    let half = table.head_dim / 2;
    for (token, position) in tokens.chunks_exact_mut(width).zip(positions) {
        let (cos, sin) = table.row(position);
        let queries_and_keys = &mut token[..width / 3 * 2];
        for head in queries_and_keys.chunks_exact_mut(table.head_dim) {
            let (first, second) = head.split_at_mut(half);
            for ((first, second), (cos, sin)) in
                first.iter_mut().zip(second).zip(cos.iter().zip(sin))
            {
                let (x, y) = (*first, *second);
                *first = x * cos - y * sin;
                *second = y * cos + x * sin;
            }
        }
    }
}

/// The positions of consecutive tokens, each within its own sequence.
struct Positions<'a> {
    token: usize,
    /// Starts with the start of the sequence that `token` is in.
    cu_seqlens: &'a [u32],
}

impl Positions<'_> {
    fn starting_at(token: usize, cu_seqlens: &[u32]) -> Positions<'_> {
        let after = cu_seqlens.partition_point(|&start| start as usize <= token);
        Positions {
            token,
            cu_seqlens: &cu_seqlens[after - 1..],
        }
    }
}

impl Iterator for Positions<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        while *self.cu_seqlens.get(1)? as usize <= self.token {
            self.cu_seqlens = &self.cu_seqlens[1..];
        }
        self.token += 1;
        Some(self.token - 1 - self.cu_seqlens[0] as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::testing::{bits, cpus, uniform};

    /// Four roundings of numbers of size 1 to 2.
    const TOLERANCE: f64 = 3e-7;

    proptest! {
        #[test]
        fn agrees_with_the_reference_and_leaves_values_alone(
            lens in prop::collection::vec(0_usize..30, 0..5),
            num_heads in 1_usize..=3,
            head_dim in select(vec![2, 6, 16, 34, 64]),
            threads in 1_usize..=3,
            seed: u64,
        ) {
            let table = RopeTable::new(20_000.0, head_dim, 30);
            let frequencies = inverse_frequencies(20_000.0, head_dim);
            let half = head_dim / 2;
            let mut cu_seqlens = vec![0];
            for len in &lens {
                cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + *len as u32);
            }
            let tokens: usize = lens.iter().sum();
            let before = uniform(seed, tokens * 3 * num_heads * head_dim);
            let positions: Vec<usize> = lens.iter().flat_map(|len| 0..*len).collect();
            for cpu in cpus(threads) {
                let mut after = before.clone();
                rotate_qk(&cpu, &mut after, &cu_seqlens, num_heads, head_dim, &table);
                let heads = before.chunks_exact(head_dim).zip(after.chunks_exact(head_dim));
                for (index, (before, after)) in heads.enumerate() {
                    let position = positions[index / (3 * num_heads)];
                    if index / num_heads % 3 == 2 {
                        prop_assert_eq!(before, after);
                        continue;
                    }
                    for (i, frequency) in frequencies.iter().enumerate() {
                        let angle = f64::from(position as f32 * frequency);
                        let (x, y) = (f64::from(before[i]), f64::from(before[i + half]));
                        let first = x * angle.cos() - y * angle.sin();
                        let second = y * angle.cos() + x * angle.sin();
                        prop_assert!((f64::from(after[i]) - first).abs() <= TOLERANCE);
                        prop_assert!((f64::from(after[i + half]) - second).abs() <= TOLERANCE);
                    }
                }
            }
        }
    }

    #[test]
    fn a_sequence_alone_has_the_bits_it_has_among_others() {
        let (num_heads, head_dim, width) = (2, 16, 96);
        let table = RopeTable::new(20_000.0, head_dim, 100);
        let before = uniform(3, 160 * width);
        let cu_seqlens = [0, 1, 1, 60, 160];
        for (cpu, alone) in cpus(3).iter().zip(cpus(1)) {
            let mut packed = before.clone();
            rotate_qk(cpu, &mut packed, &cu_seqlens, num_heads, head_dim, &table);
            for ends in cu_seqlens.windows(2) {
                let range = ends[0] as usize * width..ends[1] as usize * width;
                let mut one = before[range.clone()].to_vec();
                let cu_seqlens = [0, ends[1] - ends[0]];
                rotate_qk(&alone, &mut one, &cu_seqlens, num_heads, head_dim, &table);
                assert_eq!(bits(&one), bits(&packed[range]));
            }
        }
    }

    /// The table of torch 2.15 for theta 20000 and head_dim 64, bit for bit:
    /// `1 / 20000 ** (torch.arange(0, 64, 2).float() / 64)`.
    #[test]
    fn frequencies_are_those_of_torch() {
        let expected = [
            0x3f80_0000,
            0x3f3b_dbfd,
            0x3f09_db21,
            0x3eca_5310,
            0x3e94_788a,
            0x3e59_e746,
            0x3e1f_e730,
            0x3dea_ae92,
            0x3dac_3731,
            0x3d7c_c09d,
            0x3d39_79e5,
            0x3d08_1b6d,
            0x3cc7_c1fe,
            0x3c92_965d,
            0x3c57_239b,
            0x3c1d_dfe2,
            0x3be7_b46b,
            0x3baa_07e6,
            0x3b79_8bc5,
            0x3b37_1f8a,
            0x3b06_6167,
            0x3ac5_3941,
            0x3a90_ba4e,
            0x3a54_68eb,
            0x3a1b_df2b,
            0x39e4_c3ee,
            0x39a7_dfb5,
            0x3976_6157,
            0x3934_ccd4,
            0x3904_acfd,
            0x38c2_b8bf,
            0x388e_e448,
        ];
        assert_eq!(bits(&inverse_frequencies(20_000.0, 64)), expected);
    }

    /// `qk = torch.sin(torch.arange(36.)).reshape(3, 3, 1, 4)[:, :2]` rotated as in
    /// `apply_rotary_pos_emb` of transformers 5.23, theta 20000, positions 0 to 2, torch 2.15.
    #[test]
    fn equals_torch() {
        let table = RopeTable::new(20_000.0, 4, 3);
        for cpu in cpus(1) {
            let mut qkv: Vec<f32> = (0..36).map(|i| (i as f32).sin()).collect();
            rotate_qk(&cpu, &mut qkv, &[0, 3], 1, 4, &table);
            let found = qkv.chunks_exact(12).flat_map(|token| &token[..8]);
            for (found, expected) in found.zip(TORCH) {
                assert!((found - expected).abs() <= 2e-7, "{found} {expected}");
            }
        }
    }

    const TORCH: [f32; 24] = [
        0.0,
        0.841_470_96,
        0.909_297_4,
        0.141_12,
        -0.756_802_5,
        -0.958_924_3,
        -0.279_415_5,
        0.656_986_6,
        -1.123_478_9,
        0.415_558_34,
        0.083_716_93,
        0.653_242_65,
        0.476_379_1,
        -0.962_433_2,
        -0.648_022_4,
        0.143_075_42,
        -0.316_538_87,
        -0.145_863_26,
        -1.140_776_4,
        0.954_408_65,
        0.785_678,
        -0.657_853_7,
        0.657_500_2,
        -0.413_382_14,
    ];
}
