//! What is counted, in Prometheus' terms.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::batcher::StepTimes;
use crate::recent::Recent;

/// A request by what it hit and how it ended. The route is the pattern, never the path as sent, so
/// that strangers cannot make up series.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Step {
    step: &'static str,
}

/// A line of a batch by how it was met.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// All counters of the server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    request_seconds: Histogram,
    step_seconds: Family<Step, Histogram>,
    tokens: Counter,
    inputs: Counter,
    batch_tokens: Histogram,
    batch_inputs: Histogram,
    batch_seconds: Histogram,
    interruptions: Counter,
    jobs_running: Gauge,
    jobs_ended: Family<Outcome, Counter>,
    job_lines: Family<Outcome, Counter>,
    connections: Gauge,
    queued_tokens: Gauge,
    body_bytes: Gauge,
    ready: Gauge<u64, AtomicU64>,
    /// What the operator's page shows: the buckets above are too coarse for it.
    pub(crate) recent: Recent,
}

/// 0.5 ms to 131 s, doubling: from a cached proxy's pace to a document of 8192 tokens on one core.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 19))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("quintet"),
            requests: Family::default(),
            request_seconds: seconds(),
            step_seconds: Family::new_with_constructor(seconds),
            tokens: Counter::default(),
            inputs: Counter::default(),
            batch_tokens: Histogram::new(exponential_buckets(1.0, 2.0, 15)),
            batch_inputs: Histogram::new(exponential_buckets(1.0, 2.0, 12)),
            batch_seconds: seconds(),
            interruptions: Counter::default(),
            jobs_running: Gauge::default(),
            jobs_ended: Family::default(),
            job_lines: Family::default(),
            connections: Gauge::default(),
            queued_tokens: Gauge::default(),
            body_bytes: Gauge::default(),
            ready: Gauge::default(),
            recent: Recent::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        let seconds = || Unit::Seconds;
        registry.register(
            "requests",
            "Requests by route and status",
            self.requests.clone(),
        );
        registry.register_with_unit(
            "request",
            "From the last byte of the header to the answer",
            seconds(),
            self.request_seconds.clone(),
        );
        registry.register_with_unit(
            "step",
            "Time of a request in tokenising, in the queue and in batches",
            seconds(),
            self.step_seconds.clone(),
        );
        registry.register("tokens", "Tokens that were embedded", self.tokens.clone());
        registry.register("inputs", "Texts that were embedded", self.inputs.clone());
        registry.register(
            "batch_tokens",
            "Tokens of a batch; none of them is padding",
            self.batch_tokens.clone(),
        );
        registry.register(
            "batch_inputs",
            "Texts of a batch",
            self.batch_inputs.clone(),
        );
        registry.register_with_unit(
            "batch",
            "Time of a forward pass without interruptions",
            seconds(),
            self.batch_seconds.clone(),
        );
        registry.register(
            "interruptions",
            "Batches that ran between two steps of a longer one",
            self.interruptions.clone(),
        );
        registry.register(
            "jobs_running",
            "Batches of /v1/batches that this server works on",
            self.jobs_running.clone(),
        );
        registry.register(
            "jobs_ended",
            "Batches of /v1/batches that ended, by their last status",
            self.jobs_ended.clone(),
        );
        registry.register(
            "job_lines",
            "Lines of batches that were met, by how",
            self.job_lines.clone(),
        );
        registry.register("connections", "Open connections", self.connections.clone());
        registry.register(
            "queued_tokens",
            "Tokens that wait or run",
            self.queued_tokens.clone(),
        );
        registry.register_with_unit(
            "body",
            "Request bodies in memory",
            Unit::Bytes,
            self.body_bytes.clone(),
        );
        registry.register("ready", "1 when the model is ready", self.ready.clone());
    }

    /// A request was answered.
    pub(crate) fn request(&self, route: &str, status: u16, elapsed: Duration) {
        let request = Request {
            route: route.to_owned(),
            status,
        };
        self.requests.get_or_create(&request).inc();
        self.request_seconds.observe(elapsed.as_secs_f64());
        // Probes that ask whether the model is loaded yet are not sent away.
        if !route.starts_with("/health") {
            self.recent.answered(Instant::now(), status);
        }
    }

    /// Texts were embedded.
    pub(crate) fn embedded(&self, inputs: usize, tokens: usize, times: StepTimes) {
        self.inputs.inc_by(inputs as u64);
        self.tokens.inc_by(tokens as u64);
        self.recent.embedded(Instant::now(), tokens, times);
        let steps = [
            ("tokenize", times.tokenize),
            ("queue", times.queue),
            ("forward", times.forward),
        ];
        for (step, time) in steps {
            self.step_seconds
                .get_or_create(&Step { step })
                .observe(time.as_secs_f64());
        }
    }

    /// A batch ran.
    pub(crate) fn batch(&self, tokens: usize, inputs: usize, elapsed: Duration) {
        self.batch_tokens.observe(tokens as f64);
        self.batch_inputs.observe(inputs as f64);
        self.batch_seconds.observe(elapsed.as_secs_f64());
    }

    /// Connections that are open now.
    pub(crate) fn open_connections(&self) -> u64 {
        self.connections.get().unsigned_abs()
    }

    /// A batch began between two steps of another.
    pub(crate) fn interrupted(&self) {
        self.interruptions.inc();
    }

    /// Batches that are worked on now.
    pub(crate) fn jobs_running(&self, jobs: usize) {
        self.jobs_running
            .set(i64::try_from(jobs).unwrap_or(i64::MAX));
    }

    /// A batch ended with this status.
    pub(crate) fn job_ended(&self, outcome: &'static str) {
        self.jobs_ended.get_or_create(&Outcome { outcome }).inc();
    }

    /// Lines of a batch were met.
    pub(crate) fn job_lines(&self, completed: u64, failed: u64) {
        for (outcome, lines) in [("completed", completed), ("failed", failed)] {
            self.job_lines
                .get_or_create(&Outcome { outcome })
                .inc_by(lines);
        }
    }

    /// A connection was opened; it is counted until the guard is dropped.
    pub(crate) fn connection(&self) -> OpenConnection {
        self.connections.inc();
        OpenConnection(self.connections.clone())
    }

    /// Sets what is known at the moment only, then writes everything in the OpenMetrics text format.
    pub(crate) fn text(&self, ready: bool, queued_tokens: usize, body_bytes: usize) -> String {
        self.ready.set(ready.into());
        self.queued_tokens
            .set(queued_tokens.try_into().unwrap_or(i64::MAX));
        self.body_bytes
            .set(body_bytes.try_into().unwrap_or(i64::MAX));
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

/// Counts an open connection.
pub(crate) struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}
