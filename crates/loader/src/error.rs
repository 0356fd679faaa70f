//! The errors of a load, with stable codes.

use crate::codes::{self, FailureClass, FailureCode};
use cuda_sys::{DeviceKind, ErrorCode, MemoryInfo};
use gguf_format::{IoError, path_text};
use model_phi3::{InvalidPlacement, SlotFormat};
use std::path::{Path, PathBuf};

/// The required and the available memory of a load that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InsufficientMemory {
    /// The device that the load was for.
    pub device: DeviceKind,
    /// Bytes that the load needs on this device: the weights, memory for converting them and, on the
    /// host, the staging memory.
    pub required: u64,
    /// Bytes of staging memory in `required`. 0 on a GPU, and 0 if the loader has already allocated it.
    pub staging: u64,
    /// Bytes that must stay free in addition to `required`.
    pub reserve: u64,
    /// The device's free and total memory in bytes; `None` if they are unknown.
    pub memory: Option<MemoryInfo>,
    /// The caller's own limit in bytes, if it was too small.
    pub limit: Option<u64>,
}

impl std::fmt::Display for InsufficientMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { device, required, staging, reserve, memory, limit } = self;
        write!(f, "{device} cannot hold the weights: {}, ", bytes(*required, "required"))?;
        if *staging != 0 {
            write!(f, "{}, ", bytes(*staging, "of them for staging"))?;
        }
        if *reserve != 0 {
            write!(f, "{}, ", bytes(*reserve, "reserved in addition"))?;
        }
        if let Some(limit) = limit {
            write!(f, "{}, ", bytes(*limit, "available under the caller's limit"))?;
        }
        match (memory, device) {
            // The caller's limit decides, not that of the host.
            (Some(memory), DeviceKind::Host) if limit.is_none() => {
                write!(f, "{}", host_figures(memory))
            }
            (Some(memory), _) => write!(f, "{}", figures(memory)),
            (None, _) => f.write_str("the free memory is unknown"),
        }
    }
}

/// Formats the host's free and total memory and the limit that applies, for messages.
pub(crate) fn host_figures(memory: &MemoryInfo) -> String {
    format!("{}, limited by {}", figures(memory), memory.bound)
}

fn figures(memory: &MemoryInfo) -> String {
    let MemoryInfo { free, total, .. } = memory;
    let binary = match *total {
        ..MIB => String::new(),
        _ => format!(" ({} of {})", binary(*free), binary(*total)),
    };
    format!("{free} bytes free of {total} bytes total{binary}")
}

const MIB: u64 = 1 << 20;

/// Says what a number of bytes is. From 1 MiB on, the text also has the unit in which tools for GPUs show memory.
pub(crate) fn bytes(count: u64, what: &str) -> String {
    match count {
        ..MIB => format!("{count} bytes {what}"),
        _ => format!("{count} bytes {what} ({})", binary(count)),
    }
}

fn binary(bytes: u64) -> String {
    let mib = bytes as f64 / MIB as f64;
    if mib < 1024.0 { format!("{mib:.2} MiB") } else { format!("{:.2} GiB", mib / 1024.0) }
}

