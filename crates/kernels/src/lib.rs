//! The arithmetic of jina-embeddings-v3 on CPUs: slices in, slices out.
//!
//! Every operation takes the processor as a [`Cpu`] (an instruction set and a pool of threads),
//! row-major f32 slices and their shapes. Nothing here knows the model. In the order in which
//! one layer uses them:
//!
//! - [`gemm`]: `x · Wᵀ + bias` with weights packed once, the low-rank product of each row's own
//!   adapter, and GELU or the residual fused into the last pass over the output;
//! - [`rotary`]: rotary position embedding of queries and keys;
//! - [`attention`]: softmax attention within each sequence of a packed batch;
//! - [`layer_norm`]: layer normalisation in place;
//! - [`gelu`]: the exact GELU, as `gemm` fuses it;
//! - [`pooling`]: sums of rows over spans of tokens.
//!
//! Under them lie [`isa`] (which instruction sets exist), [`threads`] (how work is cut) and the
//! register tile that `gemm` and `attention` share.
//!
//! # Contract
//! **The bits of an output row depend on that row's own inputs and on the instruction set only**:
//! not on the other rows or sequences of the call, nor on the number of threads, nor on how the
//! work was cut. Each sum has one fixed order. The tests of each operation check it bit for bit.
//!
//! # How an operation is laid out
//! A folder each: `mod.rs` has the safe entry (checks the lengths, picks the instruction set), the
//! plain Rust version, which is the specification, and the tests; `avx2.rs` has the fast version,
//! `avx512.rs` and `amx/` one where AVX2's can be beaten, `neon.rs` one where the plain Rust can be
//! on 64-bit Arm.
//! A mistake in lengths is a bug of the caller and panics.

use std::num::NonZeroUsize;

#[cfg(target_arch = "x86_64")]
mod amx;
pub mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod gelu;
pub mod gemm;
pub mod isa;
pub mod layer_norm;
#[cfg(target_arch = "aarch64")]
mod neon;
mod peak;
pub mod pooling;
pub mod rotary;
#[cfg(test)]
mod testing;
pub mod threads;
mod tile;

pub use isa::Isa;
pub use threads::ThreadPool;

/// The processor as this process uses it: one instruction set and one pool of threads.
pub struct Cpu {
    isa: Isa,
    /// Whether f32 products gain from registers of 16 lanes; changes no bit of them.
    is_wide: bool,
    pool: ThreadPool,
}

impl Cpu {
    /// Starts a pool of `threads` threads for kernels of one instruction set.
    ///
    /// # Panics
    /// If the processor lacks the instruction set, or the operating system refuses a thread.
    pub fn new(isa: Isa, threads: NonZeroUsize) -> Cpu {
        assert!(isa.is_available(), "this processor lacks `{isa}`");
        Cpu {
            isa,
            is_wide: peak::is_wide(isa),
            pool: ThreadPool::new(threads),
        }
    }

    /// The instruction set of every operation.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "only AVX-512 asks")
    )]
    pub(crate) fn is_wide(&self) -> bool {
        self.is_wide
    }

    /// How many threads work on an operation.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The threads.
    pub fn pool(&self) -> &ThreadPool {
        &self.pool
    }

    /// Measures how many f32 operations one core does at most, in 10⁹ a second; a multiply-add
    /// counts as two. Takes about a tenth of a second.
    pub fn measure_peak_gflops(&self) -> f64 {
        peak::measure_gflops(self.isa)
    }
}
