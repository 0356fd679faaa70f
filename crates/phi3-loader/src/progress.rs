//! A progress bar on standard error.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use loader::LoadEvent;

/// The progress bar of a load. Draws nothing if standard error is not a terminal.
pub(super) struct LoadBar {
    bar: ProgressBar,
}

impl LoadBar {
    pub(super) fn new(bars: &MultiProgress, hidden: bool) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if !hidden {
            let bar = bars.add(ProgressBar::new(0));
            bar.set_style(style("{msg:<24} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}"));
            return Self { bar };
        }
        Self { bar }
    }

    pub(super) fn event(&self, event: &LoadEvent<'_>) {
        match event {
            LoadEvent::Planned { plan, .. } => self.bar.set_length(plan.source_bytes()),
            LoadEvent::Transferred { bytes, .. } => self.bar.set_position(*bytes),
            LoadEvent::Progress { label, .. } => self.bar.set_message(label.to_string()),
            LoadEvent::Finished { .. } => self.bar.finish_and_clear(),
            _ => {}
        }
    }
}

impl Drop for LoadBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

pub(super) fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
