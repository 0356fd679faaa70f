//! The error codes, those of the crates below included, and what there is to say of each.
//!
//! The constants are the codes of this crate; [`CodeFacts::all`] has all codes.

use crate::error::ErrorClass;

/// What stands behind an error code, whatever the file and the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CodeFacts {
    /// The code.
    pub code: &'static str,
    /// The process exit code of such a failure.
    pub exit_code: u8,
    /// Whether the same load can succeed later, with nothing else done.
    /// [`Error::retriable`](crate::Error::retriable) knows better where an error has figures.
    pub retriable: bool,
    /// What has happened.
    pub cause: &'static str,
    /// What can be done about it.
    pub cure: &'static str,
}

/// Makes a constant of each code that this crate decides itself, and the list of them.
macro_rules! codes {
    ($($name:ident: $exit_code:literal, $retriable:literal, $cause:literal, $cure:literal;)+) => {
        $(#[doc = $cause]
        pub const $name: CodeFacts = CodeFacts {
            code: stringify!($name),
            exit_code: $exit_code,
            retriable: $retriable,
            cause: $cause,
            cure: $cure,
        };)+

        const OWN: &[CodeFacts] = &[$($name),+];
    };
}

codes! {
    FILE_CHANGED: 7, true,
        "Somebody wrote to the file, cut it short or replaced it while it was being loaded.",
        "load again once nothing writes to the file";
    READ_FAILED: 7, true,
        "The system could not read the file's data, or gave less of it than there is.",
        "load again; where it stays, check the disk or the file server, and the system's log";
    WRITE_FAILED: 7, false,
        "An output file, or standard output, cannot be written.",
        "check the path, the permissions and the room on the disk";
    INSUFFICIENT_VRAM: 6, true,
        "The device cannot hold the weights, with what converting them takes and what is reserved \
         beside them; or the limit that was set is smaller than they are.",
        "free memory on the device, raise the limit, reserve less, choose another device, or load \
         with native storage or from a smaller quantisation";
    INSUFFICIENT_HOST_MEMORY: 6, true,
        "The host has no memory, or starts no thread or process, for staging, decoding, comparing or \
         measuring.",
        "use fewer threads or smaller chunks, free host memory, or raise the limit on memory or \
         processes (`ulimit`, cgroup)";
    DEVICE_UNAVAILABLE: 5, false,
        "There is no such device, no usable driver, or no CUDA in this build.",
        "`phi3-loader devices` lists what is there; check the driver and CUDA_VISIBLE_DEVICES, or \
         build with the feature `cuda`";
    DEVICE_FAILURE: 8, true,
        "A call to the device failed. The message names the call and the driver's error.",
        "load again; where it stays, look for the GPU's errors in the system's log (`Xid`), reset it \
         or choose another device";
    VERIFICATION_FAILED: 9, false,
        "Weights on the device are not where, or not what, they must be.",
        "do not serve from these weights: load again; where it happens again, check the memory of \
         the device and of the host";
    CANCELLED: 130, true,
        "The caller, Ctrl-C or SIGTERM asked to stop.",
        "nothing is wrong: load again when it is wanted";
    ENGINE_CONTRACT: 1, false,
        "A request to the transfer engine breaks its contract.",
        "this is a bug, or a program set an option out of its range: please report it with this \
         message";
    INTERNAL: 1, false,
        "Something happened that cannot happen.",
        "this is a bug: please report it with this message";
    NON_FINITE_WEIGHTS: 9, false,
        "Weights are infinite or NaN as they were loaded, and the load was told to refuse such.",
        "where the file itself has them, fetch it again; where they are too large for f16, load with \
         native storage; without --deny-overflow they are loaded as they are";
}

impl CodeFacts {
    /// Those of every code, in the order of [`Error::all_codes`](crate::Error::all_codes).
    pub fn all() -> Vec<Self> {
        let parser = gguf_format::CodeFacts::ALL.iter().map(|&facts| facts.into());
        let model = model_phi3::CodeFacts::ALL.iter().map(|&facts| facts.into());
        parser.chain(model).chain(OWN.iter().copied()).collect()
    }

    /// The worker's coarse class of such a failure.
    pub fn class(&self) -> ErrorClass {
        match self.exit_code {
            1 => ErrorClass::Internal,
            5 | 8 => ErrorClass::CudaError,
            6 => ErrorClass::InsufficientVram,
            130 => ErrorClass::Cancelled,
            _ => ErrorClass::ModelLoadFailed,
        }
    }
}

impl From<gguf_format::CodeFacts> for CodeFacts {
    fn from(facts: gguf_format::CodeFacts) -> Self {
        let gguf_format::CodeFacts { code, class, cause, cure, .. } = facts;
        let exit_code = match class {
            gguf_format::ErrorClass::Io => 7,
            gguf_format::ErrorClass::Unsupported => 4,
            gguf_format::ErrorClass::Memory => 6,
            _ => 3,
        };
        let retriable = class == gguf_format::ErrorClass::Memory;
        Self { code, exit_code, retriable, cause, cure }
    }
}

impl From<model_phi3::CodeFacts> for CodeFacts {
    fn from(facts: model_phi3::CodeFacts) -> Self {
        let model_phi3::CodeFacts { code, class, cause, cure, .. } = facts;
        let exit_code = match class {
            model_phi3::ErrorClass::Malformed => 3,
            model_phi3::ErrorClass::Unsupported => 4,
            _ => 1,
        };
        Self { code, exit_code, retriable: false, cause, cure }
    }
}
