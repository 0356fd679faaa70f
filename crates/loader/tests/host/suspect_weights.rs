//! Checks that loads report infinite and NaN weights, and tensors whose bytes are all zero.

use crate::changed_weights::{changed, with_wild_weights};
use crate::common::go_on;
use loader::{DeviceChoice, LoadOptions, Loader, Storage};

fn options() -> LoadOptions {
    LoadOptions::new().device(DeviceChoice::Host)
}

#[test]
fn infinite_and_nan_weights_are_counted_for_each_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let path = with_wild_weights(dir.path());
    for (storage, embedding, down) in [
        (
            Storage::F16,
            "1 infinite and 0 NaN weights as f16",
            "2 infinite and 1 NaN weights as f16",
        ),
        (
            Storage::Native,
            "1 infinite and 0 NaN weights as bf16",
            "0 infinite and 1 NaN weights as f32",
        ),
    ] {
        let model = Loader::new(options().storage(storage)).load(&path, &mut go_on).unwrap();
        let found: Vec<_> =
            model.stats().proof.non_finite.iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                format!("token_embd.weight has {embedding}"),
                format!("blk.1.ffn_down.weight has {down}")
            ]
        );
        let denied = options().storage(storage).deny_overflow(true);
        let error = Loader::new(denied).load(&path, &mut go_on).unwrap_err();
        assert_eq!((error.code(), error.exit_code()), ("NON_FINITE_WEIGHTS", 9));
        assert!(error.to_string().contains("blk.1.ffn_down.weight"), "{error}");
    }
}

#[test]
fn tensors_whose_bytes_are_all_zero_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (norm, almost) = ("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight");
    let path = changed(dir.path(), "fused-k-quants.gguf", &[norm, almost], |name, _, bytes| {
        bytes.fill(0);
        if name == almost {
            bytes[0] = 1;
        }
    });
    for storage in [Storage::F16, Storage::Native] {
        let model = Loader::new(options().storage(storage)).load(&path, &mut go_on).unwrap();
        let found: Vec<_> =
            model.stats().proof.all_zero.iter().map(|zero| &zero.tensor[..]).collect();
        assert_eq!(found, [norm]);
    }
}
