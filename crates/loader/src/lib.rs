//! Loads Phi-3 models from GGUF files into device memory, and verifies that all bytes arrived.
//!
//! ```
//! use loader::{DeviceChoice, LoadEvent, LoadOptions, Loader};
//! use std::ops::ControlFlow;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/models/fused-f16.gguf");
//! let mut loader = Loader::new(LoadOptions::new().device(DeviceChoice::Auto));
//! let model = loader.load(path, &mut |event: &LoadEvent<'_>| {
//!     if let LoadEvent::Progress { unit, of, label, .. } = event {
//!         println!("{unit} of {of}: {label}");
//!     }
//!     ControlFlow::Continue(())
//! })?;
//! println!("{} bytes on {}", model.vram_bytes(), model.device());
//! let q = &model.weights().layers[0].attn_q;
//! println!("layer 0: Q {:?} at {:#x}", q.shape, q.address);
//! # Ok(())
//! # }
//! ```
//!
//! # Threads
//!
//! [`LoadOptions`], [`LoadedModel`], [`CancelToken`], [`Fingerprint`], [`Rehash`] and [`Error`] are
//! `Send` and `Sync`. A [`Loader`] is `Send`. A load borrows its loader mutably; if several threads load
//! at the same time, each needs its own loader. Loads in one process share only the device and the page
//! cache.
//!
//! # Lower layers
//!
//! This crate calls the lower layers in order: `gguf_format` checks the file, `model_phi3` makes the plan,
//! and `cuda_sys` moves the bytes. Types of these crates that appear in this crate's signatures are
//! re-exported here. The first two crates are also re-exported as [`gguf_format`] and [`model_phi3`].
//!
//! The crate logs through `tracing`. It never installs a subscriber, prints or exits. The program
//! `phi3-loader` is a separate crate above this one.
//!
//! # Features
//!
//! No feature is on by default.
//!
//! - `cuda`: support for NVIDIA GPUs. The build needs `nvcc`.
//! - `serde`: [`LoadStats`] can be serialised.
//! - `output`: `OutputFile`, which replaces a file only when the new one is complete.
//! - `synth`: module `synth`, which writes files with the real shapes of a model and random weights.
//! - `measure`: module `measure`, for programs that measure loads.
#![forbid(unsafe_code)]

mod background;
pub mod c_weights;
mod cancel;
mod checks;
mod choice_text;
pub mod codes;
mod device_choice;
mod engine_config;
mod error;
mod event;
mod file_identity;
mod fingerprint;
pub mod host_memory;
mod loader;
#[cfg(feature = "measure")]
pub mod measure;
mod memory_account;
mod memory_needs;
mod model;
mod options;
#[cfg(feature = "output")]
mod output_file;
mod readback;
mod residency;
mod scales;
#[cfg(feature = "serde")]
mod serialize;
mod session;
mod source;
mod stats;
#[cfg(feature = "synth")]
pub mod synth;
#[cfg(test)]
mod test_plan;
pub mod threads;
mod transfer;
mod warning;

// The example in the README must compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

pub use crate::background::Background;
pub use crate::cancel::CancelToken;
pub use crate::codes::{FailureClass, FailureCode};
pub use crate::error::{Error, InsufficientMemory, NonFiniteTensor};
pub use crate::event::{LoadEvent, Observer, Unobserved};
pub use crate::fingerprint::{Fingerprint, Rehash, RehashStep};
pub use crate::loader::{Loader, Planned};
pub use crate::memory_account::MemoryAccount;
pub use crate::model::{LoadedModel, TensorView};
pub use crate::options::{DeviceChoice, LoadOptions, Verify};
#[cfg(feature = "output")]
pub use crate::output_file::OutputFile;
pub use crate::residency::Residency;
pub use crate::stats::{AllZeroTensor, LoadStats, Phases, Proof, TransferFigures};
pub use crate::warning::Warning;
pub use cuda_sys::{
    DeviceKind, Error as EngineError, ErrorCode as EngineErrorCode, Io, MemoryBound, MemoryInfo,
    Span, SpanKind,
};
pub use gguf_format::{Error as GgufError, GgufFile, Limits};
pub use model_phi3::{
    Error as ModelError, KvDtype, LayerWeights, LoadPlan, Matrix, ParseChoiceError, Phi3Config,
    Phi3Weights, Slot, SlotFormat, Storage,
};
// A header, a configuration or a plan refers to more types of these crates.
pub use {gguf_format, model_phi3};

const _: () = {
    const fn sent<T: Send>() {}
    const fn shared<T: Send + Sync>() {}
    sent::<Loader>();
    shared::<LoadOptions>();
    shared::<LoadedModel>();
    shared::<LoadStats>();
    shared::<CancelToken>();
    shared::<Fingerprint>();
    shared::<Rehash>();
    shared::<Error>();
};
