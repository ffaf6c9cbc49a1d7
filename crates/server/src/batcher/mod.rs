//! From texts to pooled rows, batched across requests, tasks and routes.
//!
//! ```text
//! inputs -> pieces -> tokenised on the blocking pool -> queue -> policy -> worker -> rows per request
//! ```
//!
//! - `policy`: who comes before whom, and when a running batch gives way
//! - `fair_queue`: what waits, in that order
//! - `queue`: the texts that wait, and the requests that they belong to
//! - `worker`: the thread that runs the model, step by step
//!
//! Routes call [`Batcher::tokenize`], let the request be billed, and call [`Batcher::forward`].

mod fair_queue;
mod lane;
mod policy;
mod queue;
mod worker;

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use quintet_engine::batch::Sequence;
use quintet_engine::{Content, EmbedError, Embedder, Input, Prepared, Task, Truncate};
use tokio::sync::Semaphore;
use tracing::Instrument;

use crate::budget::{Budget, Reservation};
use crate::metrics::Metrics;

pub use fair_queue::{Batch, FairQueue};
pub use policy::{BatchLimits, Place, Running, Tenant, Tier, Urgency, VirtualClock, VirtualTime};
pub use queue::{ForwardFailed, Forwarded};

/// What the batcher accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatcherLimits {
    /// What bounds a batch.
    pub batch: BatchLimits,
    /// Tokens that wait or run at most, over all requests.
    pub queue_tokens: usize,
    /// Tokens of one request at most, and never more than the queue holds.
    pub request_tokens: usize,
    /// Texts are tokenised on this many threads at once.
    pub tokenizing_threads: usize,
}

impl Default for BatcherLimits {
    fn default() -> Self {
        Self {
            batch: BatchLimits {
                token_budget: 1024,
                batch_tier_patience: Duration::from_secs(600),
            },
            queue_tokens: 1_000_000,
            request_tokens: 300_000,
            tokenizing_threads: 2,
        }
    }
}

/// One text or row of token ids, owned, with its task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedInput {
    /// What is embedded.
    pub content: OwnedContent,
    /// The adapter that it is embedded with.
    pub task: Task,
}

/// A text, or token ids of the model's own vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnedContent {
    /// A text.
    Text(String),
    /// Token ids exactly as the model shall see them.
    TokenIds(Vec<u32>),
}

impl OwnedContent {
    fn as_content(&self) -> Content<'_> {
        match self {
            Self::Text(text) => Content::Text(text),
            Self::TokenIds(token_ids) => Content::TokenIds(token_ids),
        }
    }

    fn size_bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::TokenIds(token_ids) => size_of_val(token_ids.as_slice()),
        }
    }
}

/// What happens to an input that is longer than the model's context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overlong {
    /// It is refused.
    #[default]
    Refuse,
    /// Its end is cut off.
    CutEnd,
    /// Its start is cut off, `<s>` and the instruction kept.
    CutStart,
}

/// A text after tokenising, with what its receipt says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokenized {
    /// The sequence and whether its tail was cut off.
    pub prepared: Prepared,
    /// Where its end was cut off: characters of the text that the model saw. `None` if it was not, or
    /// was handed in as ids.
    pub cut_at: Option<usize>,
}

/// How long a request spent where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepTimes {
    /// Tokenising, waiting for a thread included.
    pub tokenize: Duration,
    /// Waiting for the model.
    pub queue: Duration,
    /// Batches that held texts of this request.
    pub forward: Duration,
}

/// Why a request got no rows.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The engine refused the input at this place.
    #[error("input {index} was refused")]
    Input {
        /// Its place in the request.
        index: usize,
        /// Why.
        source: EmbedError,
    },
    /// The texts of the request are too long in sum; the rest of them was not counted.
    #[error("the request has {tokens} tokens or more, expected at most {max}")]
    RequestTooLong {
        /// Tokens counted so far.
        tokens: usize,
        /// The limit.
        max: usize,
    },
    /// The queue is full.
    #[error("the queue is full")]
    Full {
        /// When there will be room, by the recent speed.
        retry_after: Duration,
    },
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Closed,
    /// The device failed, or we did; the log says more.
    #[error("the model failed")]
    Failed,
}

/// Bytes of text that one thread tokenises before others may have their turn, about 10 ms.
const PIECE_BYTES: usize = 32 * 1024;

/// Puts texts of all requests through one model.
#[derive(Debug)]
pub struct Batcher {
    embedder: Arc<Embedder>,
    queue: Arc<queue::Queue>,
    tokens: Budget,
    tokenizing: Arc<Semaphore>,
    limits: BatcherLimits,
    worker: Mutex<Option<JoinHandle<()>>>,
}

