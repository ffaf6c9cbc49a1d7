//! What waits for the model: texts of all requests in one place, handed out as batches.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quintet_engine::batch::Sequence;
use tokio::sync::oneshot;

use super::policy::{BatchLimits, Entry, Tier, VirtualClock, next_batch};
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
    /// Tokens of this request, given back before the answer, or when its last text is dropped.
    reservation: Option<Reservation>,
}

impl Job {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody waits for the answer any more: the client hung up, or it has its answer.
    fn is_abandoned(&self) -> bool {
        let progress = self.progress();
        progress
            .reply
            .as_ref()
            .is_none_or(oneshot::Sender::is_closed)
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

    /// Answers that it went wrong; the texts that still wait are dropped from the queue.
    pub(super) fn fail(&self) {
        if let Some(reply) = self.progress().reply.take() {
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

/// `entries` and `work` run in parallel: the policy sees the former only.
#[derive(Debug, Default)]
struct Waiting {
    entries: Vec<Entry>,
    work: Vec<Work>,
    realtime: VirtualClock,
    batch: VirtualClock,
    next_entry: u64,
    next_job: u64,
    closed: bool,
}

/// The server is shutting down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Closed;

impl Queue {
    pub(super) fn new(limits: BatchLimits) -> Self {
        Self {
            limits,
            waiting: Mutex::default(),
            changed: Condvar::new(),
            tokens_per_second: AtomicU64::new(0),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues the texts of one request. Dropping the receiver takes them out again.
    pub(super) fn push(
        &self,
        sequences: Vec<Sequence>,
        tier: Tier,
        reservation: Reservation,
        now: Instant,
    ) -> Result<oneshot::Receiver<Reply>, Closed> {
        let (reply, receiver) = oneshot::channel();
        let mut waiting = self.waiting();
        if waiting.closed {
            return Err(Closed);
        }
        let job = Arc::new(Job {
            number: waiting.next_job,
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
        waiting.next_job += 1;
        waiting.push(sequences, &job, tier, now);
        drop(waiting);
        self.changed.notify_one();
        Ok(receiver)
    }

    /// Waits for the next batch; `None` when the queue is closed and empty.
    pub(super) fn take(&self) -> Option<Vec<Work>> {
        let mut waiting = self.waiting();
        loop {
            let batch = waiting.take(Instant::now(), &self.limits);
            if !batch.is_empty() {
                return Some(batch);
            }
            if waiting.closed {
                return None;
            }
            waiting = self
                .changed
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
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

impl Waiting {
    fn clock(&mut self, tier: Tier) -> &mut VirtualClock {
        match tier {
            Tier::Realtime => &mut self.realtime,
            Tier::Batch => &mut self.batch,
        }
    }

    fn push(&mut self, sequences: Vec<Sequence>, job: &Arc<Job>, tier: Tier, now: Instant) {
        let lens: Vec<usize> = sequences
            .iter()
            .map(|sequence| sequence.token_ids.len())
            .collect();
        let tags: Vec<f64> = self.clock(tier).tags(lens.iter().copied()).collect();
        for (place, (sequence, finish_tag)) in sequences.into_iter().zip(tags).enumerate() {
            self.entries.push(Entry {
                tier,
                finish_tag,
                number: self.next_entry,
                tokens: lens[place],
                arrived: now,
            });
            self.next_entry += 1;
            self.work.push(Work {
                sequence,
                place,
                job: Arc::clone(job),
            });
        }
    }

    /// Drops what nobody waits for, then takes out what the policy chooses.
    fn take(&mut self, now: Instant, limits: &BatchLimits) -> Vec<Work> {
        let mut requests: [HashMap<u64, bool>; 2] = Default::default();
        for index in (0..self.work.len()).rev() {
            let job = &self.work[index].job;
            let tier = self.entries[index].tier as usize;
            let abandoned = *requests[tier]
                .entry(job.number())
                .or_insert_with(|| job.is_abandoned());
            if abandoned {
                self.work.swap_remove(index);
                self.entries.swap_remove(index);
            }
        }
        let mut chosen = next_batch(&self.entries, now, limits);
        for tier in [Tier::Realtime, Tier::Batch] {
            let entries = chosen.iter().map(|&index| &self.entries[index]);
            let tokens = entries
                .filter(|entry| entry.tier == tier)
                .map(|entry| entry.tokens)
                .sum();
            let waiting = requests[tier as usize].values();
            let waiting = waiting.filter(|&&abandoned| !abandoned).count();
            self.clock(tier).advance(tokens, waiting);
        }
        // From the back, so that the places of those still to be taken stay true.
        chosen.sort_unstable_by(|a, b| b.cmp(a));
        let take = |index| {
            self.entries.swap_remove(index);
            self.work.swap_remove(index)
        };
        chosen.into_iter().map(take).collect()
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

    fn push(
        queue: &Queue,
        budget: &Budget,
        lens: &[usize],
        tier: Tier,
    ) -> oneshot::Receiver<Reply> {
        let sequences: Vec<_> = lens
            .iter()
            .map(|&len| Sequence::whole(vec![7; len], Task::RAW))
            .collect();
        let mut reservation = budget.reservation();
        reservation.grow(lens.iter().sum()).unwrap();
        queue
            .push(sequences, tier, reservation, Instant::now())
            .unwrap()
    }

    fn lens(batch: &[Work]) -> Vec<usize> {
        let mut lens: Vec<_> = batch
            .iter()
            .map(|work| work.sequence.token_ids.len())
            .collect();
        lens.sort_unstable();
        lens
    }

    #[test]
    fn a_query_behind_much_work_is_in_the_next_batch() {
        let (queue, budget) = (Queue::new(LIMITS), Budget::new(1_000_000));
        let _bulk: Vec<_> = (0..4)
            .map(|_| push(&queue, &budget, &[50; 500], Tier::Realtime))
            .collect();
        let _document = push(&queue, &budget, &[8000], Tier::Realtime);
        for _ in 0..100 {
            queue.take().unwrap();
        }
        let _query = push(&queue, &budget, &[16], Tier::Realtime);
        assert!(lens(&queue.take().unwrap()).contains(&16));
    }

    #[test]
    fn a_client_that_hung_up_costs_nothing() {
        let (queue, budget) = (Queue::new(LIMITS), Budget::new(1000));
        drop(push(&queue, &budget, &[60, 60], Tier::Realtime));
        let _other = push(&queue, &budget, &[30], Tier::Realtime);
        let batch = queue.take().unwrap();
        assert_eq!(lens(&batch), [30]);
        assert_eq!(budget.used(), 30);
    }

    #[test]
    fn a_request_is_answered_once_with_its_texts_in_order() {
        let (queue, budget) = (Queue::new(LIMITS), Budget::new(1000));
        let mut receiver = push(&queue, &budget, &[60, 70], Tier::Realtime);
        // The room is free by the time that the answer is there.
        while budget.used() > 0 {
            for work in queue.take().unwrap() {
                let len = work.sequence.token_ids.len() as f32;
                work.job.deliver(work.place, vec![vec![len]]);
            }
        }
        let forwarded = receiver.try_recv().unwrap().unwrap();
        assert_eq!(forwarded.pooled, [[[60.0]], [[70.0]]]);
    }

    #[test]
    fn a_closed_queue_finishes_what_it_has() {
        let (queue, budget) = (Queue::new(LIMITS), Budget::new(1000));
        let _receiver = push(&queue, &budget, &[10], Tier::Batch);
        queue.close();
        let refused = queue.push(
            Vec::new(),
            Tier::Realtime,
            budget.reservation(),
            Instant::now(),
        );
        assert_eq!(refused.err(), Some(Closed));
        assert!(queue.take().is_some());
        assert!(queue.take().is_none());
    }
}
