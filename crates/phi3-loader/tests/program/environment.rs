//! The environment of the programs that the tests run.

use std::process::Command;

/// Variables that change what the program writes, or whom it notifies. `CI` allows colours where `TERM` forbids them.
const SETTINGS: [&str; 12] = [
    "CI",
    "CLICOLOR",
    "CLICOLOR_FORCE",
    "COLUMNS",
    "LINES",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "NO_COLOR",
    "RUST_BACKTRACE",
    "RUST_LOG",
];

/// Removes the settings of the user who runs the tests from the environment of a command.
pub(crate) fn without_settings(command: &mut Command) {
    let variables = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    for name in variables {
        if SETTINGS.contains(&name.as_str()) || name.starts_with("PHI3_LOADER_") {
            command.env_remove(name);
        }
    }
}
