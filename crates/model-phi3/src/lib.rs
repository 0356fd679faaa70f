//! Phi-3 configuration, tensor mapping and load plan.
//!
//! This crate describes the Phi-3 models and their form in GGUF files. From a catalogue that
//! [`gguf_format`] has checked it makes a [`LoadPlan`]. The plan maps each byte range of a file to its place
//! in device memory, with its conversion. This crate does no I/O and needs no device, so any machine can
//! check a model and compute its memory.
//!
//! ```
//! use model_phi3::gguf_format::GgufFile;
//! use model_phi3::{Fused, KvDtype, LoadPlan, Slot, Storage, Tokenizer};
//!
//! # use model_phi3::preset::{Blueprint, Layout, Preset, TypeMix};
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("tiny.gguf");
//! # let mut writer = Blueprint::new(Preset::Tiny, Layout::Fused, TypeMix::Q4_K_M).writer();
//! # writer.kv("tokenizer.ggml.tokens", vec!["<s>".to_owned(), "</s>".to_owned()]);
//! # writer.kv("tokenizer.ggml.eos_token_id", 1_u32);
//! # std::fs::write(&path, writer.to_bytes(|_, _| ())?)?;
//! // The headers of one file, or of all shards of a split model.
//! let gguf = GgufFile::open(&path)?;
//! let (config, plan) = LoadPlan::from_gguf(gguf.metadata(), gguf.tensors(), Storage::F16)?;
//!
//! // Device memory for the weights, and for keys and values of 2 sequences of 4096 tokens.
//! let weights = plan.device_bytes();
//! let cache = config.kv_cache_bytes(4096, 2, KvDtype::F16);
//! println!("{} layers: {weights} bytes and {cache:?} bytes", config.layers);
//!
//! // The place of every weight in the arena, and the bytes of the file that fill it.
//! for slot in plan.slots() {
//!     let op = &plan.ops()[slot.op];
//!     let file = gguf.shards()[op.source.shard].path();
//!     println!("{} {:?} {:?}: {:?}", slot.slot, slot.shape, slot.format, slot.dest);
//!     println!("    from {} at {:?}, {:?}", file.display(), op.source.range, op.conversion);
//! }
//! let q = plan.slot(Slot::AttnQ(0)).expect("every model has Q in layer 0");
//! assert_eq!(q.shape, [256, 256]);
//!
//! // Q, K and V as one matrix, if they are one in the arena.
//! let qkv = plan.fused(Fused::AttnQkv(0)).expect("this file has a fused tensor");
//! assert_eq!((qkv.dest.start, qkv.shape), (q.dest.start, [512, 256]));
//!
//! // The tokenizer is in the same header.
//! let tokenizer = Tokenizer::from_metadata(gguf.metadata())?;
//! assert_eq!(tokenizer.eos_id, Some(1));
//! # assert_eq!((weights % 256, weights > 0, cache), (0, true, Some(2 * 3 * 2 * 64 * 4096 * 2 * 2)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`LoadPlan::from_gguf`] takes these steps, each with its own type:
//!
//! 1. [`Phi3Config::from_gguf`] reads the dimensions and checks them against each other.
//! 2. [`TensorMap::bind`] finds the tensors of every [`Slot`], fused or split, and reports all missing,
//!    unexpected and misshapen tensors together.
//! 3. [`LoadPlan::new`] lays them out in one arena, decoded to half precision or as stored.
//!
//! For several devices, a [`Placement`] says which device holds which part, and [`PlacedPlan::new`] replaces the
//! third step: it makes an arena with slots and transfers for each device. [`Placement::fit`] proposes a placement
//! for devices of which the free memory is known.
//!
//! [`LoadPlan::weights`] returns a [`Phi3Weights`] with a pointer, a view or any other value for each weight.
//! [`Phi3Config::warnings`] returns what may be wrong with a model that can be loaded.
//!
//! # Features
//!
//! - `preset`: the module `preset` describes the published models of the family, for synthetic files of real
//!   shape.
//! - `serde`: configuration, warnings, plans, placements and weights can be serialised. Fields have the names that
//!   `phi3-loader --json` gives them; `docs/json.md` describes its output. [`Phi3Config`] and the types that are
//!   printed as one word or name, such as [`Storage`], [`KvDtype`] and [`Slot`], can also be deserialised. A
//!   [`LoadPlan`] or [`PlacedPlan`] cannot.
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
mod placed_plan;
mod placement;
mod plan;
#[cfg(feature = "preset")]
pub mod preset;
mod problems;
mod rope;
#[cfg(feature = "serde")]
mod serialize;
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
pub use placed_plan::{HeadRange, PlacedOp, PlacedPart, PlacedPlan, PlacedSlot};
pub use placement::{InvalidPlacement, Placement, Proposal, SplitMode};
pub use plan::{LoadPlan, PlanOp, PlannedSlot, SlotFormat, Storage, Unit};
pub use problems::{Misfit, Problem, Problems};
pub use rope::{Rope, RopeScaling, RopeStyle};
pub use slot::{Matrix, ParseSlotError, Slot};
pub use tokenizer::{TokenType, TokenTypes, Tokenizer};
pub use warning::Warning;
pub use weights::{LayerWeights, Phi3Weights};
