//! A device for tests of the engine, with the feature `fake-device`: no part of the crate's versioned
//! interface.
#![allow(
    unreachable_pub,
    clippy::multiple_unsafe_ops_per_block,
    reason = "what cxx's expansion of a bridge needs"
)]

use crate::device::Device;
use crate::error::Error;

#[cxx::bridge(namespace = "transfer::bridge")]
mod ffi {
    unsafe extern "C++" {
        include!("transfer/fake_device.hpp");

        type Device = crate::bridge::ffi::Device;

        fn open_fake(failing: &str, nth: u64) -> Result<UniquePtr<Device>>;
        fn fake_calls(device: &Device) -> u64;
    }
}

/// Host memory that behaves as a GPU does: what is submitted is done when it is waited for, and its
/// calls can fail.
#[derive(Debug)]
pub struct FakeDevice {
    device: Device,
}

impl FakeDevice {
    /// A device whose function of this name, such as `submit`, fails at its `nth` call, from 1.
    ///
    /// # Errors
    ///
    /// Only where host memory is exhausted.
    pub fn failing_at(function: &str, nth: u64) -> Result<Self, Error> {
        Ok(Self { device: Device::from_ffi(ffi::open_fake(function, nth)?) })
    }

    /// How many calls of that function were made.
    pub fn calls(&self) -> u64 {
        ffi::fake_calls(self.device.as_ffi())
    }

    /// As every other device.
    pub fn device(&self) -> &Device {
        &self.device
    }
}
