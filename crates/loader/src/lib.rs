//! Loads Phi-3 models from GGUF files into device memory, and verifies that all bytes arrived.
//!
//! ```
//! use loader::{CancelToken, DeviceChoice, Fused, LoadEvent, LoadOptions, Loader, Rehash, Slot};
//! use std::ops::ControlFlow;
//! use std::sync::Arc;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/models/fused-f16.gguf");
//! let mut loader = Loader::new(LoadOptions::new().device(DeviceChoice::Auto));
//!
//! // Optional: creating the context of a GPU takes most of the time of a process. Start it early.
//! loader.start_preparing();
//!
//! // Optional: the memory that the model needs, without loading it.
//! let fit = loader.fits(path)?;
//! println!("{} bytes required on {}, {} bytes missing", fit.required, fit.device, fit.short_by);
//!
//! // Another thread can cancel the load with a clone of the token. The observer cancels with `Break`.
//! let token = CancelToken::new();
//! let mut observer = |event: &LoadEvent<'_>| {
//!     if let LoadEvent::Progress { unit, of, label, .. } = event {
//!         println!("{unit} of {of}: {label}");
//!     }
//!     ControlFlow::Continue(())
//! };
//! let model = Arc::new(loader.load_cancellable(path, &mut observer, &token)?);
//! println!("{} bytes on {}", model.vram_bytes(), model.device());
//!
//! // The weights: addresses on the device.
//! let weights = model.weights().ok_or("several devices share the model")?;
//! let q = &weights.layers[0].attn_q;
//! println!("layer 0: Q {:?} at {:#x}", q.shape, q.address);
//! if let Some(qkv) = model.fused(Fused::AttnQkv(0)) {
//!     println!("Q, K and V are one matrix {:?} at {:#x}", qkv.shape, qkv.address);
//! }
//!
//! // The tokenizer, from the same header.
//! println!("end of text: {:?}", model.tokenizer()?.eos_id);
//!
//! // A weight that keeps the model in memory, for code that stores the address.
//! let norm = model.share(Slot::OutputNorm).ok_or("every model has this norm")?;
//!
//! // Later: are the weights where they were, and are they what they were?
//! let mut rehash = Rehash::new(model.fingerprint()?);
//! model.verify_residency()?;
//! rehash.step(&model, 64 << 20)?;
//! # drop(norm);
//! # Ok(())
//! # }
//! ```
//!
//! `examples/worker` in the repository is a daemon that does this: it loads, reports progress and health over HTTP,
//! and can be cancelled.
//!
//! | you want to | use |
//! |---|---|
//! | know whether a model fits | [`Loader::fits`]; [`Loader::plan`] needs no device, and does not count the 34 MiB (by default) that a GPU needs for conversions |
//! | keep memory free for a cache | [`LoadOptions::reserve`], [`Loader::set_reserve`] |
//! | open the device early | [`Loader::prepare`], [`Loader::start_preparing`] |
//! | choose a GPU | [`cuda_devices`], [`DeviceChoice`] |
//! | load to several GPUs | [`LoadOptions::devices`], [`LoadOptions::placement`], [`LoadedModel::parts`] |
//! | borrow the links of other GPUs | [`LoadOptions::via`] |
//! | load a file that is already open | [`Loader::load_file`]; every method takes an [`Input`] |
//! | cancel | [`CancelToken`], or [`ControlFlow::Break`](std::ops::ControlFlow::Break) from the observer |
//! | send events to another thread | [`LoadEvent::into_owned`] |
//! | act on an error | [`Error::code`], [`Error::class`], [`Error::retriable`], [`Error::help`] |
//! | read weights in host memory | [`LoadedModel::host_slice`], [`LoadedModel::host_bytes`] |
//! | read Q, K and V as one matrix in host memory | [`LoadedModel::share_fused`], then [`SharedTensor::host_slice`] |
//! | copy weights from any device | [`LoadedModel::read_slot`] |
//! | store addresses of weights | [`LoadedModel::share`], [`LoadedModel::share_fused`] |
//! | pass weights to C or C++ | [`LoadedModel::c_weights`], [`LoadedModel::shared_c_weights`] and `include/phi3_weights.h`; with several devices [`LoadedPart::c_weights`] |
//! | pass weights to PyTorch and others | `SharedTensor::to_dlpack` (feature `dlpack`) |
//! | keep weights when the process ends | [`Loader::load_resident`] with a [`keeper`]; [`LoadedModel::hand_over`], [`Loader::attach`] |
//! | protect weights from stray writes | [`LoadOptions::protect`] |
//! | replace a model by another one | [`Loader::replace`] |
//! | read tokens and chat template | [`LoadedModel::tokenizer`], [`LoadedModel::metadata`] |
//! | check the weights later | [`LoadedModel::verify_residency`], [`Rehash`], [`LoadedModel::verify_fingerprint`] |
//!
//! # Weights in memory
//!
//! All weights on a device are in one allocation. It is freed when the model is dropped: when the last
//! [`Arc`](std::sync::Arc), [`SharedTensor`] or DLPack tensor of it is dropped. On a GPU the memory belongs to the primary context of
//! the device, which the CUDA runtime, PyTorch and cudarc use as well. When a load returns, the weights are
//! complete for every stream. They start on multiples of 256 bytes, except parts of a tensor that the file has
//! fused: K, V and up, for example, start on a row. Do not write to them: other code may read them at the same time.
//!
//! # Weights that outlive the process
//!
//! A worker that is restarted need not load its weights again. Their memory exists as long as any process holds its
//! descriptors: a [`keeper`], the service manager, or the next worker.
//!
//! ```
//! use keeper::{Connection, Keeper, KeeperOptions};
//! use loader::{CancelToken, DeviceChoice, LoadOptions, Loader, Mismatch, Resident, Unobserved};
//! # use std::os::fd::AsFd;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/models/fused-f16.gguf");
//! # let folder = tempfile::tempdir()?;
//! # let socket = folder.path().join("keeper.sock");
//! // Usually another process: `phi3-loader hold --socket SOCKET`.
//! let mut keeper = Keeper::bind(&socket, KeeperOptions::new())?;
//! # let (stop, stopper) = std::io::pipe()?;
//! # std::thread::spawn(move || keeper.run(stop.as_fd()));
//!
//! let mut connection = Connection::open(&socket)?;
//! let mut loader = Loader::new(LoadOptions::new().device(DeviceChoice::Host));
//! let mut load = |token: &CancelToken| {
//!     loader.load_resident(path, &mut connection, Mismatch::Fail, &mut Unobserved, token)
//! };
//! let first = load(&CancelToken::new())?;
//! assert_eq!(first.stats().resident, Resident::Published);
//! drop(first); // or the process is killed
//!
//! let second = load(&CancelToken::new())?;
//! assert_eq!(second.stats().resident, Resident::Attached);
//! # drop(stopper);
//! # Ok(())
//! # }
//! ```
//!
//! Attached weights are read-only, and several processes share one copy. Their content is proven before the model is
//! returned.
//!
//! # Several devices
//!
//! A load can divide a model among devices: GPUs, host memory, or both. Each holds a part ([`LoadedPart`]). The file is
//! read once. By default each device holds consecutive layers; a [`Placement`] chooses another [`SplitMode`].
//!
//! ```
//! use loader::{DeviceChoice, LoadOptions, Loader, Placement, Slot, SplitMode, Unobserved};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/models/fused-f16.gguf");
//! // Two parts in host memory. With GPUs: `[DeviceChoice::Cuda(0), DeviceChoice::Cuda(1)]`.
//! let options = LoadOptions::new()
//!     .devices([DeviceChoice::Host, DeviceChoice::Host])
//!     .placement(Placement::new(SplitMode::Layer, 2)?.with_proportions(&[2.0, 1.0])?);
//! let model = Loader::new(options).load(path, &mut Unobserved)?;
//! for part in model.parts() {
//!     println!("{} bytes on {}", part.vram_bytes(), part.device());
//!     if let Some(q) = part.slot(Slot::AttnQ(0)) {
//!         println!("rows {:?} and columns {:?} of layer 0's Q at {:#x}", q.rows, q.cols, q.address);
//!     }
//! }
//! // Whole weights, put together from the parts.
//! let q = model.read_slot(Slot::AttnQ(0))?;
//! # drop(q);
//! # Ok(())
//! # }
//! ```
//!
//! [`LoadedModel::slot`] and the other methods of the model that return an address return only weights that one device
//! holds whole, with their [device](TensorView::device). [`LoadedModel::weights`] and [`LoadedModel::c_weights`] return
//! `None` if no device holds the whole model. Thus code that was written for one device never takes a part for the whole.
//!
//! A device can be named several times: its parts count together for free memory and limits. The contexts of several GPUs
//! are created side by side. If one device fails or has too little memory, the load fails, names the device, and frees the
//! memory of all. Memory is checked on all devices before anything is allocated, and everything is allocated before the
//! first byte is read.
//!
//! # Logs
//!
//! The crate logs through `tracing`. It never installs a subscriber, prints or exits.
//!
//! Targets are the crate's modules, such as `loader::transfer`. The filter `loader=debug` shows everything.
//!
//! All events of a load are in one span `load` of level INFO and target `loader::loader`, with the fields `path`,
//! `storage`, `verify` and, when it is known, `device`. A filter that hides this level or target also hides the fields.
//! Events of `prepare` and `fits` are outside of the span. The event of a failed load has the target `loader::failure`:
//! a program that prints the returned error itself can filter that out.
//!
//! | level | event | fields |
//! |---|---|---|
//! | ERROR | `load failed: ...` | `code`, `class`, `retriable` |
//! | WARN | a possible fault of the file | `code` |
//! | WARN | a tensor that is all zero, or has infinite or NaN weights | |
//! | INFO | `auto chose ...` | `device` |
//! | INFO | `loading model` | `layers`, `hidden`, `vocab`, `attention`, `q_heads`, `kv_heads`, `vram_bytes` |
//! | INFO | `device open` | `device`, `name`, `readers`, `storage_readers`, `depth`, `chunk_bytes`, `read_bytes` |
//! | INFO | `loading`, at most three times in a load | `unit`, `of`, `bytes`, `of_bytes` |
//! | INFO | `model resident` | `vram_bytes`, `seconds`, `transfer_seconds`, `gb_per_s` |
//! | INFO | `load cancelled` | `code`, `class` |
//! | DEBUG | `memory allocated` | `free_before`, `free_after`, `total`, `arena` |
//! | DEBUG | `Layer 0 loaded` and so on, one for each unit | `unit`, `of`, `bytes` |
//!
//! # Threads
//!
//! [`LoadOptions`], [`LoadedModel`], [`CancelToken`], [`Fingerprint`], [`Rehash`] and [`Error`] are
//! `Send` and `Sync`. A [`Loader`] is `Send`. Methods that load, open a device or digest weights block: an async
//! program calls them in `spawn_blocking`. A load borrows its loader mutably; if several threads load
//! at the same time, each needs its own loader. Loads in one process share only the device and the page
//! cache.
//!
//! # One of several GPUs
//!
//! When the CUDA driver starts, it starts every visible GPU. A process that uses only one saves time if the others are hidden: with
//! two H100, creating a context takes 0.25 s instead of 0.455 s. Set `CUDA_VISIBLE_DEVICES` to the number or the UUID of the GPU, in the
//! unit file of the service (`Environment=CUDA_VISIBLE_DEVICES=3`), or in `main` before there are threads. The GPU is then
//! [`DeviceChoice::Cuda(0)`](DeviceChoice::Cuda).
//!
//! # Lower layers
//!
//! This crate calls the lower layers in order: `gguf_format` checks the file, `model_phi3` makes the plan,
//! and `cuda_sys` moves the bytes. Types of these crates that appear in this crate's signatures are
//! re-exported here. The first two crates are also re-exported, as `loader::gguf_format` and `loader::model_phi3`.
//!
//! The program `phi3-loader` is a separate crate above this one.
//!
//! # Features
//!
//! No feature is on by default.
//!
//! - `cuda`: support for NVIDIA GPUs. The build needs `nvcc`.
//! - `serde`: configurations, plans, events, statistics, fingerprints and errors can be serialised. Events
//!   are lines of `phi3-loader load --json`. A [`Phi3Config`] and a [`Fingerprint`] can also be read back.
//! - `dlpack`: module `dlpack`, weights as tensors for PyTorch, NumPy and others, without a copy.
//! - `output`: `OutputFile`, which replaces a file only when the new one is complete.
//! - `synth`: module `synth`, which writes files with the real shapes of a model and random weights.
//! - `measure`: module `measure`, for programs that measure loads.
#![deny(unsafe_code)]

