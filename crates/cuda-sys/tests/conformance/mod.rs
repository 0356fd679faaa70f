//! The requirements for every device, written once. `host.rs` and `gpu.rs` run them on their device, with
//! one lane and with several.

use cuda_sys::{Device, DeviceBuffer, DeviceKind, EngineConfig, Error, Io};

mod bench;
mod columns;
mod copying;
pub(crate) mod decoding;
mod devices;
mod digest_definition;
mod examining;
mod fake_lanes;
mod lanes;
mod measure;
mod peers;
mod refusing;
mod sharing;
mod sources;
mod stopping;
pub(crate) use columns::{
    bad_columns_are_refused, cold_columns_stay_out_of_the_page_cache, columns_reach_their_lanes,
    shared_rows_are_read_once,
};
pub(crate) use copying::{
    an_empty_request_succeeds, copies_exactly_under_every_division,
    gaps_between_tensors_stay_unchanged, readers_take_stretches, small_tensors_share_chunks,
    storage_gets_more_readers, the_timeline_has_every_chunk,
};
pub(crate) use decoding::{a_tensor_scale_multiplies_before_rounding, decoders_match_gguf_py};
pub(crate) use devices::{
    absurd_allocations_are_out_of_memory, buffers_report_their_device, engines_run_side_by_side,
    handles_move_between_threads, several_threads_can_use_one_buffer,
};
pub(crate) use examining::{
    a_flipped_bit_changes_one_digest, digests_match_their_definition,
    floats_of_every_format_are_counted, infinities_and_nans_are_counted,
    operations_of_zeros_alone_are_found,
};
pub(crate) use fake_lanes::{a_lane_whose_device_fails_is_named, slow_lanes_get_their_bytes};
pub(crate) use lanes::{
    a_slot_waits_for_every_lane, destinations_must_match_the_lanes,
    several_lanes_get_the_bytes_of_one,
};
pub(crate) use measure::{every_work_has_a_rate, uploads_have_a_rate_on_a_gpu};
pub(crate) use peers::lanes_hand_bytes_on;
pub(crate) use refusing::{
    a_failing_read_carries_errno, a_truncated_file_is_noticed, bad_configurations_are_refused,
    bad_operations_are_refused,
};
pub(crate) use sharing::{
    descriptors_of_other_things_are_refused, identities_are_printable,
    imported_memory_can_be_written, memory_can_grow_and_shrink,
    other_processes_can_map_shared_memory, plain_memory_is_not_shared,
    protected_memory_is_not_written,
};
pub(crate) use sources::{
    a_call_can_be_cancelled_at_every_read, a_source_in_memory_is_read, every_read_fails_once,
    sources_that_wait_get_more_readers,
};
pub(crate) use stopping::{
    cancelling_stops_and_leaves_the_engine_usable, observer_panics_cross_the_bridge_safely,
    reports_progress_in_order,
};

const F32: u32 = 0;
const SMALL: EngineConfig = EngineConfig::new(3, 2, 4096, 4096);
/// Chunks that readers fill together.
const SHARED: EngineConfig = EngineConfig::new(5, 3, 40_000, 9000);
/// Large chunks, each read by one reader.
const LARGE: EngineConfig = EngineConfig::new(2, 1, 1 << 20, 1 << 20);
const IOS: [Io; 4] = [Io::Read, Io::Mapped, Io::Direct, Io::Auto];

/// The device and the lanes of a suite.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) device: DeviceKind,
    /// Number of destinations, all on this device.
    pub(crate) lanes: u32,
    /// Whether the destinations are memory that other processes can map.
    pub(crate) shareable: bool,
}

impl Setup {
    pub(crate) const fn plain(device: DeviceKind, lanes: u32) -> Self {
        Self { device, lanes, shareable: false }
    }

    pub(crate) const fn shareable(device: DeviceKind) -> Self {
        Self { device, lanes: 1, shareable: true }
    }

    pub(crate) fn allocate(&self, device: &Device, bytes: u64) -> Result<DeviceBuffer, Error> {
        match self.shareable {
            true => device.allocate_shareable(bytes),
            false => device.allocate(bytes),
        }
    }
}

/// Expands to one `#[test]` for each test of the suite that concerns one device and the memory that it shares, or that
/// adds a lane to another device.
macro_rules! device_suite {
    ($device:expr) => {
        conformance::tests! { $device;
            other_processes_can_map_shared_memory,
            protected_memory_is_not_written,
            imported_memory_can_be_written,
            descriptors_of_other_things_are_refused,
            memory_can_grow_and_shrink,
            plain_memory_is_not_shared,
            identities_are_printable,
            columns_reach_their_lanes,
            cold_columns_stay_out_of_the_page_cache,
            shared_rows_are_read_once,
            bad_columns_are_refused,
            slow_lanes_get_their_bytes,
            a_lane_whose_device_fails_is_named,
            every_work_has_a_rate,
            uploads_have_a_rate_on_a_gpu,
        }
    };
}
pub(crate) use device_suite;

/// Expands to one `#[test]` for each test of the suite that concerns memory or engines.
macro_rules! engine_suite {
    ($setup:expr) => {
        conformance::tests! { $setup;
            absurd_allocations_are_out_of_memory,
            buffers_report_their_device,
            a_flipped_bit_changes_one_digest,
            several_threads_can_use_one_buffer,
            decoders_match_gguf_py,
            a_tensor_scale_multiplies_before_rounding,
            copies_exactly_under_every_division,
            small_tensors_share_chunks,
            gaps_between_tensors_stay_unchanged,
            reports_progress_in_order,
            an_empty_request_succeeds,
            cancelling_stops_and_leaves_the_engine_usable,
            observer_panics_cross_the_bridge_safely,
            a_truncated_file_is_noticed,
            a_failing_read_carries_errno,
            bad_operations_are_refused,
            bad_configurations_are_refused,
            handles_move_between_threads,
            engines_run_side_by_side,
            digests_match_their_definition,
            infinities_and_nans_are_counted,
            floats_of_every_format_are_counted,
            operations_of_zeros_alone_are_found,
            the_timeline_has_every_chunk,
            readers_take_stretches,
            storage_gets_more_readers,
            a_source_in_memory_is_read,
            every_read_fails_once,
            a_call_can_be_cancelled_at_every_read,
            sources_that_wait_get_more_readers,
            several_lanes_get_the_bytes_of_one,
            a_slot_waits_for_every_lane,
            destinations_must_match_the_lanes,
        }
    };
}
pub(crate) use engine_suite;

macro_rules! tests {
    ($argument:expr; $($test:ident),* $(,)?) => {
        $(#[test] fn $test() { conformance::$test($argument); })*
    };
}
pub(crate) use tests;
