//! Flips every bit of the headers of these files, one at a time, and prints the results.
//!
//! usage: cargo run --release -p model-phi3 --example bit_flips -- FILE...
//!
//! The exit code is 1 if a flip gives other weights without an error. If the type of the last tensor is
//! wrong, there is only a warning: those flips are listed.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]

mod survey;

use std::process::ExitCode;
use survey::{Outcome, survey};

fn main() -> ExitCode {
    let mut silent = 0;
    for path in std::env::args_os().skip(1) {
        let path = std::path::PathBuf::from(path);
        let flips = match std::fs::read(&path) {
            Ok(mut file) => survey(&mut file).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let flips = match flips {
            Ok(flips) => flips,
            Err(error) => {
                eprintln!("{}: {error}", path.display());
                return ExitCode::FAILURE;
            }
        };
        let count = |outcome| flips.iter().filter(|flip| flip.outcome == outcome).count();
        println!(
            "{}: {} flips, {} refused, {} with the same weights, {} with a warning, {} silent",
            path.display(),
            flips.len(),
            count(Outcome::Refused),
            count(Outcome::SameWeights),
            count(Outcome::Warned),
            count(Outcome::OtherWeights)
        );
        silent += count(Outcome::OtherWeights);
        let listed = [Outcome::Warned, Outcome::OtherWeights];
        for flip in flips.iter().filter(|flip| listed.contains(&flip.outcome)) {
            println!("  byte {} bit {}: {:?}: {}", flip.byte, flip.bit, flip.outcome, flip.what);
        }
    }
    if silent == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
