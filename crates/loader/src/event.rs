//! Events of a load.

use crate::residency::Residency;
use crate::stats::LoadStats;
use crate::warning::Warning;
use cuda_sys::DeviceKind;
use model_phi3::{Phi3Config, PlacedPlan};
use std::borrow::Cow;
use std::ops::ControlFlow;
use std::path::Path;

/// A step of a load. Steps come in the order of the variants, except that [`Transferred`](Self::Transferred)
/// and [`Progress`](Self::Progress) alternate while bytes arrive.
///
/// Events of a load borrow what they report. [`into_owned`](Self::into_owned) makes an event that can be sent
/// to another thread. With the feature `serde`, an event is serialised as a line of `phi3-loader load --json`,
/// without the field `schema_version`. The program does not print [`Transferred`](Self::Transferred) and
/// [`Compared`](Self::Compared).
#[derive(Clone, Debug)]
#[non_exhaustive]
#[expect(clippy::large_enum_variant, reason = "a load has one event with statistics")]
pub enum LoadEvent<'a> {
    /// The file is open and its header is valid.
    #[non_exhaustive]
    Opened {
        /// The file.
        path: Cow<'a, Path>,
        /// The configuration of its model.
        config: Cow<'a, Phi3Config>,
    },
    /// The file may be wrong. The load continues. One event for each warning.
    #[non_exhaustive]
    Warned {
        /// The warning.
        warning: Cow<'a, Warning>,
    },
    /// The plan is complete: it maps each byte range of the file to its place in device memory.
    #[non_exhaustive]
    Planned {
        /// The plan.
        plan: Cow<'a, PlacedPlan>,
    },
    /// The device memory for all weights is allocated. One event for each device, in their order.
    #[non_exhaustive]
    Allocated {
        /// The device.
        device: DeviceKind,
        /// The device's name, such as `NVIDIA H100 80GB HBM3`.
        device_name: Cow<'a, str>,
        /// Bytes allocated on this device.
        bytes: u64,
    },
    /// More bytes have arrived on the device, for a progress bar. Sent after each finished unit, and about 50
    /// times per second between units.
    #[non_exhaustive]
    Transferred {
        /// Source bytes that have arrived so far. Bytes that several devices take count once.
        bytes: u64,
        /// Source bytes of the whole load.
        of_bytes: u64,
        /// Source bytes that have arrived on each device so far, in the order of the parts of the plan, whose
        /// [`source_bytes`](model_phi3::PlacedPart::source_bytes) are the totals.
        part_bytes: Cow<'a, [u64]>,
    },
    /// A unit of the model is complete: the embedding, a layer, or the output. One event for each unit, in
    /// order.
    #[non_exhaustive]
    Progress {
        /// The number of the complete unit, counted from 1.
        unit: u32,
        /// The number of units.
        of: u32,
        /// `Embedding loaded`, `Layer 0 loaded`, ..., `Output weights loaded`.
        label: Cow<'a, str>,
        /// Source bytes that have arrived so far.
        bytes: u64,
        /// Source bytes of the whole load.
        of_bytes: u64,
    },
    /// More bytes on the devices have been compared, for a progress bar: with the file, if `LoadOptions::verify` asks
    /// for that, or with the digests of resident weights. If both happen, the bytes start again at zero.
    #[non_exhaustive]
    Compared {
        /// Bytes on the devices that have been compared so far.
        bytes: u64,
        /// Bytes to compare.
        of_bytes: u64,
    },
    /// The load is verified, as far as `LoadOptions::verify` asks.
    #[non_exhaustive]
    Verified {
        /// The result of the residency check.
        residency: Cow<'a, Residency>,
    },
    /// The load is complete.
    #[non_exhaustive]
    Finished {
        /// The statistics of the load.
        stats: Cow<'a, LoadStats>,
    },
}

impl LoadEvent<'_> {
    /// Returns the same event without borrowed data, for a channel. In an observer, clone the event first:
    ///
    /// ```
    /// # use loader::LoadEvent;
    /// # use std::ops::ControlFlow;
    /// # use std::sync::mpsc::channel;
    /// let (sender, receiver) = channel::<LoadEvent<'static>>();
    /// let observer = |event: &LoadEvent<'_>| match sender.send(event.clone().into_owned()) {
    ///     Ok(()) => ControlFlow::Continue(()),
    ///     Err(_) => ControlFlow::Break(()), // the receiver was dropped
    /// };
    /// # let _: &dyn Fn(&LoadEvent<'_>) -> ControlFlow<()> = &observer;
    /// # drop(receiver);
    /// ```
    pub fn into_owned(self) -> LoadEvent<'static> {
        fn owned<T: ToOwned + ?Sized>(value: Cow<'_, T>) -> Cow<'static, T> {
            Cow::Owned(value.into_owned())
        }
        match self {
            Self::Opened { path, config } => {
                LoadEvent::Opened { path: owned(path), config: owned(config) }
            }
            Self::Warned { warning } => LoadEvent::Warned { warning: owned(warning) },
            Self::Planned { plan } => LoadEvent::Planned { plan: owned(plan) },
            Self::Allocated { device, device_name, bytes } => {
                LoadEvent::Allocated { device, device_name: owned(device_name), bytes }
            }
            Self::Transferred { bytes, of_bytes, part_bytes } => {
                LoadEvent::Transferred { bytes, of_bytes, part_bytes: owned(part_bytes) }
            }
            Self::Progress { unit, of, label, bytes, of_bytes } => {
                LoadEvent::Progress { unit, of, label: owned(label), bytes, of_bytes }
            }
            Self::Compared { bytes, of_bytes } => LoadEvent::Compared { bytes, of_bytes },
            Self::Verified { residency } => LoadEvent::Verified { residency: owned(residency) },
            Self::Finished { stats } => LoadEvent::Finished { stats: owned(stats) },
        }
    }
}

/// Receives the events of a load, on the thread that called it. [`ControlFlow::Break`] cancels the load.
///
/// An observer must not block: the load, and its cancellation, wait for it. Send to a bounded channel with
/// `try_send`, or to a channel that keeps only the newest value, such as `tokio::sync::watch`.
///
/// Every `FnMut(&LoadEvent) -> ControlFlow<()>` is an observer.
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
