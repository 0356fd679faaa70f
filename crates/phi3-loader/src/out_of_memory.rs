//! Ends the program when the system refuses memory.

use super::json::SCHEMA_VERSION;
use super::progress;
use loader::{FailureCode, codes};
use rustix::stdio::{stderr, stdout};
use std::io::Write;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const FACTS: FailureCode = codes::INSUFFICIENT_HOST_MEMORY;

/// Room for the longest text of this module, in bytes.
const TEXT_BYTES: usize = 1024;

/// Whether the command prints JSON events.
static EVENTS: AtomicBool = AtomicBool::new(false);
static ENDING: AtomicBool = AtomicBool::new(false);

/// Makes [`out_of_memory`] print a `failed` event as well.
pub(super) fn expect_events() {
    EVENTS.store(true, Ordering::Relaxed);
}

/// Prints the error to standard error and, with `load --json`, a `failed` event to standard output. Then ends
/// the process with exit code 6. A global allocator can call this: it does not allocate, takes no lock and
/// runs no exit handlers.
pub fn out_of_memory(bytes: usize) -> ! {
    if ENDING.swap(true, Ordering::Relaxed) {
        // Another thread is already ending the process.
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    }
    let mut text = [0; TEXT_BYTES];
    if progress::is_shown() {
        print(stderr(), progress::CLEAR.as_bytes());
    }
    print(stderr(), error_text(&mut text, bytes));
    if EVENTS.load(Ordering::Relaxed) {
        print(stdout(), event_text(&mut text, bytes));
    }
    signal_hook::low_level::exit(FACTS.exit_code.into());
}

fn error_text(text: &mut [u8; TEXT_BYTES], bytes: usize) -> &[u8] {
    let FailureCode { code, cure, .. } = FACTS;
    formatted(text, format_args!("error[{code}]: {}\nhelp: {cure}\n", Message(bytes)))
}

/// Formats the event like [`LastEvent::Failed`](super::json::LastEvent::Failed). Its strings need no escaping.
fn event_text(text: &mut [u8; TEXT_BYTES], bytes: usize) -> &[u8] {
    let FailureCode { code, cure, retriable, exit_code, .. } = FACTS;
    let (class, message) = (FACTS.class().name(), Message(bytes));
    let event = format_args!(
        "{{\"schema_version\":{SCHEMA_VERSION},\"event\":\"failed\",\"code\":\"{code}\",\
         \"class\":\"{class}\",\"message\":\"{message}\",\"retriable\":{retriable},\
         \"help\":\"{cure}\",\"exit_code\":{exit_code}}}\n"
    );
    formatted(text, event)
}

struct Message(usize);

impl std::fmt::Display for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the system refused {} bytes of host memory", self.0)
    }
}

/// Formats the arguments into `text`. Cuts off what does not fit.
fn formatted<'a>(text: &'a mut [u8; TEXT_BYTES], arguments: std::fmt::Arguments<'_>) -> &'a [u8] {
    let mut room = &mut text[..];
    let _ = room.write_fmt(arguments);
    let left = room.len();
    &text[..TEXT_BYTES - left]
}

/// Writes the text. Ignores a failed write: the exit code still reports the failure.
fn print(to: BorrowedFd<'_>, mut text: &[u8]) {
    while let Ok(count @ 1..) = rustix::io::retry_on_intr(|| rustix::io::write(to, text)) {
        text = &text[count..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{Event, LastEvent};

    #[test]
    fn the_texts_have_the_format_of_other_failures() {
        for bytes in [0, 4096, usize::MAX] {
            let message = format!("the system refused {bytes} bytes of host memory");
            let event = LastEvent::Failed {
                code: FACTS.code,
                class: FACTS.class().name(),
                message: message.clone(),
                retriable: FACTS.retriable,
                help: Some(FACTS.cure),
                exit_code: FACTS.exit_code,
            };
            let want = serde_json::to_string(&Event::new(&event)).unwrap() + "\n";
            let mut text = [0; TEXT_BYTES];
            assert_eq!(str::from_utf8(event_text(&mut text, bytes)).unwrap(), want);
            let want =
                format!("error[INSUFFICIENT_HOST_MEMORY]: {message}\nhelp: {}\n", FACTS.cure);
            assert_eq!(str::from_utf8(error_text(&mut text, bytes)).unwrap(), want);
        }
    }
}
