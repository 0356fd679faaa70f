//! Serialised forms of events, errors and of fields whose types do not implement `Serialize`.

use crate::codes::FailureClass;
use crate::error::{Error, NonFiniteTensor};
use crate::event::LoadEvent;
use crate::memory_account::MemoryAccount;
use crate::residency::Residency;
use crate::stats::LoadStats;
use crate::warning::Warning;
use cuda_sys::DeviceKind;
use gguf_format::path_text;
use model_phi3::{Phi3Config, PlacedPart, SlotFormat, SplitMode};
use serde::{Serialize, Serializer};
use std::fmt::Display;
use std::path::Path;

/// Serialises a value as its `Display` text.
pub(crate) fn text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Serialised with the fields `pointers_checked` and `ok`.
impl Serialize for Residency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Fields {
            pointers_checked: u32,
            ok: bool,
        }
        // Always true: a failed check ends the load with an error.
        Fields { pointers_checked: self.pointers_checked, ok: true }.serialize(serializer)
    }
}

pub(crate) fn memory<S: Serializer>(
    memory: &Option<MemoryAccount>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Fields {
        free_before_bytes: Option<u64>,
        free_after_bytes: Option<u64>,
        total_bytes: Option<u64>,
    }
    Fields {
        free_before_bytes: memory.map(|memory| memory.free_before),
        free_after_bytes: memory.map(|memory| memory.free_after),
        total_bytes: memory.map(|memory| memory.total),
    }
    .serialize(serializer)
}

/// Serialised with the fields `tensor`, `infinite`, `nan` and `format`. If there are several devices, also `device`.
impl Serialize for NonFiniteTensor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Fields<'a> {
            tensor: &'a str,
            infinite: u64,
            nan: u64,
            format: SlotFormat,
            #[serde(skip_serializing_if = "Option::is_none")]
            device: Option<String>,
        }
        let Self { tensor, infinite, nan, format, device } = self;
        let device = device.map(|device| device.to_string());
        Fields { tensor, infinite: *infinite, nan: *nan, format: *format, device }
            .serialize(serializer)
    }
}

/// Serialised with the fields `code`, `message` and `help`.
impl Serialize for Warning {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Fields {
            code: &'static str,
            message: String,
            help: &'static str,
        }
        Fields { code: self.code(), message: self.to_string(), help: self.help() }
            .serialize(serializer)
    }
}

/// Serialised as its [`name`](FailureClass::name).
impl Serialize for FailureClass {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Serialize for Error {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Fields {
            code: &'static str,
            class: FailureClass,
            message: String,
            retriable: bool,
            help: Option<&'static str>,
            exit_code: u8,
        }
        Fields {
            code: self.code(),
            class: self.class(),
            message: self.to_string(),
            retriable: self.retriable(),
            help: self.help(),
            exit_code: self.exit_code(),
        }
        .serialize(serializer)
    }
}

/// The path of a file as a field `file`. A path that is not UTF-8 is escaped there, and its bytes are in a field
/// `file_hex`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct FileName {
    /// The path, or the escaped form that messages show.
    pub file: String,
    /// The bytes of a path that is not UTF-8, as two hexadecimal digits each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_hex: Option<String>,
}

impl FileName {
    /// Returns the fields of a path.
    pub fn new(path: &Path) -> Self {
        match path.to_str() {
            Some(text) => Self { file: text.to_owned(), file_hex: None },
            None => Self { file: path_text(path).to_string(), file_hex: Some(hex(path)) },
        }
    }
}

fn hex(path: &Path) -> String {
    path.as_os_str().as_encoded_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The sizes of a part in a line of `phi3-loader load --json`.
#[derive(Serialize)]
struct PlannedPart {
    vram_bytes: u64,
    source_bytes: u64,
}

impl PlannedPart {
    fn new(part: &PlacedPart) -> Self {
        Self { vram_bytes: part.device_bytes(), source_bytes: part.source_bytes() }
    }
}

/// A line of `phi3-loader load --json`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line<'a> {
    Opened {
        #[serde(flatten)]
        file: FileName,
        config: &'a Phi3Config,
    },
    Warning {
        #[serde(flatten)]
        warning: &'a Warning,
    },
    Planned {
        storage: &'static str,
        vram_bytes: u64,
        source_bytes: u64,
        split_mode: SplitMode,
        parts: Vec<PlannedPart>,
    },
    Allocated {
        #[serde(serialize_with = "text")]
        device: DeviceKind,
        device_name: &'a str,
        bytes: u64,
    },
    Transferred {
        bytes: u64,
        of_bytes: u64,
        part_bytes: &'a [u64],
    },
    Progress {
        unit: u32,
        of: u32,
        label: &'a str,
        bytes: u64,
        of_bytes: u64,
    },
    Compared {
        bytes: u64,
        of_bytes: u64,
    },
    Verified {
        #[serde(flatten)]
        residency: &'a Residency,
    },
    Finished {
        #[serde(flatten)]
        stats: &'a LoadStats,
        gb_per_s: f64,
    },
}

impl Serialize for LoadEvent<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let line = match self {
            Self::Opened { path, config } => Line::Opened { file: FileName::new(path), config },
            Self::Warned { warning } => Line::Warning { warning },
            Self::Planned { plan } => Line::Planned {
                storage: plan.storage().name(),
                vram_bytes: plan.device_bytes(),
                source_bytes: plan.source_bytes(),
                split_mode: plan.placement().mode(),
                parts: plan.parts().iter().map(PlannedPart::new).collect(),
            },
            Self::Allocated { device, device_name, bytes } => {
                Line::Allocated { device: *device, device_name, bytes: *bytes }
            }
            Self::Transferred { bytes, of_bytes, part_bytes } => {
                Line::Transferred { bytes: *bytes, of_bytes: *of_bytes, part_bytes }
            }
            Self::Progress { unit, of, label, bytes, of_bytes } => {
                Line::Progress { unit: *unit, of: *of, label, bytes: *bytes, of_bytes: *of_bytes }
            }
            Self::Compared { bytes, of_bytes } => {
                Line::Compared { bytes: *bytes, of_bytes: *of_bytes }
            }
            Self::Verified { residency } => Line::Verified { residency },
            Self::Finished { stats } => Line::Finished { stats, gb_per_s: stats.gb_per_s() },
        };
        line.serialize(serializer)
    }
}