/// The reason why a load failed. Nothing stays allocated.
///
/// A message is complete: it contains the message of its cause. Print it alone, without the messages
/// of the chain. [`source`](std::error::Error::source) returns the cause for programs: the chain of
/// every error of reading or writing ends with the [`std::io::Error`].
///
/// Errors can be cloned. With the feature `serde`, an error is serialised as an object with the fields `code`,
/// `class`, `message`, `help`, `retriable` and `exit_code`.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file's header is malformed or cannot be read. The message names the file.
    #[error(transparent)]
    Gguf(#[from] gguf_format::Error),
    /// The file is valid but holds no Phi-3 model that can be loaded.
    #[error("{path}: {source}", path = path_text(path))]
    #[non_exhaustive]
    Model {
        /// The file.
        path: PathBuf,
        /// The cause: the fault of its model.
        source: model_phi3::Error,
    },
    /// The file changed during the load.
    #[error("{path}: the file changed during the load: {what}", path = path_text(path))]
    #[non_exhaustive]
    FileChanged {
        /// The file.
        path: PathBuf,
        /// The observation that shows the change.
        what: String,
        /// The error of the operating system, if that shows the change: for example, the file no longer
        /// exists.
        source: Option<IoError>,
    },
    /// Reading the file's data failed.
    #[error("{path}: {source}", path = path_text(path))]
    #[non_exhaustive]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause: the failed read.
        source: cuda_sys::Error,
    },
    /// Writing an output file failed.
    #[error("{path}: {source}", path = path_text(path))]
    #[non_exhaustive]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause: the failed write.
        source: IoError,
    },
    /// The weights do not fit into the device's memory.
    #[error("{0}")]
    InsufficientMemory(InsufficientMemory),
    /// The host has too little memory for the other needs of a load, such as the header and the threads.
    #[error("{what}")]
    #[non_exhaustive]
    HostMemory {
        /// The purpose of the memory, and the required and free bytes.
        what: String,
    },
    /// An option is outside its range, for example 0 threads.
    #[error("invalid option: {option} is {value}, but must be from {least} to {most}")]
    #[non_exhaustive]
    InvalidOption {
        /// The option: a field of [`LoadOptions`](crate::LoadOptions).
        option: &'static str,
        /// Its value.
        value: u64,
        /// The smallest valid value.
        least: u64,
        /// The largest valid value.
        most: u64,
    },
    /// There are no devices, or too many.
    #[error("invalid option: {0}")]
    InvalidPlacement(#[from] InvalidPlacement),
    /// The placement is for another number of devices than the options name.
    #[error(
        "invalid option: the placement is for {placement} devices, but the options name {devices}"
    )]
    #[non_exhaustive]
    DeviceCount {
        /// The number of devices in [`LoadOptions::devices`](crate::LoadOptions::devices).
        devices: usize,
        /// The number of devices of the placement.
        placement: usize,
    },
    /// The device failed, or the engine refused the request.
    #[error(transparent)]
    Engine(#[from] cuda_sys::Error),
    /// The weights on the device are wrong.
    #[error("verification failed: {what}")]
    #[non_exhaustive]
    Verification {
        /// The slot or figure that is wrong, with the expected and the actual value.
        what: String,
    },
    /// Resident weights cannot be used.
    #[error("the resident weights cannot be used: {}", gguf_format::escape(what))]
    #[non_exhaustive]
    Resident {
        /// The reason. It may contain texts of a manifest.
        what: String,
    },
    /// The place where resident weights are kept failed.
    #[error("{}", gguf_format::escape(&.0.to_string()))]
    Keeper(#[source] keeper::Error),
    /// Weights in the memory of this process alone were to be handed over.
    #[error("invalid option: the model was loaded without the option `shareable`")]
    NotShareable,
    /// Loaded weights are infinite or NaN, and the caller refuses such weights.
    #[error("{}", non_finite_text(.0))]
    NonFinite(Vec<NonFiniteTensor>),
    /// The header of the file is valid, but the rest is not: see [`FileReport`](crate::FileReport).
    #[error("{path}: {what}", path = path_text(path))]
    #[non_exhaustive]
    DamagedFile {
        /// The file.
        path: PathBuf,
        /// The faults.
        what: String,
    },
    /// The observer or a [`CancelToken`](crate::CancelToken) asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// A tensor with loaded weights that are infinite or NaN.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NonFiniteTensor {
    /// The name of the tensor in the file.
    pub tensor: String,
    /// The format in which its weights were loaded.
    pub format: SlotFormat,
    /// The number of infinite weights. They are infinite in the file, or too large for the format.
    pub infinite: u64,
    /// The number of NaN weights.
    pub nan: u64,
    /// The device of these weights; `None` if the load has one device.
    pub device: Option<DeviceKind>,
}

impl std::fmt::Display for NonFiniteTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { tensor, format, infinite, nan, device } = self;
        let tensor = gguf_format::escape(tensor);
        let format = format.ggml_type().name().to_ascii_lowercase();
        write!(f, "{tensor} has {infinite} infinite and {nan} NaN weights as {format}")?;
        device.map_or(Ok(()), |device| write!(f, " on {device}"))
    }
}

