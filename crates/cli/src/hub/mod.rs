//! The model hub over HTTP: what `quintet pull` needs of it.
//!
//! - `settings`: the environment's word on address, token, proxies and cache folder
//! - `address`: whose an address is, and what of it may be shown
//! - `client`: one request, redirects followed, the token kept on the hub
//! - `api`: the list of a model's files with sizes and hashes
//! - `selection`: which of them the engine reads
//! - `download`: one file into the cache: lock, resume, retry, check
//! - `part`: the file that a download fills, and its hash
//! - `backoff`: how long to wait before the next try
//! - `license`: licences in plain words
//! - `error`: everything that can go wrong, and what to do about it
//!
//! Where the files lie is [`quintet_engine::weights::hub`].

mod address;
mod api;
mod backoff;
mod client;
mod download;
mod error;
mod license;
mod part;
mod selection;
mod settings;

pub(crate) use api::{RemoteFile, RemoteModel};
pub(crate) use backoff::Backoff;
pub(crate) use client::Client;
pub(crate) use download::{Download, Outcome, Progress, retry_note};
pub(crate) use error::HubError;
pub(crate) use license::License;
pub(crate) use settings::Settings;
