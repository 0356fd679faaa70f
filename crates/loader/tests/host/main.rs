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
#[path = "../common/divided.rs"]
mod divided;
mod errors_document;
#[path = "../../examples/logits/forward.rs"]
mod forward;
mod forward_pass;
mod golden_models;
mod handing_on;
mod inputs;
mod observing;
mod preparing;
#[path = "../../examples/logits/reference.rs"]
mod reference;
#[path = "../common/resident.rs"]
mod resident;
mod resident_weights;
mod restricted;
#[path = "../../examples/logits/rotation.rs"]
mod rotation;
mod serialising;
mod several_devices;
mod shards;
#[path = "../common/small_model.rs"]
mod small_model;
mod suspect_weights;
mod tables;
mod tensor_parallel;
#[path = "../../examples/logits/values.rs"]
mod values;
mod verifying;
mod verifying_files;
mod warnings;