/// The largest number of tensors that a message names.
const SHOWN_TENSORS: usize = 5;

fn non_finite_text(tensors: &[NonFiniteTensor]) -> String {
    let mut text: Vec<_> = tensors.iter().take(SHOWN_TENSORS).map(ToString::to_string).collect();
    if tensors.len() > SHOWN_TENSORS {
        text.push(format!("and {} more tensors", tensors.len() - SHOWN_TENSORS));
    }
    text.join("; ")
}

impl Error {
    /// Returns the error of a load for this model error of this file.
    pub fn of_model(path: &Path, error: model_phi3::Error) -> Self {
        Self::Model { path: path.to_owned(), source: error }
    }

    /// Returns every code that [`code`](Self::code) can return. Future versions only append to the list.
    pub fn all_codes() -> Vec<&'static str> {
        FailureCode::all().iter().map(|facts| facts.code).collect()
    }

    /// Returns the facts about this kind of failure. They do not depend on the file or the device.
    pub fn facts(&self) -> FailureCode {
        match self {
            Self::Gguf(error) => error.facts().into(),
            Self::Model { source, .. } => source.facts().into(),
            Self::FileChanged { .. } => codes::FILE_CHANGED,
            Self::Read { .. } => codes::READ_FAILED,
            Self::Write { .. } => codes::WRITE_FAILED,
            Self::InsufficientMemory(_) => codes::INSUFFICIENT_VRAM,
            Self::HostMemory { .. } => codes::INSUFFICIENT_HOST_MEMORY,
            Self::InvalidOption { .. }
            | Self::InvalidPlacement(_)
            | Self::DeviceCount { .. }
            | Self::NotShareable => codes::INVALID_OPTION,
            Self::Resident { .. } => codes::RESIDENT_REFUSED,
            Self::Keeper(error) => keeper_facts(error),
            Self::Engine(error) => engine_facts(error.code()),
            Self::Verification { .. } => codes::VERIFICATION_FAILED,
            Self::NonFinite(_) => codes::NON_FINITE_WEIGHTS,
            Self::DamagedFile { .. } => codes::FILE_DAMAGED,
            Self::Cancelled => codes::CANCELLED,
        }
    }

    /// Returns the stable name of this failure.
    pub fn code(&self) -> &'static str {
        self.facts().code
    }

    /// Returns the process exit code for this failure: 1 to 9, or 130. If SIGTERM cancelled the load, the
    /// program exits with 143 instead.
    pub fn exit_code(&self) -> u8 {
        self.facts().exit_code
    }

    /// Returns the worker's class of this failure.
    pub fn class(&self) -> FailureClass {
        self.facts().class()
    }

    /// Returns whether the same load can succeed later without any change by the user.
    pub fn retriable(&self) -> bool {
        match self {
            Self::InsufficientMemory(InsufficientMemory {
                required,
                reserve,
                memory,
                limit,
                ..
            }) => {
                let wanted = required.saturating_add(*reserve);
                limit.is_none() && memory.is_none_or(|memory| wanted <= memory.total)
            }
            _ => self.facts().retriable,
        }
    }

    /// Returns the advice to the operator, if there is any.
    pub fn help(&self) -> Option<&'static str> {
        let help = match self {
            Self::Gguf(error) => return error.help(),
            Self::Model { source, .. } => return source.help(),
            Self::InsufficientMemory(InsufficientMemory { limit: Some(_), .. }) => {
                "raise the limit, load with native storage, or load a smaller quantisation"
            }
            Self::InsufficientMemory(InsufficientMemory { device, reserve, .. }) => {
                match (device, reserve) {
                    (DeviceKind::Host, 0) => {
                        "free host memory or raise the limit that the message names, use fewer or \
                         smaller chunks, load with native storage, or load a smaller quantisation"
                    }
                    (DeviceKind::Host, _) => {
                        "free host memory or raise the limit that the message names, reserve less, \
                         use fewer or smaller chunks, load with native storage, or load a smaller \
                         quantisation"
                    }
                    (DeviceKind::Cuda(_), 0) => {
                        "free memory on the GPU, choose another device, load with native storage, \
                         or load a smaller quantisation"
                    }
                    (DeviceKind::Cuda(_), _) => {
                        "free memory on the GPU, reserve less, choose another device, load with \
                         native storage, or load a smaller quantisation"
                    }
                }
            }
            Self::Engine(error) if error.code() == ErrorCode::DeviceUnavailable => {
                if cuda_sys::cuda_compiled() {
                    "run `phi3-loader devices` to list the available devices; check the driver and \
                     CUDA_VISIBLE_DEVICES"
                } else {
                    "build with the feature `cuda`, or load to the host device"
                }
            }
            Self::NotShareable => "load the model with `LoadOptions::shareable`",
            _ if self.code() == codes::CANCELLED.code => return None,
            _ => self.facts().cure,
        };
        Some(help)
    }
}

