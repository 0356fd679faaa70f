//! Figures of a load.

use crate::error::NonFiniteTensor;
use crate::memory_account::MemoryAccount;
use crate::residency::Residency;
#[cfg(feature = "serde")]
use crate::serialize;
use crate::warning::Warning;
use cuda_sys::{DeviceKind, Io, Span};

/// Figures of a load. With the feature `serde` they are serialised flat, with the names of the event
/// `finished` of `phi3-loader load --json`.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LoadStats {
    /// The device that holds the weights.
    #[cfg_attr(feature = "serde", serde(serialize_with = "serialize::text"))]
    pub device: DeviceKind,
    /// The device's name, such as `NVIDIA H100 80GB HBM3`.
    pub device_name: String,
    /// Bytes of device memory that the weights take.
    pub vram_bytes: u64,
    /// Bytes that were read from the file for the weights.
    pub source_bytes: u64,
    /// Where the time went.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub phases: Phases,
    /// How the bytes were moved.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub transfer: TransferFigures,
    /// What was verified, and what was found.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub proof: Proof,
}

impl LoadStats {
    /// Gigabytes (1e9 bytes) of the file per second of [`Phases::transfer_seconds`].
    pub fn gb_per_s(&self) -> f64 {
        let seconds = self.phases.transfer_seconds;
        if seconds > 0.0 { self.source_bytes as f64 / seconds / 1e9 } else { 0.0 }
    }
}

/// Times of a load, in seconds.
///
/// The phases follow each other in the order of the fields. They overlap once: the time of the residency check
/// is in `transfer_seconds` and in `verify_seconds`. Time of the observer, and of steps that are not listed, is
/// in `seconds` only.
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
    /// Opening the device. 0 if the loader had it open already. If a cancelled load had begun to open it: the
    /// rest of that time.
    pub context_seconds: f64,
    /// Pinning the staging ring and making the queues. Also making the ring, as far as that took longer than
    /// opening the device. 0, or the rest, as above.
    pub pin_seconds: f64,
    /// Reading the free memory and allocating.
    pub allocate_seconds: f64,
    /// What the engine does before the first read and after the last byte.
    pub prepare_seconds: f64,
    /// From the first read to verified residency. Digests (`Verify::Checksum`) are computed in this time.
    pub transfer_seconds: f64,
    /// The proof.
    pub verify_seconds: f64,
}

/// How the engine moved the bytes of a load.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TransferFigures {
    /// How the file was read, after fallbacks.
    #[cfg_attr(feature = "serde", serde(serialize_with = "serialize::text"))]
    pub io: Io,
    /// Reader threads that the engine was set to. It starts fewer if there is little work.
    pub threads: u32,
    /// Copies that could be under way at the same time.
    pub depth: u32,
    /// Largest copy to the device, in bytes.
    pub chunk_bytes: u64,
    /// Largest read, in bytes.
    pub read_bytes: u64,
    /// Number of copies.
    pub chunks: u64,
    /// Whether the staging memory was pinned for the device.
    pub pinned: bool,
    /// What readers and device did when. Empty unless `LoadOptions::timeline` is set.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub timeline: Vec<Span>,
}

/// What a load verified, and what it found.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Proof {
    /// The residency check.
    #[cfg_attr(feature = "serde", serde(serialize_with = "serialize::residency"))]
    pub residency: Residency,
    /// The device's free memory before and after the allocation. `None` if it is unknown.
    #[cfg_attr(feature = "serde", serde(serialize_with = "serialize::memory"))]
    pub memory: Option<MemoryAccount>,
    /// Tensors with weights that are infinite or NaN as they were loaded. Quantised blocks that native storage
    /// keeps are not decoded, and so not counted.
    #[cfg_attr(feature = "serde", serde(serialize_with = "serialize::non_finite"))]
    pub non_finite: Vec<NonFiniteTensor>,
    /// What may be wrong with the file.
    #[cfg_attr(feature = "serde", serde(serialize_with = "serialize::warnings"))]
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
