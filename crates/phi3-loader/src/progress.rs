//! Progress bars on standard error.
//!
//! After each drawing the cursor is at the start of the first line, and the next one clears everything from there to
//! the end of the screen. Hence nothing of a bar stays on the screen if the terminal has wrapped its lines, because the
//! window became narrower, or has printed `^C`.

use super::color::Palette;
use anstream::adapter::strip_str;
use anstyle::Style;
use indicatif::{
    DecimalBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle,
    TermLike,
};
use loader::{LoadEvent, PlacedPart, threads};
use rustix::termios::tcgetwinsize;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Work that takes less time than this shows no bar.
const DELAY: Duration = Duration::from_millis(200);

const DRAWINGS_PER_SECOND: u8 = 10;

/// The time between two drawings.
const INTERVAL: Duration = Duration::from_millis(1000 / DRAWINGS_PER_SECOND as u64);

/// Moves the cursor to the start of its line, and clears from there to the end of the screen.
pub(super) const CLEAR: &str = "\r\x1b[J";

/// Returns the group of all bars. They are also hidden if standard error is no terminal, or if it is one that cannot
/// move its cursor.
pub(super) fn bars(hidden: bool) -> MultiProgress {
    let is_dumb = std::env::var_os("TERM").is_none_or(|name| name.is_empty() || name == "dumb");
    MultiProgress::with_draw_target(if hidden || is_dumb || !io::stderr().is_terminal() {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::term_like_with_hz(Box::new(Terminal::default()), DRAWINGS_PER_SECOND)
    })
}

/// Whether a bar is on the screen.
static IS_SHOWN: AtomicBool = AtomicBool::new(false);

/// Returns whether a bar is on the screen. [`CLEAR`] removes it.
pub(super) fn is_shown() -> bool {
    IS_SHOWN.load(Ordering::Relaxed)
}

/// Standard error, if it is a terminal.
#[derive(Debug, Default)]
struct Terminal {
    drawing: Mutex<Drawing>,
}

/// The text of a drawing. It is written at once, so that it does not flicker.
#[derive(Debug, Default)]
struct Drawing {
    clears: bool,
    text: String,
}

impl Drawing {
    /// Returns the text with its control characters. The lines are filled up with spaces to the width of the screen.
    fn finish(&mut self, width: u16) -> String {
        let Self { clears, text } = std::mem::take(self);
        let columns = strip_str(&text).to_string().chars().count();
        let mut out = if clears { CLEAR.to_owned() } else { String::new() };
        if columns != 0 {
            out += &text;
            out.push('\r');
        }
        if let rows @ 2.. = columns.div_ceil(width.max(1).into()) {
            let _ = write!(out, "\x1b[{}A", rows - 1);
        }
        out
    }
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns columns and rows of the terminal.
fn screen() -> (u16, u16) {
    match tcgetwinsize(io::stderr()) {
        Ok(size) if size.ws_col != 0 && size.ws_row != 0 => (size.ws_col, size.ws_row),
        _ => (80, 24),
    }
}

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        screen().0
    }

    // A drawing from the first line of the screen on would be kept in the history of some terminals.
    fn height(&self) -> u16 {
        screen().1.saturating_sub(1).max(1)
    }

    // The cursor is already at the start of the first line.
    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.write_str(text)
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        unpoisoned(&self.drawing).text += text;
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        unpoisoned(&self.drawing).clears = true;
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut drawing = unpoisoned(&self.drawing);
        let is_shown = !drawing.text.is_empty();
        let out = drawing.finish(screen().0);
        io::stderr().write_all(out.as_bytes())?;
        IS_SHOWN.store(is_shown, Ordering::Relaxed);
        Ok(())
    }
}

/// The progress of one piece of work, with a line for each device if there are several. Dropping it clears it.
pub(super) struct Bar {
    bars: MultiProgress,
    since: Instant,
    lines: Arc<Mutex<Lines>>,
    ticker: Option<Ticker>,
}

#[derive(Default)]
struct Lines {
    label: String,
    bars: Vec<ProgressBar>,
}

impl Bar {
    pub(super) fn new(bars: &MultiProgress) -> Self {
        let lines = Arc::default();
        let ticker = if bars.is_hidden() { None } else { Ticker::start(Arc::clone(&lines)) };
        Self { bars: bars.clone(), since: Instant::now(), lines, ticker }
    }

