//! Divides a model among the devices that the user names.

use super::args::{PlacementArgs, wrong_use};
use super::device_list::{self, DeviceList};
use super::failure::Failure;
use cuda_sys::{Device, DeviceKind};
use gguf_format::GgufFile;
use loader::{DeviceChoice, Error, LoadOptions, Loader};
use model_phi3::{Phi3Config, PlacedPlan, Placement, SplitMode, Storage, TensorMap};
use std::path::Path;

/// A device that holds a part of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PlannedDevice {
    /// The device; `None` if the user named none.
    kind: Option<DeviceKind>,
    /// Its memory in bytes, if it is known.
    pub(super) memory: Option<u64>,
    /// The device here that has this free memory. `None` if the user gave the memory.
    pub(super) asked: Option<DeviceKind>,
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
        Self { kind: Some(kind), ..Self::default() }
    }

    /// Asks the device for its free memory, unless the user gave its memory.
    fn with_memory(&self) -> Result<Self, Error> {
        if self.memory.is_some() {
            return Ok(self.clone());
        }
        let kind = self.kind.unwrap_or_else(|| DeviceChoice::Auto.resolve());
        let memory = Device::open(kind).and_then(|device| device.memory())?;
        let memory = memory.map(|memory| memory.free);
        Ok(Self { kind: self.kind, memory, asked: Some(kind) })
    }

    fn is_host(&self) -> bool {
        self.kind == Some(DeviceKind::Host)
    }

    fn choice(&self) -> DeviceChoice {
        self.kind.map_or(DeviceChoice::Auto, device_list::choice)
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
    /// Returns the bytes that a device keeps for other uses. If there are GPUs, only they have the reserve.
    pub(super) fn reserve(&self, device: &PlannedDevice, reserve: u64) -> u64 {
        if self.has_reserve(device) { reserve } else { 0 }
    }

    fn has_reserve(&self, device: &PlannedDevice) -> bool {
        !device.is_host() || self.devices.iter().all(PlannedDevice::is_host)
    }

    /// Returns the number of devices that have the reserve.
    pub(super) fn reserves(&self) -> usize {
        self.devices.iter().filter(|device| self.has_reserve(device)).count()
    }
}

/// The devices that the user names, and the way to divide a model among them.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlacementRequest<'a> {
    pub(super) devices: &'a DeviceList,
    pub(super) arguments: &'a PlacementArgs,
    /// The memory of each device; empty if the user gave none.
    pub(super) memory: &'a [u64],
    pub(super) storage: Storage,
    pub(super) reserve: u64,
    /// The largest number of bytes of weights on each device.
    pub(super) limit: Option<u64>,
}

impl PlacementRequest<'_> {
    /// Divides the model of a file. Asks the devices that are here for their memory.
    pub(super) fn plan(&self, file: &Path, gguf: &GgufFile) -> Result<Placed, Failure> {
        let (asked, devices) = self.resolve()?;
        let model = Model::bind(file, gguf)?;
        let (placement, devices) = match asked {
            Some(placement) => (placement, devices),
            None => self.fit(&model, &devices)?,
        };
        let plan = PlacedPlan::new(&model.config, &model.tensors, self.storage, &placement);
        // The plan needs no device: without an answer, the memory is unknown.
        let known = |device: PlannedDevice| device.with_memory().unwrap_or(device);
        Ok(Placed {
            plan: plan.map_err(|error| model.error(error))?,
            config: model.config,
            devices: shared(devices.into_iter().map(known).collect()),
        })
    }

    /// Chooses the devices and the placement of a load. Reads the file only if they depend on its model.
    pub(super) fn choose(&self, file: &Path) -> Result<(Vec<DeviceChoice>, Placement), Failure> {
        let (asked, devices) = self.resolve()?;
        let (placement, devices) = match asked {
            Some(placement) => (placement, devices),
            None => {
                let gguf = Loader::new(LoadOptions::new()).inspect(file)?;
                self.fit(&Model::bind(file, &gguf)?, &devices)?
            }
        };
        Ok((devices.iter().map(PlannedDevice::choice).collect(), placement))
    }

    /// Returns the placement and its devices. With `--fit`, the placement depends on the model: it is `None`, and the
    /// memory of the devices is known.
    fn resolve(&self) -> Result<(Option<Placement>, Vec<PlannedDevice>), Failure> {
        let devices = self.devices()?;
        if self.arguments.fit {
            return Ok((None, with_memory(&devices)?));
        }
        Ok((Some(placement(self.arguments, &devices)?), devices))
    }

    fn devices(&self) -> Result<Vec<PlannedDevice>, Failure> {
        let Self { arguments, memory, .. } = self;
        let mut devices: Vec<_> = match named(self.devices)? {
            Some(devices) => devices.into_iter().map(PlannedDevice::new).collect(),
            None if !memory.is_empty() => {
                let ordinals = (0..).take(memory.len());
                ordinals.map(|ordinal| PlannedDevice::new(DeviceKind::Cuda(ordinal))).collect()
            }
            None if arguments.n_gpu_layers.is_some() => {
                vec![PlannedDevice::new(DeviceKind::Cuda(0))]
            }
            None if arguments.fit => here()?,
            None => vec![PlannedDevice::default()],
        };
        if !memory.is_empty() {
            if memory.len() != devices.len() {
                let (entries, devices) = (memory.len(), devices.len());
                return Err(usage(format!("--memory has {entries} entries for {devices} devices")));
            }
            for (device, &bytes) in devices.iter_mut().zip(*memory) {
                device.memory = Some(bytes);
            }
        }
        if arguments.n_gpu_layers.is_some() && !devices.first().is_some_and(PlannedDevice::is_host)
        {
            devices.insert(0, PlannedDevice::new(DeviceKind::Host));
        }
        Ok(devices)
    }

    /// Proposes a placement, and returns the devices that it uses. The memory of a device is not yet divided among its
    /// entries: those that are not used take no share of it.
    fn fit(
        &self,
        model: &Model<'_>,
        devices: &[PlannedDevice],
    ) -> Result<(Placement, Vec<PlannedDevice>), Failure> {
        // Beside GPUs, the host has neither reserve nor limit.
        let all_hosts = devices.iter().all(PlannedDevice::is_host);
        let most = self.limit.map_or(u64::MAX, |limit| limit.saturating_add(self.reserve));
        let usable = |device: &PlannedDevice| match device.memory.unwrap_or(u64::MAX) {
            memory if device.is_host() && !all_hosts => memory.saturating_add(self.reserve),
            memory => memory.min(most),
        };
        let free: Vec<_> = shared(devices.to_vec()).iter().map(usable).collect();
        let Model { config, tensors, .. } = model;
        let proposal = Placement::fit(config, tensors, self.storage, &free, self.reserve);
        let proposal = proposal.map_err(|error| model.error(error))?;
        let chosen = proposal.devices.iter().filter_map(|&at| devices.get(at).cloned());
        Ok((proposal.placement, chosen.collect()))
    }
}

