//! The command `devices`.

use super::args::Devices;
use super::failure::Failure;
use super::json::{self, DeviceDocument, DevicesDocument};
use super::stdout;
use super::table::{self, Column::Left, Column::Right};
use cuda_sys::{Device, DeviceKind};
use std::io::Write;

pub(super) fn run(arguments: &Devices) -> Result<(), Failure> {
    let document = collect();
    if arguments.json {
        return json::print(&document);
    }
    Ok(stdout::print(|out| write_text(out, &document))?)
}

/// Sizes are in GB as everywhere, and in the unit of `nvidia-smi`.
fn write_text(out: &mut dyn Write, document: &DevicesDocument) -> std::io::Result<()> {
    let columns = [
        Left("device"),
        Right("free MiB"),
        Right("total MiB"),
        Right("free GB"),
        Right("total GB"),
        Right("compute"),
        Left("name"),
    ];
    let row = |device: &DeviceDocument| {
        let mib = |bytes: Option<u64>| or_dash(bytes.map(|bytes| bytes >> 20));
        let gb =
            |bytes: Option<u64>| or_dash(bytes.map(|bytes| format!("{:.2}", bytes as f64 / 1e9)));
        let DeviceDocument { free_bytes: free, total_bytes: total, .. } = *device;
        let capability = or_dash(device.compute_capability.as_ref());
        let name = device.name.clone();
        [device.device.clone(), mib(free), mib(total), gb(free), gb(total), capability, name]
    };
    table::write(out, columns, document.devices.iter().map(row))?;
    if let Some(note) = &document.cuda_note {
        writeln!(out, "no GPU: {note}")?;
    }
    Ok(())
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn collect() -> DevicesDocument {
    let mut devices = vec![describe(DeviceKind::Host, "host memory".to_owned(), None)];
    let cuda_note = match cuda_sys::cuda_devices() {
        Ok(gpus) => {
            devices.extend(gpus.iter().map(|gpu| {
                let (major, minor) = gpu.compute_capability;
                DeviceDocument {
                    pci_bus_id: Some(gpu.pci_bus_id.clone()),
                    compute_capability: Some(format!("{major}.{minor}")),
                    ..describe(
                        DeviceKind::Cuda(gpu.ordinal),
                        gpu.name.clone(),
                        Some(gpu.total_bytes),
                    )
                }
            }));
            gpus.is_empty().then(|| {
                if cuda_sys::cuda_compiled() { "none is visible" } else { "this build has no CUDA" }
                    .to_owned()
            })
        }
        Err(error) => Some(error.to_string()),
    };
    DevicesDocument {
        schema_version: json::SCHEMA_VERSION,
        cuda_compiled: cuda_sys::cuda_compiled(),
        cuda_note,
        devices,
    }
}

/// Describes a device. The free memory is known only if the device can be opened.
fn describe(kind: DeviceKind, name: String, total: Option<u64>) -> DeviceDocument {
    let memory = Device::open(kind).and_then(|device| device.memory()).ok().flatten();
    let (kind_name, ordinal) = match kind {
        DeviceKind::Host => ("host", 0),
        DeviceKind::Cuda(ordinal) => ("cuda", ordinal),
    };
    DeviceDocument {
        device: kind.to_string(),
        kind: kind_name,
        ordinal,
        name,
        free_bytes: memory.map(|memory| memory.free),
        total_bytes: memory.map(|memory| memory.total).or(total),
        pci_bus_id: None,
        compute_capability: None,
    }
}
