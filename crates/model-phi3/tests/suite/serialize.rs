use crate::plan::{any_file, any_type};
use crate::support::TestFile;
use gguf_format::GgmlType;
use model_phi3::preset::{Layout, Preset, TypeMix};
use model_phi3::{
    Architecture, AttentionKind, Conversion, Error, Fused, KvDtype, LoadPlan, Matrix, Phi3Config,
    Placement, RopeScaling, RopeStyle, Slot, SlotFormat, SplitMode, Storage, Unit,
};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::{Debug, Display};

#[track_caller]
fn value(of: impl Serialize) -> Value {
    serde_json::to_value(of).unwrap()
}

/// Checks that a value is serialised as the text that it prints, and is read back from it.
#[track_caller]
fn assert_text<T: Serialize + DeserializeOwned + Display + Debug + PartialEq>(of: &T, text: &str) {
    assert_eq!(of.to_string(), text);
    assert_eq!(value(of), json!(text));
    assert_eq!(serde_json::from_value::<T>(json!(text)).unwrap(), *of);
}

#[test]
fn words_and_names_are_the_printed_ones() {
    assert_text(&Storage::F16, "f16");
    assert_text(&Storage::Native, "native");
    assert_text(&SplitMode::Replicate, "replicate");
    assert_text(&KvDtype::Bf16, "bf16");
    assert_text(&Architecture::Llama, "llama");
    assert_text(&AttentionKind::GroupedQuery, "grouped-query");
    assert_text(&RopeStyle::Adjacent, "adjacent");
    assert_text(&RopeScaling::LongRope, "longrope");
    assert_text(&Slot::TokenEmbedding, "token_embedding");
    assert_text(&Slot::AttnQ(3), "layers.3.attn_q");
    assert_text(&Slot::Scale(Matrix::FfnUp(7)), "layers.7.ffn_up.scale");
    assert_text(&Fused::FfnGateUp(2), "layers.2.ffn_gate_up");
    assert_eq!(value(Matrix::AttnV(1)), "layers.1.attn_v");
    assert_eq!(
        value([Unit::Embedding, Unit::Layer(3), Unit::Output]),
        json!(["Embedding loaded", "Layer 3 loaded", "Output weights loaded"])
    );
}

#[test]
fn types_have_the_names_of_ggml() {
    let formats = [SlotFormat::F16, SlotFormat::F32, SlotFormat::Blocks(GgmlType::Q4_K)];
    assert_eq!(value(formats), json!(["F16", "F32", "Q4_K"]));
    let conversions = [Conversion::Copy, Conversion::ToF16(GgmlType::NVFP4)];
    assert_eq!(value(conversions), json!(["copy", "NVFP4"]));
}

