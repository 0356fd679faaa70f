//! Standard output that reports every failed write.
//!
//! If standard output is closed, the one of the standard library ignores all writes and reports success.

use anstream::AutoStream;
use clap::builder::StyledStr;
use std::io::{self, BufWriter, Error, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Before `main`, the standard library opens `/dev/null` in the place of a closed standard output.
static WAS_CLOSED: AtomicBool = AtomicBool::new(false);

pub(super) fn was_closed() {
    WAS_CLOSED.store(true, Ordering::Relaxed);
}

/// Prints everything that `write` writes, and flushes it before returning.
pub(super) fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    if WAS_CLOSED.load(Ordering::Relaxed) {
        return Err(Error::other("it is closed"));
    }
    let mut out = BufWriter::new(Descriptor);
    write(&mut out)?;
    out.flush()
}

/// Prints a text, with colours if standard output shows them.
pub(super) fn print_styled(text: &StyledStr) -> io::Result<()> {
    let mut plain = AutoStream::new(Vec::new(), AutoStream::choice(&io::stdout()));
    write!(plain, "{}", text.ansi())?;
    print(|out| out.write_all(&plain.into_inner()))
}

struct Descriptor;

impl Write for Descriptor {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(io::stdout(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
