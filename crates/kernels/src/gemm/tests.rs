//! Every format on every instruction set against sums in f64, and the contract of the bits.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::Isa;
use crate::gelu::gelu_of;
use crate::testing::{bits, cpu_of, cpus, uniform};

/// Of the sum of the magnitudes of all terms: 256 roundings of a chain at most, 2^-24 each,
/// and those of a few blocks; random signs keep the true error far below.
const TOLERANCE: f64 = 3e-6;

#[derive(Clone, Copy, Debug)]
enum Type {
    F32,
    Bf16,
    F16,
    Int16,
    Int8,
}

/// A product with an adapter of `rank` on all rows but the first and last third.
struct Case {
    n: usize,
    k: usize,
    rank: usize,
    x: Vec<f32>,
    weights: Vec<f32>,
    bytes: Vec<u8>,
    element: Type,
    bias: Vec<f32>,
    lora_a: Vec<f32>,
    lora_b: Vec<f32>,
    residual: Vec<f32>,
}

impl Case {
    fn new(seed: u64, element: Type, [m, n, k, rank]: [usize; 4]) -> Case {
        // Eighths up to 1 are exact in every type.
        let weights: Vec<f32> = uniform(seed, n * k)
            .iter()
            .map(|x| (x * 8.0).round() / 8.0)
            .collect();
        let bytes = match element {
            Type::F32 | Type::Int16 | Type::Int8 => {
                weights.iter().flat_map(|x| x.to_le_bytes()).collect()
            }
            Type::Bf16 => weights
                .iter()
                .flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes())
                .collect(),
            Type::F16 => weights
                .iter()
                .flat_map(|x| f16_bits(*x).to_le_bytes())
                .collect(),
        };
        Case {
            n,
            k,
            rank,
            x: uniform(seed ^ 1, m * k),
            weights,
            bytes,
            element,
            bias: uniform(seed ^ 2, n),
            lora_a: uniform(seed ^ 3, rank * k),
            lora_b: uniform(seed ^ 4, n * rank),
            residual: uniform(seed ^ 5, m * n),
        }
    }

    fn m(&self) -> usize {
        self.x.len() / self.k
    }

    fn epilogue(&self, index: usize, rows: Range<usize>) -> Epilogue<'_> {
        let residual = &self.residual[rows.start * self.n..rows.end * self.n];
        [
            Epilogue::Bias,
            Epilogue::BiasGelu,
            Epilogue::BiasResidual(residual),
        ][index]
    }

    fn has_lora(&self, row: usize) -> bool {
        (self.m() / 3..self.m() - self.m() / 3).contains(&row)
    }

    /// The product of some of the rows.
    fn run(&self, cpu: &Cpu, rows: Range<usize>, epilogue: usize) -> Vec<f32> {
        let (n, k) = (self.n, self.k);
        // Two blocks, so that a panel takes rows from both.
        let (first, second) = self.bytes.split_at(n / 2 * self.bytes.len() / n);
        let blocks = [first, second].map(|bytes| match self.element {
            Type::F32 | Type::Int16 | Type::Int8 => Rows::F32(bytes),
            Type::Bf16 => Rows::Bf16(bytes),
            Type::F16 => Rows::F16(bytes),
        });
        let format = match self.element {
            Type::F32 | Type::F16 => Format::F32,
            Type::Bf16 => Format::Bf16,
            Type::Int16 => Format::Int16,
            Type::Int8 => Format::Int8,
        };
        let weights = PackedMatrix::pack(cpu, &blocks, k, format);
        assert_eq!(weights.format(), format);
        let lora = PackedLora::new(&self.lora_a, &self.lora_b, n, k, self.rank, 0.25);
        let segments: Vec<Segment<'_>> = rows
            .clone()
            .map(|row| Segment {
                rows: row - rows.start..row + 1 - rows.start,
                lora: self.has_lora(row).then_some(&lora),
            })
            .collect();
        let operands = Product {
            x: &self.x[rows.start * k..rows.end * k],
            weights: &weights,
            bias: &self.bias,
            segments: &segments,
            epilogue: self.epilogue(epilogue, rows.clone()),
        };
        let mut out = vec![f32::NAN; rows.len() * n];
        let mut scratch = GemmScratch::default();
        product(cpu, &mut scratch, &operands, &mut out);
        out
    }

    /// One number of the product in f64 and the sum of the magnitudes of its terms.
    fn expected(&self, row: usize, column: usize, epilogue: usize) -> (f64, f64) {
        let x = &self.x[row * self.k..][..self.k];
        let terms = |y: &[f32]| -> Vec<f64> {
            x.iter()
                .zip(y)
                .map(|(&x, &y)| f64::from(x) * f64::from(y))
                .collect()
        };
        let weights = &self.weights[column * self.k..][..self.k];
        let mut all = match self.element {
            Type::F32 | Type::Bf16 | Type::F16 => terms(weights),
            Type::Int16 => rounded_terms(x, weights, 16),
            Type::Int8 => rounded_terms(x, weights, 8),
        };
        all.push(f64::from(self.bias[column]));
        if self.has_lora(row) {
            for rank in 0..self.rank {
                let factor = 0.25 * f64::from(self.lora_b[column * self.rank + rank]);
                let side = terms(&self.lora_a[rank * self.k..][..self.k]);
                all.extend(side.iter().map(|term| term * factor));
            }
        }
        let magnitude = all.iter().map(|term| term.abs()).sum();
        let sum: f64 = all.iter().sum();
        match epilogue {
            0 => (sum, magnitude),
            1 => (f64::from(gelu_of(sum as f32)), magnitude),
            _ => (
                sum + f64::from(self.residual[row * self.n + column]),
                magnitude,
            ),
        }
    }
}

