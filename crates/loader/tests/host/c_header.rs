//! Checks that the C header and its Rust mirror declare the same layout, and that the fields are filled
//! correctly.

use crate::common::{go_on, model_path};
use loader::c_weights::{CLayerWeights, CModelWeights, CTensor};
use loader::{DeviceChoice, LoadOptions, Loader, Matrix, Slot, Storage};
use std::mem::{offset_of, size_of};
use std::process::Command;

/// Expands to a C program that prints sizes and offsets, and to the same numbers as Rust computes them.
macro_rules! layout {
    ($($c:ident = $rust:ident { $($field:ident),* $(,)? })*) => {{
        let program = concat!(
            "#include <stddef.h>\n#include <stdio.h>\n#include \"phi3_weights.h\"\nint main(void) {\n",
            $("printf(\"%zu\\n\", sizeof(", stringify!($c), "));\n",
              $("printf(\"%zu\\n\", offsetof(", stringify!($c), ", ", stringify!($field), "));\n",)*)*
            "return 0; }\n"
        );
        let rust: Vec<usize> =
            vec![$(size_of::<$rust>(), $(offset_of!($rust, $field)),*),*];
        (program, rust)
    }};
}

#[test]
fn c_and_rust_layouts_agree() {
    let (program, rust) = layout! {
        Phi3Tensor = CTensor {
            data, scale, input_scale, bytes, rows, cols, row_bytes, ggml_type, reserved, first_row,
            first_col, whole_rows, whole_cols
        }
        Phi3LayerWeights = CLayerWeights {
            attn_norm, attn_q, attn_k, attn_v, attn_output, ffn_norm, ffn_gate, ffn_up, ffn_down,
            attn_qkv, ffn_gate_up
        }
        Phi3Weights = CModelWeights {
            abi_version, struct_size, layer_size, layer_count, token_embedding, output_norm, output,
            rope_factors_long, rope_factors_short, layers, cuda_ordinal, q_heads, kv_heads, head_dim, attention_scale, rope_style,
            rope_dim, rope_freq_base, rope_attn_factor, rope_scaling, rope_scaling_factor, rope_original_context, context_length,
            sliding_window, rms_epsilon, part, parts, first_q_head, part_q_heads, first_kv_head, part_kv_heads
        }
    };
    let dir = tempfile::tempdir().unwrap();
    for (name, variable, default) in [("layout.c", "CC", "cc"), ("layout.cpp", "CXX", "c++")] {
        let source = dir.path().join(name);
        let binary = dir.path().join("layout");
        std::fs::write(&source, program).unwrap();
        let compiler = std::env::var(variable).unwrap_or_else(|_| default.to_owned());
        let status = Command::new(compiler)
            .args(["-Wall", "-Werror", "-I", concat!(env!("CARGO_MANIFEST_DIR"), "/include"), "-o"])
            .args([&binary, &source])
            .status()
            .unwrap();
        assert!(status.success());
        let printed = Command::new(&binary).output().unwrap().stdout;
        let c: Vec<usize> =
            std::str::from_utf8(&printed).unwrap().lines().map(|n| n.parse().unwrap()).collect();
        assert_eq!(c, rust, "{name}");
    }
}

#[test]
fn the_struct_contains_the_addresses_and_shapes_of_the_weights() {
    let mut loader = Loader::new(LoadOptions::new().device(DeviceChoice::Host));
    let model = loader.load(model_path("tied-gqa-bf16.gguf"), &mut go_on).unwrap();
    let weights = model.c_weights().unwrap();
    let c = weights.get();
    assert_eq!((c.layer_count, c.q_heads, c.kv_heads, c.head_dim), (2, 3, 1, 24));
    assert_eq!((c.cuda_ordinal, c.rope_style, c.rope_dim), (-1, 0, 12));
    assert_eq!(c.layers, weights.layers().as_ptr());
    assert_eq!(c.output.data, c.token_embedding.data);
    let q = weights.layers()[1].attn_q;
    let view = model.slot(Slot::AttnQ(1)).unwrap();
    assert_eq!(q.data as u64, view.address);
    assert_eq!(vec![q.rows, q.cols], view.shape);
    assert_eq!(q.rows * q.row_bytes, q.bytes);
    assert_eq!(q.ggml_type, 1, "f16");
    let factors = c.rope_factors_long;
    assert_eq!((factors.rows, factors.cols, factors.ggml_type), (1, 6, 0));

    let model = loader.load(model_path("split-q8_0.gguf"), &mut go_on).unwrap();
    let weights = model.c_weights().unwrap();
    assert_eq!(weights.get().rope_style, 1);
    assert!(weights.get().rope_factors_short.data.is_null());
    assert!(weights.get().output.scale.is_null());
}

#[test]
fn the_struct_contains_its_abi_version_and_sizes() {
    let mut loader = Loader::new(LoadOptions::new().device(DeviceChoice::Host));
    let model = loader.load(model_path("fused-f16.gguf"), &mut go_on).unwrap();
    let weights = model.c_weights().unwrap();
    let c = weights.get();
    let header =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/include/phi3_weights.h"));
    let abi = format!("#define PHI3_WEIGHTS_ABI {}u\n", c.abi_version);
    assert!(header.unwrap().contains(&abi), "{abi}");
    assert_eq!(c.struct_size as usize, size_of::<CModelWeights>());
    assert_eq!(c.layer_size as usize, size_of::<CLayerWeights>());
    assert_eq!((offset_of!(CModelWeights, abi_version), c.layer_count), (0, 3));
}

#[test]
fn nvfp4_tensors_contain_the_addresses_of_their_scales() {
    let options = LoadOptions::new().device(DeviceChoice::Host).storage(Storage::Native);
    let model = Loader::new(options).load(model_path("nvfp4-scales.gguf"), &mut go_on).unwrap();
    let weights = model.c_weights().unwrap();
    let layer = &weights.layers()[0];
    for (tensor, matrix) in [
        (layer.attn_q, Matrix::AttnQ(0)),
        (layer.attn_k, Matrix::AttnK(0)),
        (layer.ffn_up, Matrix::FfnUp(0)),
        (weights.get().output, Matrix::Output),
    ] {
        let view = model.slot(matrix.slot()).unwrap();
        let address = |slot| model.slot(slot).map(|scale| scale.address);
        assert_eq!(view.scale, address(Slot::Scale(matrix)));
        assert_eq!(view.input_scale, address(Slot::InputScale(matrix)));
        assert_eq!(tensor.scale as u64, view.scale.unwrap());
        assert_eq!(tensor.input_scale as u64, view.input_scale.unwrap_or(0));
    }
    assert_eq!(layer.attn_q.scale, layer.attn_v.scale);
    assert!(layer.attn_norm.scale.is_null());
}
