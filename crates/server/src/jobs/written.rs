//! The two files that a batch writes: its answers and its errors.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::sync::Arc;

use super::Jobs;
use crate::store::batches::{Progress, StoredBatch};

/// Both, open and cut to what was billed. While this lives, no other process that sees the lock writes
/// them.
#[derive(Debug, Clone)]
pub(super) struct Written {
    output: Arc<File>,
    errors: Arc<File>,
}

/// Whether this process may write a batch's files.
pub(super) enum Opened {
    /// It may.
    Ours(Written),
    /// Another one does.
    Busy,
}

impl Written {
    /// Opens both, creates them where they are not there, and locks the first.
    pub(super) fn open(jobs: &Jobs, batch: &StoredBatch) -> io::Result<Opened> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let output = options.open(jobs.path(&batch.output_file_id))?;
        match output.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Opened::Busy),
            // A file system without locks: the lease in the state has to do.
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let errors = options.open(jobs.path(&batch.error_file_id))?;
        jobs.sync_folder()?;
        Ok(Opened::Ours(Self {
            output: Arc::new(output),
            errors: Arc::new(errors),
        }))
    }

    /// Cuts off what was written and not billed. Gives false where less is there than was billed.
    pub(super) fn cut(&self, progress: &Progress) -> io::Result<bool> {
        for (file, bytes) in [
            (&self.output, progress.output_bytes),
            (&self.errors, progress.error_bytes),
        ] {
            let bytes = bytes.unsigned_abs();
            if file.metadata()?.len() < bytes {
                return Ok(false);
            }
            file.set_len(bytes)?;
        }
        Ok(true)
    }

    /// Appends, and comes back when it is on the disk.
    pub(super) fn append(&self, output: &[u8], errors: &[u8]) -> io::Result<()> {
        for (file, bytes) in [(&self.output, output), (&self.errors, errors)] {
            if !bytes.is_empty() {
                (&**file).write_all(bytes)?;
                file.sync_data()?;
            }
        }
        Ok(())
    }
}
