//! Events of a load.

use crate::residency::Residency;
use crate::stats::LoadStats;
use crate::warning::Warning;
use cuda_sys::DeviceKind;
use model_phi3::{LoadPlan, Phi3Config};
use std::ops::ControlFlow;
use std::path::Path;

/// A step of a load, in the order of the variants.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LoadEvent<'a> {
    /// The file is open and its header is valid.
    #[non_exhaustive]
    Opened {
        /// The file.
        path: &'a Path,
        /// Its model.
        config: &'a Phi3Config,
    },
    /// Something may be wrong with the file. The load goes on. One event for each warning.
    #[non_exhaustive]
    Warned {
        /// What may be wrong.
        warning: &'a Warning,
    },
    /// The plan is made: which bytes of the file go where.
    #[non_exhaustive]
    Planned {
        /// The plan.
        plan: &'a LoadPlan,
    },
    /// The device memory for all weights is allocated.
    #[non_exhaustive]
    Allocated {
        /// The device that holds it.
        device: DeviceKind,
        /// The device's name for people.
        device_name: &'a str,
        /// Bytes allocated.
        bytes: u64,
    },
    /// More bytes have arrived on the device. Sent up to about 50 times a second, for a progress bar.
    #[non_exhaustive]
    Transferred {
        /// Source bytes landed so far.
        bytes: u64,
        /// Source bytes of the whole load.
        of_bytes: u64,
    },
    /// A unit of the model is complete: the embedding, a layer, or the output. One event for each unit, in
    /// order.
    #[non_exhaustive]
    Progress {
        /// The unit that is complete, from 1.
        unit: u32,
        /// How many there are.
        of: u32,
        /// `Embedding loaded`, `Layer 0 loaded`, ..., `Output weights loaded`.
        label: &'a str,
        /// Source bytes landed so far.
        bytes: u64,
    },
    /// The load is verified, as far as `LoadOptions::verify` asks.
    #[non_exhaustive]
    Verified {
        /// What was checked.
        residency: &'a Residency,
    },
    /// The load is complete.
    #[non_exhaustive]
    Finished {
        /// Its figures.
        stats: &'a LoadStats,
    },
}

/// Receives the events of a load, on the thread that called it. [`ControlFlow::Break`] cancels the load.
///
/// Any `FnMut(&LoadEvent) -> ControlFlow<()>` is one.
pub trait Observer {
    /// Receives one event.
    fn event(&mut self, event: &LoadEvent<'_>) -> ControlFlow<()>;
}

impl<F: FnMut(&LoadEvent<'_>) -> ControlFlow<()>> Observer for F {
    fn event(&mut self, event: &LoadEvent<'_>) -> ControlFlow<()> {
        self(event)
    }
}

/// An observer that ignores all events.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn event(&mut self, _: &LoadEvent<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}
