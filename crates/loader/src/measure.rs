//! Transfers without the other steps of a load, with an engine that the caller configures. For programs that
//! measure the engine.

use crate::cancel::{CancelToken, Cancellable};
use crate::error::Error;
use crate::event::Unobserved;
use crate::options::LoadOptions;
use crate::scales::Scales;
use crate::source::Source;
use crate::transfer::{self, TransferOptions};
use cuda_sys::{Device, DeviceBuffer, DeviceKind, Engine, EngineConfig};
use model_phi3::LoadPlan;
use std::path::Path;

pub use cuda_sys;

/// Returns the engine settings that a load of this number of bytes uses on this device and machine.
pub fn engine_config(options: &LoadOptions, device: DeviceKind, source_bytes: u64) -> EngineConfig {
    crate::engine_config::engine_config(options, device, source_bytes)
}

/// A repeatable transfer of one model. It allocates its device buffer once; runs allocate no device memory.
#[derive(Debug)]
pub struct Transfer<'a> {
    source: Source,
    plan: &'a LoadPlan,
    options: TransferOptions,
    dest: DeviceBuffer,
}

impl<'a> Transfer<'a> {
    /// Opens the file and allocates the buffer. The plan must belong to this file.
    ///
    /// # Errors
    ///
    /// [`Error::Gguf`], [`Error::FileChanged`], [`Error::HostMemory`], [`Error::Engine`].
    pub fn new(
        path: &Path,
        options: &LoadOptions,
        plan: &'a LoadPlan,
        device: &Device,
    ) -> Result<Self, Error> {
        Ok(Self {
            source: Source::open(&path.into(), &options.limits)?,
            plan,
            options: TransferOptions::of_load(options),
            dest: device.allocate(plan.device_bytes())?,
        })
    }

    /// Moves the whole model with this engine, which must use the same device. Returns the seconds from
    /// the first read to the arrival of the last byte.
    ///
    /// # Errors
    ///
    /// [`Error::Read`], [`Error::Engine`], [`Error::Cancelled`].
    pub fn run(&mut self, engine: &mut Engine, token: &CancelToken) -> Result<f64, Error> {
        let observer = &mut Cancellable { observer: &mut Unobserved, token };
        let scales = Scales::read(self.plan, &self.source)?;
        let Self { source, plan, options, dest } = self;
        Ok(transfer::run(engine, source, *options, plan, &scales, dest, observer)?.seconds)
    }
}
