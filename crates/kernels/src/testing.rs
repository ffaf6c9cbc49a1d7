//! What the tests of the operations share: processors to run on and numbers to run with.

use std::num::NonZeroUsize;

use crate::{Cpu, Isa};

/// A processor for each instruction set that this machine has; says which ones it lacks.
pub(crate) fn cpus(threads: usize) -> Vec<Cpu> {
    let threads = NonZeroUsize::new(threads).expect("a test uses at least one thread");
    let cpus = Isa::ALL.iter().filter_map(|&isa| cpu_of(isa));
    cpus.map(|cpu| Cpu::new(cpu.isa(), threads)).collect()
}

/// A processor of one thread, if this machine has the instruction set; says so if not.
pub(crate) fn cpu_of(isa: Isa) -> Option<Cpu> {
    if !isa.is_available() {
        eprintln!("not run: this processor lacks `{isa}`");
        return None;
    }
    Some(Cpu::new(isa, NonZeroUsize::MIN))
}

/// `len` numbers, uniform in [-1, 1), the same for the same seed (splitmix64).
pub(crate) fn uniform(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) >> 40
    };
    (0..len)
        .map(|_| next() as f32 / (1 << 23) as f32 - 1.0)
        .collect()
}

/// The bits of each number, for comparisons that must be exact.
pub(crate) fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}
