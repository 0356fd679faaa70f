//! Serialised forms of fields whose types do not implement `Serialize`.

use crate::error::NonFiniteTensor;
use crate::memory_account::MemoryAccount;
use crate::residency::Residency;
use crate::warning::Warning;
use serde::{Serialize, Serializer};
use std::fmt::Display;

/// Serialises a value as its `Display` text.
pub(crate) fn text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

pub(crate) fn residency<S: Serializer>(
    residency: &Residency,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Fields {
        pointers_checked: u32,
        ok: bool,
    }
    // Always true: a failed check ends the load with an error.
    Fields { pointers_checked: residency.pointers_checked, ok: true }.serialize(serializer)
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

pub(crate) fn non_finite<S: Serializer>(
    tensors: &[NonFiniteTensor],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Fields<'a> {
        tensor: &'a str,
        infinite: u64,
        nan: u64,
        format: &'static str,
    }
    serializer.collect_seq(tensors.iter().map(|tensor| Fields {
        tensor: &tensor.tensor,
        infinite: tensor.infinite,
        nan: tensor.nan,
        format: tensor.format.ggml_type().name(),
    }))
}

pub(crate) fn warnings<S: Serializer>(
    warnings: &[Warning],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Fields {
        code: &'static str,
        message: String,
        help: &'static str,
    }
    serializer.collect_seq(warnings.iter().map(|warning| Fields {
        code: warning.code(),
        message: warning.to_string(),
        help: warning.help(),
    }))
}
