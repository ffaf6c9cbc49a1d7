//! One file per command: its arguments with their help, and what it does.

pub(crate) mod accounts;
pub(crate) mod bench;
pub(crate) mod calibrate;
pub(crate) mod config;
pub(crate) mod credit;
pub(crate) mod embed;
pub(crate) mod info;
pub(crate) mod keys;
pub(crate) mod ledger;
pub(crate) mod models;
pub(crate) mod pack;
pub(crate) mod pull;
pub(crate) mod serve;
pub(crate) mod similarity;
pub(crate) mod tokenize;
pub(crate) mod tune;
pub(crate) mod usage;
pub(crate) mod verify;
