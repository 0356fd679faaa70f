//! Transfers without the other steps of a load, with an engine that the caller configures. For programs that
//! measure the engine.

use crate::cancel::{CancelToken, Cancellable};
use crate::devices::Devices;
use crate::error::Error;
use crate::event::Unobserved;
use crate::options::LoadOptions;
use crate::scales::Scales;
use crate::session::Wanted;
use crate::source::Source;
use crate::transfer::{self, TransferOptions};
use cuda_sys::{Device, DeviceBuffer, DeviceKind, Engine, EngineConfig};
use model_phi3::{PlacedPart, PlacedPlan};
use std::path::Path;

pub use cuda_sys;

/// Returns the engine settings that a load of this number of bytes uses on this device and machine.
pub fn engine_config(options: &LoadOptions, device: DeviceKind, source_bytes: u64) -> EngineConfig {
    let wanted = Wanted { source_bytes, ..Wanted::UNKNOWN };
    crate::engine_config::engine_config(options, &Devices::new([device]), &wanted)
}

/// A repeatable transfer of one model. It allocates its device buffers once; runs allocate no device memory.
#[derive(Debug)]
pub struct Transfer<'a> {
    source: Source,
    plan: &'a PlacedPlan,
    options: TransferOptions,
    dests: Vec<DeviceBuffer>,
}

impl<'a> Transfer<'a> {
    /// Opens the file and allocates the buffers. The plan must belong to this file. It has a part for each device.
    ///
    /// # Errors
    ///
    /// [`Error::Gguf`], [`Error::FileChanged`], [`Error::HostMemory`], [`Error::Engine`].
    pub fn new(
        path: &Path,
        options: &LoadOptions,
        plan: &'a PlacedPlan,
        devices: &[&Device],
    ) -> Result<Self, Error> {
        let parts = devices.iter().zip(plan.parts());
        let allocate =
            |(device, part): (&&Device, &PlacedPart)| device.allocate(part.device_bytes());
        Ok(Self {
            source: Source::open(&path.into(), &options.limits)?,
            plan,
            options: TransferOptions::of_load(options),
            dests: parts.map(allocate).collect::<Result<_, _>>()?,
        })
    }

    /// Moves the whole model with this engine, which must use the same devices. Returns the seconds from
    /// the first read to the arrival of the last byte.
    ///
    /// # Errors
    ///
    /// [`Error::Read`], [`Error::Engine`], [`Error::Cancelled`].
    pub fn run(&mut self, engine: &mut Engine, token: &CancelToken) -> Result<f64, Error> {
        let observer = &mut Cancellable { observer: &mut Unobserved, token };
        let scales = Scales::read(self.plan.whole(), &self.source)?;
        let Self { source, plan, options, dests } = self;
        let mut dests: Vec<_> = dests.iter_mut().collect();
        Ok(transfer::run(engine, source, *options, plan, &scales, &mut dests, observer)?.seconds)
    }
}
