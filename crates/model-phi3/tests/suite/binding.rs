use crate::support::TestFile;
use gguf_format::{GgmlType, GgufFile};
use model_phi3::{
    BoundTensor, Error, ErrorClass, Misfit, Phi3Config, Problem, Slot, Storage, TensorMap,
};
use std::fs::File;
use std::io::Write as _;

#[test]
fn both_layouts_bind_in_both_architectures() {
    for (from, to, file) in
        [("phi3", "llama", TestFile::tiny()), ("llama", "phi3", TestFile::tiny_split())]
    {
        let mut renamed = file.clone();
        for (key, _) in &mut renamed.metadata {
            if let Some(suffix) = key.strip_prefix(from) {
                *key = format!("{to}{suffix}");
            }
        }
        renamed.set("general.architecture", to);
        let slots = |file: &TestFile| file.plan(Storage::F16).unwrap().slots().to_vec();
        assert_eq!(slots(&renamed), slots(&file));
    }
}

#[test]
fn layers_may_differ_in_layout() {
    let mut file = TestFile::tiny();
    file.remove("blk.1.attn_qkv.weight")
        .add("blk.1.attn_q.weight", &[256, 256], GgmlType::F16)
        .add("blk.1.attn_k.weight", &[256, 128], GgmlType::F16)
        .add("blk.1.attn_v.weight", &[256, 128], GgmlType::F16);
    file.tensor("blk.2.ffn_up.weight").dims = vec![256, 768];
    file.add("blk.2.ffn_gate.weight", &[256, 768], GgmlType::F16);
    let plan = file.plan(Storage::F16).unwrap();
    let tensor = |slot| plan.slot(slot).unwrap().tensor.to_string();
    assert_eq!(tensor(Slot::AttnK(0)), "blk.0.attn_qkv.weight");
    assert_eq!(tensor(Slot::AttnK(1)), "blk.1.attn_k.weight");
    assert_eq!(tensor(Slot::FfnGate(1)), "blk.1.ffn_up.weight");
    assert_eq!(tensor(Slot::FfnGate(2)), "blk.2.ffn_gate.weight");
}

#[test]
fn all_problems_are_reported_at_once() {
    let mut file = TestFile::tiny();
    file.remove("blk.0.attn_qkv.weight")
        .remove("blk.2.attn_norm.weight")
        .remove("output_norm.weight")
        .add("blk.0.attn_qkv.bias", &[512], GgmlType::F32)
        .add("blk.3.attn_norm.weight", &[256], GgmlType::F32)
        .add("rope_freqs.weight", &[32], GgmlType::F32)
        .add("clear\u{1b}[2J", &[1], GgmlType::F32);
    file.tensor("blk.1.ffn_down.weight").dims = vec![256, 768];
    file.tensor("rope_factors_long.weight").ggml_type = GgmlType::F16;
    assert_eq!(
        file.problems(),
        [
            "missing: blk.0.attn_qkv.weight (or blk.0.attn_q.weight, blk.0.attn_k.weight and blk.0.attn_v.weight)",
            "wrong shape: blk.1.ffn_down.weight is [256, 768], expected [768, 256]",
            "missing: blk.2.attn_norm.weight",
            "missing: output_norm.weight",
            "wrong type: rope_factors_long.weight is F16, expected F32",
            "unexpected: blk.0.attn_qkv.bias, Phi-3 has no biases",
            "unexpected: blk.3.attn_norm.weight, the model does not have this layer",
            "unexpected: rope_freqs.weight, Phi-3 has no frequency factors of this kind",
            "unexpected: clear\\u{1b}[2J, Phi-3 has no tensor of this name",
        ]
    );
}

#[test]
fn the_message_has_one_line_for_each_problem_and_a_limited_length() {
    let mut file = TestFile::tiny();
    for i in 0..1000 {
        file.add(&format!("extra.{i}"), &[1], GgmlType::F32);
    }
    let message = file.bind().unwrap_err().to_string();
    assert_eq!(message.lines().count(), 1 + 20 + 1);
    assert!(message.ends_with("\n  and 980 more"), "{message}");
}

