//! Measures what several devices can do together.

use super::document::{Limit, LimitKind, Spread};
use super::limits;
use crate::device_list::DeviceList;
use crate::failure::Failure;
use crate::placement;
use cuda_sys::measure::{self, Rate};
use cuda_sys::{Device, DeviceKind};
use gguf_format::GgufFile;
use loader::{Error, Storage, threads};
use model_phi3::{PlacedPlan, Placement, SplitMode};

/// The modes of the measured loads.
const MODES: [SplitMode; 3] = [SplitMode::Layer, SplitMode::Tensor, SplitMode::Replicate];
const CHUNK_BYTES: u64 = 8 << 20;

/// The devices of a list with several of them.
pub(super) struct Several {
    pub(super) list: DeviceList,
    devices: Vec<DeviceKind>,
    pub(super) modes: Vec<SplitMode>,
}

impl Several {
    /// Returns `None` if the list has one device. Modes that the model cannot have are left out.
    pub(super) fn of(
        list: &DeviceList,
        gguf: &GgufFile,
        storage: Storage,
    ) -> Result<Option<Self>, Failure> {
        let devices = placement::named(list)?.unwrap_or_default();
        if devices.len() < 2 {
            return Ok(None);
        }
        let is_possible = |mode: &SplitMode| {
            let (metadata, tensors) = (gguf.metadata(), gguf.tensors());
            Placement::new(*mode, devices.len()).is_ok_and(|placement| {
                PlacedPlan::from_gguf(metadata, tensors, storage, &placement).is_ok()
            })
        };
        let modes = MODES.into_iter().filter(is_possible).collect();
        Ok(Some(Self { list: list.clone(), devices, modes }))
    }

    /// Measures copies from pinned memory to all GPUs at the same time; `None` if there are fewer than two.
    pub(super) fn links(&self, repeat: u32) -> Result<Option<Limit>, Failure> {
        let mut gpus: Vec<_> = self.devices.clone();
        gpus.retain(|device| *device != DeviceKind::Host);
        gpus.sort_by_key(ToString::to_string);
        gpus.dedup();
        if gpus.len() < 2 {
            return Ok(None);
        }
        // Open them first, so that all measurements start at about the same time.
        let open = |gpu: &DeviceKind| Device::open(*gpu).map_err(Error::from);
        let devices = gpus.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let upload = |device: &Device| -> Result<Rate, Error> {
            let shape = limits::upload_shape(device, CHUNK_BYTES)?;
            Ok(measure::upload(device, shape, repeat)?)
        };
        let rates: Result<Vec<_>, Failure> = std::thread::scope(|scope| {
            let start = |device| threads::builder().spawn_scoped(scope, move || upload(device));
            let started: Result<Vec<_>, _> = devices.iter().map(start).collect();
            let started = started.map_err(|error| Failure::Start("a measuring thread", error))?;
            Ok(started.into_iter().map(threads::joined).collect::<Result<_, _>>()?)
        });
        let rates = rates?;
        let sum = |of: fn(&Rate) -> f64| rates.iter().map(of).sum::<f64>() / 1e9;
        Ok(Some(Limit {
            kind: LimitKind::AllPinnedCopies,
            name: format!("pinned copies, {} MiB, {} GPUs", CHUNK_BYTES >> 20, gpus.len()),
            description: "Copies from pinned host memory to all GPUs at the same time; the sum.",
            chunk_bytes: Some(CHUNK_BYTES),
            threads: None,
            gb_per_s: Some(Spread {
                median: sum(|rate| rate.median),
                min: sum(|rate| rate.min),
                max: sum(|rate| rate.max),
            }),
            note: Some("sum of all links, at the same time".to_owned()),
        }))
    }
}
