//! Whether a model fits into the memory of a device, without loading it.

use crate::devices::Devices;
use crate::loader::Planned;
use crate::memory_needs::MemoryNeeds;
use cuda_sys::{DeviceKind, MemoryInfo};
use model_phi3::KvDtype;

/// The memory that a load needs and that its devices have, in bytes. [`Loader::fits`](crate::Loader::fits)
/// returns it. If there are several devices, the figures are sums; [`devices`](Self::devices) has those of each.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Fit {
    /// The devices.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::serialize::text"))]
    pub device: Devices,
    /// Bytes that the load allocates on the devices: the weights, and memory for converting them.
    pub required: u64,
    /// Bytes that must stay free in addition: `LoadOptions::reserve`.
    pub reserve: u64,
    /// Free bytes of the devices now. `None` if the system does not report it; then the load is not refused.
    pub free: Option<u64>,
    /// All bytes of the devices, free or not.
    pub total: Option<u64>,
    /// The caller's limit for the weights on each device: `LoadOptions::vram_limit`.
    pub limit: Option<u64>,
    /// Missing bytes. 0 if the model fits. Free bytes of one device do not make up for those of another.
    pub short_by: u64,
    /// Bytes of the key-value cache of one sequence of the model's whole context, in half precision. `None` if
    /// the number exceeds 64 bits.
    pub kv_cache: Option<u64>,
    /// Bytes that stay free beside the weights and this cache. `None` if they do not fit together, or if `free`
    /// is unknown. [`after_cache_of`](Self::after_cache_of) computes it for another context.
    pub after_kv_cache: Option<u64>,
    /// The figures of each device. Parts on the same device count together.
    pub devices: Vec<DeviceFit>,
    /// The configuration and the plan.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub planned: Planned,
}

/// The memory that a load needs on one device and that the device has, in bytes. The fields are those of [`Fit`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
#[allow(missing_docs, reason = "`Fit` documents the fields")]
pub struct DeviceFit {
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::serialize::text"))]
    pub device: DeviceKind,
    pub required: u64,
    pub reserve: u64,
    pub free: Option<u64>,
    pub total: Option<u64>,
    pub limit: Option<u64>,
    pub short_by: u64,
    /// Whether the weights fit without the reserve.
    #[cfg_attr(feature = "serde", serde(skip))]
    holds_weights: bool,
}

impl DeviceFit {
    pub(crate) fn new(needs: &MemoryNeeds, memory: Option<MemoryInfo>) -> Self {
        let required = needs.required();
        let over_limit = needs.limit.map_or(0, |limit| needs.arena.saturating_sub(limit));
        let wanted = required.saturating_add(needs.reserve);
        let missing = memory.map_or(0, |memory| wanted.saturating_sub(memory.free));
        Self {
            device: needs.device,
            required,
            reserve: needs.reserve,
            free: memory.map(|memory| memory.free),
            total: memory.map(|memory| memory.total),
            limit: needs.limit,
            short_by: missing.max(over_limit),
            holds_weights: over_limit == 0 && memory.is_none_or(|memory| required <= memory.free),
        }
    }
}

impl Fit {
    pub(crate) fn new(planned: Planned, device: Devices, devices: Vec<DeviceFit>) -> Self {
        let sum = |of: fn(&DeviceFit) -> u64| devices.iter().map(of).fold(0, u64::saturating_add);
        let known = |of: fn(&DeviceFit) -> Option<u64>| {
            devices.iter().try_fold(0_u64, |sum, device| Some(sum.saturating_add(of(device)?)))
        };
        let fit = Self {
            device,
            required: sum(|device| device.required),
            reserve: sum(|device| device.reserve),
            free: known(|device| device.free),
            total: known(|device| device.total),
            limit: devices.iter().find_map(|device| device.limit),
            short_by: sum(|device| device.short_by),
            kv_cache: None,
            after_kv_cache: None,
            devices,
            planned,
        };
        let context = u64::from(fit.planned.config.context_length);
        let kv_cache = fit.planned.config.kv_cache_bytes(context, 1, KvDtype::F16);
        Self { kv_cache, after_kv_cache: fit.after(kv_cache), ..fit }
    }

    /// Returns whether the load has enough memory now.
    pub fn fits(&self) -> bool {
        self.short_by == 0
    }

    /// Returns the bytes that stay free beside the weights and a key-value cache of this size
    /// ([`Phi3Config::kv_cache_bytes`](crate::Phi3Config::kv_cache_bytes)). `None` if they do not fit together
    /// ([`short_by_with_cache_of`](Self::short_by_with_cache_of) then gives the missing bytes), if the weights
    /// exceed [`limit`](Self::limit), or if [`free`](Self::free) is unknown. The reserve is not subtracted: it is
    /// meant for such a cache. With several devices, the cache can be divided among them in any way.
    pub fn after_cache_of(&self, context: u64, batch: u64, dtype: KvDtype) -> Option<u64> {
        self.after(self.planned.config.kv_cache_bytes(context, batch, dtype))
    }

    /// Returns the bytes that are missing for the weights and a key-value cache of this size, 0 if they fit together.
    /// `None` if [`free`](Self::free) is unknown, or if the sum exceeds 64 bits. The limit and the reserve are not
    /// considered.
    pub fn short_by_with_cache_of(&self, context: u64, batch: u64, dtype: KvDtype) -> Option<u64> {
        let cache = self.planned.config.kv_cache_bytes(context, batch, dtype)?;
        Some(self.required.checked_add(cache)?.saturating_sub(self.free?))
    }

    fn after(&self, kv_cache: Option<u64>) -> Option<u64> {
        let hold_weights = self.devices.iter().all(|device| device.holds_weights);
        self.free.filter(|_| hold_weights)?.checked_sub(self.required)?.checked_sub(kv_cache?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DeviceChoice, LoadOptions, Loader};

    #[test]
    fn free_bytes_of_one_device_do_not_make_up_for_those_of_another() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/models/fused-f16.gguf");
        let options = LoadOptions::new().devices([DeviceChoice::Host; 2]);
        let planned = Loader::new(options).plan(path).unwrap();
        let devices = [DeviceKind::Cuda(0), DeviceKind::Cuda(1)];
        let of = |device, free: u64| DeviceFit {
            device,
            required: 100,
            reserve: 10,
            free: Some(free),
            total: Some(1000),
            limit: None,
            short_by: 110_u64.saturating_sub(free),
            holds_weights: free >= 100,
        };
        let fit = |free: [u64; 2]| {
            let figures = devices.iter().zip(free).map(|(device, free)| of(*device, free));
            Fit::new(planned.clone(), Devices::new(devices), figures.collect())
        };
        let enough = fit([110, 900]);
        assert_eq!((enough.short_by, enough.required, enough.reserve), (0, 200, 20));
        assert_eq!((enough.free, enough.total), (Some(1010), Some(2000)));
        let full = fit([60, 900]);
        assert_eq!((full.short_by, full.fits(), full.after_kv_cache), (50, false, None));
        assert_eq!(full.devices.iter().map(|of| of.short_by).collect::<Vec<_>>(), [50, 0]);
        let without_reserve = fit([100, u64::MAX / 2]);
        assert!(!without_reserve.fits() && without_reserve.after_kv_cache.is_some());
    }
}
