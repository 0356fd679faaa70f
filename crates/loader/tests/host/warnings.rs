//! Files that can be loaded but may be wrong.

use crate::common::go_on;
use crate::small_model::{factors_lost, phi3_keys, write_small_model};
use loader::{DeviceChoice, LoadEvent, LoadOptions, Loader};
use std::ops::ControlFlow;

#[test]
fn a_warning_is_reported_as_an_event_and_in_the_statistics() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    write_small_model(&path, factors_lost());
    let mut loader = Loader::new(LoadOptions::new().device(DeviceChoice::Host));
    let planned = loader.plan(&path).unwrap().warnings;
    let mut reported = Vec::new();
    let model = loader
        .load(&path, &mut |event: &LoadEvent<'_>| {
            if let LoadEvent::Warned { warning, .. } = event {
                reported.push(warning.clone().into_owned());
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    let [warning] = &planned[..] else { panic!("one warning: {planned:?}") };
    assert_eq!(warning.code(), "PHI3_ROPE_FACTORS_MISSING");
    assert!(!warning.help().is_empty());
    assert_eq!(reported, planned);
    assert_eq!(model.stats().proof.warnings, planned);

    write_small_model(&path, phi3_keys());
    assert_eq!(loader.load(&path, &mut go_on).unwrap().stats().proof.warnings, []);
}
