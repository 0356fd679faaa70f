//! Describes the machine of a run.

use super::cores;
use super::document::Machine;
use cuda_sys::{Device, DeviceKind};
use loader::Error;
use std::time::SystemTime;

pub(super) fn describe(device: &Device) -> Result<Machine, Error> {
    let gpu = match device.kind() {
        DeviceKind::Cuda(ordinal) => {
            cuda_sys::cuda_devices()?.into_iter().find(|gpu| gpu.ordinal == ordinal)
        }
        DeviceKind::Host => None,
    };
    let host = Device::open(DeviceKind::Host)?;
    Ok(Machine {
        date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        version: env!("CARGO_PKG_VERSION"),
        cpu: cpu_model(),
        cores: cores(),
        memory_bytes: host.memory()?.map(|memory| memory.total),
        kernel: read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()),
        device: device.kind().to_string(),
        device_name: device.name()?,
        device_bytes: device.memory()?.map(|memory| memory.total),
        pci_bus_id: gpu.as_ref().map(|gpu| gpu.pci_bus_id.clone()),
        driver: gpu.as_ref().and_then(|_| driver_version(&read("/proc/driver/nvidia/version")?)),
        compute_capability: gpu.map(|gpu| {
            let (major, minor) = gpu.compute_capability;
            format!("{major}.{minor}")
        }),
    })
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// Returns the processor's name as the kernel reports it. Kernels for Arm do not report one.
fn cpu_model() -> Option<String> {
    let text = read("/proc/cpuinfo")?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Finds the version number in `NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  ...`.
fn driver_version(text: &str) -> Option<String> {
    let is_version =
        |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    text.lines().next()?.split_whitespace().find(is_version).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::driver_version;

    #[test]
    fn the_driver_version_is_found() {
        let old = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun  6 UTC 2023";
        assert_eq!(driver_version(old).as_deref(), Some("535.54.03"));
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release";
        assert_eq!(driver_version(open).as_deref(), Some("580.95.05"));
        assert_eq!(driver_version(""), None);
    }
}
