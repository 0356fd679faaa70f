//! Tests of keepers, their clients and systemd's store, with memory of the host.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::print_stdout, reason = "child processes report to their parents")]

mod child;
mod claims;
mod clients;
mod fixtures;
mod hostile_clients;
mod hostile_keepers;
mod processes;
mod sockets;
mod systemd;
