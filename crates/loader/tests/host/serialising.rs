//! Tests of the feature `serde`, of owned events and of cloned errors.

use crate::common::{go_on, model_path};
use loader::{
    DeviceChoice, Error, FileName, Fingerprint, LoadEvent, LoadOptions, LoadedModel, Loader,
};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::sync::mpsc;

fn loader() -> Loader {
    Loader::new(LoadOptions::new().device(DeviceChoice::Host))
}

/// Loads a model, and receives its events on another thread.
fn events(name: &str) -> (LoadedModel, Vec<LoadEvent<'static>>) {
    let (sender, receiver) = mpsc::channel();
    let received = std::thread::spawn(move || receiver.into_iter().collect());
    let model = loader().load(model_path(name), &mut |event: &LoadEvent<'_>| {
        sender.send(event.clone().into_owned()).unwrap();
        ControlFlow::Continue(())
    });
    drop(sender);
    (model.unwrap(), received.join().unwrap())
}

#[test]
fn owned_events_have_the_content_of_the_borrowed_ones() {
    let (model, events) = events("fused-f16.gguf");
    let mut borrowed = Vec::new();
    loader()
        .load(model_path("fused-f16.gguf"), &mut |event: &LoadEvent<'_>| {
            if !matches!(event, LoadEvent::Transferred { .. }) {
                borrowed.push(serde_json::to_value(event).unwrap());
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    let owned: Vec<_> = events
        .iter()
        .filter(|event| !matches!(event, LoadEvent::Transferred { .. }))
        .map(|event| serde_json::to_value(event).unwrap())
        .collect();
    assert_eq!(owned.len(), borrowed.len());
    // The figures of the last event differ between two loads.
    let last = owned.len() - 1;
    assert_eq!(owned[..last], borrowed[..last]);
    assert!(events.iter().any(|event| {
        matches!(event, LoadEvent::Planned { plan, .. } if plan.as_ref() == model.plan())
    }));
    let LoadEvent::Finished { stats, .. } = events.last().unwrap() else {
        panic!("the last event")
    };
    assert_eq!(stats.as_ref(), model.stats());
}

#[test]
fn events_are_serialised_as_lines_of_the_program() {
    let (model, events) = events("fused-f16.gguf");
    let lines: Vec<_> = events.iter().map(|event| serde_json::to_value(event).unwrap()).collect();
    let line = |name: &str| {
        lines.iter().find(|line| line["event"] == name).unwrap_or_else(|| panic!("{name}"))
    };
    assert_eq!(line("opened")["file"], json!(model_path("fused-f16.gguf")));
    assert_eq!(line("opened")["config"]["layers"], json!(3));
    assert_eq!(line("opened")["config"], serde_json::to_value(model.config()).unwrap());
    assert_eq!(
        line("planned"),
        &json!({
            "event": "planned",
            "storage": "f16",
            "vram_bytes": model.vram_bytes(),
            "source_bytes": model.stats().source_bytes,
            "split_mode": "none",
            "parts": [{
                "vram_bytes": model.vram_bytes(),
                "source_bytes": model.stats().source_bytes,
            }],
        })
    );
    assert_eq!(line("allocated")["device"], "host");
    let bytes = model.plan().whole().ops()[0].source.range.end
        - model.plan().whole().ops()[0].source.range.start;
    let first = line("progress");
    assert_eq!((&first["unit"], &first["of"]), (&json!(1), &json!(5)));
    assert_eq!(first["label"], "Embedding loaded");
    assert!(first["bytes"].as_u64().unwrap() >= bytes);
    assert_eq!(first["of_bytes"], json!(model.stats().source_bytes));
    let checked = model.stats().proof.residency.pointers_checked;
    assert_eq!(
        line("verified"),
        &json!({ "event": "verified", "pointers_checked": checked, "ok": true })
    );
    assert_eq!(line("finished")["residency"], json!({ "pointers_checked": checked, "ok": true }));
    assert_eq!(line("finished")["gb_per_s"], json!(model.stats().gb_per_s()));
}

#[test]
fn a_warning_is_an_event_with_code_and_help() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trailing.gguf");
    let mut bytes = std::fs::read(model_path("fused-f16.gguf")).unwrap();
    bytes.extend([7; 100]);
    std::fs::write(&path, bytes).unwrap();
    let mut warned = None;
    let model = loader()
        .load(&path, &mut |event: &LoadEvent<'_>| {
            if matches!(event, LoadEvent::Warned { .. }) {
                warned = Some(serde_json::to_value(event).unwrap());
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    let warning = &model.stats().proof.warnings[0];
    assert_eq!(
        warned.unwrap(),
        json!({
            "event": "warning",
            "code": warning.code(),
            "message": warning.to_string(),
            "help": warning.help(),
        })
    );
}

#[test]
fn an_error_can_be_cloned_and_serialised() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("absent.gguf");
    let error = loader().load(&path, &mut go_on).unwrap_err();
    let copy = error.clone();
    drop(error);
    let message = copy.to_string();
    assert!(message.contains("absent.gguf"), "{message}");
    let sent: Value =
        std::thread::spawn(move || serde_json::to_value(copy).unwrap()).join().unwrap();
    assert_eq!(
        sent,
        json!({
            "code": "FILE_NOT_FOUND",
            "class": "MODEL_LOAD_FAILED",
            "message": message,
            "retriable": false,
            "help": "check the path, and that the file system is mounted",
            "exit_code": 7,
        })
    );
    let cancelled = serde_json::to_value(Error::Cancelled).unwrap();
    assert_eq!((&cancelled["help"], &cancelled["retriable"]), (&Value::Null, &json!(true)));
}

#[test]
fn a_fingerprint_can_be_stored_and_compared_later() {
    let model = loader().load(model_path("fused-f16.gguf"), &mut go_on).unwrap();
    let fingerprint = model.fingerprint().unwrap();
    let stored = serde_json::to_string(&fingerprint).unwrap();
    let again = loader().load(model_path("fused-f16.gguf"), &mut go_on).unwrap();
    let restored: Fingerprint = serde_json::from_str(&stored).unwrap();
    assert_eq!(restored, fingerprint);
    again.verify_fingerprint(&restored).unwrap();

    let mut fields: Value = serde_json::from_str(&stored).unwrap();
    let digest = fields["digests"][0].as_str().unwrap().to_owned();
    let flipped = if digest.starts_with('0') { "1" } else { "0" };
    fields["digests"][0] = format!("{flipped}{}", &digest[1..]).into();
    let other: Fingerprint = serde_json::from_value(fields.clone()).unwrap();
    let error = again.verify_fingerprint(&other).unwrap_err();
    assert_eq!(error.code(), "VERIFICATION_FAILED");

    for (field, value) in [
        ("version", json!(1)),
        ("piece_bytes", json!(4096)),
        ("digests", json!(["xyz"])),
        ("sizes", json!([1])),
    ] {
        let mut wrong = fields.clone();
        wrong[field] = value;
        serde_json::from_value::<Fingerprint>(wrong).unwrap_err();
    }
}

#[test]
fn a_fit_is_serialised_with_its_figures() {
    let fit = loader().fits(model_path("fused-f16.gguf")).unwrap();
    let value = serde_json::to_value(&fit).unwrap();
    assert_eq!(value["device"], "host");
    assert_eq!(value["required"], json!(fit.required));
    assert_eq!(value["short_by"], json!(0));
    assert_eq!(value["after_kv_cache"], json!(fit.after_kv_cache));
    assert!(value.get("planned").is_none());
}

#[test]
fn a_name_that_is_not_utf8_is_also_given_as_bytes() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let name =
        |bytes| serde_json::to_value(FileName::new(OsStr::from_bytes(bytes).as_ref())).unwrap();
    assert_eq!(name(b"a\\xff.gguf"), json!({ "file": "a\\xff.gguf" }));
    assert_eq!(name(b"a\xff.gguf"), json!({ "file": "a\\xff.gguf", "file_hex": "61ff2e67677566" }));
}
