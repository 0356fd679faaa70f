use std::collections::BTreeMap;

use crate::support::TestFile;
use gguf_format::GgmlType;
use model_phi3::preset::{Blueprint, Layout, Preset, TypeMix};
use model_phi3::{RopeStyle, Storage};

fn dims(blueprint: &Blueprint, name: &str) -> Vec<u64> {
    blueprint.tensors.iter().find(|tensor| tensor.name == name).unwrap().dims.clone()
}

fn types(blueprint: &Blueprint) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for tensor in &blueprint.tensors {
        *counts.entry(tensor.ggml_type.name()).or_default() += 1;
    }
    counts
}

#[test]
fn tensor_counts_are_those_of_published_files() {
    let count = |preset, layout| Blueprint::new(preset, layout, TypeMix::F16).tensors.len();
    assert_eq!(count(Preset::Mini4k, Layout::Fused), 195);
    assert_eq!(count(Preset::Mini128k, Layout::Fused), 197);
    assert_eq!(count(Preset::Medium, Layout::Fused), 243);
    assert_eq!(count(Preset::Phi4, Layout::Fused), 243);
    assert_eq!(count(Preset::Phi4Mini, Layout::Fused), 196);
    assert_eq!(count(Preset::Mini4k, Layout::Split), 291);
}

#[test]
fn fused_shapes_are_those_of_published_files() {
    let of = |preset| Blueprint::new(preset, Layout::Fused, TypeMix::F16);
    let mini = of(Preset::Mini4k);
    assert_eq!(dims(&mini, "blk.0.attn_qkv.weight"), [3072, 9216]);
    assert_eq!(dims(&mini, "blk.31.ffn_up.weight"), [3072, 16384]);
    assert_eq!(dims(&mini, "token_embd.weight"), [3072, 32064]);
    assert_eq!(dims(&of(Preset::Medium), "blk.39.attn_qkv.weight"), [5120, 7680]);
    assert_eq!(dims(&of(Preset::Phi4), "output.weight"), [5120, 100_352]);
    let phi4_mini = of(Preset::Phi4Mini);
    assert_eq!(dims(&phi4_mini, "rope_factors_long.weight"), [48]);
    assert_eq!(dims(&phi4_mini, "blk.0.attn_qkv.weight"), [3072, 5120]);
}

#[test]
fn q4_k_m_mixes_types_as_llama_cpp_does() {
    let mini = Blueprint::new(Preset::Mini4k, Layout::Fused, TypeMix::Q4_K_M);
    let expected = [("F32", 65), ("Q4_K", 81), ("Q5_K", 32), ("Q6_K", 17)];
    assert_eq!(types(&mini), BTreeMap::from(expected));
    let tied = Blueprint::new(Preset::Phi4Mini, Layout::Fused, TypeMix::Q4_K_M);
    let embedding = tied.tensors.iter().find(|tensor| tensor.name == "token_embd.weight");
    assert_eq!(embedding.unwrap().ggml_type, GgmlType::Q6_K);
}

#[test]
fn sizes_are_those_of_published_files() {
    let size = |preset, mix| {
        Blueprint::new(preset, Layout::Fused, mix).writer().layout().unwrap().file_len()
    };
    // microsoft/Phi-3-mini-4k-instruct-gguf: 7,643,295,904 bytes with its tokenizer.
    let mini = size(Preset::Mini4k, TypeMix::F16);
    assert!((7_642_000_000..7_643_295_904).contains(&mini), "{mini}");
    // 2,393,231,072 bytes with its tokenizer.
    let q4 = size(Preset::Mini4k, TypeMix::Q4_K_M);
    assert!((2_385_000_000..2_393_231_072).contains(&q4), "{q4}");
    assert!(size(Preset::Tiny, TypeMix::F32) < 16 << 20);
}

#[test]
fn every_preset_loads_in_every_form() {
    for &preset in Preset::ALL {
        for &layout in Layout::ALL {
            let f16 = TestFile::new(preset, layout, TypeMix::F16);
            let device_bytes = f16.plan(Storage::F16).unwrap().device_bytes();
            for &mix in TypeMix::ALL {
                let file = TestFile::new(preset, layout, mix);
                let style = match layout {
                    Layout::Fused => RopeStyle::Neox,
                    Layout::Split => RopeStyle::Adjacent,
                };
                assert_eq!(file.config().unwrap().rope.style, style);
                assert_eq!(file.plan(Storage::F16).unwrap().device_bytes(), device_bytes);
                file.plan(Storage::Native).unwrap();
            }
        }
    }
}

#[test]
fn names_round_trip() {
    for preset in Preset::ALL {
        assert_eq!(preset.to_string().parse(), Ok(*preset));
    }
    for layout in Layout::ALL {
        assert_eq!(layout.to_string().parse(), Ok(*layout));
    }
    for mix in TypeMix::ALL {
        assert_eq!(mix.to_string().parse(), Ok(*mix));
    }
    let error = "mini".parse::<Preset>().unwrap_err();
    assert_eq!(
        error.to_string(),
        r#""mini" is unknown: expected tiny, mini-4k, mini-128k, medium, phi-4 or phi-4-mini"#
    );
}
