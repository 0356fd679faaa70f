use crate::support::TestFile;
use model_phi3::preset::{Layout, Preset, TypeMix};
use model_phi3::{KvDtype, ParseChoiceError, Phi3Config};

fn config(preset: Preset) -> Phi3Config {
    TestFile::new(preset, Layout::Fused, TypeMix::F16).config().unwrap()
}

#[test]
fn mini_at_full_context_takes_1_5_gib() {
    let bytes = config(Preset::Mini4k).kv_cache_bytes(4096, 1, KvDtype::F16);
    assert_eq!(bytes, Some(3 << 29));
}

#[test]
fn shared_heads_count_once() {
    let bytes = config(Preset::Medium).kv_cache_bytes(1, 1, KvDtype::F16);
    assert_eq!(bytes, Some(2 * 40 * 10 * 128 * 2));
}

#[test]
fn grows_with_batch_and_element_size() {
    let config = config(Preset::Mini4k);
    let one = config.kv_cache_bytes(128, 1, KvDtype::F8).unwrap();
    assert_eq!(config.kv_cache_bytes(128, 3, KvDtype::F32), Some(one * 12));
    assert_eq!(config.kv_cache_bytes(0, 1, KvDtype::F16), Some(0));
}

#[test]
fn overflow_is_none() {
    let config = config(Preset::Mini4k);
    assert_eq!(config.kv_cache_bytes(u64::MAX, 1, KvDtype::F16), None);
    assert_eq!(config.kv_cache_bytes(1 << 32, 1 << 32, KvDtype::F16), None);
}

#[test]
fn dtype_names_round_trip() {
    for &dtype in KvDtype::ALL {
        assert_eq!(dtype.name().parse(), Ok(dtype));
        assert_eq!(dtype.to_string(), dtype.name());
    }
    assert_eq!(
        "q8".parse::<KvDtype>(),
        Err(ParseChoiceError::new("q8", &["f32", "f16", "bf16", "f8"]))
    );
}
