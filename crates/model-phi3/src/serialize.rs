//! The serialised forms of public types (feature `serde`).
//!
//! Enums are the words that they print, tensor types the names of ggml. Objects have the field names of
//! `phi3-loader --json`, with the same meaning. Fields are append-only. No field is flattened or left out, so that
//! formats that do not name fields work as well as JSON.

use std::fmt::{self, Display};
use std::marker::PhantomData;
use std::ops::Range;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::attention::{AttentionKind, AttentionShape};
use crate::binding::{BoundScale, SourceRange};
use crate::config::{Architecture, Phi3Config};
use crate::conversion::Conversion;
use crate::fused::{Fused, FusedSlot};
use crate::kv_cache::KvDtype;
use crate::placed_plan::{PlacedOp, PlacedPart, PlacedPlan, PlacedSlot};
use crate::placement::{Placement, Proposal, SplitMode};
use crate::plan::{LoadPlan, PlanOp, PlannedSlot, SlotFormat, Storage, Unit};
use crate::rope::{Rope, RopeScaling, RopeStyle};
use crate::slot::{Matrix, Slot};
use crate::warning::Warning;

/// Serialises types as the text that they print.
macro_rules! printed {
    ($( $type:ty ),+) => { $(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )+ };
}

/// Deserialises types from the text that they print.
macro_rules! parsed {
    ($( $type:ty ),+) => { $(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Parsed(PhantomData))
            }
        }
    )+ };
}

/// Serialises types as the object that a function makes of them.
macro_rules! objects {
    ($( $type:ty => $object:path; )+) => { $(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $object(self).serialize(serializer)
            }
        }
    )+ };
}

struct Parsed<T>(PhantomData<T>);

impl<T: FromStr<Err: Display>> Visitor<'_> for Parsed<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

printed!(
    Architecture,
    AttentionKind,
    RopeStyle,
    RopeScaling,
    Storage,
    SplitMode,
    KvDtype,
    Slot,
    Fused,
    Unit
);
parsed!(
    Architecture,
    AttentionKind,
    RopeStyle,
    RopeScaling,
    Storage,
    SplitMode,
    KvDtype,
    Slot,
    Fused
);

impl Serialize for Matrix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.slot().serialize(serializer)
    }
}

impl Serialize for SlotFormat {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.ggml_type().name())
    }
}

/// `copy`, or the type that is decoded.
impl Serialize for Conversion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::Copy => "copy",
            Self::ToF16(ggml_type) => ggml_type.name(),
        })
    }
}

objects! {
    Phi3Config => ConfigObject::new;
    Rope => RopeObject::new;
    AttentionShape => AttentionObject::new;
    Warning => WarningObject::new;
    LoadPlan => PlanObject::new;
    FusedSlot => FusedObject::new;
    Placement => PlacementObject::new;
    Proposal => ProposalObject::new;
    PlacedPlan => PlacedPlanObject::new;
    PlacedPart => PartObject::new;
    SourceRange => SourceObject::new;
    BoundScale => ScaleObject::new;
}