/// The products of numbers rounded as `integers.rs` says, in blocks of 256.
fn rounded_terms(x: &[f32], weights: &[f32], bits: u32) -> Vec<f64> {
    let rounded = |numbers: &[f32], inverse: f32, range: std::ops::RangeInclusive<f32>| {
        let inverse = if inverse.is_finite() { inverse } else { 0.0 };
        let number = |x: &f32| {
            let integer = (x * inverse).round_ties_even();
            assert!(range.contains(&integer), "{x} becomes {integer}");
            f64::from(integer) / f64::from(inverse.max(f32::MIN_POSITIVE))
        };
        numbers.iter().map(number).collect::<Vec<f64>>()
    };
    let largest = |numbers: &[f32]| numbers.iter().fold(0.0, |a: f32, b| a.max(b.abs()));
    let extreme =
        |numbers: &[f32], sign: f32| numbers.iter().fold(0.0, |a: f32, b| a.max(sign * b));
    let blocks = x.chunks(256).zip(weights.chunks(256)).map(|(x, weights)| {
        let (x, weights) = if bits == 16 {
            let sum: f32 = weights.iter().map(|weight| weight.abs()).sum();
            let inverse = (32_767.0 / largest(weights)).min(261_900.0 / sum);
            (
                rounded(x, 8191.0 / largest(x), -8191.0..=8191.0),
                rounded(weights, inverse, -32_767.0..=32_767.0),
            )
        } else {
            let four = |eight: &[f32], places: [usize; 4]| -> f32 {
                let numbers = places.iter().filter_map(|place| eight.get(*place));
                numbers.map(|weight| weight.abs()).sum()
            };
            let fours = weights
                .chunks(8)
                .map(|eight| four(eight, [0, 1, 4, 5]).max(four(eight, [2, 3, 6, 7])));
            let inverse = (127.0 / largest(weights)).min(168.0 / fours.fold(0.0, f32::max));
            let range = extreme(x, 1.0) + extreme(x, -1.0);
            (
                rounded(x, 191.0 / range, -191.0..=191.0),
                rounded(weights, inverse, -127.0..=127.0),
            )
        };
        x.iter()
            .zip(weights)
            .map(|(x, weight)| x * weight)
            .collect::<Vec<_>>()
    });
    blocks.flatten().collect()
}

/// Half precision of an eighth between -1 and 1.
fn f16_bits(x: f32) -> u16 {
    let sign = if x.is_sign_negative() { 0x8000 } else { 0 };
    if x == 0.0 {
        return sign;
    }
    let word = x.abs().to_bits();
    sign | ((word >> 13) - (112 << 10)) as u16
}