/// The others are only counted, for the total and the class. The problem that makes this file malformed
/// is the last one.
#[test]
fn problems_beyond_those_that_are_kept_are_counted() {
    let mut file = TestFile::tiny();
    for i in 0..5000 {
        file.add(&format!("extra.{i}"), &[1], GgmlType::F32);
    }
    let count = |file: &TestFile| match file.bind() {
        Err(Error::Binding(problems)) => {
            let of = |class| problems.count(class);
            let kept = problems.as_slice().len();
            (kept, of(ErrorClass::Unsupported), of(ErrorClass::Malformed), problems.class())
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(count(&file), (256, 5000, 0, ErrorClass::Unsupported));
    file.add("blk.3.attn_norm.weight", &[256], GgmlType::F32);
    assert_eq!(count(&file), (256, 5000, 1, ErrorClass::Malformed));
    assert!(file.bind().unwrap_err().to_string().ends_with("\n  and 4981 more"));
}

#[test]
fn missing_layers_are_named() {
    let mut file = TestFile::tiny();
    file.set("phi3.block_count", 4_u32);
    let problems = file.problems();
    assert_eq!(problems.len(), 6);
    assert!(problems.iter().all(|problem| problem.starts_with("missing: blk.3.")));
}

#[test]
fn more_layers_than_tensors_are_counted() {
    let mut file = TestFile::tiny();
    file.tensors.retain(|tensor| tensor.name == "token_embd.weight");
    file.set("phi3.block_count", 1024_u32);
    let problems = file.problems();
    assert!(problems.len() < 20, "{problems:?}");
    assert!(problems.iter().any(|problem| problem.starts_with("missing: blk.1.")), "{problems:?}");
    let rest = "missing: all tensors of 1022 more layers, starting at layer 2".to_owned();
    assert!(problems.contains(&rest), "{problems:?}");
    assert_eq!(file.bind().unwrap_err().class(), ErrorClass::Malformed);
}

#[test]
fn tensors_of_a_layer_beyond_the_count_are_unexpected() {
    let mut file = TestFile::tiny();
    let error = file.set("phi3.block_count", 2_u32).bind().unwrap_err();
    assert_eq!(error.class(), ErrorClass::Malformed);
    let Error::Binding(problems) = error else { panic!("{error}") };
    assert_eq!(problems.as_slice().len(), 6);
    for problem in problems.as_slice() {
        assert!(matches!(problem, Problem::Unexpected { reason: Misfit::NoSuchLayer, .. }));
    }
}

#[test]
fn a_model_with_more_than_phi_3_has_is_unsupported_not_malformed() {
    for name in ["blk.0.attn_q.bias", "rope_freqs.weight", "blk.0.attn_q_norm.weight"] {
        let error = TestFile::tiny().add(name, &[32], GgmlType::F32).bind().unwrap_err();
        assert_eq!(error.class(), ErrorClass::Unsupported);
        assert_eq!(error.code(), "PHI3_UNSUPPORTED_TENSOR");
    }
    let error = TestFile::tiny().remove("blk.0.ffn_down.weight").bind().unwrap_err();
    assert_eq!(error.class(), ErrorClass::Malformed);
    assert_eq!(error.code(), "PHI3_TENSOR_MISMATCH");
}

#[test]
fn fused_and_split_at_once_contradict_each_other() {
    let mut file = TestFile::tiny();
    file.add("blk.0.attn_k.weight", &[256, 128], GgmlType::F16).add(
        "blk.1.ffn_gate.weight",
        &[256, 768],
        GgmlType::F16,
    );
    assert_eq!(
        file.problems(),
        [
            "duplicate: blk.0.attn_qkv.weight and blk.0.attn_k.weight contain the same weights",
            "duplicate: blk.1.ffn_up.weight and blk.1.ffn_gate.weight contain the same weights",
        ]
    );
    assert_eq!(file.bind().unwrap_err().class(), ErrorClass::Malformed);
}

#[test]
fn missing_parts_of_a_split_layout_are_reported_one_by_one() {
    let mut file = TestFile::tiny_split();
    file.remove("blk.0.attn_v.weight")
        .remove("blk.1.ffn_gate.weight")
        .remove("blk.2.ffn_up.weight");
    assert_eq!(
        file.problems(),
        [
            "missing: blk.0.attn_v.weight",
            "missing: blk.1.ffn_gate.weight",
            "missing: blk.2.ffn_up.weight",
        ]
    );
}

#[test]
fn the_architecture_determines_which_layout_is_reported_as_missing() {
    let mut file = TestFile::tiny_split();
    file.remove("blk.0.ffn_gate.weight").remove("blk.0.ffn_up.weight");
    assert_eq!(
        file.problems(),
        [
            "missing: blk.0.ffn_gate.weight and a blk.0.ffn_up.weight of half the rows (or blk.0.ffn_up.weight)"
        ]
    );
}

#[test]
fn factors_come_in_pairs() {
    let mut file = TestFile::tiny();
    file.remove("rope_factors_short.weight");
    assert_eq!(file.problems(), ["missing: rope_factors_short.weight"]);
    file.remove("rope_factors_long.weight");
    file.bind().unwrap();
    file.set("phi3.rope.scaling.type", "longrope");
    assert_eq!(file.problems().len(), 2);
}

#[test]
fn factors_of_another_type_are_unsupported() {
    let mut file = TestFile::tiny();
    file.tensor("rope_factors_short.weight").ggml_type = GgmlType::BF16;
    let error = file.bind().unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unsupported);
    // The check of the code applies to these, too.
    let facts = error.facts();
    assert!(facts.cause.contains("type") && facts.cure.contains("F32"), "{facts:?}");
}

#[test]
fn dimensions_of_one_at_the_end_do_not_count() {
    let mut file = TestFile::tiny();
    file.tensor("output_norm.weight").dims = vec![256, 1, 1, 1];
    file.tensor("blk.0.attn_qkv.weight").dims = vec![256, 512, 1];
    let plan = file.plan(Storage::F16).unwrap();
    assert_eq!(plan.slot(Slot::OutputNorm).unwrap().shape, [256]);
    assert_eq!(plan.slot(Slot::AttnQ(0)).unwrap().shape, [256, 256]);
    file.tensor("output_norm.weight").dims = vec![1, 256];
    assert_eq!(file.problems(), ["wrong shape: output_norm.weight is [1, 256], expected [256]"]);
}

#[test]
fn lengths_beyond_64_bits_are_wrong_shapes() {
    let mut file = TestFile::tiny();
    file.set("phi3.feed_forward_length", u64::MAX);
    assert!(file.problems().iter().any(|problem| problem.contains("blk.0.ffn_up.weight")));
    assert_eq!(file.bind().unwrap_err().class(), ErrorClass::Malformed);
}

#[test]
fn a_configuration_of_another_file_is_refused_quickly() {
    let mut config = TestFile::tiny().config().unwrap();
    config.layers = u32::MAX;
    let result =
        TestFile::tiny().with_parsed(|gguf| model_phi3::TensorMap::bind(&config, gguf.tensors()));
    assert!(matches!(result, Err(Error::InvalidValue { .. })));
}

/// A model in two files. The second starts in the middle of a layer, so the first tensors of one file
/// are read after the last tensors of the other.
#[test]
fn tensors_of_a_split_model_are_read_file_by_file_inside_a_layer() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = TestFile::tiny();
    let tensors = first.tensors.len();
    let middle = first.tensors.iter().position(|t| t.name == "blk.1.attn_output.weight").unwrap();
    let second = TestFile { tensors: first.tensors.split_off(middle), ..TestFile::default() };
    for (no, part) in [&first, &second].into_iter().enumerate() {
        let mut writer = part.writer();
        let layout = writer.split(no as u16, 2, tensors as i32).layout().unwrap();
        let name = format!("model-{:05}-of-00002.gguf", no + 1);
        let mut file = File::create(folder.path().join(name)).unwrap();
        file.write_all(layout.header()).unwrap();
        file.set_len(layout.file_len()).unwrap();
    }

    let model = GgufFile::open(folder.path().join("model-00001-of-00002.gguf")).unwrap();
    let config = Phi3Config::from_gguf(model.metadata(), model.tensors()).unwrap();
    let map = TensorMap::bind(&config, model.tensors()).unwrap();
    assert_eq!(map.tensors().len(), tensors);
    for bound in map.tensors() {
        let tensor = model.tensor(&bound.name).unwrap();
        assert_eq!(bound.source.shard, tensor.shard(), "{}", bound.name);
        assert_eq!(bound.source.range, tensor.range(), "{}", bound.name);
        assert_eq!(
            tensor.shard(),
            usize::from(second.tensors.iter().any(|t| t.name == tensor.name()))
        );
    }
    let place = |t: &BoundTensor| (t.unit, t.source.shard, t.source.range.start);
    assert!(map.tensors().is_sorted_by_key(place));
    // Both files have a part of this layer. The part in the second file has the lower offsets.
    let of_layer: Vec<_> = map.tensors().iter().filter(|t| t.unit == 2).map(place).collect();
    assert!(!of_layer.is_sorted_by_key(|&(_, _, start)| start), "{of_layer:?}");
}