#[test]
fn other_words_are_refused_with_the_expected_ones() {
    let error = serde_json::from_str::<Storage>(r#""q4\u001b""#).unwrap_err().to_string();
    assert!(error.starts_with(r#""q4\u{1b}" is unknown: expected f16 or native"#), "{error}");
    for wrong in [json!("layers.03.attn_q"), json!("attn_q"), json!(3), json!(null), json!({})] {
        assert!(serde_json::from_value::<Slot>(wrong.clone()).is_err(), "{wrong}");
        assert!(serde_json::from_value::<Storage>(wrong.clone()).is_err(), "{wrong}");
        assert!(serde_json::from_value::<Phi3Config>(wrong.clone()).is_err(), "{wrong}");
    }
}

fn tiny_config() -> Value {
    json!({
        "architecture": "phi3",
        "name": "Tiny Phi 3",
        "layers": 3,
        "hidden": 256,
        "ffn": 768,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 64,
        "attention": "grouped-query",
        "attention_scale": 0.125,
        "vocab": 1024,
        "context_length": 131_072,
        "rms_epsilon": 1e-5_f32,
        "rope_style": "neox",
        "rope_dim": 64,
        "rope_freq_base": 10_000.0,
        "rope_original_context": 4096,
        "rope_attn_factor": 1.190_238_1_f32,
        "rope_scaling": "longrope",
        "rope_scaling_factor": null,
        "rope_factors": true,
        "sliding_window": 262_144,
        "tied_output": false,
        "file_type": 1,
    })
}

#[test]
fn a_configuration_is_one_flat_object() {
    let config = TestFile::tiny().config().unwrap();
    let object = tiny_config();
    assert_eq!(value(&config), object);
    let mut part = object.clone();
    part.as_object_mut().unwrap().retain(|name, _| name.starts_with("rope_"));
    assert_eq!(value(&config.rope), part);
    part = object;
    let attention = ["heads", "kv_heads", "head_dim", "attention", "attention_scale"];
    part.as_object_mut().unwrap().retain(|name, _| attention.contains(&name.as_str()));
    assert_eq!(value(config.attention()), part);
}

#[test]
fn configurations_of_all_presets_round_trip() {
    for &preset in Preset::ALL {
        for &layout in Layout::ALL {
            let config = TestFile::new(preset, layout, TypeMix::F16).config().unwrap();
            let text = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<Phi3Config>(&text).unwrap(), config, "{text}");
        }
    }
}

/// Derived and optional fields can be absent, and new fields of later versions are ignored.
#[test]
fn a_configuration_needs_only_what_nothing_else_states() {
    let config = TestFile::tiny().config().unwrap();
    let mut object = tiny_config();
    let fields = object.as_object_mut().unwrap();
    for derived in ["attention", "attention_scale", "rope_scaling_factor"] {
        fields.remove(derived).unwrap();
    }
    fields.insert("of_a_later_version".to_owned(), json!([1]));
    assert_eq!(serde_json::from_value::<Phi3Config>(object.clone()).unwrap(), config);

    let required = [
        "architecture",
        "layers",
        "hidden",
        "ffn",
        "heads",
        "kv_heads",
        "head_dim",
        "vocab",
        "context_length",
        "rms_epsilon",
        "rope_style",
        "rope_dim",
        "rope_freq_base",
        "rope_factors",
        "tied_output",
    ];
    for name in required {
        for spoilt in [None, Some(Value::Null)] {
            let mut object = object.clone();
            let fields = object.as_object_mut().unwrap();
            fields.remove(name).unwrap();
            fields.extend(spoilt.map(|value| (name.to_owned(), value)));
            assert!(serde_json::from_value::<Phi3Config>(object).is_err(), "{name}");
        }
    }
}

/// JSON has no such numbers. No file has them: they come from a program that changed the fields.
#[test]
fn numbers_that_are_not_finite_become_null() {
    for number in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut config = TestFile::tiny().config().unwrap();
        config.rms_epsilon = number;
        config.rope.attn_factor = Some(number);
        config.head_dim = 0;
        let object = value(&config);
        for name in ["rms_epsilon", "rope_attn_factor", "attention_scale"] {
            assert_eq!(object[name], Value::Null);
        }
        let error = serde_json::from_value::<Phi3Config>(object).unwrap_err().to_string();
        assert!(error.contains("null"), "{error}");
    }
}

/// Nothing that the configuration computes relies on a check of its fields.
#[test]
fn absurd_configurations_are_harmless() {
    for (small, large) in [(0_u32, 0_u64), (u32::MAX, u64::MAX), (0, u64::MAX), (u32::MAX, 1)] {
        let mut object = tiny_config();
        let fields = object.as_object_mut().unwrap();
        for name in ["layers", "heads", "kv_heads", "head_dim", "context_length", "rope_dim"] {
            fields.insert(name.to_owned(), json!(small));
        }
        for name in ["hidden", "ffn", "vocab"] {
            fields.insert(name.to_owned(), json!(large));
        }
        let config: Phi3Config = serde_json::from_value(object).unwrap();
        let _ = (config.attention().kind(), config.warnings(), config.parameters());
        let _ = config.kv_cache_bytes(u64::MAX, u64::MAX, KvDtype::F32);
        let bound = TestFile::tiny()
            .with_parsed(|gguf| model_phi3::TensorMap::bind(&config, gguf.tensors()).map(|_| ()));
        assert!(bound.is_err());
    }
}

#[test]
fn warnings_have_code_message_and_help() {
    let mut file = TestFile::tiny();
    file.remove("rope_factors_long.weight").remove("rope_factors_short.weight");
    let warnings = file.config().unwrap().warnings();
    let object = value(&warnings);
    assert_eq!(object[0]["code"], "PHI3_ROPE_FACTORS_MISSING");
    assert_eq!(object[0]["message"], warnings[0].to_string());
    assert_eq!(object[0]["help"], warnings[0].help());
    assert_eq!(object[0].as_object().unwrap().len(), 3);
}

/// Returns the tiny preset with one scaled NVFP4 matrix.
fn scaled() -> TestFile {
    let mut file = TestFile::tiny();
    file.tensor("blk.0.attn_qkv.weight").ggml_type = GgmlType::NVFP4;
    file.add("blk.0.attn_qkv.scale", &[1], GgmlType::F32);
    file.add("blk.0.attn_qkv.input_scale", &[1], GgmlType::F32);
    file
}

#[test]
fn a_plan_is_an_object_with_slots_and_operations() {
    let plan = scaled().plan(Storage::F16).unwrap();
    let object = value(&plan);
    let names: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "layers",
        "left_out",
        "operations",
        "slots",
        "source_bytes",
        "storage",
        "units",
        "vram_bytes",
    ];
    assert_eq!(names, expected);
    assert_eq!(object["storage"], "f16");
    assert_eq!(object["vram_bytes"], plan.device_bytes());
    assert_eq!(object["source_bytes"], plan.source_bytes());
    assert_eq!((&object["layers"], &object["units"]), (&json!(3), &json!(5)));
    assert_eq!(object["left_out"], json!(["blk.0.attn_qkv.input_scale"]));
    assert_eq!(object["slots"], value(plan.slots()));
    assert_eq!(object["operations"], value(plan.ops()));

    let k = plan.slot(Slot::AttnK(0)).unwrap();
    assert_eq!(
        value(k),
        json!({
            "slot": "layers.0.attn_k",
            "tensor": "blk.0.attn_qkv.weight",
            "shape": [128, 256],
            "format": "F16",
            "offset": k.dest.start,
            "bytes": 128 * 512,
            "row_bytes": 512,
            "block_len": 1,
            "block_bytes": 2,
            "source_type": "NVFP4",
            "operation": k.op,
        })
    );
    let op = &plan.ops()[k.op];
    let scale = op.scale.as_ref().unwrap();
    assert_eq!(
        value(op),
        json!({
            "tensor": "blk.0.attn_qkv.weight",
            "shard": 0,
            "source_offset": op.source.range.start,
            "source_bytes": 512 * 144,
            "dest_offset": op.dest.start,
            "dest_bytes": 512 * 512,
            "conversion": "NVFP4",
            "scale": "blk.0.attn_qkv.scale",
            "unit": 2,
            "format": "F16",
            "scale_source": { "shard": 0, "offset": scale.source.range.start, "bytes": 4 },
        })
    );
    assert_eq!(
        value(scale),
        json!({
            "name": "blk.0.attn_qkv.scale",
            "shard": 0,
            "offset": scale.source.range.start,
            "bytes": 4,
        })
    );
    assert_eq!(value(&scale.source), value(op)["scale_source"]);
}

