//! Which batches this server works on: those that nobody has, oldest first, one of each account at a
//! time, so that many batches of one account hold up no other's.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{self, JoinError, JoinSet};

use super::Jobs;
use super::run::{Halt, Run};
use super::written::{Opened, Written};
use crate::app::{Service, SharedApp};
use crate::auth::Auth;
use crate::store::batches::{self, BatchStatus, Lease, StoredBatch};
use crate::store::{Database, StoreError, Time, described};

/// How often the state is asked for batches that came in elsewhere.
const LOOK: Duration = Duration::from_secs(2);
/// Batches that run at once.
const MAX_RUNNING: usize = 4;
/// A batch that was interrupted is taken again after this time.
const PAUSE: Duration = Duration::from_secs(1);
/// How often files are tidied up.
const TIDY: Duration = Duration::from_secs(1800);

/// Works on batches until it is dropped.
pub(crate) struct Runner {
    app: SharedApp,
    service: Arc<Service>,
    jobs: Arc<Jobs>,
    lease: Lease,
    tasks: JoinSet<Result<(), Halt>>,
    /// The batches that run here, as they were at their start.
    running: HashMap<task::Id, StoredBatch>,
}

impl Runner {
    /// Of a server that is ready.
    pub(crate) fn new(app: &SharedApp, service: Arc<Service>, jobs: &Arc<Jobs>) -> Self {
        Self {
            app: Arc::clone(app),
            service,
            jobs: Arc::clone(jobs),
            lease: jobs.lease,
            tasks: JoinSet::new(),
            running: HashMap::new(),
        }
    }

    /// Never ends.
    pub(crate) async fn work(mut self) {
        let mut tidied: Option<Instant> = None;
        loop {
            if tidied.is_none_or(|at| at.elapsed() >= TIDY) {
                tidied = Some(Instant::now());
                if let Err(error) = self.jobs.tidy().await {
                    tracing::warn!(%error, "files cannot be tidied up");
                }
            }
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "batches cannot be looked for");
            }
            let jobs = Arc::clone(&self.jobs);
            tokio::select! {
                () = jobs.news.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended).await,
            }
            self.app.metrics.jobs_running(self.running.len());
        }
    }

    async fn look(&mut self) -> Result<(), StoreError> {
        let now = Time::now();
        let waiting = move |database: &mut dyn Database| {
            Ok::<_, StoreError>(batches::waiting(database, now)?)
        };
        for batch in self.jobs.store.read(waiting).await? {
            if self.may_take(&batch) {
                self.take(batch).await?;
            }
        }
        Ok(())
    }

    /// Checking is quick, and its errors are waited for: one batch is checked beside those that run.
    fn may_take(&self, batch: &StoredBatch) -> bool {
        if self.running.values().any(|running| running.id == batch.id) {
            return false;
        }
        let is_checked = |batch: &&StoredBatch| batch.status != BatchStatus::Validating;
        let (checked, unchecked): (Vec<_>, Vec<_>) = self.running.values().partition(is_checked);
        if batch.status == BatchStatus::Validating {
            return unchecked.is_empty();
        }
        checked.len() < MAX_RUNNING && checked.iter().all(|other| other.owner != batch.owner)
    }

    async fn take(&mut self, batch: StoredBatch) -> Result<(), StoreError> {
        let (jobs, opening) = (Arc::clone(&self.jobs), batch.clone());
        let opened = tokio::task::spawn_blocking(move || Written::open(&jobs, &opening)).await;
        let written = match opened {
            Ok(Ok(Opened::Ours(written))) => written,
            Ok(Ok(Opened::Busy)) | Err(_) => return Ok(()),
            Ok(Err(error)) => {
                tracing::error!(batch = batch.id, %error, "a batch's files cannot be opened");
                return Ok(());
            }
        };
        let (id, lease) = (batch.id, self.lease);
        let take = move |database: &mut dyn Database| {
            Ok::<_, StoreError>(batches::take(database, &id, lease, Time::now())?)
        };
        let Some(batch) = self.jobs.store.write(take).await? else {
            return Ok(());
        };
        let key = match (&self.app.auth, &batch.key_id) {
            (Auth::Accounts(hosting), Some(id)) => match hosting.key(id).await {
                Ok(Some(key)) => Some(key),
                // Nothing runs unbilled.
                Ok(None) | Err(_) => return self.release(&batch.id).await,
            },
            (Auth::Accounts(_), None) => return self.release(&batch.id).await,
            (Auth::Open | Auth::Key(_), _) => None,
        };
        let taken = batch.clone();
        let run = Run {
            app: Arc::clone(&self.app),
            service: Arc::clone(&self.service),
            jobs: Arc::clone(&self.jobs),
            lease: self.lease,
            batch,
            key,
            written,
        };
        let task = self.tasks.spawn(async move {
            let ended = run.work().await;
            if ended.is_err() {
                tokio::time::sleep(PAUSE).await;
            }
            ended
        });
        self.running.insert(task.id(), taken);
        Ok(())
    }

    async fn release(&self, id: &str) -> Result<(), StoreError> {
        let (id, runner) = (id.to_owned(), self.lease.runner);
        let release = move |database: &mut dyn Database| {
            Ok::<_, StoreError>(batches::release(database, &id, runner)?)
        };
        self.jobs.store.write(release).await
    }

    async fn ended(&mut self, ended: Result<(task::Id, Result<(), Halt>), JoinError>) {
        let (task, error) = match ended {
            Ok((task, Ok(()))) => (task, None),
            Ok((task, Err(halt))) => (task, Some(described(&halt))),
            Err(error) => (error.id(), Some(error.to_string())),
        };
        let Some(batch) = self.running.remove(&task) else {
            return;
        };
        if let Some(error) = error {
            tracing::warn!(
                batch = batch.id,
                error,
                "a batch was interrupted and will go on"
            );
            if let Err(error) = self.release(&batch.id).await {
                tracing::warn!(batch = batch.id, %error, "a batch cannot be let go of");
            }
        }
    }
}
