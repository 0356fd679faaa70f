//! The JSON document of a run. Fields are append-only. Rates are in GB (1e9 bytes) per second.

use crate::args::Bench;
use cuda_sys::DeviceKind;
use gguf_format::{GgufFile, Shard};
use loader::{FileName, LoadPlan};
use serde::Serialize;
use std::path::Path;

#[derive(Serialize)]
pub(super) struct BenchDocument {
    pub(super) schema_version: u32,
    /// The command line of the run, quoted for a shell.
    pub(super) command: String,
    pub(super) machine: Machine,
    pub(super) file: FileFacts,
    pub(super) settings: Settings,
    pub(super) limits: Vec<Limit>,
    /// The limit that loads are compared with, in file bytes per second.
    pub(super) reference: Option<Reference>,
    pub(super) loads: Vec<LoadFigures>,
    pub(super) small_tensors: SmallTensors,
    pub(super) shapes: Vec<ShapeFigures>,
    pub(super) health: Health,
    pub(super) kernels: Vec<KernelFigures>,
    pub(super) peers: Vec<Peer>,
}

#[derive(Serialize)]
pub(super) struct Machine {
    /// RFC 3339, UTC.
    pub(super) date: String,
    pub(super) version: &'static str,
    pub(super) cpu: Option<String>,
    pub(super) cores: u32,
    /// `None` if the system does not report it.
    pub(super) memory_bytes: Option<u64>,
    pub(super) kernel: Option<String>,
    pub(super) device: String,
    pub(super) device_name: String,
    pub(super) device_bytes: Option<u64>,
    pub(super) pci_bus_id: Option<String>,
    pub(super) compute_capability: Option<String>,
    pub(super) driver: Option<String>,
}

#[derive(Serialize)]
pub(super) struct FileFacts {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    pub(super) file_bytes: u64,
    pub(super) source_bytes: u64,
    pub(super) vram_bytes: u64,
    pub(super) tensors: usize,
}

