//! What an operator decides. The command line reads it from flags, environment and file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::auth::Auth;
use crate::batcher::BatcherLimits;
use crate::catalogue::Catalogue;
use crate::jobs::Jobs;
use crate::listen::Listen;

/// Everything that the server is told at start, beside its model.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens.
    pub listen: Listen,
    /// Who may call.
    pub auth: Auth,
    /// Certificate chain and key in PEM; plain HTTP without.
    pub tls: Option<TlsFiles>,
    /// Origins whose pages may call from a browser.
    pub cors: Cors,
    /// The task where a request names none; `raw` unless set, as on Jina's API.
    pub default_task: Option<String>,
    /// What an empty text becomes.
    pub empty_input: EmptyInput,
    /// Refuse what OpenAI's schema refuses and we could do: a request without a model.
    pub strict_openai: bool,
    /// What is known about models.
    pub catalogue: Catalogue,
    /// The name under which the model was located, by which its entry is found: a hub id or a path.
    pub serves: Option<String>,
    /// The licence whose ban on commercial use the operator has the owner's leave to go beyond.
    pub acknowledge_license: Option<String>,
    /// Where files and batches are kept; `None` where there are none.
    pub jobs: Option<Arc<Jobs>>,
    /// Bounds on requests and memory.
    pub limits: Limits,
    /// Bounds on batches and the queue.
    pub batcher: BatcherLimits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 8080))),
            auth: Auth::Open,
            tls: None,
            cors: Cors::Off,
            default_task: None,
            empty_input: EmptyInput::Error,
            strict_openai: false,
            catalogue: Catalogue::built_in(),
            serves: None,
            acknowledge_license: None,
            jobs: None,
            limits: Limits::default(),
            batcher: BatcherLimits::default(),
        }
    }
}

/// Where the certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Origins whose pages may call from a browser, with a key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Cors {
    /// None: pages of other origins are kept out by the browser.
    #[default]
    Off,
    /// Any. Keys travel in a header that no page sends unasked, so this gives no page another's rights.
    Any,
    /// These, such as `https://example.org`.
    Origins(Vec<String>),
}

/// What an empty text becomes. OpenAI refuses it; some clients send it for a blank document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EmptyInput {
    /// A refusal.
    #[default]
    Error,
    /// A vector of zeros, 0 tokens.
    Zero,
    /// What the model makes of `<s></s>`, the instruction between them.
    Embed,
}

/// Bounds on requests, memory and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Inputs of one request.
    pub inputs: usize,
    /// Bytes of one request's body.
    pub body_bytes: usize,
    /// Bytes of all bodies that are being read or worked on.
    pub bodies_bytes: usize,
    /// From the header's end to the body's.
    pub body_timeout: Duration,
    /// For a request's header, and for an idle connection to send the next.
    pub header_timeout: Duration,
    /// How long a client may take no byte of its answer.
    pub write_timeout: Duration,
    /// Open connections; further ones wait in the system's backlog.
    pub connections: usize,
    /// `Prefer: wait=N` holds a request no longer than this.
    pub max_wait: Duration,
    /// After the signal to stop, accepted requests have this long.
    pub shutdown_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            inputs: 2048,
            body_bytes: 16 << 20,
            bodies_bytes: 256 << 20,
            body_timeout: Duration::from_secs(30),
            header_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            connections: 16_384,
            max_wait: Duration::from_secs(120),
            shutdown_timeout: Duration::from_secs(60),
        }
    }
}