#[test]
fn an_operation_without_a_scale_has_its_fields_as_null() {
    let plan = scaled().plan(Storage::Native).unwrap();
    let op = &plan.ops()[plan.slot(Slot::AttnK(0)).unwrap().op];
    let object = value(op);
    assert_eq!((&object["conversion"], &object["format"]), (&json!("copy"), &json!("NVFP4")));
    let fields = object.as_object().unwrap();
    assert_eq!(
        (fields.get("scale"), fields.get("scale_source")),
        (Some(&Value::Null), Some(&Value::Null))
    );
}

#[test]
fn a_fused_view_has_the_fields_of_a_slot() {
    let plan = scaled().plan(Storage::Native).unwrap();
    let view = plan.fused(Fused::AttnQkv(0)).unwrap();
    assert_eq!(
        value(&view),
        json!({
            "fused": "layers.0.attn_qkv",
            "shape": [512, 256],
            "format": "NVFP4",
            "offset": view.dest.start,
            "bytes": 512 * 144,
            "row_bytes": 144,
            "block_len": 64,
            "block_bytes": 36,
        })
    );
}

#[test]
fn weights_have_the_names_of_their_slots() {
    let plan = TestFile::tiny().plan(Storage::F16).unwrap();
    let weights = plan.weights(|planned| Ok::<_, Error>(planned.slot)).unwrap();
    let object = value(&weights);
    for (slot, _) in weights.iter() {
        let name = slot.to_string();
        let path = format!("/{}", name.replace('.', "/"));
        assert_eq!(object.pointer(&path), Some(&json!(name)), "{path}");
    }
    let short = value(weights.map(|_| 0_u64));
    assert_eq!(short["layers"].as_array().map(Vec::len), Some(3));
    assert_eq!(short["rope_factors_long"], 0);
    let mut file = TestFile::tiny();
    file.remove("rope_factors_long.weight").remove("rope_factors_short.weight");
    let weights = file.plan(Storage::F16).unwrap().weights(|_| Ok::<_, Error>(())).unwrap();
    assert!(value(weights).as_object().unwrap().contains_key("rope_factors_long"));
}

