//! Tests of the loader with host memory.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::print_stdout, reason = "a failed test shows its random choices")]

mod c_header;
mod cancelling;
#[path = "../common/changed_weights.rs"]
mod changed_weights;
#[path = "../common/changes.rs"]
mod changes;
mod changing_files;
#[path = "../common/mod.rs"]
mod common;
mod concurrency;
mod errors_document;
mod golden_models;
mod observing;
mod restricted;
mod shards;
#[path = "../common/small_model.rs"]
mod small_model;
mod suspect_weights;
mod tables;
mod verifying;
mod warnings;
