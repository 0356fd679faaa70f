//! Passes the devices and buffers of an engine's lanes to C++.

use crate::bridge::ffi;
use crate::device::Device;
use crate::device_buffer::DeviceBuffer;
use std::collections::VecDeque;
use std::pin::Pin;

/// A device for each lane.
pub(crate) struct LaneDevices<'a>(pub(crate) &'a [&'a Device]);

impl<'a> LaneDevices<'a> {
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// C++ asks only for lanes below the count.
    #[allow(clippy::indexing_slicing, reason = "a panic here would be the bridge's own bug")]
    pub(crate) fn device(&self, lane: usize) -> &'a ffi::Device {
        self.0[lane].as_ffi()
    }
}

/// A destination for each lane.
pub(crate) struct Destinations<'a>(VecDeque<Pin<&'a mut ffi::Buffer>>);

impl<'a> Destinations<'a> {
    pub(crate) fn new(buffers: &'a mut [&mut DeviceBuffer]) -> Self {
        Self(buffers.iter_mut().map(|buffer| buffer.as_ffi_mut()).collect())
    }

    /// Returns the number of destinations that were not taken.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Takes the next destination, for exclusive use by C++ during the call.
    #[allow(clippy::expect_used, reason = "a panic here would be the bridge's own bug")]
    pub(crate) fn take(&mut self) -> Pin<&'a mut ffi::Buffer> {
        self.0.pop_front().expect("C++ takes no more than there are")
    }
}
