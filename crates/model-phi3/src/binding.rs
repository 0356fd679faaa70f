//! Finds the tensor of the file that contains each weight.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use gguf_format::{GgmlType, TensorInfo};

use crate::config::{Architecture, Phi3Config, check_layers};
use crate::error::Error;
use crate::keys::BLOCK_COUNT;
use crate::names::{
    self, OUTPUT, OUTPUT_NORM, ROPE_FACTORS_LONG, ROPE_FACTORS_SHORT, TOKEN_EMBEDDING, stem,
};
use crate::problems::{Misfit, Problem, Problems};
use crate::rope::RopeScaling;
use crate::slot::{Matrix, Slot};

/// Number of missing layers whose tensors are listed one by one. They show the expected tensors, and the
/// message still has room for the count of the other layers.
const NAMED_LAYERS: usize = 2;

/// Bytes of one file of the model.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct SourceRange {
    /// Position of the file in the shards of the model; 0 if the model is one file.
    pub shard: usize,
    /// Bytes from the start of that file.
    pub range: Range<u64>,
}

/// The rows of a tensor that contain one weight.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlotRows {
    /// The weight.
    pub slot: Slot,
    /// Its rows.
    pub rows: Range<u64>,
}

impl SlotRows {
    /// Returns the same rows as rows of a tied output. `None` if they do not belong to the token embedding.
    fn as_output(&self) -> Option<Self> {
        let slot = match self.slot {
            Slot::TokenEmbedding => Slot::Output,
            Slot::Scale(Matrix::TokenEmbedding) => Slot::Scale(Matrix::Output),
            Slot::InputScale(Matrix::TokenEmbedding) => Slot::InputScale(Matrix::Output),
            _ => return None,
        };
        Some(Self { slot, rows: self.rows.clone() })
    }
}

/// A tensor of the file, with the weights that it contains.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BoundTensor {
    /// The name in the file. It is one of llama.cpp's names, so it needs no escaping.
    pub name: Arc<str>,
    /// The type in the file.
    pub ggml_type: GgmlType,
    /// The position of its bytes.
    pub source: SourceRange,
    /// The unit of progress it belongs to, from 0; see [`LoadPlan::unit`](crate::LoadPlan::unit).
    pub unit: u32,
    /// Rows; 1 for a vector.
    pub rows: u64,
    /// Elements of a row: a whole number of the type's blocks.
    pub cols: u64,
    /// Whether it is a vector, so that its weight has the shape `[cols]`.
    pub vector: bool,
    /// The tensor with the `f32` that all values are multiplied by. Only NVFP4 tensors can have one.
    /// The scale is also bound as a tensor of its own.
    pub scale: Option<BoundScale>,
    /// The weights that it holds, in row order. They cover the tensor without overlap, with two
    /// exceptions: a tied output is an alias of the whole token embedding and comes last, and the
    /// weights of a fused tensor share its scales.
    pub slots: Vec<SlotRows>,
}

/// A tensor that holds the scale of another.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BoundScale {
    /// The name in the file. It is one of llama.cpp's names, so it needs no escaping.
    pub name: Arc<str>,
    /// The position of its four bytes.
    pub source: SourceRange,
}

impl BoundTensor {
    /// Returns whether it holds the scale of another tensor, or of that tensor's input.
    #[must_use]
    pub fn is_scale(&self) -> bool {
        self.slots.iter().any(|part| part.slot.is_scale())
    }
}

/// The position of every weight of the model in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorMap {
    tensors: Vec<BoundTensor>,
}

