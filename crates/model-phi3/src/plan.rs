//! The load plan: the position of every byte of the model in device memory.

mod verify;

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use gguf_format::{GgmlType, Metadata, TensorInfo};

use crate::binding::{BoundScale, BoundTensor, SlotRows, SourceRange, TensorMap};
use crate::choice_words;
use crate::config::Phi3Config;
use crate::conversion::Conversion;
use crate::error::Error;
use crate::slot::Slot;
use crate::weights::Phi3Weights;

/// Alignment of tensors in the arena in bytes, equal to the alignment of `cudaMalloc`.
pub(crate) const ALIGNMENT: u64 = 256;

/// The format of weights in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Storage {
    /// Everything is decoded to IEEE half precision; RoPE factors stay `f32`.
    F16,
    /// Everything stays as it is in the file, for kernels that decode on the fly.
    Native,
}

choice_words!(Storage: F16 = "f16", Native = "native");

/// One transfer: a whole tensor of the file to its place in the arena.
///
/// A fused tensor is one transfer; its slots are slices of the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlanOp {
    /// The name in the file. It is one of llama.cpp's names, so it needs no escaping.
    pub tensor: Arc<str>,
    /// The bytes of the file.
    pub source: SourceRange,
    /// The bytes of the arena. They start on a multiple of 256 bytes.
    pub dest: Range<u64>,
    /// The conversion of the bytes.
    pub conversion: Conversion,
    /// The `f32` factor of decoded values. They are multiplied by it before they are rounded to half precision.
    pub scale: Option<BoundScale>,
    /// The format of all slots in its destination.
    pub format: SlotFormat,
    /// The unit of progress it belongs to, from 0; see [`LoadPlan::unit`].
    pub unit: u32,
}

/// The format of a slot's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SlotFormat {
    /// IEEE half precision, row-major.
    F16,
    /// IEEE single precision, row-major.
    F32,
    /// Elements of this type as in the file: rows of whole blocks.
    Blocks(GgmlType),
}

impl SlotFormat {
    /// Returns the format of bytes that are kept as they are in the file.
    const fn native(ggml_type: GgmlType) -> Self {
        match ggml_type {
            GgmlType::F16 => Self::F16,
            GgmlType::F32 => Self::F32,
            other => Self::Blocks(other),
        }
    }

    /// Returns the ggml type with this layout.
    #[must_use]
    pub const fn ggml_type(self) -> GgmlType {
        match self {
            Self::F16 => GgmlType::F16,
            Self::F32 => GgmlType::F32,
            Self::Blocks(ggml_type) => ggml_type,
        }
    }
}

/// One weight in the arena.
///
/// Row `r` of a matrix is the [`row_bytes`](Self::row_bytes) bytes from `dest.start + r * row_bytes`.
/// In a row, block `b` is the [`block_bytes`](GgmlType::block_bytes) bytes from `b * block_bytes`, with
/// [`block_len`](GgmlType::block_len) elements. Both figures are those of
/// [`format.ggml_type()`](SlotFormat::ggml_type).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlannedSlot {
    /// The weight.
    pub slot: Slot,
    /// The tensor of the file that holds it.
    pub tensor: Arc<str>,
    /// The type of that tensor.
    pub source_type: GgmlType,
    /// Position in [`LoadPlan::ops`] of the transfer that fills it.
    pub op: usize,
    /// `[rows, cols]`, or `[n]` for a vector, in elements.
    pub shape: Vec<u64>,
    /// The format of its bytes.
    pub format: SlotFormat,
    /// Bytes of one row. For a vector, bytes of the whole slot.
    pub row_bytes: u64,
    /// The bytes of the arena. Slices of a fused tensor start on a row, which need not be a multiple of
    /// 256 bytes.
    pub dest: Range<u64>,
}

/// A step of loading. Progress is reported by these units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unit {
    /// The token embedding and the RoPE factors.
    Embedding,
    /// The weights of this layer, counted from 0.
    Layer(u32),
    /// The last norm, and the output if it is not tied.
    Output,
}

/// Writes `Embedding loaded`, `Layer 3 loaded` or `Output weights loaded`.
impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding => f.write_str("Embedding loaded"),
            Self::Layer(layer) => write!(f, "Layer {layer} loaded"),
            Self::Output => f.write_str("Output weights loaded"),
        }
    }
}

