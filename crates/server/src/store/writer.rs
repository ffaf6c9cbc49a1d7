//! The thread that writes: whatever waits goes into one transaction, so that many requests share one
//! trip to the disk.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::batches::StoredBatch;
use super::books::{Books, Hold, MetLines, RetryWindow, Settled, WorkRequest};
use super::database::{Database, DatabaseError, Durability, transaction};
use super::handle::{Charge, Work};
use super::{Location, StoreError, Time};
use crate::metering::{Allowances, Rates, Refused};

/// The answer of a job.
type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer is asked for.
pub(super) enum Job {
    /// To be done in a transaction with whatever else waits.
    Entry(Box<Entry>),
    /// To be done alone.
    Write(Work),
    Stop,
}

/// What is done in the books.
pub(super) enum Entry {
    Count {
        key_id: String,
        defaults: Rates,
        reply: Option<Reply<Result<Allowances, Refused>>>,
    },
    Admit {
        key_id: String,
        work: WorkRequest,
        /// `None` for a line of a batch.
        defaults: Option<Rates>,
        /// For the charge, which speaks to this thread again.
        jobs: Sender<Job>,
        reply: Reply<Result<(Charge, Allowances), Refused>>,
    },
    Settle {
        hold: Hold,
        reply: Reply<Settled>,
    },
    SettleLines {
        holds: Vec<Hold>,
        met: MetLines,
        reply: Reply<Option<StoredBatch>>,
    },
    Release(Hold),
}

/// How it came out.
enum Done {
    Counted(Result<Allowances, Refused>),
    Admitted(Result<(Hold, Allowances), Refused>),
    Settled(Settled),
    SettledLines(Option<StoredBatch>),
    Released,
}

/// Jobs of one transaction at most: about 50 ms of work, while which nobody else may write.
const BATCH: usize = 512;
/// How often a server says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// A server that was not seen for this long is gone.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Writer {
    connection: Connection,
    retries: RetryWindow,
    /// Tells this process's holds from those of others.
    server: i64,
    next_hold: i64,
    /// Holds that may stand in the state since the database failed, and belong to nobody.
    unreleased: Vec<i64>,
}

impl Writer {
    pub(super) fn new(connection: Connection, retries: RetryWindow) -> Self {
        Self {
            connection,
            retries,
            server: random_number(),
            next_hold: random_number(),
            unreleased: Vec::new(),
        }
    }

    /// Runs until it is told to stop, or nobody is left to tell it.
    pub(super) fn run(&mut self, jobs: &Receiver<Job>) {
        let mut tidied: Option<Instant> = None;
        loop {
            if tidied.is_none_or(|at| at.elapsed() >= HEARTBEAT) {
                tidied = Some(Instant::now());
                if let Err(error) = self.tidy() {
                    tracing::error!(error = %described(&error), "the state cannot be tidied");
                }
            }
            let wait = tidied.map_or(HEARTBEAT, |at| HEARTBEAT.saturating_sub(at.elapsed()));
            let mut next = match jobs.recv_timeout(wait) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(Job::Stop),
            };
            let mut batch = Vec::new();
            while let Some(job) = next.take() {
                match job {
                    Job::Entry(entry) => batch.push(*entry),
                    Job::Write(work) => {
                        self.run_batch(std::mem::take(&mut batch));
                        work(self.connection.database().map_err(StoreError::from));
                    }
                    Job::Stop => {
                        self.run_batch(batch);
                        return self.leave();
                    }
                }
                if batch.len() < BATCH {
                    next = jobs.try_recv().ok();
                }
            }
            self.run_batch(batch);
        }
    }

    fn run_batch(&mut self, batch: Vec<Entry>) {
        if batch.is_empty() {
            return;
        }
        let before = self.next_hold;
        match self.try_batch(&batch) {
            Ok(done) => {
                self.unreleased.clear();
                for (entry, done) in batch.into_iter().zip(done) {
                    entry.answer(done);
                }
            }
            Err(error) => {
                tracing::error!(error = %described(&error), entries = batch.len(), "the state cannot be written");
                // A commit that broke off may have been done all the same.
                while self.next_hold != before {
                    self.unreleased.push(self.next_hold);
                    self.next_hold = self.next_hold.wrapping_sub(1);
                }
                self.next_hold = random_number();
                for entry in batch {
                    self.fail(entry, &error);
                }
            }
        }
    }

    fn try_batch(&mut self, batch: &[Entry]) -> Result<Vec<Done>, StoreError> {
        let bills = batch
            .iter()
            .any(|entry| matches!(entry, Entry::Settle { .. } | Entry::SettleLines { .. }));
        let durability = if bills {
            Durability::Disk
        } else {
            Durability::Process
        };
        let (server, retries) = (self.server, self.retries);
        let (unreleased, next_hold) = (&self.unreleased, &mut self.next_hold);
        let database = self.connection.database()?;
        let done = transaction(database, durability, |database| {
            let mut books = Books::open(database, server, Time::now().0, retries)?;
            for hold in unreleased {
                books.release(*hold)?;
            }
            let done: Result<Vec<Done>, DatabaseError> = batch
                .iter()
                .map(|entry| entry.done_in(&mut books, next_hold))
                .collect();
            let done = done?;
            books.close()?;
            Ok::<_, DatabaseError>(done)
        });
        Ok(done?)
    }

    /// Tells that nothing was done, and keeps in mind what is still held. Whoever does not wait any
    /// more is not told.
    fn fail(&mut self, entry: Entry, error: &StoreError) {
        match entry {
            Entry::Count { reply: None, .. } => {}
            Entry::Count {
                reply: Some(reply), ..
            } => {
                let _ = reply.send(Err(error.clone()));
            }
            Entry::Admit { reply, .. } => {
                let _ = reply.send(Err(error.clone()));
            }
            Entry::Settle { hold, reply } => {
                self.unreleased.push(hold.id);
                let _ = reply.send(Err(error.clone()));
            }
            Entry::SettleLines { holds, reply, .. } => {
                self.unreleased.extend(holds.iter().map(|hold| hold.id));
                let _ = reply.send(Err(error.clone()));
            }
            Entry::Release(hold) => self.unreleased.push(hold.id),
        }
    }

    fn tidy(&mut self) -> Result<(), StoreError> {
        let (server, retries) = (self.server, self.retries);
        let patience = i64::try_from(PATIENCE.as_millis()).unwrap_or(i64::MAX);
        let unreleased = self.unreleased.clone();
        self.alone(|database| {
            let mut books = Books::open(database, server, Time::now().0, retries)?;
            for hold in unreleased {
                books.release(hold)?;
            }
            books.tidy(patience)?;
            books.close()
        })?;
        self.unreleased.clear();
        Ok(())
    }

    fn leave(&mut self) {
        let (server, retries) = (self.server, self.retries);
        let left = self.alone(|database| {
            let mut books = Books::open(database, server, Time::now().0, retries)?;
            books.leave()?;
            books.close()
        });
        if let Err(error) = left {
            // Others give it back when this server was not seen for a while.
            tracing::warn!(error = %described(&error), "what this server holds cannot be given back");
        }
    }

    fn alone(
        &mut self,
        work: impl FnOnce(&mut dyn Database) -> Result<(), DatabaseError>,
    ) -> Result<(), StoreError> {
        let database = self.connection.database()?;
        Ok(transaction(database, Durability::Process, work)?)
    }
}

