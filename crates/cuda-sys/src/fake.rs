//! A device for tests of the engine, with the feature `fake-device`. It is not part of the crate's
//! versioned interface.
#![allow(
    unreachable_pub,
    clippy::multiple_unsafe_ops_per_block,
    reason = "what cxx's expansion of a bridge needs"
)]

use crate::device::Device;
use crate::error::Error;

#[cxx::bridge(namespace = "phi3::transfer::bridge")]
mod ffi {
    unsafe extern "C++" {
        include!("transfer/fake_device.hpp");

        type Device = crate::bridge::ffi::Device;

        fn open_fake(failing: &str, nth: u64, has_peers: bool) -> Result<UniquePtr<Device>>;
        fn fake_calls(device: &Device) -> u64;
    }
}

/// Host memory that behaves like a GPU: submitted work is done only when it is waited for, and calls can
/// fail.
#[derive(Debug)]
pub struct FakeDevice {
    device: Device,
}

impl FakeDevice {
    /// Creates a device whose function of this name, such as `submit`, fails at its call number `nth`,
    /// counted from 1.
    ///
    /// # Errors
    ///
    /// Fails only if host memory is exhausted.
    pub fn failing_at(function: &str, nth: u64) -> Result<Self, Error> {
        Ok(Self { device: Device::from_ffi(ffi::open_fake(function, nth, false)?)? })
    }

    /// Creates a device as [`failing_at`](Self::failing_at) does. It can also take bytes from other such devices.
    ///
    /// # Errors
    ///
    /// The same as for [`failing_at`](Self::failing_at).
    pub fn with_peers(function: &str, nth: u64) -> Result<Self, Error> {
        Ok(Self { device: Device::from_ffi(ffi::open_fake(function, nth, true)?)? })
    }

    /// Returns the number of calls of that function.
    pub fn calls(&self) -> u64 {
        ffi::fake_calls(self.device.as_ffi())
    }

    /// Returns the device, for use like any other.
    pub fn device(&self) -> &Device {
        &self.device
    }
}
