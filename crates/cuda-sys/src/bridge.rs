//! The bridge between Rust and C++.

#![allow(
    missing_docs,
    unreachable_pub,
    elided_lifetimes_in_paths,
    clippy::multiple_unsafe_ops_per_block,
    clippy::too_many_arguments,
    reason = "private; the safe wrappers document what users see, and cxx's expansion sets the rest"
)]

use crate::lanes::{Destinations, LaneDevices};
use crate::observer::ObserverShim;
use crate::sources::SourceReaders;

#[cxx::bridge(namespace = "phi3::transfer::bridge")]
pub(crate) mod ffi {
    struct ByteRange {
        offset: u64,
        bytes: u64,
    }

    #[derive(Clone, Copy)]
    struct Digest {
        sum: u64,
        mix: u64,
    }

    struct OpReport {
        operation: u32,
        lane: u32,
        infinite: u64,
        nan: u64,
        all_zero: bool,
        source: Digest,
        device: Digest,
    }

    struct DecoderInfo {
        ggml_type: u32,
        name: String,
        block_len: u32,
        block_bytes: u32,
        has_tensor_scale: bool,
    }

    struct DeviceInfo {
        ordinal: i32,
        name: String,
        pci_bus_id: String,
        identity: String,
        compute_major: i32,
        compute_minor: i32,
        total_bytes: u64,
    }

    struct ExecuteStats {
        source_bytes: u64,
        chunks: u64,
        readers: u32,
        seconds: f64,
        fell_back: bool,
        pinned: bool,
        link_bytes: Vec<u64>,
        timeline: Vec<TimelineSpan>,
        operations: Vec<OpReport>,
    }

    struct TimelineSpan {
        reader: u32,
        lane: u32,
        kind: u32,
        chunk: u64,
        start: f64,
        end: f64,
        first_op: u32,
        op_count: u32,
    }

    struct Location {
        address: u64,
        kind: u32,
        ordinal: i32,
    }

    struct Memory {
        known: bool,
        free_bytes: u64,
        total_bytes: u64,
        bound: u32,
    }

    struct SharedMemory {
        descriptor: i32,
        bytes: u64,
    }

    #[allow(dead_code, reason = "as host_memory_below")]
    struct ProcessLimits {
        address_space: u64,
        data: u64,
    }

    #[cfg(feature = "measure")]
    struct Rate {
        median: f64,
        minimum: f64,
        maximum: f64,
    }

    struct RingShape {
        readers: u32,
        storage_readers: u32,
        depth: u32,
        chunk_bytes: u64,
        read_bytes: u64,
    }

    struct SourceInfo {
        is_file: bool,
        descriptor: i32,
        bytes: u64,
        whole_pages: bool,
        read_bytes: u64,
        concurrent: bool,
    }

    struct ReadOutcome {
        failed: bool,
        code: i32,
        status: i32,
        context: String,
    }

    #[cfg(feature = "measure")]
    struct UploadShape {
        chunk_bytes: u64,
        streams: u32,
        depth: u32,
        total_bytes: u64,
    }

    #[cfg(feature = "measure")]
    struct WorkShape {
        work: u32,
        ggml_type: u32,
        elements: u64,
        threads: u32,
    }

    extern "Rust" {
        type ObserverShim<'a>;
        fn on_progress(&mut self, units_done: u32, bytes_done: u64, lane_bytes: &[u64]) -> bool;
    }