impl FileFacts {
    pub(super) fn of(path: &Path, gguf: &GgufFile, plan: &LoadPlan) -> Self {
        let FileName { file, file_hex, .. } = FileName::new(path);
        Self {
            path: file,
            path_hex: file_hex,
            file_bytes: gguf.shards().iter().map(Shard::len).sum(),
            source_bytes: plan.source_bytes(),
            vram_bytes: plan.device_bytes(),
            tensors: plan.ops().len(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct Settings {
    pub(super) device: String,
    pub(super) storage: String,
    pub(super) io: String,
    pub(super) verify: String,
    pub(super) repeat: u32,
}

impl Settings {
    pub(super) fn of(device: DeviceKind, arguments: &Bench) -> Self {
        let choices = &arguments.choices;
        Self {
            device: device.to_string(),
            storage: choices.storage.to_string(),
            io: choices.io.to_string(),
            verify: choices.verify.to_string(),
            repeat: arguments.repeat,
        }
    }
}

/// Computes a rate. Limits the time to 1 ns or more, so that the rate of a very short run is not infinite.
pub(super) fn gb_per_s(bytes: f64, seconds: f64) -> f64 {
    bytes / seconds.max(1e-9) / 1e9
}

/// The median, minimum and maximum of several runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// Computes the spread of the samples. If there are none, all values are zero.
    pub(super) fn of(samples: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else {
            return Self { median: 0.0, min: 0.0, max: 0.0 };
        };
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Self { median, min, max }
    }

    /// Applies `f` to each figure. `f` must be increasing, so that minimum and maximum keep their order.
    pub(super) fn map(self, f: impl Fn(f64) -> f64) -> Self {
        Self { median: f(self.median), min: f(self.min), max: f(self.max) }
    }
}

impl From<cuda_sys::measure::Rate> for Spread {
    fn from(rate: cuda_sys::measure::Rate) -> Self {
        Self { median: rate.median, min: rate.min, max: rate.max }.map(|bytes| bytes / 1e9)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LimitKind {
    /// Copies from pinned host memory to the device.
    PinnedCopy,
    /// The same to all GPUs at the same time: the sum of their rates.
    AllPinnedCopies,
    /// Copies from memory to memory on the host. Counts bytes read and bytes written.
    MemoryCopy,
    /// Copies like `MemoryCopy`, but to newly allocated memory, as in a load. The operating system clears the
    /// memory during the copy.
    MemoryCopyToNew,
    /// Reads of the file from the page cache into memory.
    PageCache,
    /// Reads of the file from its storage into memory, bypassing the page cache.
    DiskDirect,
    /// Reads of the file from its storage into memory, through the page cache.
    DiskBuffered,
}

#[derive(Serialize)]
pub(super) struct Limit {
    pub(super) kind: LimitKind,
    pub(super) name: String,
    pub(super) description: &'static str,
    pub(super) chunk_bytes: Option<u64>,
    pub(super) threads: Option<u32>,
    /// `None` if it cannot be measured here; `note` then gives the reason.
    pub(super) gb_per_s: Option<Spread>,
    pub(super) note: Option<String>,
}

#[derive(Clone, Serialize)]
pub(super) struct Reference {
    pub(super) name: String,
    pub(super) gb_per_s: f64,
}

#[derive(Serialize)]
pub(super) struct LoadFigures {
    /// `warm`, `checksum`, `native`, `via`, `reused`, `swap`, `half-cached`, `cold` or `attached`. For a load to several
    /// devices, its split mode.
    pub(super) name: &'static str,
    pub(super) description: &'static str,
    /// The devices, as a list.
    pub(super) device: String,
    pub(super) storage: String,
    pub(super) verify: String,
    /// The read method that was used, after fallbacks.
    pub(super) io: String,
    pub(super) threads: u64,
    pub(super) chunk_bytes: u64,
    pub(super) pinned: bool,
    /// The fraction of the file in the page cache before each load; `None` if it is unknown.
    pub(super) cached: Option<Spread>,
    /// The fraction after each load; also `None` if one process made several loads.
    pub(super) cached_after: Option<Spread>,
    pub(super) rows: Vec<Row>,
    /// The rate of the transfer, in file bytes. 0 for `attached`, which reads no weights.
    pub(super) gb_per_s: Spread,
    /// `None` for a load over several links, because the reference is the limit of one, and for `attached`.
    pub(super) share_of_reference: Option<Spread>,
}

impl LoadFigures {
    /// Returns whether weights come from the file.
    pub(super) fn reads(&self) -> bool {
        self.gb_per_s.max > 0.0
    }

    pub(super) fn hold_against(&mut self, reference: Option<&Reference>) {
        let reference = reference.filter(|_| self.reads() && self.name != "via");
        self.share_of_reference =
            reference.map(|reference| self.gb_per_s.map(|rate| rate / reference.gb_per_s));
    }

    /// Returns the median seconds of a phase; 0 if the load has no such phase.
    pub(super) fn seconds_of(&self, phase: &str) -> f64 {
        self.rows.iter().find(|row| row.phase == phase).map_or(0.0, |row| row.seconds.median)
    }
}

#[derive(Serialize)]
pub(super) struct Row {
    pub(super) phase: &'static str,
    pub(super) description: &'static str,
    pub(super) seconds: Spread,
}

/// The cost of many small tensors, compared with one tensor of the same total size.
#[derive(Serialize)]
pub(super) struct SmallTensors {
    pub(super) tensors: u64,
    /// Bytes of each tensor.
    pub(super) tensor_bytes: u64,
    /// Transfer of all the tensors.
    pub(super) seconds: Spread,
    /// Transfer of one tensor of the same total size.
    pub(super) seconds_as_one: Spread,
}

/// One set of engine settings.
#[derive(Serialize)]
pub(super) struct ShapeFigures {
    pub(super) threads: u32,
    pub(super) depth: u32,
    pub(super) chunk_bytes: u64,
    pub(super) read_bytes: u64,
    /// Seconds from the first read to the arrival of the last byte.
    pub(super) seconds: Spread,
    /// The rate, in file bytes.
    pub(super) gb_per_s: Spread,
}

/// The cost of the health checks of a resident model.
#[derive(Serialize)]
pub(super) struct Health {
    /// The time to check every pointer.
    pub(super) residency_seconds: Spread,
    /// The time to digest all weights on the device.
    pub(super) fingerprint_seconds: Spread,
}

#[derive(Serialize)]
pub(super) struct KernelFigures {
    /// A ggml type, `copy`, `count non-finite` or `digest`.
    pub(super) name: String,
    /// Threads on the host; `None` on a GPU.
    pub(super) threads: Option<u32>,
    /// Counts bytes read and bytes written.
    pub(super) gb_per_s: Spread,
    pub(super) share_of_copy: f64,
}

#[derive(Serialize)]
pub(super) struct Peer {
    pub(super) name: String,
    pub(super) version: Option<String>,
    /// `None` if it was not measured; `note` then gives the reason.
    pub(super) seconds: Option<Spread>,
    /// The rate, in the bytes that the peer loads.
    pub(super) gb_per_s: Option<Spread>,
    /// The median time of the peer, divided by the median transfer time of this loader with a warm page
    /// cache.
    pub(super) times_of_transfer: Option<f64>,
    /// The work that the time includes, or the reason why there is no time.
    pub(super) note: String,
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn a_spread_has_median_minimum_and_maximum() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]), Spread { median: 2.5, min: 1.0, max: 4.0 });
        assert_eq!(Spread::of([]).max, 0.0);
    }
}
