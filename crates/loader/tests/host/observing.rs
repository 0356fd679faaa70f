//! Tests of observers: the events that they receive, cancellation and panics.

use crate::common::{go_on, model_path};
use loader::{DeviceChoice, Error, LoadEvent, LoadOptions, Loader, Observer, Unobserved};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};

fn loader() -> Loader {
    Loader::new(LoadOptions::new().device(DeviceChoice::Host))
}

/// Returns the name of an event.
pub(crate) fn name(event: &LoadEvent<'_>) -> &'static str {
    match event {
        LoadEvent::Opened { .. } => "opened",
        LoadEvent::Planned { .. } => "planned",
        LoadEvent::Allocated { .. } => "allocated",
        LoadEvent::Progress { .. } => "progress",
        LoadEvent::Transferred { .. } => "transferred",
        LoadEvent::Compared { .. } => "compared",
        LoadEvent::Verified { .. } => "verified",
        LoadEvent::Finished { .. } => "finished",
        _ => "unknown",
    }
}

#[test]
fn events_arrive_in_order_with_one_progress_event_for_each_unit() {
    let mut names = Vec::new();
    let mut units = Vec::new();
    let mut bytes = Vec::new();
    let model = loader()
        .load(model_path("fused-f16.gguf"), &mut |event: &LoadEvent<'_>| {
            match event {
                LoadEvent::Progress { unit, of, label, bytes: done, of_bytes, .. } => {
                    assert!(done <= of_bytes);
                    units.push((*unit, *of, label.to_string()));
                    bytes.push(*done);
                }
                LoadEvent::Transferred { bytes: done, .. } => bytes.push(*done),
                _ => names.push(name(event)),
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(names, ["opened", "planned", "allocated", "verified", "finished"]);
    let want = [
        (1, 5, "Embedding loaded"),
        (2, 5, "Layer 0 loaded"),
        (3, 5, "Layer 1 loaded"),
        (4, 5, "Layer 2 loaded"),
        (5, 5, "Output weights loaded"),
    ];
    assert_eq!(units, want.map(|(unit, of, label)| (unit, of, label.to_owned())));
    assert!(bytes.is_sorted());
    assert_eq!(bytes.last(), Some(&model.stats().source_bytes));
}

#[test]
fn an_observer_can_cancel_at_any_event() {
    let mut loader = loader();
    for at in ["opened", "planned", "allocated", "progress", "transferred", "verified", "finished"]
    {
        let mut last = "";
        let error = loader
            .load(model_path("fused-f16.gguf"), &mut |event: &LoadEvent<'_>| {
                last = name(event);
                if last == at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap_err();
        assert!(matches!(error, Error::Cancelled), "{at}: {error}");
        assert_eq!((error.code(), error.exit_code()), ("CANCELLED", 130));
        assert_eq!(last, at, "no event follows the one that cancelled");
    }
    loader.load(model_path("fused-f16.gguf"), &mut go_on).unwrap();
}

#[test]
fn a_panicking_observer_does_not_break_the_loader() {
    struct Panics;
    impl Observer for Panics {
        fn event(&mut self, event: &LoadEvent<'_>) -> ControlFlow<()> {
            assert!(!matches!(event, LoadEvent::Progress { .. }), "test panic");
            ControlFlow::Continue(())
        }
    }
    let mut loader = loader();
    let panic = catch_unwind(AssertUnwindSafe(|| {
        loader.load(model_path("fused-f16.gguf"), &mut Panics).map(drop)
    }))
    .unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"test panic"));
    loader.load(model_path("fused-f16.gguf"), &mut go_on).unwrap();
}

#[test]
fn an_observer_can_be_chosen_at_run_time() {
    struct Counts<'a>(&'a mut u32);
    impl Observer for Counts<'_> {
        fn event(&mut self, _: &LoadEvent<'_>) -> ControlFlow<()> {
            *self.0 += 1;
            ControlFlow::Continue(())
        }
    }
    let (mut loader, mut events) = (loader(), 0);
    let chosen: [Box<dyn Observer + '_>; 2] = [Box::new(Unobserved), Box::new(Counts(&mut events))];
    for mut observer in chosen {
        loader.load(model_path("fused-f16.gguf"), observer.as_mut()).unwrap();
    }
    assert!(events > 0);
}