proptest! {
    #[test]
    fn agrees_with_the_reference(
        m in 0_usize..=20,
        n in select(vec![1, 2, 15, 16, 17, 31, 48, 100]),
        k in select(vec![1, 7, 16, 31, 255, 256, 257, 520]),
        rank in 1_usize..=6,
        element in select(vec![Type::F32, Type::Bf16, Type::F16, Type::Int16, Type::Int8]),
        epilogue in 0_usize..3,
        seed: u64,
    ) {
        let case = Case::new(seed, element, [m, n, k, rank]);
        for cpu in cpus(1) {
            let out = case.run(&cpu, 0..m, epilogue);
            for (place, found) in out.into_iter().enumerate() {
                let (expected, magnitude) = case.expected(place / n, place % n, epilogue);
                let error = (f64::from(found) - expected).abs();
                prop_assert!(error <= TOLERANCE * (magnitude + 1.0), "{found} {expected}");
            }
        }
    }

    #[test]
    fn a_row_alone_has_the_bits_it_has_in_a_batch(
        m in 1_usize..=40,
        n in select(vec![1, 16, 17, 80]),
        k in select(vec![1, 256, 300]),
        threads in 1_usize..=3,
        element in select(vec![Type::Bf16, Type::Int16, Type::Int8]),
        epilogue in 0_usize..3,
        seed: u64,
    ) {
        let case = Case::new(seed, element, [m, n, k, 4]);
        for (cpu, alone) in cpus(threads).iter().zip(cpus(1)) {
            let batch = case.run(cpu, 0..m, epilogue);
            for (row, batch) in batch.chunks_exact(n).enumerate() {
                prop_assert_eq!(bits(batch), bits(&case.run(&alone, row..row + 1, epilogue)));
            }
        }
    }
}

#[test]
fn many_rows_on_any_number_of_threads_have_the_same_bits() {
    for element in [Type::Bf16, Type::Int16, Type::Int8] {
        let case = Case::new(9, element, [450, 400, 700, 4]);
        for (epilogue, alone) in (0..3).flat_map(|epilogue| {
            let cpus = cpus(1).into_iter();
            cpus.map(move |cpu| (epilogue, cpu))
        }) {
            let expected = bits(&case.run(&alone, 0..450, epilogue));
            let found = bits(&case.run(&alone, 191..199, epilogue));
            assert_eq!(found, expected[191 * 400..199 * 400]);
            for threads in [2, 3] {
                let threads = threads.try_into().expect("not 0");
                let cpu = Cpu::new(alone.isa(), threads);
                assert_eq!(bits(&case.run(&cpu, 0..450, epilogue)), expected);
            }
        }
    }
}

#[test]
fn wider_registers_change_no_bit() {
    let (Some(narrow), Some(mut wide)) = (cpu_of(Isa::Avx2), cpu_of(Isa::Avx512)) else {
        return;
    };
    for element in [Type::F32, Type::Bf16, Type::Int16, Type::Int8] {
        let case = Case::new(11, element, [29, 150, 300, 4]);
        let expected = bits(&case.run(&narrow, 0..29, 1));
        for is_wide in [false, true] {
            wide.is_wide = is_wide;
            assert_eq!(bits(&case.run(&wide, 0..29, 1)), expected);
        }
    }
}

proptest! {
    #[test]
    fn integer_sums_of_one_block_have_the_bits_of_the_specification(
        m in 1_usize..=14,
        n in select(vec![1, 16, 70]),
        k in select(vec![1, 7, 32, 150, 256]),
        element in select(vec![Type::Int16, Type::Int8]),
        seed: u64,
    ) {
        // Without bias and adapter each number is an integer times two scales.
        let case = Case { bias: vec![0.0; n], ..Case::new(seed, element, [m, n, k, 0]) };
        let cpus = cpus(1);
        let expected = bits(&case.run(&cpus[0], 0..m, 0));
        for cpu in &cpus[1..] {
            prop_assert_eq!(&bits(&case.run(cpu, 0..m, 0)), &expected);
        }
    }
}

#[test]
fn the_largest_integers_do_not_overflow() {
    // Numbers of one magnitude are what the bounds of the sums are about.
    for (k, sign) in [(256, 1.0), (256, -1.0), (512, 1.0)] {
        let x = vec![3.0; k];
        let bytes: Vec<u8> = vec![sign * 5.0; 17 * k]
            .iter()
            .flat_map(|x: &f32| x.to_le_bytes())
            .collect();
        for (cpu, format) in cpus(1)
            .iter()
            .flat_map(|cpu| [Format::Int16, Format::Int8].map(|format| (cpu, format)))
        {
            let operands = Product {
                x: &x,
                weights: &PackedMatrix::pack(cpu, &[Rows::F32(&bytes)], k, format),
                bias: &[0.0; 17],
                segments: &[Segment {
                    rows: 0..1,
                    lora: None,
                }],
                epilogue: Epilogue::Bias,
            };
            let mut out = [0.0; 17];
            product(cpu, &mut GemmScratch::default(), &operands, &mut out);
            let expected = sign * 15.0 * k as f32;
            assert!(
                out.iter().all(|sum| (sum / expected - 1.0).abs() < 0.01),
                "{out:?}"
            );
        }
    }
}