/// The plan of a load: plain data, made without a device.
///
/// All weights are in one arena of [`device_bytes`](Self::device_bytes). Transfers are ordered by unit
/// of progress, then by position in the files. Their destinations have the same order.
///
/// A plan is proven when it is made: see [`verify`](Self::verify). Therefore, with the feature `serde`, it can be
/// serialised and not deserialised. A process that needs the plan of another makes it from the file.
/// Serialised, units of transfers count from 1, as reports of progress do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadPlan {
    storage: Storage,
    layers: u32,
    ops: Vec<PlanOp>,
    slots: Vec<PlannedSlot>,
    left_out: Vec<Arc<str>>,
    device_bytes: u64,
    source_bytes: u64,
}

impl LoadPlan {
    /// Reads the configuration of a model and makes its plan, in one call.
    ///
    /// The arguments are those of [`Gguf`](gguf_format::Gguf) and of [`GgufFile`](gguf_format::GgufFile): a
    /// header in memory, a file, or all files of a split model.
    ///
    /// # Errors
    ///
    /// Those of [`Phi3Config::from_gguf`], [`TensorMap::bind`] and [`new`](Self::new).
    pub fn from_gguf(
        metadata: &Metadata<'_>,
        tensors: &[TensorInfo<'_>],
        storage: Storage,
    ) -> Result<(Phi3Config, Self), Error> {
        let config = Phi3Config::from_gguf(metadata, tensors)?;
        let plan = Self::new(&config, &TensorMap::bind(&config, tensors)?, storage)?;
        Ok((config, plan))
    }

    /// Lays out the model.
    ///
    /// # Errors
    ///
    /// * [`Error::NoConversion`] if a tensor must be decoded and its type cannot be decoded. Native
    ///   storage accepts every type.
    /// * [`Error::TooLarge`] if the size of the arena exceeds 64 bits.
    /// * [`Error::InvalidPlan`] if `tensors` was bound with another configuration than `config`.
    pub fn new(config: &Phi3Config, tensors: &TensorMap, storage: Storage) -> Result<Self, Error> {
        let mut plan = Self {
            storage,
            layers: config.layers,
            ops: Vec::with_capacity(tensors.tensors().len()),
            slots: Vec::new(),
            left_out: Vec::new(),
            device_bytes: 0,
            source_bytes: 0,
        };
        let folded: HashSet<&str> = tensors
            .tensors()
            .iter()
            .filter_map(|tensor| Some(&*tensor.scale.as_ref()?.name))
            .collect();
        for tensor in tensors.tensors() {
            if storage == Storage::Native || !tensor.is_scale() {
                plan.place(tensor)?;
            } else if !folded.contains(&*tensor.name) {
                plan.left_out.push(Arc::clone(&tensor.name));
            }
        }
        plan.slots.sort_by_key(|slot| slot.slot);
        plan.verify()?;
        Ok(plan)
    }

    /// Returns the format of the weights.
    #[must_use]
    pub const fn storage(&self) -> Storage {
        self.storage
    }

    /// Returns the number of transformer layers of the model.
    #[must_use]
    pub const fn layers(&self) -> u32 {
        self.layers
    }

    /// Returns the transfers, one for each tensor of the file, in the best order for reading.
    #[must_use]
    pub fn ops(&self) -> &[PlanOp] {
        &self.ops
    }

    /// Returns the weights, in slot order.
    #[must_use]
    pub fn slots(&self) -> &[PlannedSlot] {
        &self.slots
    }

    /// Returns one weight; `None` if the model does not have it.
    #[must_use]
    pub fn slot(&self, slot: Slot) -> Option<&PlannedSlot> {
        let position = self.slots.binary_search_by_key(&slot, |planned| planned.slot).ok()?;
        self.slots.get(position)
    }

    /// Returns the number of units of progress: the embedding, each layer, the output.
    #[must_use]
    pub const fn units(&self) -> u32 {
        // Layers are fewer than tensors, so this never saturates.
        self.layers.saturating_add(2)
    }

    /// Returns the unit of this number, from 0 to [`units`](Self::units) - 1; `None` for any other number.
    #[must_use]
    pub fn unit(&self, number: u32) -> Option<Unit> {
        match number.checked_sub(1) {
            None => Some(Unit::Embedding),
            Some(layer) if layer < self.layers => Some(Unit::Layer(layer)),
            Some(layer) if layer == self.layers => Some(Unit::Output),
            Some(_) => None,
        }
    }

    /// Returns the size of the arena in bytes: a multiple of 256.
    #[must_use]
    pub const fn device_bytes(&self) -> u64 {
        self.device_bytes
    }

    /// Returns the tensors of the file that are not loaded, because no kernel for half precision reads them:
    /// for [`Storage::F16`], the input scales of NVFP4 tensors.
    #[must_use]
    pub fn left_out(&self) -> &[Arc<str>] {
        &self.left_out
    }

    /// Returns the number of bytes that the transfers read from the files. Each [folded scale](PlanOp::scale)
    /// adds four bytes.
    #[must_use]
    pub const fn source_bytes(&self) -> u64 {
        self.source_bytes
    }

    /// Returns the weights as a struct. `f` makes the value of each weight from its position.
    ///
    /// # Errors
    ///
    /// The first error of `f`. [`Error::InvalidPlan`] cannot occur for a plan of [`new`](Self::new),
    /// which has every slot.
    pub fn weights<P, E: From<Error>>(
        &self,
        mut f: impl FnMut(&PlannedSlot) -> Result<P, E>,
    ) -> Result<Phi3Weights<P>, E> {
        let rope_factors = self.slot(Slot::RopeFactorsLong).is_some();
        Phi3Weights::try_from_fn(self.layers, rope_factors, |slot| {
            f(self.slot(slot).ok_or_else(|| fault(format!("{slot} has no place")))?)
        })
    }

    fn place(&mut self, tensor: &BoundTensor) -> Result<(), Error> {
        let Form { conversion, format, scale } = Form::of(tensor, self.storage)?;
        let row_bytes = format.ggml_type().bytes_for(tensor.cols).ok_or(TOO_LARGE)?;
        let start = self.device_bytes;
        let dest = |rows: &Range<u64>| {
            let offset = |row: u64| row.checked_mul(row_bytes)?.checked_add(start);
            Some(offset(rows.start)?..offset(rows.end)?)
        };
        let whole = dest(&(0..tensor.rows)).ok_or(TOO_LARGE)?;
        for SlotRows { slot, rows } in &tensor.slots {
            let shape = if tensor.vector {
                vec![tensor.cols]
            } else {
                vec![rows.end.saturating_sub(rows.start), tensor.cols]
            };
            self.slots.push(PlannedSlot {
                slot: *slot,
                tensor: Arc::clone(&tensor.name),
                source_type: tensor.ggml_type,
                op: self.ops.len(),
                shape,
                format,
                row_bytes,
                dest: dest(rows).ok_or(TOO_LARGE)?,
            });
        }
        self.device_bytes = whole.end.checked_next_multiple_of(ALIGNMENT).ok_or(TOO_LARGE)?;
        self.source_bytes = length(&tensor.source.range)
            .and_then(|bytes| self.source_bytes.checked_add(bytes))
            .ok_or(TOO_LARGE)?;
        self.ops.push(PlanOp {
            tensor: Arc::clone(&tensor.name),
            source: tensor.source.clone(),
            dest: whole,
            conversion,
            scale,
            format,
            unit: tensor.unit,
        });
        Ok(())
    }
}

/// The form of a tensor's bytes in the arena, and how they become that.
pub(crate) struct Form {
    pub(crate) conversion: Conversion,
    pub(crate) format: SlotFormat,
    pub(crate) scale: Option<BoundScale>,
}

impl Form {
    pub(crate) fn of(tensor: &BoundTensor, storage: Storage) -> Result<Self, Error> {
        let is_factors = tensor.slots.iter().any(|part| part.slot.is_rope_factors());
        let (conversion, format) = match storage {
            Storage::F16 if !is_factors => {
                let conversion =
                    Conversion::to_f16(tensor.ggml_type).ok_or_else(|| Error::NoConversion {
                        tensor: tensor.name.to_string(),
                        ggml_type: tensor.ggml_type,
                    })?;
                (conversion, SlotFormat::F16)
            }
            Storage::F16 | Storage::Native => {
                (Conversion::Copy, SlotFormat::native(tensor.ggml_type))
            }
        };
        let scale = match conversion {
            Conversion::ToF16(_) => tensor.scale.clone(),
            Conversion::Copy => None,
        };
        Ok(Self { conversion, format, scale })
    }
}

pub(crate) const TOO_LARGE: Error = Error::TooLarge { what: "the model in device memory" };

pub(crate) fn fault(fault: impl Into<String>) -> Error {
    Error::InvalidPlan { fault: fault.into() }
}

pub(crate) fn length(range: &Range<u64>) -> Option<u64> {
    range.end.checked_sub(range.start)
}