impl From<keeper::Error> for Error {
    fn from(error: keeper::Error) -> Self {
        match error {
            keeper::Error::Cancelled => Self::Cancelled,
            other => Self::Keeper(other),
        }
    }
}

fn keeper_facts(error: &keeper::Error) -> FailureCode {
    match error {
        keeper::Error::Unreachable { .. } => codes::KEEPER_UNREACHABLE,
        keeper::Error::OtherUser { .. } | keeper::Error::Refused => codes::KEEPER_REFUSED,
        keeper::Error::Protocol { .. } => codes::KEEPER_PROTOCOL,
        keeper::Error::Full { .. } => codes::KEEPER_FULL,
        keeper::Error::Manifest(_) => codes::MANIFEST_INVALID,
        keeper::Error::Socket { .. } => codes::KEEPER_SOCKET,
        keeper::Error::Cancelled => codes::CANCELLED,
        _ => codes::KEEPER_IO,
    }
}

fn engine_facts(code: ErrorCode) -> FailureCode {
    match code {
        ErrorCode::DeviceUnavailable => codes::DEVICE_UNAVAILABLE,
        ErrorCode::OutOfMemory => codes::INSUFFICIENT_VRAM,
        ErrorCode::HostOutOfMemory => codes::INSUFFICIENT_HOST_MEMORY,
        ErrorCode::Io | ErrorCode::FileTruncated => codes::READ_FAILED,
        ErrorCode::DeviceFailure => codes::DEVICE_FAILURE,
        ErrorCode::Cancelled => codes::CANCELLED,
        ErrorCode::InvalidArgument => codes::ENGINE_CONTRACT,
        ErrorCode::ForeignMemory => codes::RESIDENT_REFUSED,
        _ => codes::INTERNAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers the codes that a test without a GPU cannot provoke: the engine reports them only for a failed
    /// device or a bug in the engine. Tests of `cuda-sys` check that each code is passed from C++ to Rust.
    #[test]
    fn every_engine_code_maps_to_its_loader_code() {
        let codes = ErrorCode::ALL.map(|code| {
            let facts = engine_facts(code);
            (facts.code, facts.exit_code, facts.class().name(), facts.retriable)
        });
        assert_eq!(
            codes,
            [
                ("ENGINE_CONTRACT", 1, "INTERNAL", false),
                ("DEVICE_UNAVAILABLE", 5, "CUDA_ERROR", false),
                ("INSUFFICIENT_VRAM", 6, "INSUFFICIENT_VRAM", true),
                ("INSUFFICIENT_HOST_MEMORY", 6, "INSUFFICIENT_VRAM", true),
                ("READ_FAILED", 7, "MODEL_LOAD_FAILED", true),
                ("READ_FAILED", 7, "MODEL_LOAD_FAILED", true),
                ("DEVICE_FAILURE", 8, "CUDA_ERROR", true),
                ("CANCELLED", 130, "CANCELLED", true),
                ("INTERNAL", 1, "INTERNAL", false),
                ("RESIDENT_REFUSED", 9, "MODEL_LOAD_FAILED", false),
            ]
        );
    }

    /// Returns the last error of a chain. Checks that every message contains the message of its cause.
    fn root<'e>(
        error: &'e (dyn std::error::Error + 'static),
    ) -> &'e (dyn std::error::Error + 'static) {
        match error.source() {
            None => error,
            Some(cause) => {
                assert!(error.to_string().contains(&cause.to_string()), "{error:?}");
                root(cause)
            }
        }
    }

    #[test]
    fn every_message_contains_the_message_of_its_cause() {
        let path = || std::path::PathBuf::from("model.gguf");
        let engine = cuda_sys::Device::open(DeviceKind::Cuda(i32::MAX)).unwrap_err();
        let metadata = || gguf_format::Error::Missing { key: "k".to_owned() };
        let model = model_phi3::Error::Metadata(metadata());
        let all = [
            Error::Gguf(metadata()),
            Error::Model { path: path(), source: model },
            Error::FileChanged { path: path(), what: "its length".to_owned(), source: None },
            Error::Read { path: path(), source: engine.clone() },
            Error::InvalidOption { option: "threads", value: 0, least: 1, most: 256 },
            Error::InvalidPlacement(InvalidPlacement::Devices { devices: 0 }),
            Error::DeviceCount { devices: 1, placement: 2 },
            Error::Engine(engine),
            Error::HostMemory { what: "comparing".to_owned() },
            Error::Verification { what: "a slot".to_owned() },
            Error::Resident { what: "a layout".to_owned() },
            Error::Keeper(keeper::Error::Refused),
            Error::NotShareable,
            Error::DamagedFile { path: path(), what: "a tensor".to_owned() },
            Error::Cancelled,
        ];
        for error in &all {
            let last = root(error);
            assert!(error.to_string().contains(&last.to_string()), "{error:?}");
        }
    }

    #[test]
    fn the_chains_of_io_errors_end_with_the_io_error() {
        const ENOSPC: i32 = 28;
        let path = || std::path::PathBuf::from("model.gguf");
        let io = || std::io::Error::from_raw_os_error(ENOSPC);
        let gguf = || gguf_format::Error::Io { path: path(), source: io().into() };
        let all = [
            Error::Gguf(gguf()),
            Error::Model { path: path(), source: gguf().into() },
            Error::FileChanged { path: path(), what: io().to_string(), source: Some(io().into()) },
            Error::Write { path: path(), source: io().into() },
        ];
        for error in &all {
            let cause: &std::io::Error = root(error).downcast_ref().unwrap();
            assert_eq!(cause.raw_os_error(), Some(ENOSPC), "{error:?}");
            assert_eq!(cause.kind(), std::io::ErrorKind::StorageFull);
        }
    }

    #[test]
    fn an_error_of_the_model_keeps_its_code_and_names_the_file() {
        let error = Error::Model {
            path: "model.gguf".into(),
            source: model_phi3::Error::TooLarge { what: "the model" },
        };
        assert_eq!((error.code(), error.exit_code()), ("PHI3_TOO_LARGE", 3));
        assert_eq!(error.to_string(), "model.gguf: the model exceeds 2^64 - 1 bytes");
        assert_eq!(error.help(), Some(error.facts().cure));
    }
}
