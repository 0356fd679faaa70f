//! The command `hold`: the keeper of resident weights.

use super::args::{Hold, wrong_use};
use super::failure::Failure;
use super::signals::Interrupt;
use gguf_format::path_text;
use keeper::{Error, Keeper, KeeperOptions, systemd};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

/// Keeps weights until a signal ends it. This is the orderly end of the command, and no failure.
pub(super) fn run(arguments: &Hold, interrupt: &Interrupt) -> Result<(), Failure> {
    let mut options = KeeperOptions::default();
    options.expire = arguments.expire.map(Duration::from_secs);

    // First: a descriptor that is opened before may get the number of one that systemd has announced, but not given.
    let mut unit = systemd::Store::from_environment()?;
    let stop = interrupt
        .pipe()
        .map_err(|error| Error::Io { what: "make a pipe", cause: Arc::new(error) })?;
    let mut sockets = unit.as_mut().map(systemd::Store::take_sockets).unwrap_or_default();
    if sockets.len() > 1 {
        let message = format!("the unit has {} sockets, and a keeper serves one", sockets.len());
        return Err(Failure::Usage(wrong_use(message)));
    }
    let mut keeper = match sockets.pop() {
        Some((name, socket)) => {
            if let Some(path) = &arguments.socket.path {
                tracing::warn!("the socket {} is not used: systemd provides one", path_text(path));
            }
            let keeper = Keeper::from_listener(socket, options)?;
            tracing::info!("listening at the socket of the unit {name}");
            keeper
        }
        None => {
            let path = arguments.socket.path()?;
            let keeper = Keeper::bind(&path, options)?;
            tracing::info!("listening at {}", path_text(&path));
            keeper
        }
    };
    if let Some(unit) = unit {
        keeper.mirror(unit)?;
    }
    systemd::ready()?;
    Ok(keeper.run(stop.as_fd())?)
}