/// Bytes of a range. A plan has no range that ends before it starts.
fn length(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

#[derive(serde::Serialize, serde::Deserialize)]
struct ConfigObject<Text> {
    architecture: Architecture,
    name: Option<Text>,
    layers: u32,
    hidden: u64,
    ffn: u64,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    /// Follows from the numbers of heads.
    attention: Option<AttentionKind>,
    /// Follows from `head_dim`.
    attention_scale: Option<f32>,
    vocab: u64,
    context_length: u32,
    rms_epsilon: f32,
    rope_style: RopeStyle,
    rope_dim: u32,
    rope_freq_base: f32,
    rope_original_context: Option<u32>,
    rope_attn_factor: Option<f32>,
    rope_scaling: Option<RopeScaling>,
    rope_scaling_factor: Option<f32>,
    rope_factors: bool,
    sliding_window: Option<u32>,
    tied_output: bool,
    file_type: Option<u32>,
}

impl<'a> ConfigObject<&'a str> {
    fn new(config: &'a Phi3Config) -> Self {
        let attention = config.attention();
        let rope = &config.rope;
        Self {
            architecture: config.architecture,
            name: config.name.as_deref(),
            layers: config.layers,
            hidden: config.hidden,
            ffn: config.ffn,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            attention: Some(attention.kind()),
            attention_scale: Some(attention.scale),
            vocab: config.vocab,
            context_length: config.context_length,
            rms_epsilon: config.rms_epsilon,
            rope_style: rope.style,
            rope_dim: rope.dimension_count,
            rope_freq_base: rope.freq_base,
            rope_original_context: rope.original_context,
            rope_attn_factor: rope.attn_factor,
            rope_scaling: rope.scaling,
            rope_scaling_factor: rope.scaling_factor,
            rope_factors: rope.factors,
            sliding_window: config.sliding_window,
            tied_output: config.tied_output,
            file_type: config.file_type,
        }
    }
}

impl<'de> Deserialize<'de> for Phi3Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = ConfigObject::<String>::deserialize(deserializer)?;
        Ok(Self {
            architecture: object.architecture,
            name: object.name,
            layers: object.layers,
            hidden: object.hidden,
            heads: object.heads,
            kv_heads: object.kv_heads,
            head_dim: object.head_dim,
            ffn: object.ffn,
            vocab: object.vocab,
            context_length: object.context_length,
            rms_epsilon: object.rms_epsilon,
            rope: Rope {
                style: object.rope_style,
                dimension_count: object.rope_dim,
                freq_base: object.rope_freq_base,
                original_context: object.rope_original_context,
                attn_factor: object.rope_attn_factor,
                scaling: object.rope_scaling,
                scaling_factor: object.rope_scaling_factor,
                factors: object.rope_factors,
            },
            sliding_window: object.sliding_window,
            file_type: object.file_type,
            tied_output: object.tied_output,
        })
    }
}

/// The fields have the names that they have in the configuration.
#[derive(serde::Serialize)]
struct RopeObject {
    rope_style: RopeStyle,
    rope_dim: u32,
    rope_freq_base: f32,
    rope_original_context: Option<u32>,
    rope_attn_factor: Option<f32>,
    rope_scaling: Option<RopeScaling>,
    rope_scaling_factor: Option<f32>,
    rope_factors: bool,
}

impl RopeObject {
    fn new(rope: &Rope) -> Self {
        Self {
            rope_style: rope.style,
            rope_dim: rope.dimension_count,
            rope_freq_base: rope.freq_base,
            rope_original_context: rope.original_context,
            rope_attn_factor: rope.attn_factor,
            rope_scaling: rope.scaling,
            rope_scaling_factor: rope.scaling_factor,
            rope_factors: rope.factors,
        }
    }
}

/// The fields have the names that they have in the configuration.
#[derive(serde::Serialize)]
struct AttentionObject {
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    attention: AttentionKind,
    attention_scale: f32,
}

impl AttentionObject {
    fn new(shape: &AttentionShape) -> Self {
        Self {
            heads: shape.q_heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            attention: shape.kind(),
            attention_scale: shape.scale,
        }
    }
}

#[derive(serde::Serialize)]
struct WarningObject {
    code: &'static str,
    message: String,
    help: &'static str,
}

impl WarningObject {
    fn new(warning: &Warning) -> Self {
        Self { code: warning.code(), message: warning.to_string(), help: warning.help() }
    }
}

#[derive(serde::Serialize)]
struct PlanObject<'a> {
    storage: Storage,
    vram_bytes: u64,
    source_bytes: u64,
    units: u32,
    slots: &'a [PlannedSlot],
    operations: &'a [PlanOp],
    left_out: Vec<&'a str>,
    layers: u32,
}

impl<'a> PlanObject<'a> {
    fn new(plan: &'a LoadPlan) -> Self {
        Self {
            storage: plan.storage(),
            vram_bytes: plan.device_bytes(),
            source_bytes: plan.source_bytes(),
            units: plan.units(),
            slots: plan.slots(),
            operations: plan.ops(),
            left_out: plan.left_out().iter().map(|name| &**name).collect(),
            layers: plan.layers(),
        }
    }
}

