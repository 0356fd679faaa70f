//! The loader on host memory, and its command line.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::print_stdout, reason = "what a failed test shows of random choices")]

mod arguments;
mod bench;
mod c_header;
mod cancelling;
mod changing_files;
mod cli;
mod codes;
#[path = "../common/mod.rs"]
mod common;
mod concurrency;
mod errors_document;
mod golden_models;
mod limits;
mod observing;
mod outputs;
mod program;
mod restricted;
mod shards;
mod shown;
mod small_model;
mod stderr;
mod stdout;
mod suspect_weights;
mod tables;
mod trial;
mod verifying;
mod warnings;
