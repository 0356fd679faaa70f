use crate::support::TestFile;
use gguf_format::write::{WriteArray, WriteValue};
use gguf_format::{GgmlType, Gguf};
use model_phi3::preset::{Layout, Preset, TypeMix};
use model_phi3::{
    Architecture, AttentionKind, Error, ErrorClass, ParseChoiceError, Phi3Config, RopeScaling,
    RopeStyle,
};

/// Returns the configuration of `TestFile::tiny` with one key changed.
fn tiny_with(key: &str, value: impl Into<WriteValue>) -> Result<Phi3Config, Error> {
    TestFile::tiny().set(key, value).config()
}

/// Checks that the file is refused as malformed, with an error that names the key.
#[track_caller]
fn assert_invalid(key: &str, value: impl Into<WriteValue>) {
    let error = tiny_with(key, value).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Malformed, "{error}");
    assert!(error.to_string().contains(key), "{error}");
}

/// Checks that the file is refused as unsupported, with an error that names the key.
#[track_caller]
fn assert_unsupported(key: &str, value: impl Into<WriteValue>) {
    let error = tiny_with(key, value).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unsupported, "{error}");
    assert!(error.to_string().contains(key), "{error}");
}

#[test]
fn every_dimension_comes_from_the_file() {
    let config = TestFile::tiny().config().unwrap();
    assert_eq!(config.architecture, Architecture::Phi3);
    assert_eq!(config.name.as_deref(), Some("Tiny Phi 3"));
    assert_eq!(config.layers, 3);
    assert_eq!(config.hidden, 256);
    assert_eq!((config.heads, config.kv_heads, config.head_dim), (4, 2, 64));
    assert_eq!(config.ffn, 768);
    assert_eq!(config.vocab, 1024);
    assert_eq!(config.context_length, 131_072);
    assert_eq!(config.rms_epsilon, 1e-5);
    assert_eq!(config.sliding_window, Some(262_144));
    assert_eq!(config.file_type, Some(1));
    assert!(!config.tied_output);
    assert_eq!(config.rope.style, RopeStyle::Neox);
    assert_eq!(config.rope.dimension_count, 64);
    assert_eq!(config.rope.freq_base, 10_000.0);
    assert_eq!(config.rope.original_context, Some(4096));
    assert_eq!(config.rope.attn_factor, Some(1.190_238_1));
    assert_eq!(
        (config.rope.scaling, config.rope.scaling_factor),
        (Some(RopeScaling::LongRope), None)
    );
    assert!(config.rope.factors);
    assert_eq!(config.attention().kind(), AttentionKind::GroupedQuery);
    assert_eq!(config.attention().scale, 0.125);
}

/// A name is only shown. The key that decides on the model must be text.
#[test]
fn a_name_that_is_not_utf8_refuses_no_model() {
    let with = |key: &str| {
        let mut bytes = TestFile::tiny().set(key, "phi3?").writer().to_bytes(|_, _| ()).unwrap();
        let at = bytes.windows(5).position(|five| five == b"phi3?").unwrap();
        bytes[at + 4] = 0xe9;
        let gguf = Gguf::parse(&bytes).unwrap();
        Phi3Config::from_gguf(gguf.metadata(), gguf.tensors())
    };
    assert_eq!(with("general.name").unwrap().name.as_deref(), Some("phi3\\xe9"));
    assert_eq!(with("general.author").unwrap().name.as_deref(), Some("Tiny Phi 3"));
    for key in ["general.architecture", "general.type", "phi3.rope.scaling.type"] {
        let error = with(key).unwrap_err();
        assert_eq!((error.code(), error.class()), ("GGUF_INVALID_UTF8", ErrorClass::Malformed));
        assert!(error.to_string().contains(key), "{error}");
    }
}

#[test]
fn llama_files_have_their_own_prefix_and_rope_style() {
    let config = TestFile::tiny_split().config().unwrap();
    assert_eq!(config.architecture, Architecture::Llama);
    assert_eq!(config.rope.style, RopeStyle::Adjacent);
    assert_eq!(config.rope.scaling, Some(RopeScaling::LongRope));
    let missing = TestFile::tiny_split().unset("llama.block_count").config().unwrap_err();
    assert!(missing.to_string().contains("llama.block_count"), "{missing}");
}

