//! Runs the commands in the README exactly as they are written, so that they always work.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use super::strict;
use crate::{process, workspace};

/// Runs the README's `cargo xtask TASK …` line.
pub(super) fn run(task: &str) -> Result<()> {
    let readme = fs::read_to_string(workspace::root().join("README.md"))?;
    let command = command(&readme, task)
        .with_context(|| format!("README.md shows no `cargo xtask {task}` in a code block"))?;
    let mut shell = Command::new("sh");
    process::run(strict(shell.args(["-c", command]).current_dir(workspace::root())))
}

/// Returns the first line in a code block that runs `task`, without its comment.
fn command<'r>(readme: &'r str, task: &str) -> Option<&'r str> {
    let mut in_block = false;
    readme.lines().find_map(|line| {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
            return None;
        }
        let command = line.split('#').next()?.trim();
        let mut words = command.split_whitespace();
        let runs_task = words.by_ref().take(3).eq(["cargo", "xtask", task]);
        (in_block && runs_task).then_some(command)
    })
}

#[cfg(test)]
mod tests {
    use super::command;

    #[test]
    fn the_command_is_taken_from_a_code_block() {
        let readme = "cargo xtask test in prose\n\n```sh\ncargo xtask demo\n\
                      cargo xtask test-gpu\ncargo xtask test --quiet  # all\n```\n";
        assert_eq!(command(readme, "test"), Some("cargo xtask test --quiet"));
        assert_eq!(command(readme, "demo"), Some("cargo xtask demo"));
        assert_eq!(command(readme, "bench"), None);
    }
}
