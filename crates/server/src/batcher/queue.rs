//! What waits for the model: texts of all requests in one place, handed out as batches.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quintet_engine::batch::Sequence;
use tokio::sync::oneshot;

use super::fair_queue::{Batch, FairQueue};
use super::policy::{BatchLimits, Running, Tenant, Tier};
use crate::budget::Reservation;

/// What the worker gives back for a request.
#[derive(Debug)]
pub struct Forwarded {
    /// Sums of hidden states, `[sequences][spans][hidden]`.
    pub pooled: Vec<Vec<Vec<f32>>>,
    /// From the hand-in until the first text began to run.
    pub queue_time: Duration,
    /// Time of the batches that texts of this request were in.
    pub forward_time: Duration,
}

/// The device failed or the worker panicked; the log says more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForwardFailed;

/// The answer of one request.
pub(super) type Reply = Result<Forwarded, ForwardFailed>;

/// One request's share of the queue.
#[derive(Debug)]
pub(super) struct Job {
    number: u64,
    arrived: Instant,
    progress: Mutex<Progress>,
}

#[derive(Debug)]
struct Progress {
    pooled: Vec<Vec<Vec<f32>>>,
    left: usize,
    queue_time: Option<Duration>,
    forward_time: Duration,
    /// `None` once answered.
    reply: Option<oneshot::Sender<Reply>>,
    /// Tokens of this request, given back before the answer, or when the client hangs up.
    reservation: Option<Reservation>,
}

impl Job {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody waits for the answer any more: the client hung up, or it has its answer.
    pub(super) fn is_over(&self) -> bool {
        self.progress().reply.is_none()
    }

    /// The client hung up. Whether it had no answer yet.
    fn withdraw(&self) -> bool {
        let mut progress = self.progress();
        drop(progress.reservation.take());
        progress.reply.take().is_some()
    }

    /// A batch began in which this request has texts.
    pub(super) fn started(&self, now: Instant) {
        let waited = now.saturating_duration_since(self.arrived);
        self.progress().queue_time.get_or_insert(waited);
    }

    /// A batch that took `elapsed` ended.
    pub(super) fn ran(&self, elapsed: Duration) {
        self.progress().forward_time += elapsed;
    }

    /// Puts the rows of one text in their place; answers when it was the last.
    pub(super) fn deliver(&self, place: usize, rows: Vec<Vec<f32>>) {
        let mut progress = self.progress();
        if progress.reply.is_none() {
            return;
        }
        progress.pooled[place] = rows;
        progress.left -= 1;
        if progress.left == 0
            && let Some(reply) = progress.reply.take()
        {
            drop(progress.reservation.take());
            // A client that hung up meanwhile does not hear it.
            let _ = reply.send(Ok(Forwarded {
                pooled: std::mem::take(&mut progress.pooled),
                queue_time: progress.queue_time.unwrap_or_default(),
                forward_time: progress.forward_time,
            }));
        }
    }

    /// Answers that it went wrong.
    pub(super) fn fail(&self) {
        let mut progress = self.progress();
        if let Some(reply) = progress.reply.take() {
            drop(progress.reservation.take());
            let _ = reply.send(Err(ForwardFailed));
        }
    }

    /// Identity of the request, for grouping.
    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

/// One text of a request.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) sequence: Sequence,
    /// Its place in the request.
    pub(super) place: usize,
    pub(super) job: Arc<Job>,
}

/// The texts that wait, shared by the request handlers and the worker.
#[derive(Debug)]
pub(super) struct Queue {
    limits: BatchLimits,
    waiting: Mutex<Waiting>,
    changed: Condvar,
    /// Recent speed, for `Retry-After`.
    tokens_per_second: AtomicU64,
}

#[derive(Debug)]
struct Waiting {
    texts: FairQueue<Work>,
    closed: bool,
}

/// The server is shutting down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Closed;