impl TensorMap {
    /// Finds every weight among the tensors of the file.
    ///
    /// Each layer can have `attn_qkv` or `attn_q`, `attn_k` and `attn_v`, and a fused `ffn_up` (gate
    /// rows first) or `ffn_gate` and `ffn_up`. This does not depend on the architecture or on other
    /// layers.
    ///
    /// Every tensor must belong to a slot. Any other tensor is an error, as in llama.cpp, because a model
    /// without it would be another model. Examples are biases, which Phi-3 does not have, and
    /// `rope_freqs.weight`, whose frequency factors (Llama 3) have no slot.
    ///
    /// RoPE factors come in pairs, long and short. One without the other is an error. If `rope.scaling.type`
    /// is `longrope`, their absence is an error.
    ///
    /// If `X.weight` is NVFP4, the file can have `X.scale` and `X.input_scale`, one `f32` each. For weights of
    /// other types, these are unexpected tensors.
    ///
    /// # Errors
    ///
    /// [`Error::Binding`] with all tensors that are missing, unexpected, misshapen or of the wrong type
    /// (it lists the first 256); [`Error::UnsupportedValue`] if there are more than 1,024 layers;
    /// [`Error::InvalidValue`] if there are more than 65,536.
    pub fn bind(config: &Phi3Config, tensors: &[TensorInfo<'_>]) -> Result<Self, Error> {
        check_layers(config.layers, config.key(BLOCK_COUNT))?;
        let mut binder = Binder {
            config,
            widths: Widths::new(config),
            unbound: tensors.iter().map(|tensor| (tensor.name(), tensor)).collect(),
            bound: Vec::with_capacity(tensors.len()),
            problems: Problems::none(),
        };
        binder.embedding();
        binder.layers(tensors);
        binder.output();
        binder.rope_factors();
        binder.leftovers(tensors);
        binder.finish()
    }

    /// Returns the tensors in the best order for reading: by unit of progress, then by shard and offset.
    #[must_use]
    pub fn tensors(&self) -> &[BoundTensor] {
        &self.tensors
    }
}

/// The lengths that tensors of the model can have.
///
/// A length that exceeds 64 bits saturates. No tensor can have that many elements, so the tensor is reported
/// with a wrong shape.
struct Widths {
    hidden: u64,
    queries: u64,
    keys: u64,
    ffn: u64,
    fused_ffn: u64,
}

impl Widths {
    fn new(config: &Phi3Config) -> Self {
        let heads = |count: u32| u64::from(count).saturating_mul(u64::from(config.head_dim));
        Self {
            hidden: config.hidden,
            queries: heads(config.heads),
            keys: heads(config.kv_heads),
            ffn: config.ffn,
            fused_ffn: config.ffn.saturating_mul(2),
        }
    }
}

/// Binds tensors one by one and collects the problems.
struct Binder<'c, 't, 'a> {
    config: &'c Phi3Config,
    widths: Widths,
    unbound: HashMap<&'a str, &'t TensorInfo<'a>>,
    bound: Vec<BoundTensor>,
    problems: Problems,
}

