//! What requests cost and who may send how many: pure arithmetic, time handed in.
//!
//! - `pricing`: money, and prices of tokens
//! - `limits`: requests, tokens and concurrency by the minute
//! - `admission`: whether an account and its key let a request in, and what that changes

pub mod admission;
pub mod limits;
pub mod pricing;

pub use admission::{AccountMeter, Ask, KeyMeter, Refusal, Refused};
pub use limits::{Allowance, Allowances, Rates};
pub use pricing::{PicoUsd, Price};
