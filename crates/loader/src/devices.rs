//! The GPUs that a load can choose, and the devices of a load.

use crate::error::Error;
use crate::options::DeviceChoice;
use cuda_sys::{CudaDeviceInfo, DeviceKind};
use std::fmt;
use std::ops::Deref;

/// Returns the visible GPUs in the order of their ordinals. In a build without CUDA, the list is empty. Creates no
/// context.
///
/// # Errors
///
/// [`Error::Engine`] with the code `DEVICE_UNAVAILABLE` if there is no usable driver.
pub fn cuda_devices() -> Result<Vec<CudaDeviceInfo>, Error> {
    Ok(cuda_sys::cuda_devices()?)
}

/// The devices of a load: one for each part of the model, in the order of the parts. A device can occur several times.
///
/// Its text, also in JSON (feature `serde`), is the list of `phi3-loader load --device`, such as `cuda:0,cuda:1`.
/// The list of a load to one device compares equal to its [`DeviceKind`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Devices(Vec<DeviceKind>);

impl Devices {
    pub(crate) fn new(devices: impl IntoIterator<Item = DeviceKind>) -> Self {
        Self(devices.into_iter().collect())
    }

    /// Returns the device of a load to one device; `None` if there are several.
    pub fn single(&self) -> Option<DeviceKind> {
        match self.0[..] {
            [device] => Some(device),
            _ => None,
        }
    }

    /// Returns the device of each choice.
    pub(crate) fn resolve(choices: &[DeviceChoice]) -> Self {
        Self::new(choices.iter().map(|choice| choice.resolve()))
    }

    /// Returns each device once.
    pub(crate) fn distinct(&self) -> Vec<DeviceKind> {
        let mut distinct = Vec::new();
        for &device in &self.0 {
            if !distinct.contains(&device) {
                distinct.push(device);
            }
        }
        distinct
    }

    /// Returns whether the caller's reserve and limit hold for the device. For the host they hold only if there is no GPU.
    pub(crate) fn is_limited(&self, device: DeviceKind) -> bool {
        device != DeviceKind::Host || self.0.iter().all(|other| *other == DeviceKind::Host)
    }

    /// Returns the name of a part's device for messages. The number of the part is added if the device has several.
    pub(crate) fn name_of(&self, part: usize) -> String {
        let Some(device) = self.0.get(part) else { return format!("part {part}") };
        match self.0.iter().filter(|other| *other == device).count() {
            1 => device.to_string(),
            _ => format!("{device} (part {part})"),
        }
    }
}

impl Deref for Devices {
    type Target = [DeviceKind];

    fn deref(&self) -> &[DeviceKind] {
        &self.0
    }
}

impl PartialEq<DeviceKind> for Devices {
    fn eq(&self, device: &DeviceKind) -> bool {
        self.single() == Some(*device)
    }
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, device) in self.0.iter().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            write!(f, "{comma}{device}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_written_as_the_option_and_equals_its_only_device() {
        let gpus = Devices::new([DeviceKind::Cuda(0), DeviceKind::Cuda(3)]);
        assert_eq!((gpus.to_string().as_str(), gpus.single()), ("cuda:0,cuda:3", None));
        assert_eq!(Devices::new([DeviceKind::Host]), DeviceKind::Host);
        assert_ne!(gpus, DeviceKind::Cuda(0));
    }

    #[test]
    fn the_part_is_named_if_its_device_has_several() {
        let devices = Devices::new([DeviceKind::Cuda(1), DeviceKind::Host, DeviceKind::Cuda(1)]);
        assert_eq!(devices.distinct(), [DeviceKind::Cuda(1), DeviceKind::Host]);
        let names = [0, 1, 2].map(|part| devices.name_of(part));
        assert_eq!(names, ["cuda:1 (part 0)", "host", "cuda:1 (part 2)"]);
    }
}
