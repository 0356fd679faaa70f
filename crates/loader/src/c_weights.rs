//! The structs of `include/phi3_weights.h`, filled with the weights of a loaded model.

use crate::model::LoadedModel;
use crate::model::view;
use cuda_sys::DeviceKind;
use model_phi3::{PlannedSlot, RopeScaling, RopeStyle, Slot};
use std::ffi::c_void;

/// `PHI3_WEIGHTS_ABI` of the C header.
pub const ABI_VERSION: u32 = 1;

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
}

/// A [`CModelWeights`] and the layers that it points to. Borrows the model, because dropping the model frees
/// the weights.
#[derive(Debug)]
pub struct CWeights<'a> {
    layers: Vec<CLayerWeights>,
    weights: CModelWeights,
    model: std::marker::PhantomData<&'a LoadedModel>,
}

impl CWeights<'_> {
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
    /// Returns the weights for C and C++ consumers. See `include/phi3_weights.h`.
    pub fn c_weights(&self) -> CWeights<'_> {
        let tensor = |slot| self.plan().slot(slot).map_or(ABSENT, |planned| self.c_tensor(planned));
        let layers: Vec<_> =
            (0..self.plan().layers()).map(|layer| c_layer(layer, &tensor)).collect();
        let config = self.config();
        let attention = config.attention();
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
            // Moving the vector into the result does not move its heap memory.
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
        };
        CWeights { layers, weights, model: std::marker::PhantomData }
    }

    fn c_tensor(&self, planned: &PlannedSlot) -> CTensor {
        let (rows, cols) = match planned.shape[..] {
            [rows, cols] => (rows, cols),
            _ => (1, planned.shape.iter().product()),
        };
        let view = view(&self.plan, &self.buffer, planned);
        // Device addresses. This code never dereferences them.
        let scale = |address: Option<u64>| {
            address
                .map_or(std::ptr::null(), |address| std::ptr::without_provenance(address as usize))
        };
        CTensor {
            data: std::ptr::without_provenance(view.address as usize),
            scale: scale(view.scale),
            input_scale: scale(view.input_scale),
            bytes: view.bytes,
            rows,
            cols,
            row_bytes: planned.row_bytes,
            ggml_type: planned.format.ggml_type().id(),
            reserved: 0,
        }
    }
}

fn c_layer(layer: u32, tensor: &impl Fn(Slot) -> CTensor) -> CLayerWeights {
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
    }
}
