//! Tests of the command line and of the program as a process.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::print_stdout, reason = "a failed test shows its random choices")]

mod arguments;
mod bench;
mod cancelling;
#[path = "../../../loader/tests/common/changed_weights.rs"]
mod changed_weights;
#[path = "../../../loader/tests/common/changes.rs"]
mod changes;
mod changing_files;
mod cli;
mod codes;
#[path = "../../../loader/tests/common/mod.rs"]
#[expect(dead_code, reason = "the tests of the library use the rest")]
mod common;
mod completions;
mod dump;
mod environment;
mod inspect;
mod json_schema;
mod limit_runs;
mod limited;
mod limits;
mod man;
mod on_terminal;
mod outputs;
mod placement;
mod program;
mod resident;
mod restricted;
mod several_devices;
mod shown;
#[path = "../../../loader/tests/common/small_model.rs"]
mod small_model;
mod stderr;
mod stdout;
mod suspect_weights;
mod trial;
mod verify;
mod warnings;
