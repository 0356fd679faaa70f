//! Standard output that reports every failed write.
//!
//! The standard library's standard output is not used: if it is closed, it ignores all writes and reports
//! success.

use anstream::AutoStream;
use clap::builder::StyledStr;
use std::io::{self, BufWriter, Error, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether standard output was closed at the start of the process. The standard library has since opened
/// `/dev/null` in its place, so writes would succeed.
static WAS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Makes every later write fail.
pub(super) fn was_closed() {
    WAS_CLOSED.store(true, Ordering::Relaxed);
}

/// Prints the output of `write` and flushes it.
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
