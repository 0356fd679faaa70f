//! The structs of `include/phi3_weights.h`, filled with the weights of a loaded model.
//!
//! The header's comments are the documentation of the fields. A crate that depends on `loader` directly finds the
//! header's folder in its build script:
//!
//! ```ignore
//! // build.rs
//! fn main() {
//!     let include = std::env::var_os("DEP_PHI3_LOADER_INCLUDE").expect("loader is a dependency");
//!     cc::Build::new().file("src/forward.c").include(include).compile("forward");
//! }
//! ```
//!
//! ```no_run
//! use loader::LoadedModel;
//! use loader::c_weights::{CModelWeights, CWeights};
//! use std::sync::Arc;
//!
//! unsafe extern "C" {
//!     // In C: void forward(const Phi3Weights *weights);
//!     fn forward(weights: *const CModelWeights);
//! }
//!
//! struct Engine {
//!     weights: CWeights<Arc<LoadedModel>>,
//! }
//!
//! impl Engine {
//!     /// Returns `None` if several devices share the model.
//!     fn new(model: &Arc<LoadedModel>) -> Option<Self> {
//!         Some(Self { weights: model.shared_c_weights()? })
//!     }
//!
//!     fn run(&self) {
//!         // SAFETY: the pointer is valid as long as `self.weights`, and `forward` only reads.
//!         unsafe { forward(self.weights.as_ptr()) };
//!     }
//! }
//! ```
#![allow(unsafe_code, reason = "structs of pointers are not `Send` by themselves")]

use crate::model::LoadedModel;
use crate::part::{LoadedPart, PartView, TensorView};
use cuda_sys::DeviceKind;
use model_phi3::{Fused, RopeScaling, RopeStyle, Slot};
use std::ffi::c_void;
use std::sync::Arc;

/// `PHI3_WEIGHTS_ABI` of the C header.
pub const ABI_VERSION: u32 = 2;

/// `Phi3Tensor` of the C header.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the header documents the fields")]
pub struct CTensor {
    pub data: *const c_void,
    pub scale: *const f32,
    pub input_scale: *const f32,
    pub bytes: u64,
    pub rows: u64,
    pub cols: u64,
    pub row_bytes: u64,
    pub ggml_type: u32,
    pub reserved: u32,
    pub first_row: u64,
    pub first_col: u64,
    pub whole_rows: u64,
    pub whole_cols: u64,
}

const ABSENT: CTensor = CTensor {
    data: std::ptr::null(),
    scale: std::ptr::null(),
    input_scale: std::ptr::null(),
    bytes: 0,
    rows: 0,
    cols: 0,
    row_bytes: 0,
    ggml_type: 0,
    reserved: 0,
    first_row: 0,
    first_col: 0,
    whole_rows: 0,
    whole_cols: 0,
};

/// `Phi3LayerWeights` of the C header.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the header documents the fields")]
pub struct CLayerWeights {
    pub attn_norm: CTensor,
    pub attn_q: CTensor,
    pub attn_k: CTensor,
    pub attn_v: CTensor,
    pub attn_output: CTensor,
    pub ffn_norm: CTensor,
    pub ffn_gate: CTensor,
    pub ffn_up: CTensor,
    pub ffn_down: CTensor,
    pub attn_qkv: CTensor,
    pub ffn_gate_up: CTensor,
}

/// `Phi3Weights` of the C header.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the header documents the fields")]
pub struct CModelWeights {
    pub abi_version: u32,
    pub struct_size: u32,
    pub layer_size: u32,
    pub layer_count: u32,
    pub token_embedding: CTensor,
    pub output_norm: CTensor,
    pub output: CTensor,
    pub rope_factors_long: CTensor,
    pub rope_factors_short: CTensor,
    pub layers: *const CLayerWeights,
    pub cuda_ordinal: i32,
    pub q_heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    pub attention_scale: f32,
    pub rope_style: u32,
    pub rope_dim: u32,
    pub rope_freq_base: f32,
    pub rope_attn_factor: f32,
    pub rope_scaling: u32,
    pub rope_scaling_factor: f32,
    pub rope_original_context: u32,
    pub context_length: u32,
    pub sliding_window: u32,
    pub rms_epsilon: f32,
    pub part: u32,
    pub parts: u32,
    pub first_q_head: u32,
    pub part_q_heads: u32,
    pub first_kv_head: u32,
    pub part_kv_heads: u32,
}

