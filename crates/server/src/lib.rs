//! jina-embeddings-v3 behind the HTTP API that every embedding client already speaks.
//!
//! ```text
//! connection -> layers -> route -> batcher: tokenise, queue, forward -> embeddings -> response
//! ```
//!
//! - [`app`]: state, routes and layers on one screen; [`serve`] and [`listen`]: sockets,
//!   TLS, loading and stopping
//! - [`routes`]: a handler each; [`wire`]: what stands in bodies, and nothing else
//! - [`batcher`]: texts of all requests through one model, short ones past long ones
//! - [`error`]: what goes wrong, and every status code
//! - [`auth`], [`body`], [`observe`]: who calls, what they send, what is written down
//! - [`model`], [`task_names`], [`token_encoding`]: ids, tasks and vocabularies that clients name
//! - [`catalogue`]: what is known about models; `pages`: what a person sees in a browser
//! - [`segments`]: a text cut into chunks
//! - [`hosting`], [`meter`]: accounts' keys, and each request counted and billed; [`metering`]: prices
//!   and limits, pure; [`store`]: accounts, keys and the ledger in a database
//! - [`jobs`]: files and batches, worked off beneath the requests that someone waits for
//! - [`budget`], [`config`], [`metrics`], `recent`: what was counted in the last minutes
//!
//! [`Server::bind`] listens, [`Server::run`] loads the model and serves until it is told to stop.

pub mod app;
pub mod auth;
pub mod batcher;
pub mod body;
pub mod budget;
pub mod catalogue;
pub mod config;
pub mod error;
pub mod hosting;
pub mod jobs;
pub mod listen;
pub mod meter;
pub mod metering;
pub mod metrics;
pub mod model;
pub mod observe;
mod pages;
mod recent;
pub mod routes;
pub mod segments;
pub mod serve;
pub mod store;
pub mod task_names;
pub mod token_encoding;
#[cfg(feature = "otel")]
mod trace_context;
pub mod wire;
mod write_timeout;

pub use auth::Auth;
pub use catalogue::{Catalogue, CatalogueError, LicenseError};
pub use config::{Config, Cors, EmptyInput, Limits, TlsFiles};
pub use hosting::{Hosting, HostingConfig, SignUp};
pub use jobs::{JobLimits, Jobs, JobsError};
pub use listen::Listen;
pub use model::{Model, SelfTestError};
pub use serve::{BindError, RunError, Server};
