//! Tests of the whole crate, on headers of files without data.
#![allow(clippy::unwrap_used, reason = "tests, also outside #[test] functions")]

mod binding;
mod bit_flips;
mod config;
mod error;
mod fused;
mod kv_cache;
mod placed_plan;
mod placement;
mod plan;
mod preset;
mod serialize;
mod support;
mod tokenizer;
