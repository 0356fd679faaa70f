//! `cargo xtask test`: runs every test that needs no GPU.

use anyhow::Result;

use crate::process;
use crate::workspace::cargo;

/// Runs the tests of the workspace, including doc-tests, and adds up the results.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let mut tally = Tally::default();
    let result =
        process::run_by_line(cargo(["test", "--workspace", "--locked"]).args(arguments), |line| {
            println!("{line}");
            tally.add(line);
        });
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.ignored);
    result
}

/// The sum of the result lines of all test programs.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Tally {
    /// Adds a line like `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    fn add(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        for part in counts.split(['.', ';']) {
            let Some((count, what)) = part.trim().split_once(' ') else { continue };
            let Ok(count) = count.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.ignored += count,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn only_result_lines_are_added_up() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test 9 passed; ... ok",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.50s",
        ] {
            tally.add(line);
        }
        assert_eq!((tally.passed, tally.failed, tally.ignored), (7, 2, 1));
    }
}