/// Checks that each choice prints as its word, and that the word parses.
fn assert_words<T>(choices: &[T], words: &[&str])
where
    T: Copy + PartialEq + std::fmt::Debug + ToString + std::str::FromStr<Err = ParseChoiceError>,
{
    assert_eq!(choices.iter().map(ToString::to_string).collect::<Vec<_>>(), words);
    for choice in choices {
        assert_eq!(choice.to_string().parse(), Ok(*choice));
    }
    assert!("PHI3".parse::<T>().is_err());
}

#[test]
fn words_of_the_configuration_round_trip() {
    assert_words(Architecture::ALL, &["phi3", "llama"]);
    assert_words(AttentionKind::ALL, &["multi-head", "grouped-query", "multi-query"]);
    assert_words(RopeStyle::ALL, &["neox", "adjacent"]);
    assert_words(RopeScaling::ALL, &["none", "linear", "yarn", "longrope"]);
}

#[test]
fn other_architectures_are_unsupported() {
    let hostile = "\u{1b}[2J";
    let error = tiny_with("general.type", hostile).unwrap_err();
    assert!(!error.to_string().contains('\u{1b}'), "{error}");
    for name in ["qwen2", "phi2", "PHI3", "", hostile] {
        let error = tiny_with("general.architecture", name).unwrap_err();
        assert!(matches!(&error, Error::UnsupportedArchitecture { found: Some(f) } if f == name));
        assert_eq!(error.class(), ErrorClass::Unsupported);
        assert!(!error.to_string().contains('\u{1b}'));
    }
    let error = TestFile::tiny().unset("general.architecture").config().unwrap_err();
    assert!(matches!(error, Error::UnsupportedArchitecture { found: None }));
    assert_invalid("general.architecture", 3_u32);
}