    extern "Rust" {
        type LaneDevices<'a>;
        fn count(&self) -> usize;
        unsafe fn device<'a>(self: &LaneDevices<'a>, lane: usize) -> &'a Device;
    }

    extern "Rust" {
        type Destinations<'a>;
        fn count(&self) -> usize;
        unsafe fn take<'a>(self: &mut Destinations<'a>) -> Pin<&'a mut Buffer>;
    }

    extern "Rust" {
        type SourceReaders<'a>;
        fn read(&self, index: usize, offset: u64, out: &mut [u8], stop: &Stop) -> ReadOutcome;
    }

    unsafe extern "C++" {
        include!("transfer/bridge.hpp");

        #[namespace = "phi3::transfer"]
        type CopyOp = crate::copy_op::CopyOp;

        type Buffer;
        type Device;
        type Engine;
        type Ring;
        type Stop;

        fn is_set(self: &Stop) -> bool;

        fn cuda_compiled() -> bool;
        fn decoders() -> Vec<DecoderInfo>;
        fn decode_to_f16(
            ggml_type: u32,
            blocks: &[u8],
            halves: &mut [u16],
            scale: f32,
            baseline: bool,
        ) -> bool;
        fn decode_to_f32(ggml_type: u32, blocks: &[u8], values: &mut [f32]) -> bool;
        #[allow(dead_code, reason = "for tests: the engine uses the best one alone")]
        fn digest_with_each_instruction_set(bytes: &[u8], offset: u64) -> Result<Vec<Digest>>;
        fn cuda_devices() -> Result<Vec<DeviceInfo>>;
        fn ring_bytes(shape: &RingShape) -> u64;
        fn least_chunk_bytes(ops: &[CopyOp]) -> u64;
        #[allow(dead_code, reason = "for tests: the engine asks below no root")]
        fn host_memory_below(root: &str, limits: &ProcessLimits) -> Result<Memory>;

        fn open_host() -> Result<UniquePtr<Device>>;
        fn open_cuda(ordinal: i32, first: i32) -> Result<UniquePtr<Device>>;
        fn kind(self: &Device) -> u32;
        fn ordinal(self: &Device) -> i32;
        fn name(self: &Device) -> Result<String>;
        fn identity(self: &Device) -> Result<String>;
        fn memory(self: &Device) -> Result<Memory>;

        fn allocate(device: &Device, bytes: u64) -> Result<UniquePtr<Buffer>>;
        fn allocate_shareable(device: &Device, bytes: u64) -> Result<UniquePtr<Buffer>>;
        fn import_memory(
            device: &Device,
            shares: &[SharedMemory],
            bytes: u64,
            writable: bool,
        ) -> Result<UniquePtr<Buffer>>;
        fn address(self: &Buffer) -> u64;
        fn size(self: &Buffer) -> u64;
        fn read(self: &Buffer, offset: u64, out: &mut [u8]) -> Result<()>;
        fn write(self: Pin<&mut Buffer>, offset: u64, bytes: &[u8]) -> Result<()>;
        fn digests(self: &Buffer, ranges: &[ByteRange]) -> Result<Vec<Digest>>;
        fn locate(self: &Buffer, offset: u64) -> Result<Location>;
        fn is_writable(self: &Buffer) -> bool;
        fn is_shareable(self: &Buffer) -> bool;
        fn is_shared(self: &Buffer) -> bool;
        fn may_change(self: &Buffer) -> bool;
        fn protect(self: Pin<&mut Buffer>) -> Result<()>;
        fn share(self: Pin<&mut Buffer>) -> Result<Vec<SharedMemory>>;
        fn resize(self: Pin<&mut Buffer>, bytes: u64) -> Result<()>;
        fn give_access(self: Pin<&mut Buffer>, peer: &Device) -> Result<()>;

        #[cfg(feature = "measure")]
        fn measure_upload(device: &Device, shape: &UploadShape, runs: u32) -> Result<Rate>;
        #[cfg(feature = "measure")]
        fn measure_work(device: &Device, shape: &WorkShape, runs: u32) -> Result<Rate>;

        fn make_ring(shape: &RingShape) -> Result<UniquePtr<Ring>>;
        fn make_engine(
            devices: &LaneDevices<'_>,
            helpers: u32,
            ring: UniquePtr<Ring>,
            shape: &RingShape,
        ) -> Result<UniquePtr<Engine>>;
        fn conversion_bytes(self: &Engine, lane: u32) -> u64;
        fn execute(
            self: Pin<&mut Engine>,
            sources: &[SourceInfo],
            readers: &SourceReaders<'_>,
            io: u32,
            ops: &[CopyOp],
            units: u32,
            digest: bool,
            timeline: bool,
            dests: &mut Destinations<'_>,
            observer: &mut ObserverShim<'_>,
        ) -> Result<ExecuteStats>;
    }
}

// SAFETY: every method of the C++ Device makes its GPU current for the calling thread before it
// calls CUDA, and its destructor only drops a reference count; nothing in it is bound to the
// thread that made it.
unsafe impl Send for ffi::Device {}
// SAFETY: a C++ Device is immutable after construction, and the CUDA calls of its const methods
// may be made from several threads at once.
unsafe impl Sync for ffi::Device {}
// SAFETY: as for Device; the destructor makes the buffer's own GPU current before it frees.
unsafe impl Send for ffi::Buffer {}
// SAFETY: const methods of a C++ DeviceBuffer may be called from several threads at once: address and size
// never change, and device-to-host copies and pointer queries may run concurrently. digests() uses a stream
// and memory of the buffer, and protects both with a mutex.
unsafe impl Sync for ffi::Buffer {}
// SAFETY: a Ring is plain memory, independent of the thread that mapped it.
unsafe impl Send for ffi::Ring {}
// SAFETY: between calls, an Engine has no running thread and nothing in flight. Its reader threads make the
// GPU current themselves, and so does its destructor for the thread that it runs on.
unsafe impl Send for ffi::Engine {}
