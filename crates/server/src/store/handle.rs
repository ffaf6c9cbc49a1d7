//! The store as the server uses it: one thread that writes and a few that read, each with its own
//! connection.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::batches::StoredBatch;
use super::books::{Hold, MetLines, RetryWindow, Settled, WorkRequest};
use super::database::{Database, DatabaseError, Durability, transaction};
use super::writer::{Connection, Entry, Job, Writer};
use super::{Location, StoreError};
use crate::metering::{Allowances, PicoUsd, Rates, Refused};

/// Work with a connection, or the reason why there is none.
pub(super) type Work = Box<dyn FnOnce(Result<&mut dyn Database, StoreError>) + Send>;

/// Threads that read: while one adds up a year's usage, the others find keys.
const READERS: usize = 3;

/// The state, shared by all requests.
#[derive(Debug)]
pub struct Store {
    jobs: Sender<Job>,
    reads: Sender<Option<Work>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    is_shared: bool,
}

impl Store {
    /// Opens the state, or creates it.
    ///
    /// # Errors
    /// [`DatabaseError`] when it cannot be opened now; later failures are answers of the methods.
    pub fn open(location: &Location, retries: RetryWindow) -> Result<Self, DatabaseError> {
        let writing = Connection::open(location)?;
        let (jobs, waiting_jobs) = channel();
        let (reads, waiting_reads) = channel();
        let mut writer = Writer::new(writing, retries);
        let mut threads = vec![thread("store-write", move || writer.run(&waiting_jobs))?];
        let waiting_reads = Arc::new(Mutex::new(waiting_reads));
        for _ in 0..READERS {
            let (reading, waiting) = (Connection::open(location)?, Arc::clone(&waiting_reads));
            threads.push(thread("store-read", move || read_all(reading, &waiting))?);
        }
        Ok(Self {
            jobs,
            reads,
            threads: Mutex::new(threads),
            is_shared: !matches!(location, Location::File(_)),
        })
    }

    /// Reads the state as it is on the disk.
    ///
    /// # Errors
    /// Those of `work`, and [`StoreError`] for a database that fails.
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Database) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let work: Work = Box::new(move |database| {
            // Nobody waits for it any more: then nobody is told.
            let _ = reply.send(database.and_then(work));
        });
        self.reads
            .send(Some(work))
            .map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Changes the state in a transaction of its own, which is on the disk when this returns.
    ///
    /// # Errors
    /// Those of `work`, and [`StoreError`] for a database that fails; then nothing was changed.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Database) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let work: Work = Box::new(move |database| {
            let done = database.and_then(|database| transaction(database, Durability::Disk, work));
            let _ = reply.send(done);
        });
        self.jobs
            .send(Job::Write(work))
            .map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Counts a request that costs nothing.
    ///
    /// # Errors
    /// [`StoreError`]; a refusal is an answer.
    pub async fn count(
        &self,
        key_id: &str,
        defaults: Rates,
    ) -> Result<Result<Allowances, Refused>, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.enter(Entry::Count {
            key_id: key_id.to_owned(),
            defaults,
            reply: Some(reply),
        })?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// The same for whoever does not wait for the answer.
    pub fn count_later(&self, key_id: &str, defaults: Rates) {
        // A store that is closed counts nothing.
        let _ = self.enter(Entry::Count {
            key_id: key_id.to_owned(),
            defaults,
            reply: None,
        });
    }

    /// Lets a request in and sets its price aside until the charge is settled or dropped.
    ///
    /// # Errors
    /// [`StoreError`]; a refusal is an answer.
    pub async fn admit(
        &self,
        key_id: &str,
        work: WorkRequest,
        defaults: Rates,
    ) -> Result<Result<(Charge, Allowances), Refused>, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.enter(Entry::Admit {
            key_id: key_id.to_owned(),
            work,
            defaults: Some(defaults),
            jobs: self.jobs.clone(),
            reply,
        })?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Lets a line of a batch in: see [`Books::admit_line`](super::books::Books::admit_line).
    ///
    /// # Errors
    /// [`StoreError`]; a refusal is an answer.
    pub async fn admit_line(
        &self,
        key_id: &str,
        work: WorkRequest,
    ) -> Result<Result<(Charge, Allowances), Refused>, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.enter(Entry::Admit {
            key_id: key_id.to_owned(),
            work,
            defaults: None,
            jobs: self.jobs.clone(),
            reply,
        })?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Bills lines of a batch and notes how far it is, both or nothing:
    /// see [`Books::settle_lines`](super::books::Books::settle_lines).
    ///
    /// # Errors
    /// [`StoreError`]; then it is as before, or it is unknown and must be read.
    pub async fn settle_lines(
        &self,
        charges: Vec<Charge>,
        met: MetLines,
    ) -> Result<Option<StoredBatch>, StoreError> {
        let holds = charges
            .into_iter()
            .filter_map(|mut charge| charge.hold.take());
        let (reply, answer) = oneshot::channel();
        self.enter(Entry::SettleLines {
            holds: holds.collect(),
            met,
            reply,
        })?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Whether other servers may share the state: then a file's lock does not tell who lives.
    pub fn is_shared(&self) -> bool {
        self.is_shared
    }

    fn enter(&self, entry: Entry) -> Result<(), StoreError> {
        let job = Job::Entry(Box::new(entry));
        self.jobs.send(job).map_err(|_| StoreError::Closed)
    }

    /// Finishes what was handed in and gives back what this server holds. Blocks.
    pub fn close(&self) {
        // Threads that have ended already need no word.
        let _ = self.jobs.send(Job::Stop);
        for _ in 0..READERS {
            let _ = self.reads.send(None);
        }
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

/// The price of a request, set aside while it runs. Dropping it gives the money back.
#[derive(Debug)]
pub struct Charge {
    hold: Option<Hold>,
    jobs: Sender<Job>,
}

impl Charge {
    pub(super) fn new(hold: Hold, jobs: Sender<Job>) -> Self {
        Self {
            hold: Some(hold),
            jobs,
        }
    }

    /// What it will cost, unless the same request is billed meanwhile.
    pub fn amount(&self) -> PicoUsd {
        self.hold.as_ref().map_or(PicoUsd::ZERO, |hold| hold.amount)
    }

    /// Bills it. The entry is on the disk when this returns.
    ///
    /// # Errors
    /// [`StoreError`]; then it was not billed, or it is unknown and the same request again is free.
    pub async fn settle(mut self) -> Result<Settled, StoreError> {
        let Some(hold) = self.hold.take() else {
            return Err(StoreError::Closed);
        };
        let (reply, answer) = oneshot::channel();
        let job = Job::Entry(Box::new(Entry::Settle { hold, reply }));
        self.jobs.send(job).map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some(hold) = self.hold.take() {
            // A store that is closed has given it back.
            let _ = self.jobs.send(Job::Entry(Box::new(Entry::Release(hold))));
        }
    }
}

fn thread(
    name: &str,
    run: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, DatabaseError> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    builder
        .spawn(run)
        .map_err(|source| DatabaseError::Thread { source })
}

fn read_all(mut connection: Connection, reads: &Mutex<Receiver<Option<Work>>>) {
    // The lock is given back before the work begins.
    let next = || reads.lock().unwrap_or_else(PoisonError::into_inner).recv();
    while let Ok(Some(work)) = next() {
        work(connection.database().map_err(StoreError::from));
    }
}