#[test]
fn integer_weights_are_refused_with_both_storages() {
    for ggml_type in [GgmlType::I8, GgmlType::I16, GgmlType::I32, GgmlType::I64] {
        for name in ["blk.1.attn_norm.weight", "blk.0.attn_qkv.weight", "output.weight"] {
            let mut file = TestFile::tiny();
            file.tensor(name).ggml_type = ggml_type;
            let error = file.bind().unwrap_err();
            assert_eq!(
                (error.code(), error.class()),
                ("PHI3_UNSUPPORTED_TENSOR", ErrorClass::Unsupported)
            );
            let text = error.to_string();
            assert!(text.contains(&format!("{name} is {ggml_type}, but weights")), "{text}");
        }
    }
}

/// Returns the tiny preset with NVFP4 matrices; each with both scales.
fn nvfp4() -> TestFile {
    let mut file = TestFile::tiny();
    let matrices = file.tensors.iter_mut().filter(|tensor| tensor.dims.len() == 2);
    let mut stems = Vec::new();
    for tensor in matrices {
        tensor.ggml_type = GgmlType::NVFP4;
        stems.push(tensor.name.strip_suffix(".weight").unwrap().to_owned());
    }
    for stem in stems {
        file.add(&format!("{stem}.scale"), &[1], GgmlType::F32);
        file.add(&format!("{stem}.input_scale"), &[1], GgmlType::F32);
    }
    file
}