    /// Shows this step, which has a number of bytes, or shows how long the work has taken. Returns whether it is another
    /// step than before.
    pub(super) fn enter(&self, label: &str, bytes: Option<u64>) -> bool {
        if self.bars.is_hidden() {
            return false;
        }
        let mut lines = unpoisoned(&self.lines);
        let is_same = |bar: &ProgressBar| lines.label == label && bar.length() == bytes;
        if lines.bars.first().is_some_and(is_same) {
            return false;
        }
        lines.clear();
        label.clone_into(&mut lines.label);
        lines.bars.push(self.line(label.to_owned(), bytes));
        true
    }

    /// Adds a line for a device.
    fn add_device(&self, device: &str, bytes: u64) {
        unpoisoned(&self.lines).bars.push(self.line(format!("  {device}"), Some(bytes)));
    }

    fn line(&self, label: String, bytes: Option<u64>) -> ProgressBar {
        let bar = self.bars.add(ProgressBar::with_draw_target(bytes, ProgressDrawTarget::hidden()));
        bar.set_style(style(label, self.since));
        bar
    }

    /// Sets the bytes of a line that are done. Line 0 is that of the step; those of devices follow.
    fn set(&self, line: usize, done: u64) {
        if let Some(bar) = unpoisoned(&self.lines).bars.get(line) {
            bar.set_position(done);
        }
    }

    /// Shows the progress of a step.
    pub(super) fn report(&self, label: &str, done: u64, bytes: u64) {
        self.enter(label, Some(bytes));
        self.set(0, done);
    }
}

impl Lines {
    fn clear(&mut self) {
        self.bars.drain(..).for_each(|bar| bar.finish_and_clear());
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.ticker.take();
        unpoisoned(&self.lines).clear();
    }
}