/// A [`CModelWeights`], the layers that it points to, and the model whose weights they are: `&LoadedModel`,
/// `&LoadedPart` or `Arc<LoadedModel>`.
#[derive(Debug)]
pub struct CWeights<M> {
    layers: Vec<CLayerWeights>,
    weights: CModelWeights,
    model: M,
}

// SAFETY: the pointers in the structs lead to `layers`, which is never changed, and to weights, which stay where
// they are as long as `model`. No method reads or writes through them. So threads can share and move them if they
// can share and move `model`.
unsafe impl<M: Send> Send for CWeights<M> {}
// SAFETY: the same.
unsafe impl<M: Sync> Sync for CWeights<M> {}

impl<M> CWeights<M> {
    /// Returns the model.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// Returns the pointer for a C function that takes `const Phi3Weights*`. It is valid as long as `self`.
    pub fn as_ptr(&self) -> *const CModelWeights {
        &raw const self.weights
    }

    /// Returns the struct.
    pub fn get(&self) -> &CModelWeights {
        &self.weights
    }

    /// Returns the structs that [`CModelWeights::layers`] points to.
    pub fn layers(&self) -> &[CLayerWeights] {
        &self.layers
    }
}

impl LoadedModel {
    /// Returns the weights for C and C++ consumers: those of the first device that holds the whole model. See
    /// `include/phi3_weights.h`. `None` in the cases of [`weights`](Self::weights); then
    /// [`LoadedPart::c_weights`] returns those of each device.
    pub fn c_weights(&self) -> Option<CWeights<&Self>> {
        Some(self.whole_part()?.c_structs(self))
    }

    /// Returns the weights of [`c_weights`](Self::c_weights) together with the model, which they keep in memory. For a
    /// program that stores them.
    pub fn shared_c_weights(self: &Arc<Self>) -> Option<CWeights<Arc<Self>>> {
        Some(self.whole_part()?.c_structs(Arc::clone(self)))
    }

    /// Returns the weights of a [part](Self::parts) together with the model, which they keep in memory. `None` if there
    /// is no such part.
    pub fn shared_c_weights_of_part(self: &Arc<Self>, part: usize) -> Option<CWeights<Arc<Self>>> {
        Some(self.parts().get(part)?.c_structs(Arc::clone(self)))
    }
}

impl LoadedPart {
    /// Returns the weights that this device holds, for C and C++ consumers. See `include/phi3_weights.h`.
    pub fn c_weights(&self) -> CWeights<&Self> {
        self.c_structs(self)
    }

