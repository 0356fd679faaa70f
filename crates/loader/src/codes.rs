//! The error codes of this crate and of the lower layers, each with exit code, cause and cure.
//!
//! The constants are the codes of this crate. [`FailureCode::all`] returns all codes.

/// The worker's class of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureClass {
    /// The file, its content or the environment is the cause.
    ModelLoadFailed,
    /// The weights do not fit into the device's memory.
    InsufficientVram,
    /// A device failed or is not available.
    CudaError,
    /// The caller asked to stop.
    Cancelled,
    /// A bug.
    Internal,
}

impl FailureClass {
    /// Returns the worker's name for this class.
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

/// An error code with its exit code, cause and cure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailureCode {
    /// The code.
    pub code: &'static str,
    /// The process exit code for this error.
    pub exit_code: u8,
    /// Whether the same load can succeed later without any change by the user. For an error that contains
    /// figures, [`Error::retriable`](crate::Error::retriable) is more precise.
    pub retriable: bool,
    /// The cause of the error: full sentences.
    pub cause: &'static str,
    /// The advice to the user, without a full stop at the end.
    pub cure: &'static str,
}

/// Defines a constant for each code of this crate, and the list of these constants.
macro_rules! codes {
    ($($name:ident: $exit_code:literal, $retriable:literal, $cause:literal, $cure:literal;)+) => {
        $(#[doc = $cause]
        pub const $name: FailureCode = FailureCode {
            code: stringify!($name),
            exit_code: $exit_code,
            retriable: $retriable,
            cause: $cause,
            cure: $cure,
        };)+

        const OWN: &[FailureCode] = &[$($name),+];
    };
}

codes! {
    FILE_CHANGED: 7, true,
        "The file was modified, truncated or replaced during the load.",
        "load again after all programs have finished writing to the file";
    READ_FAILED: 7, true,
        "The system could not read the file's data, or returned fewer bytes than the file has.",
        "load again; if it fails again, check the disk or the file server, and the system log";
    WRITE_FAILED: 7, false,
        "The program cannot write to an output file or to standard output.",
        "check the path, the permissions and the free space on the disk";
    INSUFFICIENT_VRAM: 6, true,
        "The device has too little memory for the weights, their conversion and the reserve, or the \
         caller's limit is too small.",
        "free memory on the device, raise the limit, reserve less, choose another device, load with \
         native storage, or load a smaller quantisation";
    INSUFFICIENT_HOST_MEMORY: 6, true,
        "The host cannot provide the memory, threads or processes for a load or a measurement.",
        "use fewer threads or smaller chunks, free host memory, or raise the limit on memory or \
         processes (`ulimit`, cgroup)";
    DEVICE_UNAVAILABLE: 5, false,
        "The device does not exist, the driver cannot be used, or this build has no CUDA.",
        "run `phi3-loader devices` to list the available devices; check the driver and \
         CUDA_VISIBLE_DEVICES, or build with the feature `cuda`";
    DEVICE_FAILURE: 8, true,
        "A call to the device failed. The message names the call and the driver's error.",
        "load again; if it fails again, look for GPU errors (`Xid`) in the system log, reset the GPU \
         or choose another device";
    VERIFICATION_FAILED: 9, false,
        "Weights on the device have a wrong address or wrong bytes, or differ from a fingerprint.",
        "do not use these weights; check the memory of the device and of the host before the next load; if \
         they were compared with a stored fingerprint, check that it is of this file and this storage";
    CANCELLED: 130, true,
        "The caller, Ctrl-C or SIGTERM cancelled the command.",
        "this is not a fault: run the command again if you need the result";
    ENGINE_CONTRACT: 1, false,
        "A request to the transfer engine is invalid.",
        "this is a bug: please report it with this message";
    INTERNAL: 1, false,
        "The program reached a state that should be impossible.",
        "this is a bug: please report it with this message";
    NON_FINITE_WEIGHTS: 9, false,
        "Loaded weights are infinite or NaN, and `--deny-overflow` refuses them.",
        "if the file itself contains such weights, fetch it again; if weights are too large for f16, \
         load with native storage; without --deny-overflow they are loaded as they are";
    INVALID_OPTION: 2, false,
        "An option of a load is outside its range. The command line refuses such options itself, without a code.",
        "use a value in the range that the message names";
    RESIDENT_REFUSED: 9, false,
        "Resident weights cannot be used: their devices are not here, their descriptors are something else, or their \
         manifest belongs to another version of the program.",
        "load the file again with `--resident-reload`, or drop the entry with `phi3-loader resident drop`";
    RESIDENT_UNKNOWN: 7, false,
        "The keeper of resident weights has no entry with this key, or several have keys that start with it.",
        "`phi3-loader resident list` prints the keys";
    KEEPER_UNREACHABLE: 7, true,
        "No keeper of resident weights listens at the path.",
        "start one with `phi3-loader hold`, or check the path";
    KEEPER_REFUSED: 7, false,
        "The keeper of resident weights belongs to another user.",
        "use the keeper's user, or start a keeper of your own at another path";
    KEEPER_PROTOCOL: 7, false,
        "The process that listens at the path does not answer as a keeper of resident weights does.",
        "check that the path is that of a keeper, and that both programs have the same version";
    KEEPER_FULL: 7, false,
        "A limit of the keeper of resident weights is reached.",
        "drop entries that are not needed (`phi3-loader resident list`, `phi3-loader resident drop`)";
    KEEPER_SOCKET: 7, false,
        "A keeper of resident weights cannot listen at the path.",
        "choose a path in a folder that only you can write to, and that no other keeper uses";
    KEEPER_IO: 7, true,
        "The system refused a call that concerns the keeper of resident weights.",
        "check the limits of the process, such as the number of open files";
    MANIFEST_INVALID: 9, false,
        "The description of resident weights is damaged, or is of another version.",
        "drop the entry with `phi3-loader resident drop`, and load the file again";
    FILE_DAMAGED: 9, false,
        "The header of the file is valid, but the file has another sha256 than the expected one, tensors whose bytes are all \
         zero, or infinite or NaN values.",
        "fetch the file again; if it was made on this machine, make it again";
}

impl FailureCode {
    /// Returns the facts of every code, in the order of [`Error::all_codes`](crate::Error::all_codes).
    pub fn all() -> Vec<Self> {
        let below = [gguf_format::Error::ALL_CODES, model_phi3::Error::ALL_CODES].concat();
        below.into_iter().map(Self::from).chain(OWN.iter().copied()).collect()
    }

    /// Returns the worker's coarse class of this error.
    pub fn class(&self) -> FailureClass {
        match self.exit_code {
            1 => FailureClass::Internal,
            5 | 8 => FailureClass::CudaError,
            6 => FailureClass::InsufficientVram,
            130 => FailureClass::Cancelled,
            _ => FailureClass::ModelLoadFailed,
        }
    }
}

impl From<gguf_format::CodeFacts> for FailureCode {
    fn from(facts: gguf_format::CodeFacts) -> Self {
        let gguf_format::CodeFacts { code, class, cause, cure, .. } = facts;
        let exit_code = match class {
            gguf_format::ErrorClass::Io => 7,
            gguf_format::ErrorClass::Unsupported => 4,
            gguf_format::ErrorClass::Memory => 6,
            gguf_format::ErrorClass::Internal => 1,
            _ => 3,
        };
        let retriable = class == gguf_format::ErrorClass::Memory;
        Self { code, exit_code, retriable, cause, cure }
    }
}