impl Batcher {
    /// Starts the worker.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(
        embedder: Arc<Embedder>,
        limits: BatcherLimits,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        // What never fits is the request's fault and not the moment's.
        let limits = BatcherLimits {
            request_tokens: limits.request_tokens.min(limits.queue_tokens),
            ..limits
        };
        let queue = Arc::new(queue::Queue::new(limits.batch));
        let worker = worker::spawn(Arc::clone(&queue), Arc::clone(&embedder), metrics)?;
        Ok(Self {
            embedder,
            queue,
            tokens: Budget::new(limits.queue_tokens),
            tokenizing: Arc::new(Semaphore::new(limits.tokenizing_threads.max(1))),
            limits,
            worker: Mutex::new(Some(worker)),
        })
    }

    /// Tokenises texts on the blocking pool, piece by piece, and stops at the first that breaks a limit.
    /// The reservation holds their tokens' room in the queue.
    ///
    /// # Errors
    /// [`BatchError`] for a text that is refused, a request that is too long and a full queue.
    pub async fn tokenize(
        &self,
        inputs: Vec<OwnedInput>,
        overlong: Overlong,
    ) -> Result<(Vec<Tokenized>, Reservation), BatchError> {
        let mut reservation = self.tokens.reservation();
        let mut tokenized = Vec::with_capacity(inputs.len());
        for piece in pieces(inputs) {
            let first = tokenized.len();
            let embedder = Arc::clone(&self.embedder);
            let span = tracing::info_span!("tokenize", texts = piece.len());
            let texts = self
                .blocking(move || tokenize_piece(&embedder, &piece, overlong, first))
                .instrument(span)
                .await??;
            let tokens = texts
                .iter()
                .map(|text: &Tokenized| text.prepared.sequence.token_ids.len())
                .sum();
            self.reserve(&mut reservation, tokens)?;
            tokenized.extend(texts);
        }
        Ok((tokenized, reservation))
    }

    /// Takes room in the queue for `tokens` more of one request.
    ///
    /// # Errors
    /// [`BatchError::RequestTooLong`] and [`BatchError::Full`].
    pub fn reserve(&self, reservation: &mut Reservation, tokens: usize) -> Result<(), BatchError> {
        let (sum, max) = (reservation.amount() + tokens, self.limits.request_tokens);
        if sum > max {
            return Err(BatchError::RequestTooLong { tokens: sum, max });
        }
        reservation.grow(tokens).map_err(|_| BatchError::Full {
            retry_after: self.queue.estimate(self.tokens.used() / 2),
        })
    }

    /// An empty share of the queue, for a caller that tokenises by itself.
    pub fn reservation(&self) -> Reservation {
        self.tokens.reservation()
    }

    /// Runs CPU-heavy work on the blocking pool, as many at once as may tokenise.
    ///
    /// # Errors
    /// [`BatchError::Failed`] when it panicked.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, BatchError> {
        let permit = Arc::clone(&self.tokenizing).acquire_owned().await;
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        done.await.map_err(|error| {
            tracing::error!(%error, "blocking work failed");
            BatchError::Failed
        })
    }

    /// Runs sequences, shared into batches with those of other requests. Dropping the future drops
    /// what has not begun, and a batch that nobody else is in.
    ///
    /// # Errors
    /// [`BatchError::Closed`] and [`BatchError::Failed`].
    pub async fn forward(
        &self,
        sequences: Vec<Sequence>,
        reservation: Reservation,
        tenant: Tenant,
        tier: Tier,
    ) -> Result<Forwarded, BatchError> {
        if sequences.is_empty() {
            return Ok(Forwarded {
                pooled: Vec::new(),
                queue_time: Duration::ZERO,
                forward_time: Duration::ZERO,
            });
        }
        let span = tracing::info_span!(
            "forward",
            texts = sequences.len(),
            tokens = reservation.amount(),
            queue_ms = tracing::field::Empty,
            batches_ms = tracing::field::Empty,
        );
        let answer = self
            .queue
            .push(sequences, &tenant, tier, reservation, Instant::now())
            .map_err(|queue::Closed| BatchError::Closed)?;
        let reply = answer.reply().instrument(span.clone()).await;
        let forwarded = reply.map_err(|ForwardFailed| BatchError::Failed)?;
        span.record("queue_ms", forwarded.queue_time.as_secs_f64() * 1e3);
        span.record("batches_ms", forwarded.forward_time.as_secs_f64() * 1e3);
        Ok(forwarded)
    }

    /// Tokens that wait or run.
    pub fn queued_tokens(&self) -> usize {
        self.tokens.used()
    }

    /// Finishes what waits, then ends the worker. Blocks.
    pub fn stop(&self) {
        self.queue.close();
        let worker = self
            .worker
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(worker) = worker {
            // It catches the panics of the model, so there is nothing to hear from it.
            let _ = worker.join();
        }
    }
}