    fn c_structs<M>(&self, model: M) -> CWeights<M> {
        let tensor = |slot| self.slot(slot).map_or(ABSENT, |view| c_part(&view));
        let fused = |fused: Fused| {
            let view = self.fused(fused);
            view.map_or(ABSENT, |view| c_tensor(&view, self.whole_rows(fused)))
        };
        let layers: Vec<_> =
            (0..self.of.plan.layers()).map(|layer| c_layer(layer, &tensor, &fused)).collect();
        let config = self.config();
        let attention = config.attention();
        let of_heads = self.plan().slots().iter().find_map(|placed| placed.heads);
        let weights = CModelWeights {
            abi_version: ABI_VERSION,
            struct_size: size_of::<CModelWeights>() as u32,
            layer_size: size_of::<CLayerWeights>() as u32,
            layer_count: config.layers,
            token_embedding: tensor(Slot::TokenEmbedding),
            output_norm: tensor(Slot::OutputNorm),
            output: tensor(Slot::Output),
            rope_factors_long: tensor(Slot::RopeFactorsLong),
            rope_factors_short: tensor(Slot::RopeFactorsShort),
            // Moving the vector does not move its heap memory.
            layers: layers.as_ptr(),
            cuda_ordinal: match self.device() {
                DeviceKind::Host => -1,
                DeviceKind::Cuda(ordinal) => ordinal,
            },
            q_heads: attention.q_heads,
            kv_heads: attention.kv_heads,
            head_dim: attention.head_dim,
            attention_scale: attention.scale,
            rope_style: match config.rope.style {
                RopeStyle::Neox => 0,
                RopeStyle::Adjacent => 1,
            },
            rope_dim: config.rope.dimension_count,
            rope_freq_base: config.rope.freq_base,
            rope_attn_factor: config.rope.attn_factor.unwrap_or(0.0),
            rope_scaling: match config.rope.scaling {
                Some(RopeScaling::Linear) => 1,
                Some(RopeScaling::Yarn) => 2,
                Some(RopeScaling::LongRope) => 3,
                _ => 0,
            },
            rope_scaling_factor: config.rope.scaling_factor.unwrap_or(0.0),
            rope_original_context: config.rope.original_context.unwrap_or(0),
            context_length: config.context_length,
            sliding_window: config.sliding_window.unwrap_or(0),
            rms_epsilon: config.rms_epsilon,
            // A placement has at most 256 devices.
            part: self.index() as u32,
            parts: self.of.devices.len() as u32,
            first_q_head: of_heads.map_or(0, |of| of.first_head),
            part_q_heads: of_heads.map_or(0, |of| of.heads),
            first_kv_head: of_heads.map_or(0, |of| of.first_kv_head),
            part_kv_heads: of_heads.map_or(0, |of| of.kv_heads),
        };
        CWeights { layers, weights, model }
    }

    /// Returns the rows of all whole weights together.
    fn whole_rows(&self, fused: Fused) -> u64 {
        let whole = |slot| self.of.plan.whole().slot(slot);
        fused.slots().filter_map(whole).filter_map(|planned| planned.shape.first()).sum()
    }
}

/// Returns the rows and columns of a shape. A vector has one row.
fn rows_and_cols(shape: &[u64]) -> (u64, u64) {
    match *shape {
        [rows, cols] => (rows, cols),
        _ => (1, shape.iter().product()),
    }
}

fn c_part(view: &PartView) -> CTensor {
    let (whole_rows, whole_cols) = rows_and_cols(&view.whole_shape);
    CTensor {
        first_row: view.rows.start,
        first_col: view.cols.start,
        whole_cols,
        ..c_tensor(view, whole_rows)
    }
}

/// Returns a tensor with whole rows, from row 0 on.
fn c_tensor(view: &TensorView, whole_rows: u64) -> CTensor {
    let (rows, cols) = rows_and_cols(&view.shape);
    // Device addresses. This code never dereferences them.
    let scale = |address: Option<u64>| {
        address.map_or(std::ptr::null(), |address| std::ptr::without_provenance(address as usize))
    };
    CTensor {
        data: std::ptr::without_provenance(view.address as usize),
        scale: scale(view.scale),
        input_scale: scale(view.input_scale),
        bytes: view.bytes,
        rows,
        cols,
        row_bytes: view.bytes.checked_div(rows).unwrap_or(0),
        ggml_type: view.format.ggml_type().id(),
        reserved: 0,
        first_row: 0,
        first_col: 0,
        whole_rows,
        whole_cols: cols,
    }
}

fn c_layer(
    layer: u32,
    tensor: &impl Fn(Slot) -> CTensor,
    fused: &impl Fn(Fused) -> CTensor,
) -> CLayerWeights {
    CLayerWeights {
        attn_norm: tensor(Slot::AttnNorm(layer)),
        attn_q: tensor(Slot::AttnQ(layer)),
        attn_k: tensor(Slot::AttnK(layer)),
        attn_v: tensor(Slot::AttnV(layer)),
        attn_output: tensor(Slot::AttnOutput(layer)),
        ffn_norm: tensor(Slot::FfnNorm(layer)),
        ffn_gate: tensor(Slot::FfnGate(layer)),
        ffn_up: tensor(Slot::FfnUp(layer)),
        ffn_down: tensor(Slot::FfnDown(layer)),
        attn_qkv: fused(Fused::AttnQkv(layer)),
        ffn_gate_up: fused(Fused::FfnGateUp(layer)),
    }
}