#[test]
fn required_keys_are_named_when_missing() {
    for suffix in [
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "block_count",
        "attention.head_count",
        "attention.layer_norm_rms_epsilon",
    ] {
        let key = format!("phi3.{suffix}");
        match TestFile::tiny().unset(&key).config().unwrap_err() {
            Error::Metadata(gguf_format::Error::Missing { key: named }) => assert_eq!(named, key),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn optional_keys_have_defaults() {
    let mut file = TestFile::tiny();
    for key in [
        "general.name",
        "general.file_type",
        "phi3.rope.dimension_count",
        "phi3.rope.freq_base",
        "phi3.rope.scaling.original_context_length",
        "phi3.rope.scaling.attn_factor",
        "phi3.attention.sliding_window",
        "phi3.vocab_size",
        "tokenizer.ggml.model",
    ] {
        file.unset(key);
    }
    let config = file.config().unwrap();
    assert_eq!((config.name, config.file_type, config.sliding_window), (None, None, None));
    assert_eq!(config.rope.dimension_count, config.head_dim);
    assert_eq!(config.rope.freq_base, 10_000.0);
    assert_eq!((config.rope.original_context, config.rope.attn_factor), (None, None));
}

#[test]
fn without_a_number_of_key_heads_each_query_head_has_its_own() {
    let config = TestFile::tiny().unset("phi3.attention.head_count_kv").config().unwrap();
    assert_eq!(config.kv_heads, config.heads);
    assert_eq!(config.attention().kind(), AttentionKind::MultiHead);
}

#[test]
fn a_sliding_window_of_zero_or_without_a_key_is_none() {
    let key = "phi3.attention.sliding_window";
    assert_eq!(tiny_with(key, 1_u32).unwrap().sliding_window, Some(1));
    assert_eq!(tiny_with(key, 0_u32).unwrap().sliding_window, None);
    assert_eq!(TestFile::tiny().unset(key).config().unwrap().sliding_window, None);
}

#[test]
fn impossible_counts_are_refused_quickly() {
    for count in [0, 65_537, 1_000_000_000, u32::MAX] {
        assert_invalid("phi3.block_count", count);
    }
    for count in [1025, 11_000, 65_536] {
        assert_unsupported("phi3.block_count", count);
    }
    assert_invalid("phi3.block_count", u64::MAX);
    assert_invalid("phi3.block_count", -1_i32);
    assert_invalid("phi3.block_count", "32");
}

/// Returns a file with the architecture and these keys only.
fn keys_alone(keys: &[(&str, WriteValue)]) -> TestFile {
    let mut file = TestFile::default();
    file.set("general.architecture", "phi3");
    for (key, value) in keys {
        file.set(key, value.clone());
    }
    file
}

#[test]
fn wrong_values_are_reported_although_other_keys_are_missing() {
    let heads = "phi3.attention.head_count";
    let kv_heads = "phi3.attention.head_count_kv";
    let hidden = "phi3.embedding_length";
    let tokens = "tokenizer.ggml.tokens";
    let cases: Vec<(&str, Vec<(&str, WriteValue)>)> = vec![
        (heads, vec![(heads, 0_u32.into())]),
        (heads, vec![(heads, "32".into())]),
        (heads, vec![(heads, Vec::<u32>::new().into())]),
        (heads, vec![(heads, 7_u32.into()), (hidden, 64_u32.into())]),
        (kv_heads, vec![(kv_heads, 0_u32.into())]),
        (kv_heads, vec![(kv_heads, 5_u32.into()), (heads, 32_u32.into())]),
        (hidden, vec![(hidden, 0_u32.into())]),
        ("phi3.block_count", vec![("phi3.block_count", 0_u32.into())]),
        ("phi3.block_count", vec![("phi3.block_count", 1_000_000_000_u32.into())]),
        ("phi3.rope.dimension_count", vec![("phi3.rope.dimension_count", u32::MAX.into())]),
        ("phi3.rope.dimension_count", vec![("phi3.rope.dimension_count", (1_u32 << 31).into())]),
        ("phi3.rope.dimension_count", vec![("phi3.rope.dimension_count", 63_u32.into())]),
        ("phi3.rope.freq_base", vec![("phi3.rope.freq_base", f32::NAN.into())]),
        ("phi3.rope.freq_base", vec![("phi3.rope.freq_base", f32::INFINITY.into())]),
        ("phi3.rope.freq_base", vec![("phi3.rope.freq_base", 0.0_f32.into())]),
        (
            "layer_norm_rms_epsilon",
            vec![("phi3.attention.layer_norm_rms_epsilon", f32::NAN.into())],
        ),
        ("phi3.attention.key_length", vec![("phi3.attention.key_length", 0_u32.into())]),
        (tokens, vec![(tokens, 3_u32.into())]),
        (tokens, vec![(tokens, vec![3_u32].into())]),
    ];
    for (culprit, keys) in cases {
        let mut file = keys_alone(&keys);
        for tensors in ["without tensors", "with a tensor"] {
            let error = file.config().unwrap_err();
            assert!(
                matches!(
                    error,
                    Error::InvalidValue { .. }
                        | Error::Metadata(gguf_format::Error::WrongType { .. })
                ),
                "{keys:?} {tensors}: {error}"
            );
            assert!(error.to_string().contains(culprit), "{keys:?} {tensors}: {error}");
            file.add("t", &[32], GgmlType::F32);
        }
    }
}

#[test]
fn wrong_values_are_reported_before_unsupported_values_and_missing_keys() {
    let experts = ("phi3.expert_count", 8_u32.into());
    let error = keys_alone(std::slice::from_ref(&experts)).config().unwrap_err();
    assert!(matches!(error, Error::UnsupportedValue { .. }), "{error}");
    let error = keys_alone(&[experts, ("phi3.context_length", 0_u32.into())]).config().unwrap_err();
    assert!(matches!(error, Error::InvalidValue { .. }), "{error}");
    let error = keys_alone(&[]).add("t", &[32], GgmlType::F32).config().unwrap_err();
    assert!(matches!(error, Error::Metadata(gguf_format::Error::Missing { .. })), "{error}");
}

#[test]
fn files_without_a_model_are_unsupported_and_not_malformed() {
    // As llama.cpp writes them: an adapter states the architecture but none of its dimensions, and an
    // importance matrix states neither.
    let mut adapter = keys_alone(&[("general.type", "adapter".into())]);
    adapter.add("blk.0.attn_qkv.weight.lora_a", &[256, 8], GgmlType::F16);
    let mut matrix = TestFile::default();
    matrix.set("general.type", "imatrix").add("output.weight.counts", &[1], GgmlType::F32);
    for (file, kind) in [(&adapter, "adapter"), (&matrix, "imatrix")] {
        let error = file.config().unwrap_err();
        assert!(matches!(&error, Error::NotAModel { found: Some(f) } if f == kind), "{error}");
        assert_eq!(error.class(), ErrorClass::Unsupported);
        assert!(error.to_string().contains(kind), "{error}");
    }
    // A file of a vocabulary, with or without the dimensions of its model.
    let mut vocabulary = TestFile::tiny();
    vocabulary.tensors.clear();
    for file in [&vocabulary, &keys_alone(&[])] {
        let error = file.config().unwrap_err();
        assert!(matches!(error, Error::NotAModel { found: None }), "{error}");
        assert_eq!(error.class(), ErrorClass::Unsupported);
    }
    assert!(TestFile::tiny().unset("general.type").config().is_ok());
    assert_invalid("general.type", 3_u32);
}

#[test]
fn the_numbers_of_heads_must_divide_the_dimensions() {
    for heads in [0_u32, 3, 257, u32::MAX] {
        assert_invalid("phi3.attention.head_count", heads);
    }
    for kv_heads in [0_u32, 3, 8, u32::MAX] {
        assert_invalid("phi3.attention.head_count_kv", kv_heads);
    }
}

#[test]
fn key_length_overrides_the_division() {
    let config = tiny_with("phi3.attention.key_length", 96_u32).unwrap();
    assert_eq!(config.head_dim, 96);
    assert_eq!(config.rope.dimension_count, 64);
    let mut file = TestFile::tiny();
    file.set("phi3.attention.head_count", 3_u32).unset("phi3.attention.head_count_kv");
    assert!(file.config().is_err());
    assert_eq!(file.set("phi3.attention.key_length", 64_u32).config().unwrap().head_dim, 64);
    for absurd in [0_u32, 257, u32::MAX] {
        assert_invalid("phi3.attention.key_length", absurd);
    }
}

#[test]
fn values_must_be_as_long_as_keys() {
    assert!(tiny_with("phi3.attention.value_length", 64_u32).is_ok());
    assert_unsupported("phi3.attention.value_length", 32_u32);
    assert_invalid("phi3.attention.value_length", 0_u32);
}

#[test]
fn lengths_must_not_be_zero() {
    for suffix in ["context_length", "embedding_length", "feed_forward_length"] {
        assert_invalid(&format!("phi3.{suffix}"), 0_u32);
    }
}

#[test]
fn a_huge_hidden_state_gives_no_head_dim() {
    let mut file = TestFile::tiny();
    file.set("phi3.attention.head_count", 1_u32).unset("phi3.attention.head_count_kv");
    let error = file.set("phi3.embedding_length", u64::MAX).config().unwrap_err();
    assert!(error.to_string().contains("phi3.embedding_length"), "{error}");
}

#[test]
fn absurd_rope_is_refused() {
    for dimensions in [0_u32, 1, 63, 66, u32::MAX] {
        assert_invalid("phi3.rope.dimension_count", dimensions);
    }
    for number in [0.0, -1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert_invalid("phi3.rope.freq_base", number);
        assert_invalid("phi3.rope.scaling.attn_factor", number);
        assert_invalid("phi3.attention.layer_norm_rms_epsilon", number);
    }
    for factor in [-1.0, f32::NAN, f32::INFINITY] {
        assert_invalid("phi3.rope.scaling.factor", factor);
        assert_invalid("phi3.rope.scale_linear", factor);
    }
    assert_invalid("phi3.rope.scaling.original_context_length", 0_u32);
    assert_unsupported("phi3.rope.scaling.type", "dynamic");
    assert_eq!(
        tiny_with("phi3.rope.scaling.type", "yarn").unwrap().rope.scaling,
        Some(RopeScaling::Yarn)
    );
}

#[test]
fn a_factor_without_a_type_is_linear_and_has_two_names() {
    let (factor, linear) = ("phi3.rope.scaling.factor", "phi3.rope.scale_linear");
    let scaling = |keys: &[(&str, f32)]| {
        let mut file = TestFile::tiny();
        for (key, value) in keys {
            file.set(key, *value);
        }
        let rope = file.config().unwrap().rope;
        (rope.scaling, rope.scaling_factor)
    };
    assert_eq!(scaling(&[(factor, 2.0)]), (Some(RopeScaling::Linear), Some(2.0)));
    assert_eq!(scaling(&[(linear, 4.0)]), (Some(RopeScaling::Linear), Some(4.0)));
    assert_eq!(scaling(&[(linear, 4.0), (factor, 2.0)]).1, Some(2.0));
    assert_eq!(
        scaling(&[(linear, 0.0)]),
        (Some(RopeScaling::LongRope), Some(0.0)),
        "by its factors"
    );
    let mut named = TestFile::tiny();
    named.set("phi3.rope.scaling.type", "yarn").set(linear, 4.0_f32);
    let rope = named.config().unwrap().rope;
    assert_eq!((rope.scaling, rope.scaling_factor), (Some(RopeScaling::Yarn), Some(4.0)));
}

/// Returns the tiny preset without its RoPE factors and without the keys for a long context.
fn short_context() -> TestFile {
    let mut file = TestFile::tiny();
    file.remove("rope_factors_long.weight").remove("rope_factors_short.weight");
    file.unset("phi3.rope.scaling.attn_factor").set("phi3.context_length", 4096_u32);
    file
}

#[test]
fn a_long_context_without_factors_gives_a_warning() {
    let warnings = |file: &TestFile| file.config().unwrap().warnings();
    assert_eq!(warnings(&TestFile::tiny()), []);
    assert_eq!(warnings(&short_context()), []);
    let (context, original) = ("phi3.context_length", "phi3.rope.scaling.original_context_length");
    let attn_factor = "phi3.rope.scaling.attn_factor";

    let mut long = short_context();
    long.set(context, 131_072_u32);
    let [warning] = &warnings(&long)[..] else { panic!("one warning") };
    assert_eq!(warning.code(), "PHI3_ROPE_FACTORS_MISSING");
    assert_eq!(
        warning.to_string(),
        "RoPE factors for long contexts are missing: phi3.context_length is 131072, \
         phi3.rope.scaling.original_context_length is 4096, but the file has no \
         rope_factors_long.weight and no rope_factors_short.weight"
    );

    let mut factor_alone = short_context();
    factor_alone.set(attn_factor, 1.19_f32).unset(original);
    let text = warnings(&factor_alone)[0].to_string();
    assert!(text.contains("attn_factor is 1.19") && !text.contains(original), "{text}");

    // Only YaRN uses it without factors.
    for (scaling, expected) in [("none", 1), ("linear", 1), ("yarn", 0)] {
        factor_alone
            .set("phi3.rope.scaling.type", scaling)
            .set("phi3.rope.scaling.factor", 32.0_f32);
        assert_eq!(warnings(&factor_alone).len(), expected, "{scaling}");
    }

    // A type without a factor scales nothing.
    for scaling in ["none", "linear", "yarn"] {
        long.set("phi3.rope.scaling.type", scaling);
        assert_eq!(warnings(&long).len(), 1, "{scaling}");
    }
    for scaling in ["linear", "yarn"] {
        let mut scaled = long.clone();
        scaled.set("phi3.rope.scaling.type", scaling).set("phi3.rope.scaling.factor", 32.0_f32);
        assert_eq!(warnings(&scaled), [], "{scaling}");
        scaled.set("phi3.rope.scaling.factor", 1.0_f32);
        assert_eq!(warnings(&scaled).len(), 1, "{scaling}");
    }
    long.unset("phi3.rope.scaling.type").set("phi3.rope.scale_linear", 32.0_f32);
    assert_eq!(warnings(&long), []);
}

#[test]
fn arrays_with_one_value_for_each_layer_must_have_equal_values() {
    let key = "phi3.attention.head_count_kv";
    assert_eq!(tiny_with(key, vec![2_i32; 3]).unwrap().kv_heads, 2);
    assert_eq!(tiny_with(key, vec![2_u32; 3]).unwrap().kv_heads, 2);
    assert_eq!(tiny_with("phi3.feed_forward_length", vec![768_u32; 3]).unwrap().ffn, 768);
    assert_unsupported(key, vec![2_u32, 2, 4]);
    assert_invalid(key, vec![2_u32; 2]);
    assert_invalid(key, Vec::<u32>::new());
    assert_invalid(key, vec![0_u32; 3]);
    assert_invalid(key, vec![-2_i32; 3]);
    assert_invalid(key, vec![2.0_f32; 3]);
    assert_invalid(key, WriteArray::Array(vec![WriteArray::U32(vec![2]); 3]));
}

#[test]
fn experts_are_unsupported() {
    assert!(tiny_with("phi3.expert_count", 0_u32).is_ok());
    assert_unsupported("phi3.expert_count", 16_u32);
}

#[test]
fn tokens_must_be_strings_and_fit_the_embedding() {
    let tokens = |count| vec!["a".to_owned(); count];
    assert!(tiny_with("tokenizer.ggml.tokens", tokens(1024)).is_ok());
    // Embeddings are often padded.
    assert!(tiny_with("tokenizer.ggml.tokens", tokens(1000)).is_ok());
    assert_invalid("tokenizer.ggml.tokens", tokens(1025));
    assert_invalid("tokenizer.ggml.tokens", vec![1_u32]);
    assert_invalid("tokenizer.ggml.tokens", "a");
    assert_invalid("tokenizer.ggml.merges", vec![1_u32]);
    assert_invalid("tokenizer.ggml.scores", vec![1_u32]);
    assert_invalid("tokenizer.ggml.token_type", vec![1.0_f32]);
    assert!(tiny_with("tokenizer.ggml.token_type", vec![1_u32]).is_ok());
    assert!(tiny_with("tokenizer.ggml.token_type", vec![1_i32]).is_ok());
    assert_invalid("phi3.vocab_size", 1025_u32);
}

#[test]
fn the_vocabulary_is_a_dimension() {
    let mut file = TestFile::tiny();
    file.unset("phi3.vocab_size").tensor("token_embd.weight").dims = vec![256, 7];
    assert_eq!(file.config().unwrap().vocab, 7);
    for dims in [vec![256], vec![256, 0]] {
        file.tensor("token_embd.weight").dims = dims;
        assert!(matches!(file.config(), Err(Error::Binding(_))));
    }
}

#[test]
fn without_an_embedding_the_output_gives_the_vocabulary() {
    let mut file = TestFile::tiny();
    assert_eq!(file.remove("token_embd.weight").config().unwrap().vocab, 1024);
    assert_eq!(file.problems(), ["missing: token_embd.weight"]);
    let error = file.remove("output.weight").config().unwrap_err();
    assert!(error.to_string().contains("missing: token_embd.weight"), "{error}");
}

#[test]
fn without_an_output_tensor_the_output_is_tied() {
    let file = TestFile::new(Preset::Phi4Mini, Layout::Fused, TypeMix::F16);
    assert!(file.config().unwrap().tied_output);
}

#[test]
fn parameters_are_those_of_the_model_cards() {
    let parameters = |preset| {
        TestFile::new(preset, Layout::Fused, TypeMix::F16).config().unwrap().parameters().unwrap()
    };
    assert_eq!(parameters(Preset::Mini4k), 3_821_079_552);
    assert_eq!(parameters(Preset::Medium), 13_960_238_080);
    assert_eq!(parameters(Preset::Phi4), 14_659_507_200);
    assert_eq!(parameters(Preset::Phi4Mini), 3_836_021_760);
}

#[test]
fn long_keys_and_values_are_shortened_in_messages() {
    let error = tiny_with("general.architecture", "x".repeat(10_000)).unwrap_err();
    assert!(error.to_string().len() < 300);
    let error = tiny_with("general.type", "x".repeat(10_000)).unwrap_err();
    assert!(error.to_string().len() < 300);
    let error = tiny_with("phi3.rope.scaling.type", "x".repeat(10_000)).unwrap_err();
    assert!(error.to_string().len() < 300);
}