#[test]
fn smoothing_takes_a_large_number_s_error_away_and_nothing_else() {
    let (k, n) = (300, 40);
    let mut x = uniform(7, k);
    x[17] *= 64.0;
    let weights = uniform(8, n * k);
    let bytes: Vec<u8> = weights.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut smoothing = vec![1.0; k];
    smoothing[17] = 8.0;
    let terms = |row: &[f32]| -> f64 {
        let pairs = x.iter().zip(row);
        pairs.map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    };
    let expected: Vec<f64> = weights.chunks_exact(k).map(terms).collect();
    let mut first: Option<Vec<u32>> = None;
    for cpu in cpus(1) {
        let product = |weights: &PackedMatrix| {
            let operands = Product {
                x: &x,
                weights,
                bias: &[0.0; 40],
                segments: &[Segment {
                    rows: 0..1,
                    lora: None,
                }],
                epilogue: Epilogue::Bias,
            };
            let mut out = vec![f32::NAN; n];
            product(&cpu, &mut GemmScratch::default(), &operands, &mut out);
            out
        };
        let error = |out: &[f32]| -> f64 {
            let pairs = out.iter().zip(&expected);
            pairs.map(|(a, b)| (f64::from(*a) - b).powi(2)).sum()
        };
        let rows = [Rows::F32(&bytes)];
        let plain = product(&PackedMatrix::pack(&cpu, &rows, k, Format::Int8));
        let packed = PackedMatrix::pack_smoothed(&cpu, &rows, k, Format::Int8, &smoothing);
        let smoothed = product(&packed);
        assert!(error(&smoothed) < error(&plain) / 8.0);
        if let Some(first) = &first {
            let scale = expected.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
            let pairs = first.iter().zip(&smoothed);
            let is_near = |(a, b): (&u32, &f32)| {
                f64::from((f32::from_bits(*a) - b).abs()) <= TOLERANCE * scale
            };
            assert!(pairs.into_iter().all(is_near), "{:?}", cpu.isa());
        }
        first = Some(bits(&smoothed));
        let exact = product(&PackedMatrix::pack_smoothed(
            &cpu,
            &rows,
            k,
            Format::F32,
            &smoothing,
        ));
        let plain = product(&PackedMatrix::pack(&cpu, &rows, k, Format::F32));
        assert_eq!(bits(&exact), bits(&plain));
    }
}

#[test]
fn what_is_not_finite_stays_so_in_its_row() {
    let weights = uniform(3, 20 * 64);
    let bytes: Vec<u8> = weights.iter().flat_map(|x| x.to_le_bytes()).collect();
    let halves: Vec<u8> = bytes.chunks(4).flat_map(|x| [x[2], x[3]]).collect();
    let formats = [Format::F32, Format::Bf16, Format::Int16, Format::Int8];
    for (cpu, format) in cpus(1)
        .iter()
        .flat_map(|cpu| formats.map(|format| (cpu, format)))
    {
        let rows = match format {
            Format::Bf16 => Rows::Bf16(&halves),
            Format::F32 | Format::Int16 | Format::Int8 => Rows::F32(&bytes),
        };
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = uniform(4, 2 * 64);
            x[70] = bad;
            let operands = Product {
                x: &x,
                weights: &PackedMatrix::pack(cpu, &[rows], 64, format),
                bias: &[0.0; 20],
                segments: &[Segment {
                    rows: 0..2,
                    lora: None,
                }],
                epilogue: Epilogue::Bias,
            };
            let mut out = [0.0; 40];
            product(cpu, &mut GemmScratch::default(), &operands, &mut out);
            let (good, bad) = out.split_at(20);
            assert!(good.iter().all(|x| x.is_finite()), "{good:?}");
            assert!(bad.iter().all(|x| !x.is_finite()), "{bad:?}");
        }
    }
}

