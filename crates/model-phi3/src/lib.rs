//! Phi-3 configuration, tensor mapping and load plan.
//!
//! This crate describes the Phi-3 models and their form in GGUF files. From a catalogue that
//! [`gguf_format`] has checked it makes a [`LoadPlan`]. The plan maps each byte range of a file to its place
//! in device memory, with its conversion. This crate does no I/O and needs no device, so any machine can
//! check a model and compute its memory.
//!
//! The steps, each with its own type:
//!
//! 1. [`Phi3Config::from_gguf`] reads the dimensions and checks them against each other.
//! 2. [`TensorMap::bind`] finds the tensors of every [`Slot`], fused or split, and reports all missing,
//!    unexpected and misshapen tensors together.
//! 3. [`LoadPlan::new`] lays them out in one arena, decoded to half precision or as stored.
//! 4. [`LoadPlan::weights`] returns a [`Phi3Weights`] with a pointer, a view or any other value for
//!    each weight.
//!
//! ```
//! use model_phi3::gguf_format::GgufFile;
//! use model_phi3::{LoadPlan, Phi3Config, Storage, TensorMap};
//!
//! /// Returns the bytes of device memory for the weights of the model in this file. Reads only its header.
//! fn memory_of(path: &str) -> Result<u64, model_phi3::Error> {
//!     let gguf = GgufFile::open(path)?;
//!     let config = Phi3Config::from_gguf(gguf.metadata(), gguf.tensors())?;
//!     let tensors = TensorMap::bind(&config, gguf.tensors())?;
//!     let plan = LoadPlan::new(&config, &tensors, Storage::F16)?;
//!     Ok(plan.device_bytes())
//! }
//! ```
//!
//! With the feature `preset`, the module `preset` describes the published models of the
//! family, for synthetic files of real shape.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

mod attention;
mod binding;
mod choice_text;
mod codes;
mod config;
mod conversion;
mod error;
mod fused;
mod keys;
mod kv_cache;
mod names;
mod plan;
#[cfg(feature = "preset")]
pub mod preset;
mod problems;
mod rope;
mod shown;
mod slot;
mod tokenizer;
mod warning;
mod weights;

pub use attention::{AttentionKind, AttentionShape};
pub use binding::{BoundScale, BoundTensor, SlotRows, SourceRange, TensorMap};
pub use choice_text::ParseChoiceError;
pub use config::{Architecture, Phi3Config};
pub use conversion::Conversion;
pub use error::Error;
pub use fused::{Fused, FusedSlot};
// Configuration, binding and errors refer to its types.
pub use gguf_format;
pub use gguf_format::{CodeFacts, ErrorClass};
pub use kv_cache::KvDtype;
pub use plan::{LoadPlan, PlanOp, PlannedSlot, SlotFormat, Storage, Unit};
pub use problems::{Misfit, Problem, Problems};
pub use rope::{Rope, RopeScaling, RopeStyle};
pub use slot::{Matrix, ParseSlotError, Slot};
pub use tokenizer::{TokenType, TokenTypes, Tokenizer};
pub use warning::Warning;
pub use weights::{LayerWeights, Phi3Weights};
