//! Where packed lines lie: in memory of their own, or in a file that is mapped into it.
#![expect(
    unsafe_code,
    reason = "lines are read from bytes, and bytes from lines"
)]

use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::tile::{Bf16x16, F32x16, Words};

/// Bytes that outlive the matrices in them: a mapped file.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Lines that are nothing but numbers.
///
/// # Safety
/// Any bytes are a value, and the type has no padding.
pub(super) unsafe trait Line: Copy {}
// SAFETY: an array of 16 f32.
unsafe impl Line for F32x16 {}
// SAFETY: an array of 8 u32.
unsafe impl Line for Bf16x16 {}
// SAFETY: an array of 16 u32.
unsafe impl Line for Words {}

/// Lines of one matrix, shared by its clones.
#[derive(Clone)]
pub(super) enum Storage<L> {
    Owned(Arc<Vec<L>>),
    /// `range` of the bytes holds whole, aligned lines.
    Shared {
        owner: SharedBytes,
        range: Range<usize>,
    },
}

impl<L: Line> Storage<L> {
    /// `len` lines at `range` of the bytes, if that is what lies there: whole lines of this
    /// number, aligned, on a processor whose numbers are little-endian.
    pub(super) fn shared(owner: &SharedBytes, range: Range<usize>, len: usize) -> Option<Self> {
        let bytes = owner.as_ref().as_ref().get(range.clone())?;
        let is_whole = bytes.len() == len * size_of::<L>();
        let is_aligned = bytes.as_ptr().align_offset(align_of::<L>()) == 0;
        (is_whole && is_aligned && cfg!(target_endian = "little")).then(|| Storage::Shared {
            owner: Arc::clone(owner),
            range,
        })
    }

    /// The bytes of the lines.
    pub(super) fn bytes(&self) -> &[u8] {
        let lines: &[L] = self;
        // SAFETY: `L` has no padding, and every byte of it is initialised.
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), size_of_val(lines)) }
    }
}

impl<L: Line> Deref for Storage<L> {
    type Target = [L];

    #[inline]
    fn deref(&self) -> &[L] {
        match self {
            Storage::Owned(lines) => lines,
            Storage::Shared { owner, range } => {
                let bytes = &owner.as_ref().as_ref()[range.clone()];
                // SAFETY: `shared` has checked length and alignment of these bytes, which the
                // owner keeps where they are, and any bytes are a line.
                unsafe {
                    std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<L>())
                }
            }
        }
    }
}
