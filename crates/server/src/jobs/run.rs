//! One batch, from where it stands to its end.
//!
//! Lines run many at a time and are written in the order of the input, so that one number of bytes says
//! how far a batch is. Whatever goes wrong here ends the run and not the batch: it is taken again, by
//! this server or another, and goes on from what was billed.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::MissedTickBehavior;

use super::Jobs;
use super::line::{LeftOut, Met, Sender};
use super::lines::{Line, Lines, validate, wrong};
use super::written::Written;
use crate::app::{Service, SharedApp};
use crate::auth::Caller;
use crate::store::batches::{self, BatchStatus, Checked, Lease, StoredBatch};
use crate::store::books::MetLines;
use crate::store::keys::Key;
use crate::store::{Database, StoreError, Time};

/// Lines that run at once, and bytes of them: enough to fill the model's batches while others are
/// written, little enough to leave the queue to those who wait.
const LINES: usize = 64;
const BYTES: usize = 64 * 1024;
/// Lines that are read from the file at a time, and that are left out in one go.
const READ_LINES: usize = 256;
/// A sign of life, and a look at whether the batch is still wanted.
const SIGN_OF_LIFE: Duration = Duration::from_secs(3);

/// Why a run ended before its batch.
#[derive(Debug, thiserror::Error)]
pub(super) enum Halt {
    #[error("the batch's files cannot be read or written")]
    Files(#[from] io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("another server works on the batch, or credit that was set aside is gone")]
    Lost,
    #[error("a task of the batch failed")]
    Task,
}

/// A batch that this server works on.
pub(super) struct Run {
    pub(super) app: SharedApp,
    pub(super) service: Arc<Service>,
    pub(super) jobs: Arc<Jobs>,
    pub(super) lease: Lease,
    /// As the state had it last.
    pub(super) batch: StoredBatch,
    pub(super) key: Option<Arc<Key>>,
    pub(super) written: Written,
}

impl Run {
    /// Checks a batch that was not checked yet, else runs it to its end.
    pub(super) async fn work(mut self) -> Result<(), Halt> {
        if self.batch.status == BatchStatus::Validating {
            return self.check().await;
        }
        let (written, progress) = (self.written.clone(), self.batch.progress);
        if !blocking(move || written.cut(&progress)).await?? {
            let message = "What was written for this batch is gone".to_owned();
            return self.fail(wrong("output_lost", None, message)).await;
        }
        // One that was cancelled before it was checked has no lines.
        if self.batch.in_progress.is_some() {
            match self.lines().await {
                Ok(lines) => self.run(lines).await?,
                Err(Halt::Files(error)) if error.kind() == io::ErrorKind::NotFound => {
                    return self.lost_input().await;
                }
                Err(halt) => return Err(halt),
            }
        }
        self.end().await
    }

    async fn lost_input(self) -> Result<(), Halt> {
        let message = "The input file is gone".to_owned();
        self.fail(wrong("input_lost", Some("input_file_id"), message))
            .await
    }

    async fn check(self) -> Result<(), Halt> {
        let caller = Caller {
            key: self.key.clone(),
            meter: None,
        };
        let path = self.jobs.path(&self.batch.input_file_id);
        let (app, service, limits) = (
            Arc::clone(&self.app),
            Arc::clone(&self.service),
            self.jobs.limits,
        );
        let mut checking = std::pin::pin!(blocking(move || {
            validate(&path, limits, &app, &caller, &service.model)
        }));
        let checked = loop {
            match tokio::time::timeout(SIGN_OF_LIFE, &mut checking).await {
                Ok(checked) => break checked?,
                // Whoever cancels it meanwhile is heard when it is checked.
                Err(_) => drop(self.renewed().await?),
            }
        };
        match checked {
            Ok(checked) => self.found(checked).await,
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.lost_input().await,
            Err(error) => Err(error.into()),
        }
    }

    async fn fail(self, error: batches::LineError) -> Result<(), Halt> {
        self.found(Checked::Wrong(vec![error])).await
    }

    /// Notes what was found, and takes away what was to be written where nothing will be.
    async fn found(self, found: Checked) -> Result<(), Halt> {
        let is_over = matches!(found, Checked::Wrong(_));
        let (id, lease) = (self.batch.id.clone(), self.lease);
        let note = move |database: &mut dyn Database| {
            Ok::<_, StoreError>(batches::checked(database, &id, lease, &found, Time::now())?)
        };
        self.jobs.store.write(note).await?;
        if is_over {
            self.ended(BatchStatus::Failed);
            for file in [&self.batch.output_file_id, &self.batch.error_file_id] {
                let _ = std::fs::remove_file(self.jobs.path(file));
            }
        }
        Ok(())
    }