/// Checks a plan against its serialised form, field by field.
fn check(plan: &LoadPlan) {
    let object: Value = serde_json::from_str(&serde_json::to_string(plan).unwrap()).unwrap();
    let (slots, ops) = (&object["slots"], &object["operations"]);
    assert_eq!(slots.as_array().unwrap().len(), plan.slots().len());
    assert_eq!(ops.as_array().unwrap().len(), plan.ops().len());
    for (position, planned) in plan.slots().iter().enumerate() {
        let object = &slots[position];
        let number = |name: &str| object[name].as_u64().unwrap();
        assert_eq!(serde_json::from_value::<Slot>(object["slot"].clone()).unwrap(), planned.slot);
        assert_eq!(number("offset")..number("offset") + number("bytes"), planned.dest);
        // The transfer is found from the slot, and the slot in its destination.
        let op = &ops[usize::try_from(number("operation")).unwrap()];
        assert_eq!((&op["tensor"], &op["format"]), (&object["tensor"], &object["format"]));
        let (start, end) = (&op["dest_offset"], op["dest_bytes"].as_u64().unwrap());
        let start = start.as_u64().unwrap();
        assert!(start <= planned.dest.start && planned.dest.end <= start + end);
        let rows = planned.shape.iter().product::<u64>() / planned.shape.last().unwrap();
        assert_eq!(number("row_bytes") * rows, number("bytes"));
        let blocks = number("row_bytes") / number("block_bytes");
        assert_eq!(Some(&(blocks * number("block_len"))), planned.shape.last());
    }
}

