//! A worker that hands its weights to its successor, without a keeper process and without systemd.
//!
//! ```sh
//! cargo run -p loader --example successor -- model.gguf run/1.sock              # loads the file
//! cargo run -p loader --example successor -- model.gguf run/2.sock run/1.sock   # attaches to the first
//! ```
//!
//! Each one ends when its standard input does (Ctrl-D). The first can end as soon as the second has attached.
#![allow(clippy::print_stdout, reason = "it is a program")]

use loader::keeper::{Connection, Keeper, KeeperOptions};
use loader::{CancelToken, LoadOptions, LoadedModel, Loader, Mismatch, Unobserved};
use std::error::Error;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let (file, socket, old) = match &arguments[..] {
        [file, socket] => (file, socket, None),
        [file, socket, old] => (file, socket, Some(Path::new(old))),
        _ => return Err("usage: successor MODEL SOCKET [SOCKET_OF_THE_OLD_WORKER]".into()),
    };
    let mut model = load(Path::new(file), old)?;
    println!("{} bytes, resident: {:?}", model.vram_bytes(), model.stats().resident);

    // A keeper that listens needs a path of its own: the old worker still uses the other one.
    let mut keeper = Keeper::bind(Path::new(socket), KeeperOptions::new())?;
    // Weights that this worker attached to can be handed over again.
    keeper.insert(model.hand_over()?)?;
    let (stop, stopper) = io::pipe()?;
    let thread = thread::spawn(move || keeper.run(stop.as_fd()));

    // The worker uses the model here.
    io::copy(&mut io::stdin(), &mut io::sink())?;

    drop(stopper);
    thread.join().expect("the keeper does not panic")?;
    Ok(())
}

/// Attaches to the weights of the old worker. If there is none, or if it has other weights, loads the file.
fn load(file: &Path, old: Option<&Path>) -> Result<LoadedModel, loader::Error> {
    // Only shareable memory can be handed over.
    let mut loader = Loader::new(LoadOptions::new().shareable(true));
    let Some(old) = old else { return loader.load(file, &mut Unobserved) };
    let mut connection = Connection::open(old)?;
    let (mismatch, token) = (Mismatch::Reload, CancelToken::new());
    loader.load_resident(file, &mut connection, mismatch, &mut Unobserved, &token)
}
