//! Shows which measurement runs.

use crate::args::Bench;
use crate::progress::Bar;
use indicatif::MultiProgress;

/// A measurement. They run in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Warm,
    Storage,
    Reused,
    Attached,
    Health,
    Limits,
    SmallTensors,
    Shapes,
    Kernels,
    Peers,
}

impl Step {
    /// Returns the measurements of a run.
    fn of(arguments: &Bench) -> impl Iterator<Item = Self> {
        let all = [
            (Self::Warm, true),
            (Self::Storage, true),
            (Self::Reused, true),
            (Self::Attached, arguments.resident),
            (Self::Health, true),
            (Self::Limits, true),
            (Self::SmallTensors, true),
            (Self::Shapes, !arguments.shapes.is_empty()),
            (Self::Kernels, arguments.kernels),
            (Self::Peers, arguments.peers),
        ];
        all.into_iter().filter_map(|(step, wanted)| wanted.then_some(step))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm loads",
            Self::Storage => "storage",
            Self::Reused => "loads again",
            Self::Attached => "attached loads",
            Self::Health => "health checks",
            Self::Limits => "limits",
            Self::SmallTensors => "small tensors",
            Self::Shapes => "engine settings",
            Self::Kernels => "kernels",
            Self::Peers => "peers",
        }
    }
}

/// The measurements of a run, and the line that shows their progress.
pub(super) struct Steps {
    bar: Bar,
    all: Vec<Step>,
}

impl Steps {
    pub(super) fn new(arguments: &Bench, bars: &MultiProgress) -> Self {
        Self { bar: Bar::new(bars), all: Step::of(arguments).collect() }
    }

    /// Shows that a measurement starts, if it is one of this run.
    pub(super) fn start(&self, step: Step) {
        self.show(step, "");
    }

    /// Shows the number of a load or run, counted from 1.
    pub(super) fn start_run(&self, step: Step, run: usize, runs: usize) {
        self.show(step, &format!(", {run} of {runs}"));
    }

    fn show(&self, step: Step, run: &str) {
        if let Some(earlier) = self.all.iter().position(|of| *of == step) {
            let (number, all, name) = (earlier + 1, self.all.len(), step.name());
            self.bar.enter(&format!("step {number} of {all}: {name}{run}"), None);
        }
    }
}