mod assemble;
mod background;
pub mod c_weights;
mod cancel;
mod checks;
mod choice_text;
pub mod codes;
mod device_choice;
mod devices;
#[cfg(feature = "dlpack")]
pub mod dlpack;
mod engine_config;
mod error;
mod event;
mod file_identity;
mod fingerprint;
mod fit;
pub mod host_memory;
mod host_view;
mod input;
mod loader;
#[cfg(feature = "measure")]
pub mod measure;
mod memory_account;
mod memory_needs;
mod model;
mod options;
#[cfg(feature = "output")]
mod output_file;
mod part;
mod readback;
mod replace;
mod residency;
mod resident;
mod reuse;
mod scales;
#[cfg(feature = "serde")]
mod serialize;
mod session;
mod shared_tensor;
mod source;
mod stats;
mod stored_model;
#[cfg(feature = "synth")]
pub mod synth;
#[cfg(test)]
mod test_plan;
pub mod threads;
mod transfer;
mod turns;
mod verify_file;
mod warning;

// The example in the README must compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

pub use crate::background::Background;
pub use crate::cancel::CancelToken;
pub use crate::codes::{FailureClass, FailureCode};
pub use crate::devices::{Devices, cuda_devices};
pub use crate::error::{Error, InsufficientMemory, NonFiniteTensor};
pub use crate::event::{LoadEvent, Observer, Unobserved};
pub use crate::fingerprint::{Fingerprint, Rehash, RehashStep};
pub use crate::fit::{DeviceFit, Fit};
pub use crate::host_view::WeightElement;
pub use crate::input::Input;
pub use crate::loader::{Loader, Planned};
pub use crate::memory_account::MemoryAccount;
pub use crate::model::LoadedModel;
pub use crate::options::{DeviceChoice, LoadOptions, Verify};
#[cfg(feature = "output")]
pub use crate::output_file::OutputFile;
pub use crate::part::{LoadedPart, PartView, TensorView};
pub use crate::replace::{Replace, ReplaceError};
pub use crate::residency::Residency;
pub use crate::resident::Mismatch;
#[cfg(feature = "serde")]
pub use crate::serialize::FileName;
pub use crate::shared_tensor::SharedTensor;
pub use crate::stats::{
    AllZeroTensor, LinkFigures, LoadStats, PartStats, Phases, Proof, Resident, TransferFigures,
};
pub use crate::verify_file::{
    FileDigest, FileReport, TensorReport, VerifyFileOptions, verify_file,
};
pub use crate::warning::Warning;
pub use cuda_sys::{
    CudaDeviceInfo, DeviceKind, Error as EngineError, ErrorCode as EngineErrorCode, Io,
    MemoryBound, MemoryInfo, Span, SpanKind, cuda_compiled,
};
pub use gguf_format::{Error as GgufError, GgufFile, Limits};
pub use model_phi3::{
    Error as ModelError, Fused, HeadRange, InvalidPlacement, KvDtype, LayerWeights, LoadPlan,
    Matrix, ParseChoiceError, Phi3Config, Phi3Weights, PlacedPart, PlacedPlan, PlacedSlot,
    Placement, Slot, SlotFormat, SplitMode, Storage, Tokenizer,
};
// A header, a configuration, a plan or weights refer to more types of these crates.
pub use {gguf_format, half, keeper, model_phi3};

const _: () = {
    const fn sent<T: Send>() {}
    const fn shared<T: Send + Sync>() {}
    sent::<Loader>();
    shared::<LoadOptions>();
    shared::<LoadedModel>();
    shared::<LoadStats>();
    shared::<SharedTensor>();
    shared::<c_weights::CWeights<std::sync::Arc<LoadedModel>>>();
    shared::<LoadEvent<'static>>();
    shared::<CancelToken>();
    shared::<Fingerprint>();
    shared::<Rehash>();
    shared::<Error>();
};
