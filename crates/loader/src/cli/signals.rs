//! Signals that ask the program to end.

use crate::cancel::CancelToken;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// What a shell reports of a program that Ctrl-C ended.
const EXIT_CODE: i32 = 130;

/// Cancelled by the first SIGINT (Ctrl-C) or SIGTERM. The second ends the process there and then: it
/// may be waiting for something that looks at no token, such as the reader of a pipe. Where no handler
/// can be installed the first does, which frees the memory as well.
///
/// SIGHUP keeps what the process was started with: who says `nohup` wants the load to go on.
pub(super) fn cancelled_by_signal() -> CancelToken {
    let token = CancelToken::new();
    for signal in [SIGINT, SIGTERM] {
        // In this order, as actions run in theirs: the first signal must find the flag not yet set.
        let installed = flag::register_conditional_shutdown(signal, EXIT_CODE, token.flag())
            .and_then(|_| flag::register(signal, token.flag()));
        if let Err(error) = installed {
            tracing::warn!("signal {signal} will not be handled: {error}");
        }
    }
    token
}
