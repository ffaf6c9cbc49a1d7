//! Which instruction sets exist, and which one this process uses.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

/// An instruction set that the kernels have a version for.
///
/// Every version of an operation agrees with the portable one within the tolerance that the
/// operation's file states; results are bit-identical only within one instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust without intrinsics: the specification of every operation.
    Portable,
    /// x86-64 with AVX2 and FMA: 8 lanes of f32, fused multiply-add.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI: 16 lanes of f32, integer dot products.
    /// Operations without a version of their own run that of AVX2.
    Avx512,
    /// The same with VBMI and the matrix unit, AMX with products of bf16 and of bytes, where Linux
    /// lets the process use it. Operations without a version of their own run that of AVX-512.
    Amx,
    /// 64-bit Arm with NEON, which all of them have: 4 lanes of f32, fused multiply-add, and
    /// integer dot products where the processor has them, which changes no bit.
    Neon,
}

impl Isa {
    /// Every instruction set; those of one architecture slowest first.
    pub const ALL: &[Isa] = &[Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Amx, Isa::Neon];

    /// Whether this processor can run it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => {
                Isa::Avx512.is_available()
                    && is_x86_feature_detected!("avx512vbmi")
                    && crate::amx::is_available()
            }
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 | Isa::Amx => false,
            // The kernels read lanes of words and of bytes in the order of a little-endian machine.
            Isa::Neon => cfg!(all(target_arch = "aarch64", target_endian = "little")),
        }
    }

    /// The fastest one that this processor can run.
    pub fn best() -> Isa {
        Isa::ALL
            .iter()
            .rev()
            .copied()
            .find(|isa| isa.is_available())
            .unwrap_or(Isa::Portable)
    }

    fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
            Isa::Neon => "neon",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for Isa {
    type Err = ParseIsaError;

    fn from_str(text: &str) -> Result<Isa, ParseIsaError> {
        Isa::ALL
            .iter()
            .copied()
            .find(|isa| isa.name() == text)
            .ok_or_else(|| ParseIsaError { found: text.into() })
    }
}

/// A text that names no instruction set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseIsaError {
    found: String,
}

impl fmt::Display for ParseIsaError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "instruction set `{}`, expected", self.found)?;
        for (index, isa) in Isa::ALL.iter().enumerate() {
            write!(formatter, "{} `{isa}`", if index == 0 { "" } else { " or" })?;
        }
        Ok(())
    }
}

impl Error for ParseIsaError {}

/// Runs the version of an operation that belongs to an instruction set.
///
/// A new instruction set is one more arm here and one more line at each use. The versions are
/// safe `#[target_feature]` functions: what makes calling one `unsafe` is only whether the
/// processor has the instructions. Without `amx` that set runs the version of AVX-512, without
/// `avx512` that of AVX2; without `neon` that set runs the portable one, which the compiler
/// vectorises for it.
macro_rules! per_isa {
    // What a set without a version of its own runs stands first, then its own.
    (@own $fallback:expr, ) => {
        $fallback
    };
    (@own $fallback:expr, $($own:ident)::+ ($($argument:expr),*)) => {
        $crate::isa::per_isa!(@call $($own)::+ ($($argument),*))
    };
    (@call $($version:ident)::+ ($($argument:expr),*)) => {{
        #[expect(unsafe_code, reason = "the call needs a processor with the instruction set")]
        // SAFETY: an `Isa` reaches the kernels inside a `Cpu` only, and `Cpu::new` asserts that
        // the processor has it; AMX includes AVX-512, which includes AVX2 and FMA.
        let result = unsafe { $($version)::+($($argument),*) };
        result
    }};
    (
        $isa:expr,
        portable => $portable:expr,
        avx2 => $($avx2:ident)::+ ($($argument:expr),* $(,)?)
        $(, avx512 => $($avx512:ident)::+ ($($argument512:expr),* $(,)?))?
        $(, amx => $($amx:ident)::+ ($($argument_amx:expr),* $(,)?))?
        $(, neon => $($neon:ident)::+ ($($argument_neon:expr),* $(,)?))?
        $(,)?
    ) => {
        match $isa {
            $crate::isa::Isa::Portable => $portable,
            #[cfg(target_arch = "x86_64")]
            $crate::isa::Isa::Avx2 => {
                $crate::isa::per_isa!(@call $($avx2)::+ ($($argument),*))
            }
            #[cfg(target_arch = "x86_64")]
            $crate::isa::Isa::Avx512 => $crate::isa::per_isa!(
                @own $crate::isa::per_isa!(@call $($avx2)::+ ($($argument),*)),
                $($($avx512)::+ ($($argument512),*))?
            ),
            #[cfg(target_arch = "x86_64")]
            $crate::isa::Isa::Amx => $crate::isa::per_isa!(
                @own $crate::isa::per_isa!(
                    @own $crate::isa::per_isa!(@call $($avx2)::+ ($($argument),*)),
                    $($($avx512)::+ ($($argument512),*))?
                ),
                $($($amx)::+ ($($argument_amx),*))?
            ),
            #[cfg(target_arch = "aarch64")]
            $crate::isa::Isa::Neon => $crate::isa::per_isa!(
                @own $portable,
                $($($neon)::+ ($($argument_neon),*))?
            ),
            #[cfg(not(target_arch = "x86_64"))]
            $crate::isa::Isa::Avx2 | $crate::isa::Isa::Avx512 | $crate::isa::Isa::Amx => {
                unreachable!("`Cpu::new` refuses what the processor lacks")
            }
            #[cfg(not(target_arch = "aarch64"))]
            $crate::isa::Isa::Neon => {
                unreachable!("`Cpu::new` refuses what the processor lacks")
            }
        }
    };
}
pub(crate) use per_isa;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for &isa in Isa::ALL {
            assert_eq!(isa.to_string().parse(), Ok(isa));
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_valid_ones() {
        let error = "avx9".parse::<Isa>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "instruction set `avx9`, expected `portable` or `avx2` or `avx512` or `amx` \
             or `neon`"
        );
    }

    #[test]
    fn the_best_one_is_available() {
        assert!(Isa::best().is_available());
        assert!(Isa::Portable.is_available());
    }
}
