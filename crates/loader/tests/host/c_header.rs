//! The C header and its Rust mirror are the same structs.

use crate::common::{go_on, model_path};
use loader::c_weights::{CLayerWeights, CModelWeights, CTensor};
use loader::{DeviceChoice, LoadOptions, Loader, Slot};
use std::mem::{offset_of, size_of};
use std::process::Command;

/// Expands to a C program that prints sizes and offsets, and to what Rust has for them.
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
fn layouts_agree() {
    let (program, rust) = layout! {
        Phi3Tensor = CTensor { data, bytes, rows, cols, row_bytes, ggml_type, reserved }
        Phi3LayerWeights = CLayerWeights {
            attn_norm, attn_q, attn_k, attn_v, attn_output, ffn_norm, ffn_gate, ffn_up, ffn_down
        }
        Phi3Weights = CModelWeights {
            token_embedding, output_norm, output, rope_factors_long, rope_factors_short, layers,
            layer_count, cuda_ordinal, q_heads, kv_heads, head_dim, attention_scale, rope_style,
            rope_dim, rope_freq_base, rope_attn_factor, rope_original_context, context_length,
            sliding_window, rms_epsilon
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
fn the_struct_points_at_the_weights() {
    let mut loader = Loader::new(LoadOptions::new().device(DeviceChoice::Host));
    let model = loader.load(model_path("tied-gqa-bf16.gguf"), &mut go_on).unwrap();
    let weights = model.c_weights();
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
    let weights = model.c_weights();
    assert_eq!(weights.get().rope_style, 1);
    assert!(weights.get().rope_factors_short.data.is_null());
}