/// The answer of a request to come. Dropping it takes the texts that wait out of the queue.
#[derive(Debug)]
pub(super) struct Answer {
    receiver: oneshot::Receiver<Reply>,
    queue: Arc<Queue>,
    job: Arc<Job>,
}

impl Answer {
    /// Waits for it.
    pub(super) async fn reply(mut self) -> Reply {
        (&mut self.receiver).await.unwrap_or(Err(ForwardFailed))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.job.withdraw() {
            self.queue.ended([self.job.number]);
        }
    }
}

impl Queue {
    pub(super) fn new(limits: BatchLimits) -> Self {
        Self {
            limits,
            waiting: Mutex::new(Waiting {
                texts: FairQueue::new(limits),
                closed: false,
            }),
            changed: Condvar::new(),
            tokens_per_second: AtomicU64::new(0),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues the texts of one request.
    pub(super) fn push(
        self: &Arc<Self>,
        sequences: Vec<Sequence>,
        tenant: &Tenant,
        tier: Tier,
        reservation: Reservation,
        now: Instant,
    ) -> Result<Answer, Closed> {
        let (reply, receiver) = oneshot::channel();
        let mut waiting = self.waiting();
        if waiting.closed {
            return Err(Closed);
        }
        let job = Arc::new(Job {
            number: waiting.texts.open(tenant, tier, now),
            arrived: now,
            progress: Mutex::new(Progress {
                pooled: vec![Vec::new(); sequences.len()],
                left: sequences.len(),
                queue_time: None,
                forward_time: Duration::ZERO,
                reply: Some(reply),
                reservation: Some(reservation),
            }),
        });
        for (place, sequence) in sequences.into_iter().enumerate() {
            let tokens = sequence.token_ids.len();
            let work = Work {
                sequence,
                place,
                job: Arc::clone(&job),
            };
            waiting.texts.push(job.number, tokens, work);
        }
        drop(waiting);
        self.changed.notify_one();
        Ok(Answer {
            receiver,
            queue: Arc::clone(self),
            job,
        })
    }

    /// Waits for the next batch; `None` when the queue is closed and empty.
    pub(super) fn take(&self) -> Option<Batch<Work>> {
        let mut waiting = self.waiting();
        loop {
            let batch = waiting.texts.next_batch(Instant::now());
            if batch.is_some() || waiting.closed {
                return batch;
            }
            waiting = self
                .changed
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What runs before the rest of a batch, of which a share of 0 to 1 is done and which has lost so
    /// many tokens' time.
    pub(super) fn interrupting(
        &self,
        batch: &Batch<Work>,
        done: f64,
        lost: usize,
    ) -> Option<Batch<Work>> {
        let ran = batch.tokens as f64 * done;
        let running = Running {
            last: batch.last,
            patience_ends: batch.oldest + self.limits.batch_tier_patience,
            ran,
            left: batch.tokens as f64 - ran,
            lost: lost as f64,
        };
        self.waiting().texts.interrupting(&running, Instant::now())
    }

    /// Hears that a part of a batch, 0 to 1, has run.
    pub(super) fn worked(&self, batch: &Batch<Work>, part: f64) {
        let tokens = batch.tokens as f64 * part;
        self.waiting().texts.worked(batch.last.tier, tokens);
    }

    /// Requests are answered or given up: what still waits of them is dropped.
    pub(super) fn ended(&self, requests: impl IntoIterator<Item = u64>) {
        for request in requests {
            let texts = self.waiting().texts.close(request);
            // Not under the lock: there may be many.
            drop(texts);
        }
    }

    /// Takes no more requests; what waits is finished.
    pub(super) fn close(&self) {
        self.waiting().closed = true;
        self.changed.notify_all();
    }

    /// Hears how long a batch took.
    pub(super) fn measured(&self, tokens: usize, elapsed: Duration) {
        let rate = tokens as f64 / elapsed.as_secs_f64().max(1e-6);
        let known = self.tokens_per_second.load(Ordering::Relaxed) as f64;
        let rate = if known == 0.0 {
            rate
        } else {
            0.8 * known + 0.2 * rate
        };
        self.tokens_per_second
            .store(rate.max(1.0) as u64, Ordering::Relaxed);
    }

    /// How long `tokens` will take at the recent speed, 1 s where none is known.
    pub(super) fn estimate(&self, tokens: usize) -> Duration {
        match self.tokens_per_second.load(Ordering::Relaxed) {
            0 => Duration::from_secs(1),
            rate => Duration::from_secs_f64(tokens as f64 / rate as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use quintet_engine::Task;

    use super::*;
    use crate::budget::Budget;

    const LIMITS: BatchLimits = BatchLimits {
        token_budget: 100,
        batch_tier_patience: Duration::from_secs(60),
    };

    fn queue() -> Arc<Queue> {
        Arc::new(Queue::new(LIMITS))
    }

    fn push(queue: &Arc<Queue>, budget: &Budget, lens: &[usize], tier: Tier) -> Answer {
        let sequences: Vec<_> = lens
            .iter()
            .map(|&len| Sequence::whole(vec![7; len], Task::RAW))
            .collect();
        let mut reservation = budget.reservation();
        reservation.grow(lens.iter().sum()).unwrap();
        queue
            .push(
                sequences,
                &Tenant::default(),
                tier,
                reservation,
                Instant::now(),
            )
            .unwrap()
    }

    fn lens(batch: &Batch<Work>) -> Vec<usize> {
        let mut lens: Vec<_> = batch
            .items
            .iter()
            .map(|work| work.sequence.token_ids.len())
            .collect();
        lens.sort_unstable();
        lens
    }

    #[test]
    fn a_query_behind_much_work_is_in_the_next_batch() {
        let (queue, budget) = (queue(), Budget::new(1_000_000));
        let _bulk: Vec<_> = (0..4)
            .map(|_| push(&queue, &budget, &[50; 500], Tier::Realtime))
            .collect();
        let _document = push(&queue, &budget, &[8000], Tier::Realtime);
        for _ in 0..100 {
            let batch = queue.take().unwrap();
            queue.worked(&batch, 1.0);
        }
        let _query = push(&queue, &budget, &[16], Tier::Realtime);
        assert!(lens(&queue.take().unwrap()).contains(&16));
    }

    #[test]
    fn a_client_that_hung_up_costs_nothing() {
        let (queue, budget) = (queue(), Budget::new(1000));
        let begun = push(&queue, &budget, &[60, 60], Tier::Realtime);
        let running = queue.take().unwrap();
        drop(begun);
        assert!(running.items[0].job.is_over());
        let _other = push(&queue, &budget, &[30], Tier::Realtime);
        let batch = queue.take().unwrap();
        assert_eq!(lens(&batch), [30]);
        assert_eq!(budget.used(), 30);
    }

    #[test]
    fn a_request_is_answered_once_with_its_texts_in_order() {
        let (queue, budget) = (queue(), Budget::new(1000));
        let mut answer = push(&queue, &budget, &[60, 70], Tier::Realtime);
        // The room is free by the time that the answer is there.
        while budget.used() > 0 {
            for work in queue.take().unwrap().items {
                let len = work.sequence.token_ids.len() as f32;
                work.job.deliver(work.place, vec![vec![len]]);
            }
        }
        let forwarded = answer.receiver.try_recv().unwrap().unwrap();
        assert_eq!(forwarded.pooled, [[[60.0]], [[70.0]]]);
    }

    #[test]
    fn a_closed_queue_finishes_what_it_has() {
        let (queue, budget) = (queue(), Budget::new(1000));
        let _receiver = push(&queue, &budget, &[10], Tier::Batch);
        queue.close();
        let refused = queue.push(
            Vec::new(),
            &Tenant::default(),
            Tier::Realtime,
            budget.reservation(),
            Instant::now(),
        );
        assert_eq!(refused.err(), Some(Closed));
        assert!(queue.take().is_some());
        assert!(queue.take().is_none());
    }
}
