//! Statistics of a load.

use crate::devices::Devices;
use crate::error::NonFiniteTensor;
use crate::memory_account::MemoryAccount;
use crate::residency::Residency;
#[cfg(feature = "serde")]
use crate::serialize;
use crate::warning::Warning;
use cuda_sys::{DeviceKind, Io, Span};
use model_phi3::{PlacedSlot, SplitMode};
use std::sync::Arc;

/// Statistics of a load. With the feature `serde` they are serialised as one flat object, with the field names
/// of the event `finished` of `phi3-loader load --json`.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LoadStats {
    /// The devices that hold the weights.
    #[cfg_attr(feature = "serde", serde(serialize_with = "serialize::text"))]
    pub device: Devices,
    /// The device's name, such as `NVIDIA H100 80GB HBM3`. Names of several devices are separated by commas.
    pub device_name: String,
    /// Bytes of device memory allocated for the weights, on all devices together.
    pub vram_bytes: u64,
    /// Bytes of weights that were read from the file. A byte counts once, whatever the number of devices that take it.
    pub source_bytes: u64,
    /// The way in which the model is divided among the devices.
    pub split_mode: SplitMode,
    /// Whether the weights outlive the process.
    pub resident: Resident,
    /// The key of the weights in the store of resident weights; `None` if they are not there.
    pub resident_key: Option<String>,
    /// The weights on each device, in the order of the devices.
    pub parts: Vec<PartStats>,
    /// Durations of the steps.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub phases: Phases,
    /// Settings and counters of the transfer.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub transfer: TransferFigures,
    /// Results of the checks.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub proof: Proof,
}

impl LoadStats {
    /// Returns the gigabytes (1e9 bytes) of the file that were read per second of [`Phases::transfer_seconds`].
    /// 0 if that time is 0.
    pub fn gb_per_s(&self) -> f64 {
        let seconds = self.phases.transfer_seconds;
        if seconds > 0.0 { self.source_bytes as f64 / seconds / 1e9 } else { 0.0 }
    }
}

/// Whether the weights of a load outlive the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Resident {
    /// They are freed with the model.
    Off,
    /// They were loaded and published: a keeper has descriptors of their memory.
    Published,
    /// They were in device memory before: nothing was read but the header of the file.
    Attached,
}

/// The weights that a load moved to one device.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PartStats {
    /// The device.
    #[cfg_attr(feature = "serde", serde(serialize_with = "serialize::text"))]
    pub device: DeviceKind,
    /// The device's name.
    pub device_name: String,
    /// Bytes of device memory allocated for the weights.
    pub vram_bytes: u64,
    /// Bytes of the file that the device needs. Bytes that several devices need count for each of them.
    pub source_bytes: u64,
    /// Result of the residency check.
    pub residency: Residency,
    /// The device's free memory before and after the allocation. `None` if it is unknown. If several parts are on one
    /// device, each has the account of all of them.
    #[cfg_attr(feature = "serde", serde(serialize_with = "serialize::memory"))]
    pub memory: Option<MemoryAccount>,
    /// The weights, each with its range of the whole weight.
    pub slots: Vec<PlacedSlot>,
}

/// Durations of the steps of a load, in seconds.
///
/// The steps run in the order of the fields. One time is counted twice: the residency check is part of
/// `transfer_seconds` and of `verify_seconds`. The time of the observer and of steps that are not listed is
/// part of `seconds` only.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Phases {
    /// From the call to the verified model.
    pub seconds: f64,
    /// Opening the file and checking its header.
    pub parse_seconds: f64,
    /// Reading the configuration and planning.
    pub plan_seconds: f64,
    /// Opening the device, and starting the driver for it. 0 if the loader had already opened it. If a cancelled load had started to open it,
    /// only the time that this load waited for the rest.
    pub context_seconds: f64,
    /// Pinning the staging ring and creating the streams. The ring is allocated while the device is opened;
    /// if the allocation takes longer, the excess is included. 0 or the rest in the same cases as
    /// `context_seconds`.
    pub pin_seconds: f64,
    /// Reading the free memory and allocating.
    pub allocate_seconds: f64,
    /// The engine's work before the first read and after the last byte.
    pub prepare_seconds: f64,
    /// From the first read to the end of the residency check, which `verify_seconds` includes as well. Includes
    /// computing the digests (`Verify::Checksum`). If resident weights were attached, mapping their memory and proving
    /// their content.
    pub transfer_seconds: f64,
    /// Verifying, as far as `LoadOptions::verify` asks. Includes the residency check, as `transfer_seconds` does.
    pub verify_seconds: f64,
}