/// A thread that draws while no progress is reported: times change, and so may the width of the window.
struct Ticker {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Returns `None` if no thread can be started. Then only progress draws.
    fn start(lines: Arc<Mutex<Lines>>) -> Option<Self> {
        let (stop, stopped) = mpsc::channel();
        let tick = move || {
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let bars = unpoisoned(&lines).bars.clone();
                bars.iter().for_each(ProgressBar::tick);
            }
        };
        let thread = threads::builder().spawn(tick).ok()?;
        Some(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop.take();
        // A panic of the thread only ends the drawing.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The bar of a load.
pub(super) struct LoadBar {
    bar: Bar,
    devices: Vec<String>,
    source_bytes: Vec<u64>,
}

impl LoadBar {
    pub(super) fn new(bars: &MultiProgress) -> Self {
        Self { bar: Bar::new(bars), devices: Vec::new(), source_bytes: Vec::new() }
    }

    pub(super) fn event(&mut self, event: &LoadEvent<'_>) {
        match event {
            LoadEvent::Planned { plan, .. } => {
                self.source_bytes = plan.parts().iter().map(PlacedPart::source_bytes).collect();
                self.bar.enter("opening", None);
            }
            LoadEvent::Allocated { device, .. } => self.devices.push(device.to_string()),
            LoadEvent::Transferred { bytes, of_bytes, part_bytes, .. } => {
                if self.bar.enter("loading", Some(*of_bytes)) && self.devices.len() > 1 {
                    let of_devices = self.devices.iter().zip(&self.source_bytes);
                    of_devices.for_each(|(device, bytes)| self.bar.add_device(device, *bytes));
                }
                self.bar.set(0, *bytes);
                (1..).zip(part_bytes.iter()).for_each(|(line, bytes)| self.bar.set(line, *bytes));
            }
            LoadEvent::Compared { bytes, of_bytes, .. } => {
                self.bar.report("verifying", *bytes, *of_bytes);
            }
            // Publishing the weights computes the digests of all of them.
            LoadEvent::Verified { .. } => {
                self.bar.enter("finishing", None);
            }
            _ => {}
        }
    }

    /// Shows how many bytes of the loaded weights are written to a file.
    pub(super) fn dumped(&self, done: u64, bytes: u64) {
        self.bar.report("dumping", done, bytes);
    }
}

/// Returns the style of a line of work that started at `since`.
fn style(label: String, since: Instant) -> ProgressStyle {
    let fill = Palette::stderr().bar;
    let draw = move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        if since.elapsed() >= DELAY {
            let shown = Shown {
                done: state.pos(),
                bytes: state.len(),
                per_second: state.per_sec(),
                left: state.eta(),
                elapsed: since.elapsed(),
            };
            // A write to a string does not fail.
            let _ = out.write_str(&shown.line(screen().0.into(), &label, fill));
        }
    };
    ProgressStyle::with_template("{line}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("line", draw)
}

/// The figures of a line.
#[derive(Clone, Copy)]
struct Shown {
    done: u64,
    bytes: Option<u64>,
    per_second: f64,
    left: Duration,
    elapsed: Duration,
}

/// Columns of the longest label of a step.
const LABEL: usize = "verifying".len();
const LEAST_BAR: usize = 10;
const LONGEST_BAR: usize = 50;

impl Shown {
    /// Returns the text of a line. If it is too long for the width, leaves out its less important parts.
    fn line(self, width: usize, label: &str, fill: Style) -> String {
        let Some(bytes) = self.bytes else {
            let elapsed = format!("  {}", duration(self.elapsed));
            let room = width.saturating_sub(elapsed.len());
            return cut(label, room) + &cut(&elapsed, width);
        };
        let share = if bytes == 0 { 1.0 } else { (self.done as f64 / bytes as f64).min(1.0) };
        let start = format!("{label:<LABEL$} {:>3} %", (share * 100.0) as u32);
        let decimal = |bytes: u64| DecimalBytes(bytes).to_string();
        let amount = format!("{:>9} of {}", decimal(self.done), decimal(bytes));
        let rate = format!("{:>9}/s", decimal(self.per_second as u64));
        let left = match self.left {
            // Unknown, until bytes have arrived.
            Duration::ZERO if share < 1.0 => "-".to_owned(),
            left => duration(left),
        };
        let left = format!("ETA {left:>6}");
        for end in [
            format!("  {amount}  {rate}  {left}"),
            format!("  {amount}  {left}"),
            format!("  {left}"),
            String::new(),
        ] {
            let room = width.saturating_sub(start.len() + " []".len() + end.len()).min(LONGEST_BAR);
            if room >= LEAST_BAR {
                let full = (share * room as f64) as usize;
                let empty = room - full;
                return format!("{start} [{fill}{:=<full$}{fill:#}{:empty$}]{end}", "", "");
            }
        }
        cut(&start, width)
    }
}

/// Cuts off the text after this number of columns.
fn cut(text: &str, columns: usize) -> String {
    text.chars().take(columns).collect()
}

/// Formats a duration in one unit.
fn duration(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..100 => format!("{seconds} s"),
        seconds @ 100..6000 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: Shown = Shown {
        done: 3_820_000_000,
        bytes: Some(7_640_000_000),
        per_second: 987_650_000.0,
        left: Duration::from_secs(4),
        elapsed: Duration::from_secs(4),
    };

    #[test]
    fn a_line_shows_more_on_wider_screens() {
        let line = |width| HALF.line(width, "loading", Style::new());
        assert_eq!(line(40), "loading    50 % [=====     ]  ETA    4 s");
        let wide =
            "loading    50 % [=======        ]    3.82 GB of 7.64 GB  987.65 MB/s  ETA    4 s";
        assert_eq!(line(80), wide);
        assert_eq!(line(200), line(120), "the bar has a largest length");
        assert!(line(200).ends_with("3.82 GB of 7.64 GB  987.65 MB/s  ETA    4 s"));
        assert_eq!(line(20), "loading    50 %");
        let timed = Shown { bytes: None, ..HALF };
        assert_eq!(timed.line(80, "opening", Style::new()), "opening  4 s");
        assert_eq!(timed.line(20, "step 10 of 10: limits", Style::new()), "step 10 of 10:   4 s");
    }

    #[test]
    fn no_line_is_longer_than_its_screen() {
        let sizes = [0, 1, 999, 1_000_000, 999_999_999_999, u64::MAX];
        for bytes in sizes.into_iter().map(Some).chain([None]) {
            for done in sizes.into_iter().filter(|done| *done <= bytes.unwrap_or(0)) {
                for seconds in [0, 99, 100, 5999, 6000, 1 << 40] {
                    let left = Duration::from_secs(seconds);
                    let per_second = bytes.unwrap_or(0) as f64;
                    let shown = Shown { done, bytes, per_second, left, elapsed: left };
                    for width in 0..=250 {
                        let line = shown.line(width, "  cuda:10", Style::new());
                        assert!(line.len() <= width, "{width}: {line}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_drawing_ends_at_the_start_of_its_first_line() {
        let draw = |text: &str| Drawing { clears: true, text: text.to_owned() }.finish(4);
        assert_eq!(draw(""), "\r\x1b[J");
        assert_eq!(draw("1234"), "\r\x1b[J1234\r");
        assert_eq!(draw("12345678"), "\r\x1b[J12345678\r\x1b[1A");
        assert_eq!(
            draw("\x1b[36m1\x1b[0m   5   9   "),
            "\r\x1b[J\x1b[36m1\x1b[0m   5   9   \r\x1b[2A"
        );
    }
}