/// Writes the fields that the operations of both plans have.
macro_rules! operation_fields {
    ($object:ident, $op:ident) => {
        $object.serialize_field("tensor", &*$op.tensor)?;
        $object.serialize_field("shard", &$op.source.shard)?;
        // Of a placed operation: the first row, and all rows including columns that are not needed.
        $object.serialize_field("source_offset", &$op.source.range.start)?;
        $object.serialize_field("source_bytes", &length(&$op.source.range))?;
        $object.serialize_field("dest_offset", &$op.dest.start)?;
        $object.serialize_field("dest_bytes", &length(&$op.dest))?;
        $object.serialize_field("conversion", &$op.conversion)?;
        // The tensor that holds a factor for all decoded values.
        $object.serialize_field("scale", &$op.scale.as_ref().map(|scale| &*scale.name))?;
        // From 1, as in reports of progress.
        $object.serialize_field("unit", &$op.unit.saturating_add(1))?;
        $object.serialize_field("format", &$op.format)?;
        // The bytes of `scale`.
        $object.serialize_field("scale_source", &$op.scale.as_ref().map(|scale| &scale.source))?;
    };
}

const OPERATION_FIELDS: usize = 11;

impl Serialize for PlanOp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("PlanOp", OPERATION_FIELDS)?;
        operation_fields!(object, self);
        object.end()
    }
}

/// Writes the fields that the slots of both plans have.
fn slot_fields<O: SerializeStruct>(object: &mut O, planned: &PlannedSlot) -> Result<(), O::Error> {
    let ggml_type = planned.format.ggml_type();
    object.serialize_field("slot", &planned.slot)?;
    object.serialize_field("tensor", &*planned.tensor)?;
    object.serialize_field("shape", &planned.shape)?;
    object.serialize_field("format", &planned.format)?;
    object.serialize_field("offset", &planned.dest.start)?;
    object.serialize_field("bytes", &length(&planned.dest))?;
    object.serialize_field("row_bytes", &planned.row_bytes)?;
    object.serialize_field("block_len", &ggml_type.block_len())?;
    object.serialize_field("block_bytes", &ggml_type.block_bytes())?;
    object.serialize_field("source_type", planned.source_type.name())?;
    // Position in the `operations` of the plan or of the part.
    object.serialize_field("operation", &planned.op)
}

const SLOT_FIELDS: usize = 11;

impl Serialize for PlannedSlot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("PlannedSlot", SLOT_FIELDS)?;
        slot_fields(&mut object, self)?;
        object.end()
    }
}

/// The fields of a slot that a fused view has.
#[derive(serde::Serialize)]
struct FusedObject {
    fused: Fused,
    shape: [u64; 2],
    format: SlotFormat,
    offset: u64,
    bytes: u64,
    row_bytes: u64,
    block_len: u64,
    block_bytes: u64,
}

impl FusedObject {
    fn new(view: &FusedSlot) -> Self {
        let ggml_type = view.format.ggml_type();
        Self {
            fused: view.fused,
            shape: view.shape,
            format: view.format,
            offset: view.dest.start,
            bytes: length(&view.dest),
            row_bytes: view.row_bytes,
            block_len: ggml_type.block_len(),
            block_bytes: ggml_type.block_bytes(),
        }
    }
}

#[derive(serde::Serialize)]
struct SourceObject {
    shard: usize,
    offset: u64,
    bytes: u64,
}

impl SourceObject {
    fn new(source: &SourceRange) -> Self {
        let SourceRange { shard, range } = source;
        Self { shard: *shard, offset: range.start, bytes: length(range) }
    }
}

#[derive(serde::Serialize)]
struct ScaleObject<'a> {
    name: &'a str,
    shard: usize,
    offset: u64,
    bytes: u64,
}

impl<'a> ScaleObject<'a> {
    fn new(scale: &'a BoundScale) -> Self {
        let SourceObject { shard, offset, bytes } = SourceObject::new(&scale.source);
        Self { name: &scale.name, shard, offset, bytes }
    }
}