#[test]
fn a_plan_for_several_devices_has_slots_and_operations_for_each() {
    let placement = Placement::new(SplitMode::Tensor, 2).unwrap();
    let placement = placement.with_proportions(&[2.0, 1.0]).unwrap();
    let plan = scaled().place(Storage::F16, &placement).unwrap();
    let object = value(&plan);
    let names: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "layers",
        "left_out",
        "parts",
        "placement",
        "source_bytes",
        "storage",
        "units",
        "vram_bytes",
    ];
    assert_eq!(names, expected);
    assert_eq!(
        object["placement"],
        json!({
            "split_mode": "tensor",
            "devices": 2,
            "tensor_split": [2.0, 1.0],
            "n_gpu_layers": null,
        })
    );
    assert_eq!(object["vram_bytes"], plan.device_bytes());
    assert_eq!(object["source_bytes"], plan.source_bytes());
    assert_eq!((&object["layers"], &object["units"]), (&json!(3), &json!(5)));
    assert_eq!(object["left_out"], json!(["blk.0.attn_qkv.input_scale"]));

    let part = &plan.parts()[1];
    let of_part = &object["parts"][1];
    assert_eq!(of_part["vram_bytes"], part.device_bytes());
    assert_eq!(of_part.as_object().unwrap().len(), 3);
    let down = part.slot(Slot::FfnDown(0)).unwrap();
    let position = part.slots().iter().position(|placed| placed == down).unwrap();
    assert_eq!(
        of_part["slots"][position],
        json!({
            "slot": "layers.0.ffn_down",
            "tensor": "blk.0.ffn_down.weight",
            "shape": [256, 224],
            "format": "F16",
            "offset": down.planned.dest.start,
            "bytes": 256 * 448,
            "row_bytes": 448,
            "block_len": 1,
            "block_bytes": 2,
            "source_type": "F16",
            "operation": down.planned.op,
            "first_row": 0,
            "rows": 256,
            "first_col": 544,
            "cols": 224,
            "heads": null,
        })
    );
    let op = &part.ops()[down.planned.op];
    assert_eq!(
        of_part["operations"][down.planned.op],
        json!({
            "tensor": "blk.0.ffn_down.weight",
            "shard": 0,
            "source_offset": op.source.range.start,
            "source_bytes": 768 * 256 * 2,
            "dest_offset": op.dest.start,
            "dest_bytes": 256 * 448,
            "conversion": "copy",
            "scale": null,
            "unit": 2,
            "format": "F16",
            "scale_source": null,
            "source_type": "F16",
            "first_row": 0,
            "rows": 256,
            "row_stride": 1536,
            "row_offset": 1088,
            "row_bytes": 448,
            "skip": 0,
            "keep": 224,
            "dest_row_bytes": 448,
        })
    );
    let v = part.slot(Slot::AttnV(0)).unwrap();
    assert_eq!(
        value(v)["heads"],
        json!({ "first_head": 2, "heads": 2, "first_kv_head": 1, "kv_heads": 1 })
    );
    let op = value(&part.ops()[v.planned.op]);
    assert_eq!((&op["first_row"], &op["rows"]), (&json!(448), &json!(64)));
    assert_eq!(op["scale"], "blk.0.attn_qkv.scale");
}

#[test]
fn a_proposal_says_whether_the_model_fits() {
    let file = TestFile::tiny();
    let (config, tensors) = (file.config().unwrap(), file.bind().unwrap());
    let proposal = Placement::fit(&config, &tensors, Storage::F16, &[1, 1 << 30], 0).unwrap();
    let placement =
        json!({ "split_mode": "none", "devices": 1, "tensor_split": [], "n_gpu_layers": null });
    assert_eq!(
        value(&proposal),
        json!({ "placement": placement, "devices": [1], "fits": true, "short_by": 0 })
    );
    let offloaded = Placement::last_layers(20, 2).unwrap();
    assert_eq!(value(&offloaded)["n_gpu_layers"], 20);
}

proptest! {
    #[test]
    fn serialised_plans_have_the_same_numbers(file in any_file(any_type())) {
        check(&file.plan(Storage::Native).unwrap());
    }

    /// `any::<f32>()` is finite.
    #[test]
    fn every_float_of_a_configuration_round_trips(floats: [f32; 4], name: Option<String>) {
        let mut config = TestFile::tiny().config().unwrap();
        config.name = name;
        config.rms_epsilon = floats[0];
        config.rope.freq_base = floats[1];
        config.rope.attn_factor = Some(floats[2]);
        config.rope.scaling_factor = Some(floats[3]);
        let text = serde_json::to_string(&config).unwrap();
        prop_assert_eq!(serde_json::from_str::<Phi3Config>(&text).unwrap(), config);
    }
}
