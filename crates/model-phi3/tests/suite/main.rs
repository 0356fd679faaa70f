//! Whole-crate tests, on headers of files whose data need not exist.
#![allow(clippy::unwrap_used, reason = "tests, also outside #[test] functions")]

mod binding;
mod bit_flips;
mod config;
mod error;
mod kv_cache;
mod plan;
mod preset;
mod support;
