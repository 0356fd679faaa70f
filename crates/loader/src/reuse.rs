//! The memory of a model, for the next one.

use crate::devices::Devices;
use crate::model::LoadedModel;
use cuda_sys::{DeviceBuffer, DeviceKind};
use model_phi3::PlacedPart;
use std::cmp::Reverse;

/// Returns the bytes of a device that are free for others once the model is gone. Shared memory may stay.
pub(crate) fn bytes_on(model: &LoadedModel, device: DeviceKind) -> u64 {
    let buffers = model.parts.iter().map(|part| &part.buffer);
    let freed = buffers.filter(|buffer| buffer.device() == device && !buffer.is_shared());
    freed.map(DeviceBuffer::len).fold(0, u64::saturating_add)
}

/// Takes a model apart. Returns, for each part of the next model, memory on its device that can be resized. Frees all
/// other memory.
pub(crate) fn buffers(
    model: LoadedModel,
    devices: &Devices,
    parts: &[PlacedPart],
    shareable: bool,
) -> Vec<Option<DeviceBuffer>> {
    let buffers = model.parts.into_iter().map(|part| part.buffer);
    let mut left: Vec<_> = buffers
        .filter(|buffer| shareable && buffer.is_shareable() && !buffer.is_shared())
        .collect();
    // The largest parts get the largest memory.
    left.sort_by_key(DeviceBuffer::len);
    let mut order: Vec<_> = (0..).zip(devices.iter().zip(parts)).collect();
    order.sort_by_key(|(_, (_, part))| Reverse(part.device_bytes()));
    let mut reused: Vec<_> = parts.iter().map(|_| None).collect();
    for (index, (device, _)) in order {
        let at = left.iter().rposition(|buffer| buffer.device() == *device);
        if let (Some(at), Some(place)) = (at, reused.get_mut::<usize>(index)) {
            *place = Some(left.remove(at));
        }
    }
    drop(left);
    // Memory that gets smaller makes room for memory that gets larger.
    for (buffer, part) in reused.iter_mut().zip(parts) {
        if let Some(shrinking) = buffer.as_mut().filter(|of| of.len() > part.device_bytes())
            && shrinking.resize(part.device_bytes()).is_err()
        {
            *buffer = None;
        }
    }
    reused
}
