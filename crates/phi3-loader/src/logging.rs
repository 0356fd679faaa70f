//! Log lines on standard error. Progress bars are hidden while a line is written.

use super::args::{Arguments, Command};
use super::color;
use indicatif::MultiProgress;
use std::io::Write;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Installs the subscriber. If `RUST_LOG` is set and not empty, it overrides `--verbose` and `--quiet`.
pub(super) fn init(arguments: &Arguments, bars: &MultiProgress) {
    let level = match (arguments.quiet, arguments.verbose) {
        (true, _) => "error",
        // The log is the only output of a keeper.
        (false, 0) if matches!(arguments.command, Command::Hold(_)) => "info",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, _) => "debug",
    };
    let asked = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|value| !value.is_empty());
    // The program prints the error of a failed load itself. A later directive of the user takes precedence.
    let without_failure = |directives: &str| format!("loader::failure=off,{directives}");
    let filter = asked.and_then(|asked| EnvFilter::try_new(without_failure(&asked)).ok());
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|| EnvFilter::new(without_failure(level))))
        .with_ansi(color::on_stderr())
        .with_writer(BesideBars(bars.clone()))
        // By default, the subscriber reports a failed write to the same stream and then panics.
        .log_internal_errors(false)
        .init();
}

/// Standard error. While a line is written, the progress bars are hidden.
struct BesideBars(MultiProgress);

struct Line<'a>(&'a MultiProgress);

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.suspend(|| std::io::stderr().write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for BesideBars {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line(&self.0)
    }
}
