//! The state of the worker. The load writes it, and the requests read it.

use crate::health::Resident;
use loader::{Error, LoadEvent};
use serde::Serialize;
use std::sync::Arc;
use tokio::sync::watch;

pub(crate) type Shared = watch::Sender<Status>;

#[derive(Default)]
pub(crate) struct Status {
    pub(crate) phase: Phase,
    pub(crate) progress: Progress,
    pub(crate) rehash: RehashTotals,
    /// The events so far, with numbers that start at 1. Of consecutive `Transferred`, and of `Compared`, only the
    /// newest is kept: a load sends about 50 of them per second.
    events: Vec<(u64, Arc<LoadEvent<'static>>)>,
}

#[derive(Default)]
pub(crate) enum Phase {
    #[default]
    Loading,
    Ready(Arc<Resident>),
    /// The load or a check has failed.
    Failed(Error),
}

/// The totals of all checks since the load.
#[derive(Clone, Copy, Default, Serialize)]
pub(crate) struct RehashTotals {
    pub(crate) bytes: u64,
    pub(crate) rounds: u64,
}

/// The figures of the events so far. Serialised as the answer of `/health` during the load.
#[derive(Default, Serialize)]
#[serde(tag = "status", rename = "loading")]
pub(crate) struct Progress {
    pub(crate) unit: u32,
    pub(crate) of: u32,
    label: Option<String>,
    pub(crate) bytes: u64,
    pub(crate) of_bytes: u64,
    #[serde(skip)]
    pub(crate) vram_bytes: u64,
    #[serde(skip)]
    pub(crate) seconds: f64,
    /// `None` until the load ends.
    #[serde(skip)]
    pub(crate) resident: Option<loader::Resident>,
}

impl Status {
    pub(crate) fn record(&mut self, event: &LoadEvent<'_>) {
        self.progress.record(event);
        let number = self.events.last().map_or(1, |(number, _)| number + 1);
        self.events.pop_if(|(_, last)| {
            matches!(**last, LoadEvent::Transferred { .. } | LoadEvent::Compared { .. })
        });
        self.events.push((number, Arc::new(event.clone().into_owned())));
    }

    /// Returns the first event with a larger number than `seen`, and its number.
    pub(crate) fn event_after(&self, seen: u64) -> Option<(u64, Arc<LoadEvent<'static>>)> {
        self.events.iter().find(|(number, _)| *number > seen).cloned()
    }
}

impl Progress {
    fn record(&mut self, event: &LoadEvent<'_>) {
        match event {
            LoadEvent::Planned { plan, .. } => {
                self.of = plan.units();
                self.of_bytes = plan.source_bytes();
            }
            LoadEvent::Allocated { bytes, .. } => self.vram_bytes = *bytes,
            LoadEvent::Transferred { bytes, .. } => self.bytes = *bytes,
            LoadEvent::Progress { unit, label, bytes, .. } => {
                self.unit = *unit;
                self.label = Some(label.to_string());
                self.bytes = *bytes;
            }
            LoadEvent::Finished { stats, .. } => {
                self.seconds = stats.phases.seconds;
                self.resident = Some(stats.resident);
            }
            _ => {}
        }
    }
}