#[test]
fn weights_of_a_fused_tensor_share_its_scales() {
    let plan = nvfp4().plan(Storage::Native).unwrap();
    let dest = |name: &str| plan.slot(name.parse().unwrap()).unwrap().dest.clone();
    for kind in ["scale", "input_scale"] {
        let of = |matrix: &str| dest(&format!("layers.1.{matrix}.{kind}"));
        assert_eq!((of("attn_q"), of("attn_q")), (of("attn_k"), of("attn_v")));
        assert_eq!(of("ffn_gate"), of("ffn_up"));
        assert_ne!(of("attn_q"), of("ffn_up"));
        assert_ne!(dest(&format!("output.{kind}")), dest(&format!("token_embedding.{kind}")));
    }
    let tied = nvfp4()
        .remove("output.weight")
        .remove("output.scale")
        .remove("output.input_scale")
        .plan(Storage::Native)
        .unwrap();
    let dest = |name: &str| tied.slot(name.parse().unwrap()).unwrap().dest.clone();
    assert_eq!(dest("output.scale"), dest("token_embedding.scale"));
    assert_eq!(dest("output.input_scale"), dest("token_embedding.input_scale"));
}

#[test]
fn f16_storage_folds_the_scale_into_the_weights_and_omits_the_input_scale() {
    let plan = nvfp4().plan(Storage::F16).unwrap();
    assert!(plan.slots().iter().all(|planned| !planned.slot.is_scale()));
    let op = |name: &str| plan.ops().iter().find(|op| &*op.tensor == name).unwrap();
    assert_eq!(&*op("blk.0.attn_qkv.weight").scale.as_ref().unwrap().name, "blk.0.attn_qkv.scale");
    assert_eq!(op("output_norm.weight").scale, None);
    let left_out: Vec<&str> = plan.left_out().iter().map(|name| &**name).collect();
    assert!(left_out.contains(&"output.input_scale"));
    assert!(left_out.iter().all(|name| name.ends_with(".input_scale")));
}

#[test]
fn a_scale_is_one_f32_beside_an_nvfp4_weight() {
    let problem = |spoil: &dyn Fn(&mut TestFile)| {
        let mut file = nvfp4();
        spoil(&mut file);
        file.problems().join("; ")
    };
    assert_eq!(
        problem(&|file| file.tensor("blk.0.ffn_down.scale").ggml_type = GgmlType::F16),
        "wrong type: blk.0.ffn_down.scale is F16, expected F32"
    );
    assert_eq!(
        problem(&|file| file.tensor("output.input_scale").dims = vec![2]),
        "wrong shape: output.input_scale is [2], expected [1]"
    );
    assert_eq!(
        problem(&|file| file.tensor("blk.2.ffn_up.weight").ggml_type = GgmlType::Q4_0),
        "unexpected: blk.2.ffn_up.scale, only NVFP4 weights have scales in separate tensors; \
         unexpected: blk.2.ffn_up.input_scale, only NVFP4 weights have scales in separate tensors"
    );
    // Either scale can be missing.
    for name in ["blk.0.attn_qkv.scale", "blk.0.attn_qkv.input_scale"] {
        for storage in [Storage::F16, Storage::Native] {
            nvfp4().remove(name).plan(storage).unwrap();
        }
    }
}
