//! What can go wrong, with stable codes.

use cuda_sys::{DeviceKind, ErrorCode};
use std::path::PathBuf;

/// The worker's coarse view of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorClass {
    /// The file, its content or the environment is at fault.
    ModelLoadFailed,
    /// A device cannot hold the weights.
    InsufficientVram,
    /// A device failed or is not there.
    CudaError,
    /// The caller asked to stop.
    Cancelled,
    /// A bug.
    Internal,
}

impl ErrorClass {
    /// The worker's name of the class.
    pub fn name(self) -> &'static str {
        match self {
            Self::ModelLoadFailed => "MODEL_LOAD_FAILED",
            Self::InsufficientVram => "INSUFFICIENT_VRAM",
            Self::CudaError => "CUDA_ERROR",
            Self::Cancelled => "CANCELLED",
            Self::Internal => "INTERNAL",
        }
    }
}

/// Why the weights do not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InsufficientMemory {
    /// The device that was asked.
    pub device: DeviceKind,
    /// Bytes the load needs there: the weights, and what converting them takes meanwhile.
    pub required: u64,
    /// Bytes that must stay free beside them.
    pub reserve: u64,
    /// Bytes free there.
    pub free: u64,
    /// Bytes there are.
    pub total: u64,
    /// The caller's own limit, where it is what was too small.
    pub limit: Option<u64>,
}

impl std::fmt::Display for InsufficientMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { device, required, reserve, free, total, limit } = self;
        write!(f, "{device} cannot hold the weights: {required} bytes required, ")?;
        if *reserve != 0 {
            write!(f, "{reserve} bytes reserved beside them, ")?;
        }
        if let Some(limit) = limit {
            write!(f, "{limit} bytes available under the limit that was set, ")?;
        }
        write!(f, "{free} bytes free of {total} bytes total")
    }
}

/// A load that did not happen. Nothing stays allocated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file's header is at fault, or cannot be read. The message names the file.
    #[error(transparent)]
    Gguf(#[from] gguf_format::Error),
    /// The file is sound and holds no Phi-3 model that can be loaded.
    #[error("{path}: {source}", path = path.display())]
    #[non_exhaustive]
    Model {
        /// The file.
        path: PathBuf,
        /// What is wrong with its model.
        source: model_phi3::Error,
    },
    /// The file was changed by somebody during the load.
    #[error("{path}: file changed while it was being loaded: {what}", path = path.display())]
    #[non_exhaustive]
    FileChanged {
        /// The file.
        path: PathBuf,
        /// What shows it.
        what: String,
    },
    /// Reading the file's data failed.
    #[error("{path}: {source}", path = path.display())]
    #[non_exhaustive]
    Read {
        /// The file.
        path: PathBuf,
        /// The failed read.
        source: cuda_sys::Error,
    },
    /// Writing an output file failed.
    #[error("{path}: {source}", path = path.display())]
    #[non_exhaustive]
    Write {
        /// The file.
        path: PathBuf,
        /// The failed write.
        source: std::io::Error,
    },
    /// The weights do not fit into the device's memory.
    #[error("{0}")]
    InsufficientMemory(InsufficientMemory),
    /// The device, or the engine's own request, failed.
    #[error("{0}")]
    Engine(#[from] cuda_sys::Error),
    /// The weights on the device are not what they must be.
    #[error("verification failed: {what}")]
    #[non_exhaustive]
    Verification {
        /// The slot or figure that is wrong, expected and found.
        what: String,
    },
    /// Weights are infinite or NaN as f16, and the caller does not want such.
    #[error("{}", non_finite_text(.0))]
    NonFinite(Vec<NonFiniteTensor>),
    /// The observer or a [`CancelToken`](crate::CancelToken) asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// A tensor with weights that are no finite number once they are f16.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NonFiniteTensor {
    /// The file's tensor.
    pub tensor: String,
    /// How many are infinite: too large for f16, or so in the file.
    pub infinite: u64,
    /// How many are NaN.
    pub nan: u64,
}

impl std::fmt::Display for NonFiniteTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tensor = gguf_format::escape(&self.tensor);
        write!(f, "{tensor} has {} infinite and {} NaN weights as f16", self.infinite, self.nan)
    }
}

/// Tensors that a message names at most.
const SHOWN_TENSORS: usize = 5;

fn non_finite_text(tensors: &[NonFiniteTensor]) -> String {
    let mut text: Vec<_> = tensors.iter().take(SHOWN_TENSORS).map(ToString::to_string).collect();
    if tensors.len() > SHOWN_TENSORS {
        text.push(format!("{} more tensors likewise", tensors.len() - SHOWN_TENSORS));
    }
    text.join("; ")
}

/// Codes of the variants that this crate decides itself, beside those of `gguf_format` and
/// `model_phi3`. Append-only.
const OWN_CODES: [&str; 12] = [
    "FILE_CHANGED",
    "READ_FAILED",
    "WRITE_FAILED",
    "INSUFFICIENT_VRAM",
    "INSUFFICIENT_HOST_MEMORY",
    "DEVICE_UNAVAILABLE",
    "DEVICE_FAILURE",
    "VERIFICATION_FAILED",
    "CANCELLED",
    "ENGINE_CONTRACT",
    "INTERNAL",
    "NON_FINITE_WEIGHTS",
];