/// Settings and counters of the transfer of a load.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TransferFigures {
    /// The read method: that of the options, or [`Io::Read`] if the system refused it for a file.
    #[cfg_attr(feature = "serde", serde(serialize_with = "serialize::text"))]
    pub io: Io,
    /// Configured number of reader threads. The engine starts fewer if there is little work.
    pub threads: u32,
    /// The largest number of copies in flight at the same time.
    pub depth: u32,
    /// The setting for the largest copy to the device, in bytes.
    pub chunk_bytes: u64,
    /// The setting for the largest read, in bytes. A read is never larger than a copy.
    pub read_bytes: u64,
    /// Number of copies.
    pub chunks: u64,
    /// Whether the staging memory was pinned for the device.
    pub pinned: bool,
    /// The links that carried the bytes: one for each part, in order, and then those of
    /// [`LoadOptions::via`](crate::LoadOptions::via).
    pub links: Vec<LinkFigures>,
    /// Start and end times of reads, copies and kernels. Empty unless `LoadOptions::timeline` is set.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub timeline: Vec<Span>,
    /// The name in the file of the tensor of each operation to which [`timeline`](Self::timeline) refers.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub timeline_tensors: Vec<Arc<str>>,
}

impl TransferFigures {
    /// Returns the figures of a load that moved nothing.
    pub(crate) fn none(io: Io) -> Self {
        Self {
            io,
            threads: 0,
            depth: 0,
            chunk_bytes: 0,
            read_bytes: 0,
            chunks: 0,
            pinned: false,
            links: Vec::new(),
            timeline: Vec::new(),
            timeline_tensors: Vec::new(),
        }
    }
}

/// The bytes that went from host memory to one device. If several GPUs need the same bytes, one of them receives these,
/// and the others take them from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LinkFigures {
    /// The device.
    #[cfg_attr(feature = "serde", serde(serialize_with = "serialize::text"))]
    pub device: DeviceKind,
    /// The bytes, as they are in the file.
    pub bytes: u64,
}

/// Results of the checks of a load.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Proof {
    /// Result of the residency check, on all devices together.
    pub residency: Residency,
    /// The free memory before and after the allocation, of all devices together. `None` if that of one is unknown.
    #[cfg_attr(feature = "serde", serde(serialize_with = "serialize::memory"))]
    pub memory: Option<MemoryAccount>,
    /// Tensors with loaded weights that are infinite or NaN. Quantised blocks that native storage keeps are not
    /// decoded, so their weights are not counted.
    pub non_finite: Vec<NonFiniteTensor>,
    /// Possible faults of the file.
    pub warnings: Vec<Warning>,
    /// Tensors whose bytes in the file are all zero, for example because a download reserved the space and did
    /// not write it.
    pub all_zero: Vec<AllZeroTensor>,
}

/// A tensor whose bytes in the file are all zero.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct AllZeroTensor {
    /// The tensor's name in the file.
    pub tensor: String,
    /// Its bytes in the file.
    pub bytes: u64,
}

impl std::fmt::Display for AllZeroTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tensor = gguf_format::escape(&self.tensor);
        write!(f, "{tensor} is all zero: the file has {} zero bytes for it", self.bytes)
    }
}
