//! The one thread that runs the model.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quintet_engine::batch::PackedBatch;
use quintet_engine::encoder::PooledRows;
use quintet_engine::{EmbedError, Embedder};

use super::fair_queue::Batch;
use super::queue::{Queue, Work};
use crate::metrics::Metrics;

/// Starts the thread.
pub(super) fn spawn(
    queue: Arc<Queue>,
    embedder: Arc<Embedder>,
    metrics: Arc<Metrics>,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new()
        .name("forward".to_owned())
        .spawn(move || {
            let worker = Worker {
                queue: &queue,
                embedder: &embedder,
                metrics: &metrics,
            };
            // Until the queue is closed and empty.
            while let Some(batch) = queue.take() {
                worker.run(batch, Interruptible::Yes);
            }
        })
}

struct Worker<'a> {
    queue: &'a Queue,
    embedder: &'a Embedder,
    metrics: &'a Metrics,
}

/// Whether more urgent texts may run between the steps of a batch. What interrupts is not interrupted
/// itself, so that memory holds two batches at most.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Interruptible {
    Yes,
    No,
}

impl Worker<'_> {
    /// Runs a batch and answers the requests that it completes.
    fn run(&self, mut batch: Batch<Work>, interruptible: Interruptible) {
        // Sequences of one task side by side share the adapter's product.
        batch.items.sort_by_key(|work| work.sequence.task);
        let started = Instant::now();
        let items = batch.items.iter();
        items.for_each(|work| work.job.started(started));
        let mut elapsed = Duration::ZERO;
        // A panic is a bug of ours, which one batch pays for and not the whole server.
        let ran = catch_unwind(AssertUnwindSafe(|| {
            self.steps(&batch, interruptible, &mut elapsed)
        }));
        match ran {
            Ok(Ok(Some(rows))) => self.deliver(&batch, &rows, elapsed),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => fail(&batch, &error.to_string()),
            Err(_) => fail(&batch, "the worker panicked"),
        }
        let over = batch.items.iter().filter(|work| work.job.is_over());
        self.queue.ended(over.map(|work| work.job.number()));
    }

    /// The rows, or `None` if everyone who wanted them hung up. Adds up the time of the steps.
    fn steps(
        &self,
        batch: &Batch<Work>,
        interruptible: Interruptible,
        elapsed: &mut Duration,
    ) -> Result<Option<PooledRows>, EmbedError> {
        let sequences = batch.items.iter().map(|work| &work.sequence);
        let mut pass = self.embedder.begin(PackedBatch::pack(sequences))?;
        let (mut done, mut lost) = (0.0, 0);
        loop {
            let started = Instant::now();
            let rows = self.embedder.step(&mut pass)?;
            *elapsed += started.elapsed();
            let before = std::mem::replace(&mut done, self.embedder.done(&pass));
            if done > before {
                self.queue.worked(batch, done - before);
                if batch.items.iter().all(|work| work.job.is_over()) {
                    return Ok(None);
                }
            }
            if rows.is_some() {
                return Ok(rows);
            }
            if interruptible == Interruptible::No {
                continue;
            }
            while let Some(urgent) = self.queue.interrupting(batch, done, lost) {
                lost += urgent.tokens;
                self.metrics.interrupted();
                self.run(urgent, Interruptible::No);
            }
        }
    }

    fn deliver(&self, batch: &Batch<Work>, rows: &PooledRows, elapsed: Duration) {
        self.queue.measured(batch.tokens, elapsed);
        self.metrics.batch(batch.tokens, batch.items.len(), elapsed);
        let mut jobs: Vec<_> = batch.items.iter().map(|work| &work.job).collect();
        jobs.sort_unstable_by_key(|job| job.number());
        jobs.dedup_by_key(|job| job.number());
        jobs.iter().for_each(|job| job.ran(elapsed));
        let mut rows = rows.rows();
        for work in &batch.items {
            let rows = rows.by_ref().take(work.sequence.spans.len());
            let rows = rows.map(<[f32]>::to_vec).collect();
            work.job.deliver(work.place, rows);
        }
    }
}

fn fail(batch: &Batch<Work>, reason: &str) {
    let texts = batch.items.len();
    tracing::error!(reason, texts, "a batch failed");
    batch.items.iter().for_each(|work| work.job.fail());
}
