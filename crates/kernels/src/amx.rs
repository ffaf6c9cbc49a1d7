//! The matrix unit of x86-64 (AMX): eight registers of 16 rows by 64 bytes, and products of them.
//!
//! The compiler has no stable names for these instructions, so they stand here as assembly, each
//! in a safe method of [`Tiles`], whose value is the proof that this thread may use them.
#![expect(
    unsafe_code,
    reason = "instructions and a system call without intrinsics"
)]

use std::arch::asm;
use std::marker::PhantomData;
use std::sync::OnceLock;

use crate::tile::{F32x16, Words};

/// Rows of a register.
pub(crate) const TILE_ROWS: usize = 16;

/// What a register holds: 16 rows of 16 words.
pub(crate) type Tile = [Words; TILE_ROWS];

/// Whether this processor has products of bf16 and of bytes, and the system lets this process use
/// them. Asks once; the answer holds for every thread.
pub(crate) fn is_available() -> bool {
    static IS_AVAILABLE: OnceLock<bool> = OnceLock::new();
    *IS_AVAILABLE.get_or_init(|| has_instructions() && is_permitted())
}

/// CPUID leaf 7: bits 22, 24 and 25 of EDX are AMX-BF16, AMX-TILE and AMX-INT8.
fn has_instructions() -> bool {
    const NEEDED: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    let leaves = std::arch::x86_64::__cpuid(0).eax;
    leaves >= 7 && std::arch::x86_64::__cpuid_count(7, 0).edx & NEEDED == NEEDED
}

/// Asks Linux to keep the registers of this process over a change of threads, which it does not do
/// unasked because they are large (Linux, arch/x86/xstate.rst).
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const REQUEST_PERMISSION: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    let result: i64;
    // SAFETY: a system call that takes no pointers; it overwrites `rcx` and `r11`.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") REQUEST_PERMISSION,
            in("rsi") TILE_DATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// Only Linux has been tried.
#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// The registers of this thread, in use as long as this lives. Its methods name registers by
/// numbers from 0 to 7.
pub(crate) struct Tiles {
    /// Registers belong to a thread.
    not_send: PhantomData<*const ()>,
}

/// Intel's Architectures Manual, volume 1, 18.2.1: palette 1, every register 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Tiles {
    /// Takes the registers of this thread. There must be one at a time.
    ///
    /// # Panics
    /// If they are not available.
    pub(crate) fn take() -> Tiles {
        assert!(is_available(), "this processor lacks `amx`");
        let mut configuration = Configuration {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        configuration.row_bytes[..8].fill(64);
        configuration.rows[..8].fill(16);
        // SAFETY: reads the 64 bytes of a valid configuration; the instruction is available.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly));
        }
        Tiles {
            not_send: PhantomData,
        }
    }

    /// Sets a register to zeros.
    #[inline(always)]
    pub(crate) fn zero<const T: u8>(&self) {
        // SAFETY: `self` says that the registers are in use; the compiler uses none of them.
        unsafe { asm!("tilezero tmm{t}", t = const T, options(nostack, nomem)) }
    }

    /// Reads a register.
    #[inline(always)]
    pub(crate) fn load<const T: u8>(&self, tile: &Tile) {
        // SAFETY: a tile is what is read.
        unsafe { self.load_from::<T>(tile.as_ptr().cast()) }
    }

    /// Reads a register of f32 sums.
    #[inline(always)]
    pub(crate) fn load_sums<const T: u8>(&self, sums: &[F32x16; 16]) {
        // SAFETY: 16 lines of 64 bytes, as in a tile.
        unsafe { self.load_from::<T>(sums.as_ptr().cast()) }
    }

    /// Writes a register.
    #[inline(always)]
    pub(crate) fn store<const T: u8>(&self, tile: &mut Tile) {
        // SAFETY: a tile is what is written, and any bits are words.
        unsafe { self.store_to::<T>(tile.as_mut_ptr().cast()) }
    }

    /// Writes a register of f32 sums.
    #[inline(always)]
    pub(crate) fn store_sums<const T: u8>(&self, sums: &mut [F32x16; 16]) {
        // SAFETY: 16 lines of 64 bytes, as in a tile, and any bits are f32.
        unsafe { self.store_to::<T>(sums.as_mut_ptr().cast()) }
    }

    /// # Safety
    /// 16 times 64 bytes are readable at `start`.
    #[inline(always)]
    unsafe fn load_from<const T: u8>(&self, start: *const u8) {
        // SAFETY: the caller's promise; and as in `zero`.
        unsafe {
            asm!(
                "tileloadd tmm{t}, [{start} + {stride}]",
                t = const T,
                start = in(reg) start,
                stride = in(reg) size_of::<Words>(),
                options(nostack, readonly),
            );
        }
    }

    /// # Safety
    /// 16 times 64 bytes are writable at `start`.
    #[inline(always)]
    unsafe fn store_to<const T: u8>(&self, start: *mut u8) {
        // SAFETY: the caller's promise; and as in `zero`.
        unsafe {
            asm!(
                "tilestored [{start} + {stride}], tmm{t}",
                t = const T,
                start = in(reg) start,
                stride = in(reg) size_of::<Words>(),
                options(nostack),
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: as in `zero`. Registers that are not in use cost nothing at a change of threads.
        unsafe { asm!("tilerelease", options(nostack, nomem)) }
    }
}

/// Products of registers: `C += A · B`, where a word of A and B is as many numbers as it holds of
/// consecutive places of the sum. Row r of A is row r of C; column c of B is column c of C.
macro_rules! products {
    ($($(#[$doc:meta])* $name:ident: $instruction:literal)*) => {
        impl Tiles {
            $(
                $(#[$doc])*
                #[inline(always)]
                pub(crate) fn $name<const C: u8, const A: u8, const B: u8>(&self) {
                    // SAFETY: as in `zero`.
                    unsafe {
                        asm!(
                            concat!($instruction, " tmm{c}, tmm{a}, tmm{b}"),
                            c = const C,
                            a = const A,
                            b = const B,
                            options(nostack, nomem),
                        );
                    }
                }
            )*
        }
    };
}

products! {
    /// bf16 by bf16, added in f32: the sum of the 32 products of a row and a column joins C.
    multiply_bf16: "tdpbf16ps"
    /// Bytes without a sign by bytes with one, added as integers.
    multiply_u8_i8: "tdpbusd"
    /// Bytes with a sign by bytes with one.
    multiply_i8_i8: "tdpbssd"
    /// Bytes with a sign by bytes without one.
    multiply_i8_u8: "tdpbsud"
    /// Bytes without a sign by bytes without one.
    multiply_u8_u8: "tdpbuud"
}
