//! Divides a model among the devices that the user names.

use super::args::{PlacementArgs, wrong_use};
use super::failure::Failure;
use cuda_sys::{Device, DeviceKind};
use gguf_format::GgufFile;
use loader::Error;
use model_phi3::{Phi3Config, PlacedPlan, Placement, SplitMode, Storage, TensorMap};
use std::path::Path;

/// A device of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlannedDevice {
    /// The device; `None` if the user named none.
    kind: Option<DeviceKind>,
    /// Its memory in bytes, if it is known.
    pub(super) memory: Option<u64>,
}

/// Writes the name for `--device`.
impl std::fmt::Display for PlannedDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            Some(kind) => kind.fmt(f),
            None => f.write_str("auto"),
        }
    }
}

impl PlannedDevice {
    fn new(kind: DeviceKind) -> Self {
        Self { kind: Some(kind), memory: None }
    }

    fn is_host(&self) -> bool {
        self.kind == Some(DeviceKind::Host)
    }
}

/// A model that is divided among devices.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) config: Phi3Config,
    pub(super) plan: PlacedPlan,
    /// One for each part of the plan.
    pub(super) devices: Vec<PlannedDevice>,
}

impl Placed {
    /// Returns the bytes that are missing on a device for its part and the reserve; `None` if its memory is unknown.
    /// If there are GPUs, only they have the reserve.
    pub(super) fn short_by(&self, device: usize, reserve: u64) -> Option<u64> {
        let (part, of) = (self.plan.parts().get(device)?, self.devices.get(device)?);
        let reserve = if self.has_reserve(of) { reserve } else { 0 };
        Some(part.device_bytes().saturating_add(reserve).saturating_sub(of.memory?))
    }

    fn has_reserve(&self, device: &PlannedDevice) -> bool {
        !device.is_host() || self.devices.iter().all(PlannedDevice::is_host)
    }

    /// Returns the number of devices that have the reserve.
    pub(super) fn reserves(&self) -> usize {
        self.devices.iter().filter(|device| self.has_reserve(device)).count()
    }
}

/// Divides the model of a file.
pub(super) fn place(
    arguments: &PlacementArgs,
    file: &Path,
    gguf: &GgufFile,
    storage: Storage,
    reserve: u64,
) -> Result<Placed, Failure> {
    let of_model = |error| Failure::from(Error::of_model(file, error));
    let devices = devices(arguments)?;
    let (asked, devices) = if arguments.fit {
        (None, with_memory(&devices)?)
    } else {
        (Some(placement(arguments, &devices)?), devices)
    };
    let config = Phi3Config::from_gguf(gguf.metadata(), gguf.tensors()).map_err(of_model)?;
    let tensors = TensorMap::bind(&config, gguf.tensors()).map_err(of_model)?;
    let (placement, devices) = match asked {
        Some(placement) => (placement, devices),
        None => {
            let free = devices.iter().map(|device| device.memory.unwrap_or(u64::MAX));
            let free: Vec<_> = free.collect();
            let proposal =
                Placement::fit(&config, &tensors, storage, &free, reserve).map_err(of_model)?;
            let chosen = proposal.devices.iter().filter_map(|&at| devices.get(at).cloned());
            (proposal.placement, chosen.collect())
        }
    };
    let plan = PlacedPlan::new(&config, &tensors, storage, &placement).map_err(of_model)?;
    Ok(Placed { config, plan, devices })
}

/// Returns the devices that the user names.
fn devices(arguments: &PlacementArgs) -> Result<Vec<PlannedDevice>, Failure> {
    let memory = &arguments.memory;
    let mut devices: Vec<_> = match &arguments.device {
        Some(list) => {
            let gpus = if list.names_all_gpus() { all_gpus()? } else { Vec::new() };
            list.with_gpus(&gpus).into_iter().map(PlannedDevice::new).collect()
        }
        None if !memory.is_empty() => {
            let ordinals = (0..).take(memory.len());
            ordinals.map(|ordinal| PlannedDevice::new(DeviceKind::Cuda(ordinal))).collect()
        }
        None if arguments.n_gpu_layers.is_some() => vec![PlannedDevice::new(DeviceKind::Cuda(0))],
        None if arguments.fit => here()?,
        None => vec![PlannedDevice { kind: None, memory: None }],
    };
    if !memory.is_empty() {
        if memory.len() != devices.len() {
            let (entries, devices) = (memory.len(), devices.len());
            return Err(usage(format!("--memory has {entries} entries for {devices} devices")));
        }
        for (device, &bytes) in devices.iter_mut().zip(memory) {
            device.memory = Some(bytes);
        }
    }
    if arguments.n_gpu_layers.is_some() && !devices.first().is_some_and(PlannedDevice::is_host) {
        devices.insert(0, PlannedDevice::new(DeviceKind::Host));
    }
    Ok(devices)
}

fn placement(arguments: &PlacementArgs, devices: &[PlannedDevice]) -> Result<Placement, Failure> {
    let proportions = &arguments.tensor_split[..];
    let placement = match (arguments.n_gpu_layers, arguments.split_mode) {
        (Some(layers), None | Some(SplitMode::Layer)) => {
            Placement::last_layers(layers, devices.len())
        }
        (Some(_), Some(mode)) => {
            return Err(usage(format!(
                "--n-gpu-layers divides by layers, not by --split-mode {mode}"
            )));
        }
        (None, None) if devices.len() == 1 && proportions.is_empty() => Ok(Placement::single()),
        (None, mode) => Placement::new(mode.unwrap_or(SplitMode::Layer), devices.len()),
    };
    let with_proportions = |placement: Placement| match proportions {
        [] => Ok(placement),
        _ => placement.with_proportions(proportions),
    };
    placement.and_then(with_proportions).map_err(|error| usage(error.to_string()))
}

/// Returns all devices here that can hold a model: all GPUs or, if there is none, the host.
fn here() -> Result<Vec<PlannedDevice>, Failure> {
    let gpus = gpus()?;
    let devices = if gpus.is_empty() { vec![DeviceKind::Host] } else { gpus };
    Ok(devices.into_iter().map(PlannedDevice::new).collect())
}

/// Asks devices whose memory the user did not give for their free memory. A device that is named several times has
/// an equal share of it each time.
fn with_memory(devices: &[PlannedDevice]) -> Result<Vec<PlannedDevice>, Failure> {
    let times = |kind| devices.iter().filter(|device| device.kind == Some(kind)).count() as u64;
    let ask = |device: &PlannedDevice| match (device.kind, device.memory) {
        (Some(kind), None) => {
            let memory = Device::open(kind).and_then(|device| device.memory());
            let memory = memory.map_err(Error::from)?.map(|memory| memory.free / times(kind));
            Ok(PlannedDevice { kind: Some(kind), memory })
        }
        _ => Ok(device.clone()),
    };
    devices.iter().map(ask).collect()
}

/// Returns all visible GPUs, at least one.
fn all_gpus() -> Result<Vec<DeviceKind>, Failure> {
    let gpus = gpus()?;
    if gpus.is_empty() {
        // Gives the error that says why there is none.
        Device::open(DeviceKind::Cuda(0)).map_err(Error::from)?;
    }
    Ok(gpus)
}

fn gpus() -> Result<Vec<DeviceKind>, Failure> {
    Ok(loader::cuda_devices()?.iter().map(|gpu| DeviceKind::Cuda(gpu.ordinal)).collect())
}

fn usage(message: String) -> Failure {
    Failure::Usage(wrong_use(message))
}
