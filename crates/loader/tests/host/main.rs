//! The loader on host memory, and its command line.

mod cli;
#[path = "../common/mod.rs"]
mod common;
mod golden_models;
mod observing;