#[test]
fn half_precision_widens_exactly() {
    let cases = [
        (0x0000, 0.0),
        (0x8000, -0.0),
        (0x3c00, 1.0),
        (0xc000, -2.0),
        (0x7bff, 65504.0),
        (0x0400, 6.103_515_6e-5),
        (0x0001, 5.960_464_5e-8),
        (0x83ff, -6.097_555e-5),
        (0x3555, 0.333_251_95),
        (0x7c00, f32::INFINITY),
    ];
    for cpu in cpus(1) {
        for (half, expected) in cases {
            let weights =
                PackedMatrix::pack(&cpu, &[Rows::F16(&u16::to_le_bytes(half))], 1, Format::F32);
            let Lines::F32(lines) = weights.lines(0..1, 0..1) else {
                panic!("half precision is widened");
            };
            assert_eq!(lines[0].0[0].to_bits(), f32::to_bits(expected), "{half:#x}");
        }
    }
}

#[test]
fn bytes_make_the_same_matrix_again() {
    let case = Case::new(5, Type::F32, [7, 40, 300, 4]);
    for (cpu, format) in cpus(1)
        .iter()
        .flat_map(|cpu| [Format::F32, Format::Int16, Format::Int8].map(|format| (cpu, format)))
    {
        let packed = PackedMatrix::pack(cpu, &[Rows::F32(&case.bytes)], 300, format);
        // Lines need alignment, which the file gives by its page and `Vec` does not.
        let len = packed.bytes().len();
        let mut bytes = vec![0; len + 64];
        let start = bytes.as_ptr().align_offset(64);
        bytes[start..start + len].copy_from_slice(packed.bytes());
        let owner: SharedBytes = std::sync::Arc::new(bytes);
        let again = |range| PackedMatrix::from_bytes(&owner, range, 40, 300, format);
        assert!(again(start..start + len - 64).is_none(), "too short");
        assert!(again(start + 1..start + 1 + len).is_none(), "not aligned");
        assert!(again(start..start + len + 65).is_none(), "past the end");
        let shared = again(start..start + len).expect("the same bytes");
        let [expected, found] = [&packed, &shared].map(|weights| {
            let operands = Product {
                x: &case.x,
                weights,
                bias: &case.bias,
                segments: &[Segment {
                    rows: 0..7,
                    lora: None,
                }],
                epilogue: Epilogue::Bias,
            };
            let mut out = vec![f32::NAN; 7 * 40];
            product(cpu, &mut GemmScratch::default(), &operands, &mut out);
            bits(&out)
        });
        assert_eq!(found, expected);
    }
}

#[test]
fn bf16_stays_half_as_large() {
    for cpu in cpus(1) {
        let bytes = [0; 2 * 20 * 3];
        let packed = PackedMatrix::pack(&cpu, &[Rows::Bf16(&bytes)], 3, Format::Bf16);
        assert_eq!(
            (packed.n(), packed.k(), packed.bytes().len()),
            (20, 3, 2 * 32 * 3)
        );
    }
}

/// `x = torch.arange(6.).reshape(2, 3) / 4 - .5; W = torch.arange(12.).reshape(4, 3) / 8 - .5;
/// b = torch.arange(4.) / 10; A = torch.tensor([[1., -2, .5]]);
/// B = torch.arange(4.).reshape(4, 1) - 1;
/// F.gelu(F.linear(x, W, b) + .25 * (x @ A.T) @ B.T)`, torch 2.15.
#[test]
fn equals_torch() {
    let eighths = |count: u8| (0..count).map(|i| f32::from(i) / 8.0 - 0.5);
    let x: Vec<f32> = eighths(6).map(|x| x * 2.0 + 0.5).collect();
    let bytes: Vec<u8> = eighths(12).flat_map(f32::to_le_bytes).collect();
    let lora = PackedLora::new(&[1.0, -2.0, 0.5], &[-1.0, 0.0, 1.0, 2.0], 4, 3, 1, 0.25);
    for cpu in cpus(1) {
        let weights = PackedMatrix::pack(&cpu, &[Rows::F32(&bytes)], 3, Format::F32);
        let operands = Product {
            x: &x,
            weights: &weights,
            bias: &[0.0, 0.1, 0.2, 0.3],
            segments: &[Segment {
                rows: 0..2,
                lora: Some(&lora),
            }],
            epilogue: Epilogue::BiasGelu,
        };
        let mut out = [0.0; 8];
        product(&cpu, &mut GemmScratch::default(), &operands, &mut out);
        for (found, expected) in out.iter().zip(TORCH) {
            assert!((found - expected).abs() <= 3e-7, "{found} {expected}");
        }
    }
}

const TORCH: [f32; 8] = [
    0.218_103_48,
    0.091_738_39,
    -0.009_234_753,
    -0.084_148_06,
    -0.139_051_04,
    0.091_738_39,
    0.561_370_9,
    1.174_159_3,
];