impl<'t, 'a> Binder<'_, 't, 'a> {
    fn embedding(&mut self) {
        let &Phi3Config { vocab, tied_output, .. } = self.config;
        self.matrix(0, TOKEN_EMBEDDING, self.widths.hidden, &[(Slot::TokenEmbedding, vocab)]);
        if !tied_output {
            return;
        }
        // Only the embedding and its scales are bound so far.
        for tensor in &mut self.bound {
            let aliases: Vec<_> = tensor.slots.iter().filter_map(SlotRows::as_output).collect();
            tensor.slots.extend(aliases);
        }
    }

    /// Binds the layers. If layers have no tensor at all, only the first of them are bound tensor by tensor.
    /// Thus the number of tensors in the file limits the work, and not `block_count`.
    fn layers(&mut self, tensors: &[TensorInfo<'_>]) {
        let present: HashSet<u32> =
            tensors.iter().filter_map(|tensor| names::layer_of(tensor.name())).collect();
        let is_absent = |layer: &u32| !present.contains(layer);
        let unnamed = || (0..self.config.layers).filter(is_absent).skip(NAMED_LAYERS);
        let first_unnamed = unnamed().next();
        let unnamed_layers = unnamed().count();
        for layer in 0..self.config.layers {
            let named = first_unnamed.is_none_or(|first| layer < first);
            if named || present.contains(&layer) {
                self.layer(layer);
            }
        }
        if let Some(first) = first_unnamed {
            self.problems.push(Problem::MissingLayers { first, count: unnamed_layers });
        }
    }

    fn layer(&mut self, layer: u32) {
        // Unit 0 is the embedding. Layers are bounded, so this never saturates.
        let unit = layer.saturating_add(1);
        let Widths { hidden, queries, ffn, .. } = self.widths;
        let name = |stem| names::of_layer(layer, stem);
        self.vector(unit, &name(stem::ATTN_NORM), Slot::AttnNorm(layer), hidden);
        self.query_key_value(unit, layer);
        self.matrix(unit, &name(stem::ATTN_OUTPUT), queries, &[(Slot::AttnOutput(layer), hidden)]);
        self.vector(unit, &name(stem::FFN_NORM), Slot::FfnNorm(layer), hidden);
        self.gate_up(unit, layer);
        self.matrix(unit, &name(stem::FFN_DOWN), ffn, &[(Slot::FfnDown(layer), hidden)]);
    }

    fn query_key_value(&mut self, unit: u32, layer: u32) {
        let Widths { hidden, queries, keys, .. } = self.widths;
        let slots =
            [(Slot::AttnQ(layer), queries), (Slot::AttnK(layer), keys), (Slot::AttnV(layer), keys)];
        let fused = names::of_layer(layer, stem::ATTN_QKV);
        let split =
            [stem::ATTN_Q, stem::ATTN_K, stem::ATTN_V].map(|stem| names::of_layer(layer, stem));
        let first_split = split.iter().find(|name| self.unbound.contains_key(name.as_str()));
        match (self.unbound.contains_key(fused.as_str()), first_split) {
            (true, Some(first_split)) => {
                let split_name = first_split.clone();
                self.drop_all(std::iter::once(&fused).chain(&split));
                self.problems.push(Problem::FusedAndSplit { fused, split: split_name });
            }
            (true, None) => {
                self.matrix(unit, &fused, hidden, &slots);
            }
            (false, Some(_)) => {
                for (name, slot) in split.iter().zip(slots) {
                    self.matrix(unit, name, hidden, &[slot]);
                }
            }
            (false, None) => {
                let [q, k, v] = split;
                let split = format!("{q}, {k} and {v}");
                self.missing_layout(fused, split);
            }
        }
    }

    /// Binds gate and up. The fused tensor has the same name as the split `ffn_up`. If there is no gate, the
    /// tensor is fused. If there is a gate, the number of rows shows whether the two contradict each other.
    fn gate_up(&mut self, unit: u32, layer: u32) {
        let Widths { hidden, ffn, fused_ffn, .. } = self.widths;
        let slots = [(Slot::FfnGate(layer), ffn), (Slot::FfnUp(layer), ffn)];
        let [gate_slot, up_slot] = slots;
        let gate = names::of_layer(layer, stem::FFN_GATE);
        let up = names::of_layer(layer, stem::FFN_UP);
        let up_rows = self.unbound.get(up.as_str()).map(|tensor| tensor.shape().rows());
        match (self.unbound.contains_key(gate.as_str()), up_rows) {
            (true, Some(rows)) if rows == fused_ffn => {
                self.drop_all([&gate, &up]);
                self.problems.push(Problem::FusedAndSplit { fused: up, split: gate });
            }
            (false, Some(rows)) if rows != ffn => {
                self.matrix(unit, &up, hidden, &slots);
            }
            (false, None) => {
                let split = format!("{gate} and a {up} of half the rows");
                self.missing_layout(up, split);
            }
            _ => {
                self.matrix(unit, &gate, hidden, &[gate_slot]);
                self.matrix(unit, &up, hidden, &[up_slot]);
            }
        }
    }

    fn output(&mut self) {
        // After the embedding and the layers. Layers are bounded, so this never saturates.
        let unit = self.config.layers.saturating_add(1);
        let hidden = self.widths.hidden;
        self.vector(unit, OUTPUT_NORM, Slot::OutputNorm, hidden);
        if !self.config.tied_output {
            self.matrix(unit, OUTPUT, hidden, &[(Slot::Output, self.config.vocab)]);
        }
    }

    fn rope_factors(&mut self) {
        let pair = [
            (ROPE_FACTORS_LONG, Slot::RopeFactorsLong),
            (ROPE_FACTORS_SHORT, Slot::RopeFactorsShort),
        ];
        let any = pair.iter().any(|(name, _)| self.unbound.contains_key(name));
        if !any && self.config.rope.scaling != Some(RopeScaling::LongRope) {
            return;
        }
        // The configuration guarantees that the number of rotated dimensions is even.
        let len = u64::from(self.config.rope.dimension_count) / 2;
        for (name, slot) in pair {
            if let Some(factors) = self.take_f32(name, len) {
                self.push(0, factors, vec![SlotRows { slot, rows: 0..1 }], true);
            }
        }
    }

    fn leftovers(&mut self, tensors: &[TensorInfo<'_>]) {
        // Report them in file order, because the map has no order.
        for tensor in tensors {
            if self.unbound.contains_key(tensor.name()) {
                self.problems.push(Problem::Unexpected {
                    name: tensor.name().to_owned(),
                    reason: Misfit::of(tensor.name(), self.config.layers),
                });
            }
        }
    }

    fn finish(mut self) -> Result<TensorMap, Error> {
        if let Some(problems) = self.problems.into_any() {
            return Err(problems.into());
        }
        self.bound
            .sort_by_key(|tensor| (tensor.unit, tensor.source.shard, tensor.source.range.start));
        Ok(TensorMap { tensors: self.bound })
    }

    fn missing_layout(&mut self, fused: String, split: String) {
        let (name, alternative) = match self.config.architecture {
            Architecture::Phi3 => (fused, split),
            Architecture::Llama => (split, fused),
        };
        self.problems.push(Problem::Missing { name, alternative: Some(alternative) });
    }

    /// Removes tensors whose problems have been reported.
    fn drop_all<'n>(&mut self, names: impl IntoIterator<Item = &'n String>) {
        for name in names {
            self.unbound.remove(name.as_str());
        }
    }

    fn vector(&mut self, unit: u32, name: &str, slot: Slot, len: u64) {
        if let Some(tensor) = self.take(name, &[len]) {
            self.push(unit, tensor, vec![SlotRows { slot, rows: 0..1 }], true);
        }
    }

    /// Binds a matrix that contains the rows of `slots` in this order, and its scales.
    fn matrix(&mut self, unit: u32, name: &str, cols: u64, slots: &[(Slot, u64)]) {
        let mut rows = 0_u64;
        let slot_rows: Vec<SlotRows> = slots
            .iter()
            .map(|&(slot, count)| {
                let start = rows;
                // Saturates for the same reason as `Widths`.
                rows = rows.saturating_add(count);
                SlotRows { slot, rows: start..rows }
            })
            .collect();
        let Some(tensor) = self.take(name, &[cols, rows]) else { return };
        let scale = if tensor.ggml_type() == GgmlType::NVFP4 {
            self.scale(unit, names::input_scale_of(name), slots, Slot::InputScale);
            self.scale(unit, names::scale_of(name), slots, Slot::Scale)
        } else {
            None
        };
        if let Some(bound) = self.push(unit, tensor, slot_rows, false) {
            bound.scale = scale;
        }
    }

    /// Binds the scale that all of `slots` share, if the file has it.
    fn scale(
        &mut self,
        unit: u32,
        name: Option<String>,
        slots: &[(Slot, u64)],
        of: fn(Matrix) -> Slot,
    ) -> Option<BoundScale> {
        let name = name.filter(|name| self.unbound.contains_key(name.as_str()))?;
        let tensor = self.take_f32(&name, 1)?;
        let matrices = slots.iter().filter_map(|(slot, _)| slot.matrix());
        let slots = matrices.map(|matrix| SlotRows { slot: of(matrix), rows: 0..1 }).collect();
        let bound = self.push(unit, tensor, slots, true)?;
        Some(BoundScale { name: Arc::clone(&bound.name), source: bound.source.clone() })
    }

    /// Takes a vector that is `f32` under every storage policy.
    fn take_f32(&mut self, name: &str, len: u64) -> Option<&'t TensorInfo<'a>> {
        let tensor = self.take(name, &[len])?;
        let found = tensor.ggml_type();
        if found == GgmlType::F32 {
            return Some(tensor);
        }
        let name = name.to_owned();
        self.problems.push(Problem::WrongType { name, expected: GgmlType::F32, found });
        None
    }

    /// Takes the tensor of this name and shape, or reports the problem.
    fn take(&mut self, name: &str, expected: &[u64]) -> Option<&'t TensorInfo<'a>> {
        let Some(tensor) = self.unbound.remove(name) else {
            self.problems.push(Problem::missing(name));
            return None;
        };
        let ggml_type = tensor.ggml_type();
        if matches!(ggml_type, GgmlType::I8 | GgmlType::I16 | GgmlType::I32 | GgmlType::I64) {
            self.problems.push(Problem::Integers { name: name.to_owned(), found: ggml_type });
            return None;
        }
        if same_dims(tensor.shape().dims(), expected) {
            return Some(tensor);
        }
        self.problems.push(Problem::Misshapen {
            name: name.to_owned(),
            expected: format!("{expected:?}"),
            found: *tensor.shape(),
        });
        None
    }

    fn push(
        &mut self,
        unit: u32,
        tensor: &TensorInfo<'_>,
        slots: Vec<SlotRows>,
        vector: bool,
    ) -> Option<&mut BoundTensor> {
        self.bound.push(BoundTensor {
            name: tensor.name().into(),
            ggml_type: tensor.ggml_type(),
            source: SourceRange { shard: tensor.shard(), range: tensor.range() },
            unit,
            rows: tensor.shape().rows(),
            cols: tensor.shape().row_len(),
            vector,
            scale: None,
            slots,
        });
        self.bound.last_mut()
    }
}

/// Compares dimensions. Trailing dimensions of 1 do not count, as in llama.cpp: a single element may have no
/// dimensions.
fn same_dims(found: &[u64], expected: &[u64]) -> bool {
    let dim = |dims: &[u64], axis: usize| dims.get(axis).copied().unwrap_or(1);
    (0..found.len().max(expected.len())).all(|axis| dim(found, axis) == dim(expected, axis))
}
