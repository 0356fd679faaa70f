use std::collections::HashSet;

use crate::support::TestFile;
use gguf_format::GgmlType;
use model_phi3::{Error, ErrorClass, LoadPlan, Placement, SplitMode, Storage};

/// Returns one error of each code, caused through the API.
fn provoked() -> Vec<Error> {
    let tiny = TestFile::tiny;
    let other_layers = {
        let mut config = tiny().config().unwrap();
        config.layers = 2;
        LoadPlan::new(&config, &tiny().bind().unwrap(), Storage::F16)
    };
    let mut activations = tiny();
    activations.tensor("output.weight").ggml_type = GgmlType::Q8_K;
    vec![
        tiny().set("general.architecture", "qwen2").config().unwrap_err(),
        tiny().set("phi3.block_count", 0_u32).config().unwrap_err(),
        tiny().set("phi3.expert_count", 8_u32).config().unwrap_err(),
        tiny().remove("output_norm.weight").bind().unwrap_err(),
        tiny().add("output.bias", &[1024], GgmlType::F32).bind().unwrap_err(),
        activations.plan(Storage::F16).unwrap_err(),
        Error::TooLarge { what: "the model" },
        other_layers.unwrap_err(),
        tiny().set("general.type", "adapter").config().unwrap_err(),
        tiny().place(Storage::F16, &Placement::new(SplitMode::Tensor, 3).unwrap()).unwrap_err(),
    ]
}

#[test]
fn every_code_is_listed_once_and_provoked() {
    let provoked: Vec<_> = provoked().iter().map(Error::facts).collect();
    assert_eq!(provoked, Error::ALL_CODES);
    let codes: HashSet<_> = provoked.iter().map(|facts| facts.code).collect();
    assert_eq!(codes.len(), provoked.len());
}

#[test]
fn each_error_has_the_expected_class() {
    use ErrorClass::{Internal, Malformed, Unsupported};
    let classes: Vec<ErrorClass> = provoked().iter().map(Error::class).collect();
    assert_eq!(
        classes,
        [
            Unsupported,
            Malformed,
            Unsupported,
            Malformed,
            Unsupported,
            Unsupported,
            Malformed,
            Internal,
            Unsupported,
            Unsupported
        ]
    );
}

#[test]
fn errors_of_the_metadata_keep_code_and_message() {
    let error = TestFile::tiny().unset("phi3.block_count").config().unwrap_err();
    assert_eq!(error.code(), "GGUF_MISSING_KEY");
    assert_eq!(error.class(), ErrorClass::Malformed);
    assert_eq!(error.to_string(), "the key \"phi3.block_count\" is missing");
}

#[test]
fn a_missing_conversion_names_tensor_and_type() {
    let mut file = TestFile::tiny();
    file.tensor("blk.1.ffn_down.weight").ggml_type = GgmlType::Q8_K;
    let error = file.plan(Storage::F16).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tensor blk.1.ffn_down.weight is Q8_K, which cannot be converted to f16"
    );
    assert!(error.help().is_some());
    file.plan(Storage::Native).unwrap();
}
