//! Selects the device for a `DeviceChoice`.

use crate::options::DeviceChoice;
use cuda_sys::DeviceKind;

impl DeviceChoice {
    /// Returns the device for this choice, on this machine and in this build. Logs the result of
    /// [`Auto`](Self::Auto).
    pub fn resolve(self) -> DeviceKind {
        match self {
            Self::Host => DeviceKind::Host,
            Self::Cuda(ordinal) => DeviceKind::Cuda(ordinal),
            Self::Auto => auto(),
        }
    }
}

fn auto() -> DeviceKind {
    match cuda_sys::cuda_devices() {
        Ok(devices) => match devices.first() {
            Some(first) => {
                tracing::info!(device = first.name, "auto chose the first GPU");
                DeviceKind::Cuda(first.ordinal)
            }
            None => {
                let why = if cuda_sys::cuda_compiled() {
                    "no GPU is visible"
                } else {
                    "this build has no CUDA"
                };
                tracing::info!("auto chose host memory: {why}");
                DeviceKind::Host
            }
        },
        Err(error) => {
            tracing::info!("auto chose host memory: {error}");
            DeviceKind::Host
        }
    }
}
