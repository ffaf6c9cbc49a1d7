//! Files and batches: requests that were left here to be answered within a day.
//!
//! ```text
//! POST /v1/files -> folder     POST /v1/batches -> state     runner: check every line
//!                              ... -> run line by line -> write, then bill and advance in one transaction
//! ```
//!
//! - `lines`: the input, read and checked line by line
//! - `written`: the files of answers and errors, and who may write them
//! - `line`: one line through the model
//! - `run`: one batch; `runner`: which batches this server works on
//!
//! What a batch has written is on the disk before it is billed; what was billed and how far the batch
//! is are one entry of the state. So whenever a server dies, the next one cuts the files back to what was
//! billed and goes on there: no line is billed twice, and none is lost.

mod line;
mod lines;
mod run;
mod runner;
mod written;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use crate::store::batches::{self, Lease};
use crate::store::{Database, Location, RetryWindow, Store, StoreError, Time, files};

pub(crate) use runner::Runner;

/// The route whose requests a batch may hold.
pub const ENDPOINT: &str = "/v1/embeddings";

/// Bounds on files and batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobLimits {
    /// Bytes of a file, as at OpenAI's.
    pub file_bytes: u64,
    /// Bytes of all files of an account.
    pub owner_bytes: i64,
    /// Lines of a batch, as at OpenAI's.
    pub lines: u64,
    /// Inputs of all its lines, as at OpenAI's.
    pub inputs: usize,
    /// Batches of an account that have not ended.
    pub open_batches: i64,
    /// How long a batch may take.
    pub window: Duration,
}

impl Default for JobLimits {
    fn default() -> Self {
        Self {
            file_bytes: 200 << 20,
            owner_bytes: 20 << 30,
            lines: 50_000,
            inputs: 50_000,
            open_batches: 100,
            window: Duration::from_secs(24 * 3600),
        }
    }
}

/// Where files and batches are kept.
#[derive(Debug)]
pub struct Jobs {
    /// What is known about them.
    pub store: Arc<Store>,
    /// Their bounds.
    pub limits: JobLimits,
    /// What the files hold, each under its id.
    folder: PathBuf,
    /// Tells the batches that this server works on from those of others.
    lease: Lease,
    /// Wakes the runner when there is a batch.
    pub(crate) news: Notify,
}

/// Why files cannot be kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobsError {
    /// The folder cannot be had.
    #[error("files cannot be kept in `{}`", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is known about them cannot be kept.
    #[error("the state of files and batches cannot be opened")]
    State(#[from] StoreError),
}

impl JobsError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Folder { .. } => Some("name a folder with --files that this user may write"),
            Self::State(error) => error.hint(),
        }
    }
}

/// A server that shares the state and was not heard of for this long has lost its batches.
const PATIENCE_MS: i64 = 20_000;
/// What nobody knows and is older than this was left by a server that died.
const ORPHAN_AGE: Duration = Duration::from_secs(3600);

impl Jobs {
    /// Keeps files in this folder, which is created where there is none. Only its owner may read it.
    /// Servers that share a state must share the folder too.
    ///
    /// # Errors
    /// [`JobsError`].
    pub fn open(store: Arc<Store>, folder: &Path, limits: JobLimits) -> Result<Self, JobsError> {
        create_folder(folder)?;
        let mut number = [0; 8];
        getrandom::fill(&mut number).map_err(|_| StoreError::Random)?;
        let lease = Lease {
            runner: i64::from_le_bytes(number),
            // On one machine the lock on the written files tells who lives, and tells it at once.
            patience_ms: if store.is_shared() { PATIENCE_MS } else { 0 },
        };
        Ok(Self {
            lease,
            store,
            limits,
            folder: folder.to_owned(),
            news: Notify::new(),
        })
    }

    /// The same on a server without accounts, with a state of its own in the folder. Whoever may call
    /// sees all files, and nothing is billed.
    ///
    /// # Errors
    /// [`JobsError`].
    pub fn without_accounts(folder: &Path, limits: JobLimits) -> Result<Self, JobsError> {
        create_folder(folder)?;
        let location = Location::File(folder.join("state.db"));
        let store = Store::open(&location, RetryWindow::default()).map_err(StoreError::from)?;
        Self::open(Arc::new(store), folder, limits)
    }

    /// Where a file's bytes are. Ids that are not ours lead nowhere.
    pub(crate) fn path(&self, file_id: &str) -> PathBuf {
        let is_ours = file_id.starts_with("file-")
            && file_id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        self.folder.join(if is_ours { file_id } else { "none" })
    }

    /// Makes the names in the folder last through a loss of power.
    pub(crate) fn sync_folder(&self) -> io::Result<()> {
        std::fs::File::open(&self.folder)?.sync_all()
    }

    /// Lets go of the batches that this server works on.
    pub(crate) async fn leave(&self) -> Result<(), StoreError> {
        let runner = self.lease.runner;
        let leave = move |database: &mut dyn Database| Ok(batches::leave(database, runner)?);
        self.store.write(leave).await
    }

    /// Deletes files whose time is over, and what uploads and batches left that were cut off.
    pub(crate) async fn tidy(&self) -> Result<(), StoreError> {
        let forget = |database: &mut dyn Database| {
            Ok::<_, StoreError>(files::forget_expired(database, Time::now())?)
        };
        self.store.write(forget).await?;
        for id in old_files(&self.folder) {
            let path = self.path(&id);
            let known = move |database: &mut dyn Database| Ok(files::is_known(database, &id)?);
            if !self.store.read(known).await? {
                // Another server may have been faster.
                let _ = std::fs::remove_file(path);
            }
        }
        Ok(())
    }
}

fn create_folder(folder: &Path) -> Result<(), JobsError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder).map_err(|source| JobsError::Folder {
        path: folder.to_owned(),
        source,
    })
}

/// Names of files that have not changed for a while.
fn old_files(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let old = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        let name = entry.file_name().into_string().ok()?;
        let changed = entry.metadata().ok()?.modified().ok()?;
        let age = SystemTime::now()
            .duration_since(changed)
            .unwrap_or_default();
        (name.starts_with("file-") && age > ORPHAN_AGE).then_some(name)
    });
    old.collect()
}