/// The fields are named after the options of the command line.
#[derive(serde::Serialize)]
struct PlacementObject<'a> {
    split_mode: SplitMode,
    devices: usize,
    /// Empty if the proportions are equal.
    tensor_split: &'a [f64],
    n_gpu_layers: Option<u32>,
}

impl<'a> PlacementObject<'a> {
    fn new(placement: &'a Placement) -> Self {
        Self {
            split_mode: placement.mode(),
            devices: placement.devices(),
            tensor_split: placement.proportions(),
            n_gpu_layers: placement.offloaded_layers(),
        }
    }
}

#[derive(serde::Serialize)]
struct ProposalObject<'a> {
    placement: &'a Placement,
    /// Positions in the list of free bytes.
    devices: &'a [usize],
    fits: bool,
    short_by: u64,
}

impl<'a> ProposalObject<'a> {
    fn new(proposal: &'a Proposal) -> Self {
        Self {
            placement: &proposal.placement,
            devices: &proposal.devices,
            fits: proposal.fits(),
            short_by: proposal.short_by,
        }
    }
}

/// The fields of a plan. Slots and operations are those of each device.
#[derive(serde::Serialize)]
struct PlacedPlanObject<'a> {
    storage: Storage,
    placement: &'a Placement,
    /// The bytes of all devices.
    vram_bytes: u64,
    source_bytes: u64,
    units: u32,
    /// In the order of the devices.
    parts: &'a [PlacedPart],
    left_out: Vec<&'a str>,
    layers: u32,
}

impl<'a> PlacedPlanObject<'a> {
    fn new(plan: &'a PlacedPlan) -> Self {
        Self {
            storage: plan.storage(),
            placement: plan.placement(),
            vram_bytes: plan.device_bytes(),
            source_bytes: plan.source_bytes(),
            units: plan.units(),
            parts: plan.parts(),
            left_out: plan.left_out().iter().map(|name| &**name).collect(),
            layers: plan.layers(),
        }
    }
}

#[derive(serde::Serialize)]
struct PartObject<'a> {
    vram_bytes: u64,
    slots: &'a [PlacedSlot],
    operations: &'a [PlacedOp],
}

impl<'a> PartObject<'a> {
    fn new(part: &'a PlacedPart) -> Self {
        Self { vram_bytes: part.device_bytes(), slots: part.slots(), operations: part.ops() }
    }
}

impl Serialize for PlacedOp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const FIELDS: usize = OPERATION_FIELDS + 9;
        let mut object = serializer.serialize_struct("PlacedOp", FIELDS)?;
        operation_fields!(object, self);
        object.serialize_field("source_type", self.source_type.name())?;
        object.serialize_field("first_row", &self.rows.start)?;
        object.serialize_field("rows", &length(&self.rows))?;
        // Bytes from one row of the file to the next.
        object.serialize_field("row_stride", &self.row_stride)?;
        // Bytes from the start of a row to the first block that is needed, and of all such blocks of a row.
        object.serialize_field("row_offset", &self.row_range.start)?;
        object.serialize_field("row_bytes", &length(&self.row_range))?;
        // Elements.
        object.serialize_field("skip", &self.skip)?;
        object.serialize_field("keep", &self.keep)?;
        object.serialize_field("dest_row_bytes", &self.dest_row_bytes)?;
        object.end()
    }
}

/// The fields of a slot, and its range of the whole weight.
impl Serialize for PlacedSlot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const FIELDS: usize = SLOT_FIELDS + 5;
        let mut object = serializer.serialize_struct("PlacedSlot", FIELDS)?;
        slot_fields(&mut object, &self.planned)?;
        object.serialize_field("first_row", &self.rows.start)?;
        object.serialize_field("rows", &length(&self.rows))?;
        object.serialize_field("first_col", &self.cols.start)?;
        object.serialize_field("cols", &length(&self.cols))?;
        object.serialize_field("heads", &self.heads)?;
        object.end()
    }
}