/// A worker that nobody can reach any more ends.
impl Drop for Batcher {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Cuts inputs into runs of about [`PIECE_BYTES`]; a longer text is a piece of its own.
fn pieces(inputs: Vec<OwnedInput>) -> Vec<Vec<OwnedInput>> {
    let mut pieces: Vec<Vec<OwnedInput>> = Vec::new();
    let mut bytes = usize::MAX;
    for input in inputs {
        let size = input.content.size_bytes();
        match pieces.last_mut() {
            Some(piece) if bytes.saturating_add(size) <= PIECE_BYTES => {
                piece.push(input);
                bytes += size;
            }
            _ => {
                pieces.push(vec![input]);
                bytes = size;
            }
        }
    }
    pieces
}

/// `first` is the place of the piece's first input in the request.
fn tokenize_piece(
    embedder: &Embedder,
    piece: &[OwnedInput],
    overlong: Overlong,
    first: usize,
) -> Result<Vec<Tokenized>, BatchError> {
    let tokenize = |(index, input): (usize, &OwnedInput)| {
        let refused = |source| BatchError::Input {
            index: first + index,
            source,
        };
        let content = input.content.as_content();
        let task = input.task;
        let prepared = prepare(embedder, Input { content, task }, overlong).map_err(refused)?;
        let cut_at = match content {
            Content::Text(text) if prepared.truncated && overlong == Overlong::CutEnd => {
                let tokens = prepared.sequence.token_ids.len();
                cut_at(embedder, text, task, tokens).map_err(refused)?
            }
            Content::Text(_) | Content::TokenIds(_) => None,
        };
        Ok(Tokenized { prepared, cut_at })
    };
    piece.iter().enumerate().map(tokenize).collect()
}

fn prepare(
    embedder: &Embedder,
    input: Input<'_>,
    overlong: Overlong,
) -> Result<Prepared, EmbedError> {
    let truncate = match overlong {
        Overlong::CutEnd => Truncate::End,
        Overlong::Refuse | Overlong::CutStart => Truncate::Error,
    };
    match embedder.prepare(input, truncate) {
        Err(EmbedError::TooLong { .. }) if overlong == Overlong::CutStart => {
            cut_start(embedder, input)
        }
        prepared => prepared,
    }
}

/// Keeps `<s>`, the instruction, as many of the last tokens as fit, and `</s>`.
fn cut_start(embedder: &Embedder, input: Input<'_>) -> Result<Prepared, EmbedError> {
    let (mut head, tail) = match input.content {
        Content::TokenIds(token_ids) => {
            let (head, tail) = token_ids.split_at(1);
            (head.to_vec(), tail.to_vec())
        }
        Content::Text(text) => {
            let tokenizer = embedder.tokenizer().ok_or(EmbedError::NoTokenizer)?;
            let encode = |text: &str| {
                let encoded = tokenizer.encode_plain(text);
                encoded.map_err(|source| EmbedError::Tokenizer { index: 0, source })
            };
            let mut head = vec![tokenizer.bos_id()];
            head.extend(encode(embedder.instruction(input.task))?);
            let mut tail = encode(text)?;
            tail.push(tokenizer.eos_id());
            (head, tail)
        }
    };
    let room = embedder.config().max_tokens.saturating_sub(head.len());
    head.extend_from_slice(&tail[tail.len().saturating_sub(room)..]);
    let cut = Input {
        content: Content::TokenIds(&head),
        task: input.task,
    };
    let mut prepared = embedder.prepare(cut, Truncate::Error)?;
    prepared.truncated = true;
    Ok(prepared)
}

/// Characters of `text` before the cut, where the model saw `tokens` of it, `<s>`, `</s>` and the
/// instruction included.
fn cut_at(
    embedder: &Embedder,
    text: &str,
    task: Task,
    tokens: usize,
) -> Result<Option<usize>, EmbedError> {
    let Some(tokenizer) = embedder.tokenizer() else {
        return Ok(None);
    };
    let instruction = embedder.instruction(task);
    let places = tokenizer
        .encode_with_offsets(&format!("{instruction}{text}"))
        .map_err(|source| EmbedError::Tokenizer { index: 0, source })?;
    let last = tokens
        .checked_sub(3)
        .and_then(|last| places.offsets.get(last));
    let before = instruction.chars().count();
    Ok(last.map(|&(_, end)| end.saturating_sub(before)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_keep_the_order_and_the_size() {
        let input = |len| OwnedInput {
            content: OwnedContent::Text("x".repeat(len)),
            task: Task::RAW,
        };
        let lens = [10, PIECE_BYTES, PIECE_BYTES * 3, 1, 2, PIECE_BYTES - 3];
        let pieces = pieces(lens.into_iter().map(input).collect());
        let found: Vec<Vec<usize>> = pieces
            .iter()
            .map(|piece| {
                piece
                    .iter()
                    .map(|input| input.content.size_bytes())
                    .collect()
            })
            .collect();
        let expected = [
            vec![10],
            vec![PIECE_BYTES],
            vec![PIECE_BYTES * 3],
            vec![1, 2, PIECE_BYTES - 3],
        ];
        assert_eq!(found, expected);
    }
}