impl Error {
    /// Every code that [`code`](Self::code) can return. Append-only.
    pub fn all_codes() -> Vec<&'static str> {
        let parser = gguf_format::Error::ALL_CODES.iter();
        let model = model_phi3::Error::ALL_CODES.iter();
        parser.chain(model).chain(&OWN_CODES).copied().collect()
    }

    /// The stable name of this failure.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Gguf(error) => error.code(),
            Self::Model { source, .. } => source.code(),
            Self::FileChanged { .. } => "FILE_CHANGED",
            Self::Read { .. } => "READ_FAILED",
            Self::Write { .. } => "WRITE_FAILED",
            Self::InsufficientMemory(_) => "INSUFFICIENT_VRAM",
            Self::Engine(error) => match error.code() {
                ErrorCode::DeviceUnavailable => "DEVICE_UNAVAILABLE",
                ErrorCode::OutOfMemory => "INSUFFICIENT_VRAM",
                ErrorCode::HostOutOfMemory => "INSUFFICIENT_HOST_MEMORY",
                ErrorCode::Io | ErrorCode::FileTruncated => "READ_FAILED",
                ErrorCode::DeviceFailure => "DEVICE_FAILURE",
                ErrorCode::Cancelled => "CANCELLED",
                ErrorCode::InvalidArgument => "ENGINE_CONTRACT",
                _ => "INTERNAL",
            },
            Self::Verification { .. } => "VERIFICATION_FAILED",
            Self::NonFinite(_) => "NON_FINITE_WEIGHTS",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// The process exit code for this failure, from 1 to 9, or 130.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Gguf(error) => gguf_exit_code(error),
            Self::Model { source, .. } => match source.class() {
                model_phi3::ErrorClass::Malformed => 3,
                model_phi3::ErrorClass::Unsupported => 4,
                _ => 1,
            },
            _ => match self.code() {
                "DEVICE_UNAVAILABLE" => 5,
                "INSUFFICIENT_VRAM" | "INSUFFICIENT_HOST_MEMORY" => 6,
                "FILE_CHANGED" | "READ_FAILED" | "WRITE_FAILED" => 7,
                "DEVICE_FAILURE" => 8,
                "VERIFICATION_FAILED" | "NON_FINITE_WEIGHTS" => 9,
                "CANCELLED" => 130,
                _ => 1,
            },
        }
    }

    /// The worker's coarse class of this failure.
    pub fn class(&self) -> ErrorClass {
        match self.exit_code() {
            1 => ErrorClass::Internal,
            5 | 8 => ErrorClass::CudaError,
            6 => ErrorClass::InsufficientVram,
            130 => ErrorClass::Cancelled,
            _ => ErrorClass::ModelLoadFailed,
        }
    }

    /// Whether the same load can succeed later, with nothing else done.
    pub fn retriable(&self) -> bool {
        match self {
            Self::InsufficientMemory(memory) => {
                memory.limit.is_none()
                    && memory.required.saturating_add(memory.reserve) <= memory.total
            }
            _ => matches!(
                self.code(),
                "INSUFFICIENT_VRAM"
                    | "INSUFFICIENT_HOST_MEMORY"
                    | "FILE_CHANGED"
                    | "READ_FAILED"
                    | "DEVICE_FAILURE"
                    | "CANCELLED"
            ),
        }
    }

    /// What the operator can do about it, where there is something.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Gguf(error) => return error.help(),
            Self::Model { source, .. } => return source.help(),
            _ => {}
        }
        let help = match self.code() {
            "INSUFFICIENT_VRAM" => match self {
                Self::InsufficientMemory(memory) if memory.limit.is_some() => {
                    "raise the limit, or load with native storage or from a smaller quantisation"
                }
                Self::InsufficientMemory(memory) if memory.reserve > 0 => {
                    "free memory on the device, reserve less, choose another device, or load with \
                     native storage or from a smaller quantisation"
                }
                _ => {
                    "free memory on the device, choose another device, or load with native storage \
                     or from a smaller quantisation"
                }
            },
            "INSUFFICIENT_HOST_MEMORY" => "use fewer threads or smaller chunks",
            "DEVICE_UNAVAILABLE" if !cuda_sys::cuda_compiled() => {
                "build with the feature `cuda`, or load to the host device"
            }
            "DEVICE_UNAVAILABLE" => {
                "`phi3-loader devices` lists what is there; check the driver and \
                 CUDA_VISIBLE_DEVICES"
            }
            "NON_FINITE_WEIGHTS" => {
                "load without --deny-overflow to get them as IEEE infinities, or with native storage"
            }
            "FILE_CHANGED" => "load again once nothing writes to the file",
            "INTERNAL" | "ENGINE_CONTRACT" => "this is a bug: please report it with this message",
            _ => return None,
        };
        Some(help)
    }
}

fn gguf_exit_code(error: &gguf_format::Error) -> u8 {
    match error.class() {
        gguf_format::ErrorClass::Io => 7,
        gguf_format::ErrorClass::Unsupported => 4,
        _ => 3,
    }
}