impl Entry {
    fn done_in(&self, books: &mut Books<'_>, next_hold: &mut i64) -> Result<Done, DatabaseError> {
        match self {
            Self::Count {
                key_id, defaults, ..
            } => Ok(Done::Counted(books.count(key_id, *defaults)?)),
            Self::Admit {
                key_id,
                work,
                defaults,
                ..
            } => {
                *next_hold = next_hold.wrapping_add(1);
                let work = work.clone();
                let admitted = match defaults {
                    Some(defaults) => books.admit(*next_hold, key_id, work, *defaults)?,
                    None => books.admit_line(*next_hold, key_id, work)?,
                };
                Ok(Done::Admitted(admitted))
            }
            Self::Settle { hold, .. } => Ok(Done::Settled(books.settle(hold)?)),
            Self::SettleLines { holds, met, .. } => {
                Ok(Done::SettledLines(books.settle_lines(holds, met)?))
            }
            Self::Release(hold) => {
                books.release(hold.id)?;
                Ok(Done::Released)
            }
        }
    }

    /// Whoever hung up does not hear it; a charge that nobody takes gives its hold back.
    fn answer(self, done: Done) {
        match (self, done) {
            (
                Self::Count {
                    reply: Some(reply), ..
                },
                Done::Counted(counted),
            ) => {
                let _ = reply.send(Ok(counted));
            }
            (Self::Admit { jobs, reply, .. }, Done::Admitted(admitted)) => {
                let charged = admitted.map(|(hold, left)| (Charge::new(hold, jobs), left));
                let _ = reply.send(Ok(charged));
            }
            (Self::Settle { reply, .. }, Done::Settled(settled)) => {
                let _ = reply.send(Ok(settled));
            }
            (Self::SettleLines { reply, .. }, Done::SettledLines(batch)) => {
                let _ = reply.send(Ok(batch));
            }
            _ => {}
        }
    }
}

/// An error with its causes in one line.
pub(crate) fn described(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// A start for numbers that several processes count up from without meeting.
fn random_number() -> i64 {
    let mut bytes = [0; 8];
    match getrandom::fill(&mut bytes) {
        Ok(()) => i64::from_le_bytes(bytes),
        Err(_) => Time::now().0,
    }
}

/// A connection that is made anew when it was lost.
pub(super) struct Connection {
    location: Location,
    database: Option<Box<dyn Database>>,
}

impl Connection {
    pub(super) fn open(location: &Location) -> Result<Self, DatabaseError> {
        Ok(Self {
            location: location.clone(),
            database: Some(location.open()?),
        })
    }

    pub(super) fn database(&mut self) -> Result<&mut dyn Database, DatabaseError> {
        let database = match self.database.take() {
            Some(database) if !database.is_broken() => database,
            _ => self.location.open()?,
        };
        Ok(&mut **self.database.insert(database))
    }
}