/// The model of a file.
struct Model<'a> {
    file: &'a Path,
    config: Phi3Config,
    tensors: TensorMap,
}

impl<'a> Model<'a> {
    fn bind(file: &'a Path, gguf: &GgufFile) -> Result<Self, Failure> {
        let of_model = |error| Failure::from(Error::of_model(file, error));
        let config = Phi3Config::from_gguf(gguf.metadata(), gguf.tensors()).map_err(of_model)?;
        let tensors = TensorMap::bind(&config, gguf.tensors()).map_err(of_model)?;
        Ok(Self { file, config, tensors })
    }

    fn error(&self, error: model_phi3::Error) -> Failure {
        Error::of_model(self.file, error).into()
    }
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
    // As `auto` does, falls back to the host if no GPU can be used.
    let devices = match DeviceChoice::Auto.resolve() {
        DeviceKind::Host => vec![DeviceKind::Host],
        DeviceKind::Cuda(_) => gpus()?,
    };
    Ok(devices.into_iter().map(PlannedDevice::new).collect())
}

/// Returns the devices with their free memory.
fn with_memory(devices: &[PlannedDevice]) -> Result<Vec<PlannedDevice>, Failure> {
    devices.iter().map(|device| Ok(device.with_memory()?)).collect()
}

/// Divides the free memory of a device that is several times in the list into equal shares. Memory that the user gave is
/// that of one entry.
fn shared(mut devices: Vec<PlannedDevice>) -> Vec<PlannedDevice> {
    let kinds: Vec<_> = devices.iter().map(|device| device.kind).collect();
    for device in devices.iter_mut().filter(|device| device.asked.is_some()) {
        let entries = kinds.iter().filter(|kind| **kind == device.kind).count() as u64;
        device.memory = device.memory.map(|memory| memory / entries);
    }
    devices
}

/// Returns the devices of a list; `None` for `auto`.
pub(super) fn named(list: &DeviceList) -> Result<Option<Vec<DeviceKind>>, Failure> {
    let gpus = if list.names_all_gpus() { all_gpus()? } else { Vec::new() };
    Ok(list.with_gpus(&gpus))
}

/// Returns the GPUs of `--via`, which lend their links to a load to one GPU. `cuda:all` is every other GPU.
pub(super) fn helpers(
    devices: &DeviceList,
    via: &DeviceList,
) -> Result<Vec<DeviceChoice>, Failure> {
    let Some(target @ DeviceChoice::Cuda(_)) = devices.single() else {
        return Err(usage("--via needs exactly one GPU as --device".to_owned()));
    };
    let named = named(via)?.unwrap_or_default();
    let mut helpers: Vec<_> = named.into_iter().map(device_list::choice).collect();
    if via.names_all_gpus() {
        helpers.retain(|helper| *helper != target);
    }
    let is_double = |at: usize| helpers[..at].contains(&helpers[at]);
    if helpers.is_empty()
        || helpers.iter().any(|helper| [target, DeviceChoice::Host].contains(helper))
        || (1..helpers.len()).any(is_double)
    {
        return Err(usage(format!("--via must name other GPUs than {target}, each once")));
    }
    Ok(helpers)
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
