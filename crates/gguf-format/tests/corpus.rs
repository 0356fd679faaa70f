//! The seed corpus of the fuzzers: the name of each file says the result, `valid.` or the code of the
//! error. Inputs that a fuzzer finds are added here under such names.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../fuzz/promises.rs"]
mod promises;

use std::path::Path;

#[test]
fn every_file_gives_the_result_in_its_name() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/parse");
    let mut outcomes = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let outcome = promises::check(&std::fs::read(&path).unwrap()).unwrap_or("valid");
        assert_eq!(name.split('.').next(), Some(outcome), "{name}");
        outcomes.push(outcome);
    }
    assert!(outcomes.contains(&"valid") && outcomes.len() > 30);
}
