//! The one thread that runs the model.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use quintet_engine::Embedder;
use quintet_engine::batch::PackedBatch;

use super::queue::{Queue, Work};
use crate::metrics::Metrics;

/// Runs batches until the queue is closed and empty.
pub(super) fn run(queue: &Queue, embedder: &Embedder, metrics: &Metrics) {
    while let Some(batch) = queue.take() {
        forward(batch, queue, embedder, metrics);
    }
}

fn forward(mut batch: Vec<Work>, queue: &Queue, embedder: &Embedder, metrics: &Metrics) {
    // Sequences of one task side by side share the adapter's product.
    batch.sort_by_key(|work| work.sequence.task);
    let packed = PackedBatch::pack(batch.iter().map(|work| &work.sequence));
    let started = Instant::now();
    batch.iter().for_each(|work| work.job.started(started));
    // A panic is a bug of ours, which one batch pays for and not the whole server.
    let rows = catch_unwind(AssertUnwindSafe(|| embedder.forward(&packed)));
    let elapsed = started.elapsed();
    let rows = match rows {
        Ok(Ok(rows)) => rows,
        Ok(Err(error)) => return fail(&batch, &error.to_string()),
        Err(_) => return fail(&batch, "the worker panicked"),
    };
    queue.measured(packed.tokens(), elapsed);
    metrics.batch(packed.tokens(), batch.len(), elapsed);
    let mut jobs: Vec<_> = batch.iter().map(|work| &work.job).collect();
    jobs.sort_unstable_by_key(|job| job.number());
    jobs.dedup_by_key(|job| job.number());
    jobs.iter().for_each(|job| job.ran(elapsed));
    let mut rows = rows.rows();
    for work in &batch {
        let rows = rows.by_ref().take(work.sequence.spans.len());
        work.job
            .deliver(work.place, rows.map(<[f32]>::to_vec).collect());
    }
}

fn fail(batch: &[Work], reason: &str) {
    tracing::error!(reason, texts = batch.len(), "a batch failed");
    batch.iter().for_each(|work| work.job.fail());
}

/// Starts the thread.
pub(super) fn spawn(
    queue: Arc<Queue>,
    embedder: Arc<Embedder>,
    metrics: Arc<Metrics>,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new()
        .name("forward".to_owned())
        .spawn(move || run(&queue, &embedder, &metrics))
}
