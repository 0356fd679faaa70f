//! Devices, device memory, and the engine that moves bytes of files to them.
//!
//! C++ and CUDA in the workspace's `cuda/` folder do the work; this crate is a safe interface to them. It
//! knows byte ranges and conversions, but no model.
//!
//! There are two kinds of devices with one interface: host memory is always available, NVIDIA GPUs need
//! the feature `cuda`, and its build needs `nvcc`. If a GPU is used in a build without the feature, the
//! error is [`ErrorCode::DeviceUnavailable`].
//!
//! ```
//! use cuda_sys::{CopyOp, Device, DeviceKind, Engine, EngineConfig, Io, Request, SourceFile, StagingRing};
//! use std::io::Write;
//! use std::ops::ControlFlow;
//! use std::os::fd::AsFd;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut file = tempfile::tempfile()?;
//! file.write_all(b"bytes of a tensor")?;
//!
//! let device = Device::open(DeviceKind::Host)?;
//! let ring = StagingRing::new(EngineConfig {
//!     readers: 2,
//!     storage_readers: 8,
//!     depth: 2,
//!     chunk_bytes: 1 << 20,
//!     read_bytes: 1 << 18,
//! })?;
//! let mut engine = Engine::new(&device, ring)?;
//! let mut buffer = device.allocate(17)?;
//! engine.execute(
//!     Request::new(
//!         &[SourceFile { file: file.as_fd(), bytes: 17 }.into()],
//!         Io::Read,
//!         &[CopyOp::copy(0, 17, 0)],
//!         1,
//!     ),
//!     &mut buffer,
//!     &mut |_| ControlFlow::Continue(()),
//! )?;
//!
//! let mut read_back = [0; 17];
//! buffer.read(0, &mut read_back)?;
//! assert_eq!(&read_back, b"bytes of a tensor");
//! # Ok(())
//! # }
//! ```

mod bridge;
mod copy_op;
mod decode;
mod device;
mod device_buffer;
mod digest;
mod engine;
mod error;
#[cfg(feature = "fake-device")]
pub mod fake;
#[cfg(test)]
mod host_memory_tests;
mod io;
mod lanes;
#[cfg(feature = "measure")]
pub mod measure;
mod observer;
mod sources;
mod timeline;

pub use copy_op::{Columns, Conversion, CopyOp, FloatFormat};
pub use decode::{Decoder, HostIsa, decode_to_f16, decode_to_f32, decoders};
pub use device::{
    CudaBuild, CudaDeviceInfo, Device, DeviceKind, MemoryBound, MemoryInfo, cuda_build,
    cuda_compiled, cuda_devices, number_gpus_from,
};
pub use device_buffer::{Access, DeviceBuffer, Location, SharedMemory};
pub use digest::{Digest, ParseDigestError};
pub use engine::{Engine, EngineConfig, OpReport, Request, StagingRing, Stats, least_chunk_bytes};
pub use error::{Error, ErrorCode};
pub use io::{Io, ParseIoError};
pub use observer::Progress;
pub use sources::{PositionedRead, ReadHints, Source, SourceFile, Stop};
pub use timeline::{Span, SpanKind};