    async fn lines(&self) -> Result<Lines, Halt> {
        let path = self.jobs.path(&self.batch.input_file_id);
        let start = self.batch.progress.input_bytes.unsigned_abs();
        let max = self.app.config.limits.body_bytes;
        Ok(blocking(move || Lines::open(&path, start, max)).await??)
    }

    /// Why the lines that are left shall not run.
    fn left_out(&self) -> Option<LeftOut> {
        if self.batch.status == BatchStatus::Cancelling {
            Some(LeftOut::Cancelled)
        } else if self.batch.expires <= Time::now() {
            Some(LeftOut::Expired)
        } else {
            None
        }
    }

    /// The number of the next line that is written.
    fn next_number(&self) -> i64 {
        self.batch.progress.completed + self.batch.progress.failed + 1
    }

    async fn run(&mut self, lines: Lines) -> Result<(), Halt> {
        let mut input = Input {
            lines: Some(lines),
            read: VecDeque::new(),
        };
        let mut running = Running::default();
        let mut number = self.next_number();
        let mut alive = tokio::time::interval(SIGN_OF_LIFE);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while self.left_out().is_none() && running.has_room() {
                let Some(line) = input.next().await? else {
                    break;
                };
                running.start(self, line, number);
                number += 1;
            }
            if running.is_empty() {
                break;
            }
            tokio::select! {
                met = running.next() => met?,
                _ = alive.tick() => self.batch = self.renewed().await?,
            }
            let ready = running.ready(self.next_number());
            self.commit(ready).await?;
        }
        self.leave_out(input).await
    }

    /// Lines that are not run any more get an error each.
    async fn leave_out(&mut self, mut input: Input) -> Result<(), Halt> {
        let Some(why) = self.left_out() else {
            return Ok(());
        };
        loop {
            let mut left_out = Vec::new();
            let first = self.next_number();
            for number in (first..).take(READ_LINES) {
                let Some(line) = input.next().await? else {
                    break;
                };
                let Line { bytes, end } = line;
                left_out.push(Met::left_out(&bytes, &self.batch.id, number, why, end));
            }
            if left_out.is_empty() {
                return Ok(());
            }
            self.commit(left_out).await?;
        }
    }

    /// Writes lines, then bills them and notes how far the batch is, both or nothing.
    async fn commit(&mut self, lines: Vec<Met>) -> Result<(), Halt> {
        if lines.is_empty() {
            return Ok(());
        }
        let mut progress = self.batch.progress;
        let (mut output, mut errors, mut charges) = (Vec::new(), Vec::new(), Vec::new());
        for line in lines {
            let bytes = signed(line.written.len() as u64);
            match line.answered {
                Some(answered) => {
                    output.extend_from_slice(&line.written);
                    progress.output_bytes += bytes;
                    progress.completed += 1;
                    progress.tokens += signed(answered.tokens as u64);
                    charges.extend(answered.charge);
                }
                None => {
                    errors.extend_from_slice(&line.written);
                    progress.error_bytes += bytes;
                    progress.failed += 1;
                }
            }
            progress.input_bytes = signed(line.end);
        }
        let written = self.written.clone();
        blocking(move || written.append(&output, &errors)).await??;
        let met = MetLines {
            batch_id: self.batch.id.clone(),
            lease: self.lease,
            progress,
        };
        let before = self.batch.progress;
        let settled = self.jobs.store.settle_lines(charges, met).await?;
        self.batch = settled.ok_or(Halt::Lost)?;
        self.app.metrics.job_lines(
            (progress.completed - before.completed).unsigned_abs(),
            (progress.failed - before.failed).unsigned_abs(),
        );
        Ok(())
    }

    /// Says that this server still works on the batch, and hears whether it is still wanted.
    async fn renewed(&self) -> Result<StoredBatch, Halt> {
        let (id, lease) = (self.batch.id.clone(), self.lease);
        let renew = move |database: &mut dyn Database| {
            Ok::<_, StoreError>(batches::renew(database, &id, lease, Time::now())?)
        };
        self.jobs.store.write(renew).await?.ok_or(Halt::Lost)
    }

