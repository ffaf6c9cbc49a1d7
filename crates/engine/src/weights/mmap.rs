//! The bytes of a checkpoint file: mapped into memory, so that pages are read when touched and can be
//! given back, or built into the program.
#![expect(
    unsafe_code,
    reason = "mapping a file and advising the kernel about it are unsafe calls"
)]

use std::borrow::Cow;
use std::fs::File;
use std::ops::Range;
#[cfg(unix)]
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A read-only file in the address space of this process.
#[derive(Debug)]
pub(crate) enum FileMap {
    Mapped { map: memmap2::Mmap, file: File },
    BuiltIn(&'static [u8]),
}

impl AsRef<[u8]> for FileMap {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl FileMap {
    pub(crate) fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the map is read only and private to reading; a file that another process cuts short
        // while it is mapped can end this process with SIGBUS, which README states as the rule that
        // checkpoints are replaced by renaming, never rewritten in place.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Self::Mapped { map, file })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped { map, .. } => map,
            Self::BuiltIn(bytes) => bytes,
        }
    }

    /// Gives the pages of `range` back to the system: resident memory falls, a later touch reads again.
    pub(crate) fn release(&self, range: &Range<usize>) {
        #[cfg(unix)]
        if let (Self::Mapped { map, .. }, Some((start, len))) = (self, whole_pages(range)) {
            // SAFETY: the map is a read-only file mapping, so dropped pages come back from the file
            // with the same bytes. A failure costs memory only, so the result is not needed.
            let _ = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, len)
            };
        }
    }

    /// A few bytes of many. Those of a file are read instead of touched in the map: around each page
    /// that is touched the system makes 64 KiB resident, or 2 MiB where it caches files in huge pages.
    pub(crate) fn read(&self, range: Range<usize>) -> Cow<'_, [u8]> {
        #[cfg(unix)]
        if let Self::Mapped { file, .. } = self {
            let mut bytes = vec![0; range.len()];
            // A file that cannot be read may still be mapped.
            if file.read_exact_at(&mut bytes, range.start as u64).is_ok() {
                return Cow::Owned(bytes);
            }
        }
        Cow::Borrowed(&self.bytes()[range])
    }
}

/// Start and length of the pages that lie in `range` as a whole.
#[cfg(unix)]
fn whole_pages(range: &Range<usize>) -> Option<(usize, usize)> {
    const PAGE: usize = 4096;
    let start = range.start.next_multiple_of(PAGE);
    let end = range.end / PAGE * PAGE;
    (start < end).then(|| (start, end - start))
}