    /// Closes the files and gives them to the owner.
    async fn end(mut self) -> Result<(), Halt> {
        let (id, lease) = (self.batch.id.clone(), self.lease);
        let finalize = move |database: &mut dyn Database| {
            batches::finalize(database, &id, lease, Time::now())?;
            Ok::<_, StoreError>(batches::held(database, &id, lease)?)
        };
        let finalized = self.jobs.store.write(finalize).await?;
        self.batch = finalized.ok_or(Halt::Lost)?;
        // Both are in the state, so that a run that goes on from here ends the same.
        let was_late = self.batch.finalizing >= Some(self.batch.expires);
        let status = if self.batch.status == BatchStatus::Cancelling {
            BatchStatus::Cancelled
        } else if was_late {
            BatchStatus::Expired
        } else {
            BatchStatus::Completed
        };
        let (batch, lease) = (self.batch.clone(), self.lease);
        let end = move |database: &mut dyn Database| {
            Ok::<_, StoreError>(batches::end(database, &batch, lease, status, Time::now())?)
        };
        if !self.jobs.store.write(end).await? {
            return Err(Halt::Lost);
        }
        self.ended(status);
        for (file, bytes) in [
            (&self.batch.output_file_id, self.batch.progress.output_bytes),
            (&self.batch.error_file_id, self.batch.progress.error_bytes),
        ] {
            if bytes == 0 {
                // Nobody knows it; what stays is tidied up later.
                let _ = std::fs::remove_file(self.jobs.path(file));
            }
        }
        Ok(())
    }

    fn ended(&self, status: BatchStatus) {
        self.app.metrics.job_ended(status.name());
        tracing::info!(
            batch = self.batch.id,
            status = status.name(),
            completed = self.batch.progress.completed,
            failed = self.batch.progress.failed,
            "batch"
        );
    }
}

/// The lines that are left, read some at a time.
struct Input {
    /// `None` at the end.
    lines: Option<Lines>,
    read: VecDeque<Line>,
}

impl Input {
    async fn next(&mut self) -> Result<Option<Line>, Halt> {
        if self.read.is_empty()
            && let Some(mut lines) = self.lines.take()
        {
            let read = move || {
                let (mut read, mut bytes) = (VecDeque::new(), 0);
                while read.len() < READ_LINES && bytes < BYTES {
                    let Some(line) = lines.read()? else {
                        return Ok::<_, io::Error>((read, None));
                    };
                    bytes += line.bytes.len();
                    read.push_back(line);
                }
                Ok((read, Some(lines)))
            };
            (self.read, self.lines) = blocking(read).await??;
        }
        Ok(self.read.pop_front())
    }
}

/// Lines that run, and those that were met before one that comes earlier.
#[derive(Default)]
struct Running {
    tasks: JoinSet<(i64, Met)>,
    met: BTreeMap<i64, Met>,
    /// Bytes of each line that was started and not yet taken.
    sizes: BTreeMap<i64, usize>,
    bytes: usize,
}

impl Running {
    fn has_room(&self) -> bool {
        self.sizes.len() < LINES && self.bytes < BYTES
    }

    fn is_empty(&self) -> bool {
        self.sizes.is_empty()
    }

    fn start(&mut self, run: &Run, line: Line, number: i64) {
        self.bytes += line.bytes.len();
        self.sizes.insert(number, line.bytes.len());
        let sender = Sender {
            app: Arc::clone(&run.app),
            service: Arc::clone(&run.service),
            key: run.key.clone(),
            batch_id: run.batch.id.clone(),
        };
        self.tasks
            .spawn(async move { (number, sender.run(line, number).await) });
    }

    /// Waits for a line, and takes whatever else was met meanwhile.
    async fn next(&mut self) -> Result<(), Halt> {
        let mut next = self.tasks.join_next().await;
        while let Some(met) = next {
            let (number, met) = met.map_err(|_| Halt::Task)?;
            self.met.insert(number, met);
            next = self.tasks.try_join_next();
        }
        Ok(())
    }

    /// The lines from this number on that were all met.
    fn ready(&mut self, first: i64) -> Vec<Met> {
        let mut ready = Vec::new();
        for number in first.. {
            let Some(met) = self.met.remove(&number) else {
                break;
            };
            self.bytes -= self.sizes.remove(&number).unwrap_or(0);
            ready.push(met);
        }
        ready
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Work with files, or of the processor.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Halt> {
    spawn_blocking(work).await.map_err(|_| Halt::Task)
}
