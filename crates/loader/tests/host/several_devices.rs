//! Loads to several lanes of host memory, of which each holds some layers.

use crate::changed_weights::{changed, put};
use crate::common::{go_on, model_path};
use crate::divided::{check, hosts, load_in_parts, placements};
use crate::small_model::write_large_model;
use loader::{
    CancelToken, DeviceChoice, DeviceKind, Fused, LoadEvent, LoadOptions, Loader, Placement,
    Rehash, Slot, SplitMode, Storage, Verify,
};
use std::ops::ControlFlow;
use std::sync::Arc;

#[test]
fn one_device_that_holds_everything_is_a_load_to_one_device() {
    let path = model_path("fused-f16.gguf");
    let one = Loader::new(hosts(1)).load(&path, &mut go_on).unwrap();
    let named = load_in_parts(&path, Storage::F16, &Placement::single()).unwrap();
    check(&named, &one);
    assert_eq!(named.fingerprint().unwrap(), one.fingerprint().unwrap());
    assert_eq!(*one.device(), DeviceKind::Host);
}

#[test]
fn several_devices_hold_layers_unless_the_options_say_otherwise() {
    let path = model_path("fused-f16.gguf");
    let planned = Loader::new(hosts(2)).plan(&path).unwrap();
    assert_eq!(planned.plan.placement().mode(), SplitMode::Layer);
    let parts = planned.plan.parts().iter().map(loader::PlacedPart::device_bytes);
    assert_eq!(planned.plan.device_bytes(), parts.sum::<u64>());
    let model = Loader::new(hosts(2)).load(&path, &mut go_on).unwrap();
    assert_eq!(model.plan(), &planned.plan);
    assert_eq!(model.stats().device.to_string(), "host,host");
}

#[test]
fn an_impossible_number_of_devices_is_the_callers_error() {
    let two = Placement::new(SplitMode::Replicate, 2).unwrap();
    for (options, text) in [
        (hosts(0), "0 devices are not possible"),
        (hosts(257), "257 devices are not possible"),
        (hosts(1).placement(two.clone()), "the placement is for 2 devices, but the options name 1"),
        (hosts(3).placement(two), "the placement is for 2 devices, but the options name 3"),
    ] {
        let mut loader = Loader::new(options);
        let path = model_path("fused-f16.gguf");
        for error in [
            loader.plan(&path).unwrap_err(),
            loader.fits(&path).unwrap_err(),
            loader.load(&path, &mut go_on).unwrap_err(),
            loader.prepare().unwrap_err(),
        ] {
            assert_eq!((error.code(), error.exit_code()), ("INVALID_OPTION", 2));
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}

#[test]
fn the_model_gives_addresses_only_of_whole_weights() {
    let path = model_path("fused-f16.gguf");
    let load = |placement| Arc::new(load_in_parts(&path, Storage::F16, &placement).unwrap());
    let model = load(Placement::new(SplitMode::Layer, 2).unwrap());
    assert!(model.weights().is_none() && model.c_weights().is_none());
    assert!(model.shared_c_weights().is_none());
    for part in 0..2 {
        let c = model.shared_c_weights_of_part(part).unwrap();
        let of_part = &model.parts()[part];
        assert_eq!((c.get().part, c.get().parts), (part as u32, 2));
        for (layer, tensors) in (0..).zip(c.layers()) {
            let view = of_part.slot(Slot::AttnQ(layer));
            assert_eq!(tensors.attn_q.data as u64, view.map_or(0, |view| view.address));
            assert_eq!(tensors.attn_q.rows, tensors.attn_q.whole_rows);
        }
        let named = of_part.weights();
        assert_eq!(named.output.is_some(), part == 1);
        assert_eq!(named.token_embedding.is_some(), part == 0);
    }
    assert!(model.shared_c_weights_of_part(2).is_none());
    let last = model.parts().iter().position(|part| part.slot(Slot::AttnQ(2)).is_some()).unwrap();
    let shared = model.share(Slot::AttnQ(2)).unwrap();
    assert_eq!(shared.host_bytes(), model.parts()[last].host_bytes(Slot::AttnQ(2)));
    let of_part = model.share_of_part(last, Slot::AttnQ(2)).unwrap();
    assert_eq!(of_part.host_bytes(), shared.host_bytes());
    assert!(model.share_of_part(1 - last, Slot::AttnQ(2)).is_none());
    assert!(model.share_of_part(2, Slot::AttnQ(2)).is_none());
    let fused = model.share_fused(Fused::AttnQkv(2)).unwrap();
    let of_part = model.share_fused_of_part(last, Fused::AttnQkv(2)).unwrap();
    assert_eq!((fused.address, fused.host_bytes()), (of_part.address, of_part.host_bytes()));

    let all_on_the_first = load(Placement::last_layers(0, 2).unwrap());
    assert!(all_on_the_first.weights().is_some());
    assert_eq!(all_on_the_first.c_weights().unwrap().get().part, 0);
    assert_eq!(all_on_the_first.parts()[1].vram_bytes(), 0);
}

#[test]
fn every_device_has_an_event_and_statistics() {
    let mut allocated = Vec::new();
    let mut lines = Vec::new();
    let model = Loader::new(hosts(3))
        .load(model_path("fused-f16.gguf"), &mut |event: &LoadEvent<'_>| {
            if let LoadEvent::Allocated { device, bytes, .. } = event {
                allocated.push((*device, *bytes));
            }
            lines.push(serde_json::to_value(event).unwrap());
            ControlFlow::Continue(())
        })
        .unwrap();
    let bytes = model.parts().iter().map(|part| (DeviceKind::Host, part.vram_bytes()));
    assert_eq!(allocated, bytes.collect::<Vec<_>>());
    let finished = lines.last().unwrap();
    assert_eq!(finished["device"], "host,host,host");
    assert_eq!((&finished["split_mode"], &finished["resident"]), (&"layer".into(), &"off".into()));
    assert_eq!(finished["vram_bytes"], model.vram_bytes());
    let parts = finished["parts"].as_array().unwrap();
    assert_eq!(parts.len(), 3);
    for (line, part) in parts.iter().zip(model.parts()) {
        assert_eq!(
            (&line["device"], &line["vram_bytes"]),
            (&"host".into(), &part.vram_bytes().into())
        );
        assert_eq!(line["source_bytes"], part.plan().source_bytes());
        assert_eq!(line["slots"].as_array().unwrap().len(), part.plan().slots().len());
        assert!(line["slots"].as_array().unwrap().iter().all(|slot| slot["first_row"] == 0));
    }
}

#[test]
fn parts_on_one_device_count_together() {
    let path = model_path("fused-f16.gguf");
    let planned = Loader::new(hosts(2)).plan(&path).unwrap();
    let all = planned.plan.device_bytes();
    let error = Loader::new(hosts(2).vram_limit(all - 1)).load(&path, &mut go_on).unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("INSUFFICIENT_VRAM", 6));
    let text = format!("host cannot hold the weights: {all} bytes required, ");
    assert!(error.to_string().starts_with(&text), "{error}");
    Loader::new(hosts(2).vram_limit(all)).load(&path, &mut go_on).unwrap();

    let fit = Loader::new(hosts(2).vram_limit(all - 7).reserve(5)).fits(&path).unwrap();
    assert_eq!((fit.short_by, fit.required, fit.reserve), (7, all, 5));
    assert_eq!(fit.device.to_string(), "host,host");
    assert_eq!(fit.devices.len(), 1, "both parts are on one device");
    assert_eq!((fit.devices[0].short_by, fit.after_kv_cache), (7, None));
}

#[test]
fn a_device_that_does_not_exist_is_named() {
    let options = LoadOptions::new().devices([DeviceChoice::Host, DeviceChoice::Cuda(i32::MAX)]);
    let mut loader = Loader::new(options);
    let error = loader.load(model_path("fused-f16.gguf"), &mut go_on).unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("DEVICE_UNAVAILABLE", 5));
}

#[test]
fn a_load_to_several_devices_can_be_cancelled_at_every_event() {
    let path = model_path("fused-f16.gguf");
    let mut loader = Loader::new(hosts(3).verify(Verify::Readback));
    let mut events = 0;
    loader
        .load(&path, &mut |_: &LoadEvent<'_>| {
            events += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    // The number of `Transferred` differs between loads. All other events come before or after them.
    for last in [1, 2, 3, 4, 5, 6, events / 2] {
        let mut seen = 0;
        let error = loader
            .load(&path, &mut |_: &LoadEvent<'_>| {
                seen += 1;
                if seen == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap_err();
        assert_eq!((error.code(), seen), ("CANCELLED", last));
    }
    let token = CancelToken::new();
    let error = loader
        .load_cancellable(
            &path,
            &mut |event: &LoadEvent<'_>| {
                if matches!(event, LoadEvent::Progress { .. }) {
                    token.cancel();
                }
                ControlFlow::Continue(())
            },
            &token,
        )
        .unwrap_err();
    assert_eq!(error.code(), "CANCELLED");
    loader.load(&path, &mut go_on).unwrap();
}

#[test]
fn the_progress_has_the_bytes_of_each_device_and_of_the_comparison_with_the_file() {
    let path = model_path("one-and-two-bits.gguf");
    for mode in [SplitMode::Layer, SplitMode::Tensor, SplitMode::Replicate] {
        let options = hosts(2).placement(Placement::new(mode, 2).unwrap());
        let (mut arrived, mut compared) = (vec![vec![0, 0]], vec![(0, 0)]);
        let mut observer = |event: &LoadEvent<'_>| {
            match event {
                LoadEvent::Transferred { part_bytes, .. } => arrived.push(part_bytes.to_vec()),
                LoadEvent::Compared { bytes, of_bytes, .. } => compared.push((*bytes, *of_bytes)),
                _ => {}
            }
            ControlFlow::Continue(())
        };
        let mut loader = Loader::new(options.verify(Verify::Readback));
        let model = loader.load(&path, &mut observer).unwrap();
        let parts = model.plan().parts();
        let of_parts: Vec<_> = parts.iter().map(loader::PlacedPart::source_bytes).collect();
        assert_eq!(arrived.last(), Some(&of_parts), "{mode}");
        assert!((0..2).all(|part| arrived.is_sorted_by_key(|bytes| bytes[part])), "{mode}");
        let ops = parts.iter().flat_map(loader::PlacedPart::ops);
        let all = ops.map(|op| op.dest.end - op.dest.start).sum();
        assert_eq!(compared.last(), Some(&(all, all)), "{mode}");
        assert!(compared.is_sorted(), "{mode}");
    }
}

#[test]
fn a_file_that_becomes_shorter_fails_the_load() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.gguf");
    write_large_model(&path);
    let mut loader = Loader::new(hosts(2));
    let error = loader
        .load(&path, &mut |event: &LoadEvent<'_>| {
            if matches!(event, LoadEvent::Allocated { .. }) {
                std::fs::OpenOptions::new()
                    .write(true)
                    .open(&path)
                    .unwrap()
                    .set_len(1 << 20)
                    .unwrap();
            }
            ControlFlow::Continue(())
        })
        .unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("FILE_CHANGED", 7), "{error}");
}

#[test]
fn suspect_weights_are_reported_with_their_device() {
    let dir = tempfile::tempdir().unwrap();
    let (infinite, zero) = ("blk.2.ffn_norm.weight", "blk.0.attn_norm.weight");
    let path = changed(dir.path(), "fused-f16.gguf", &[infinite, zero], |name, _, bytes| {
        bytes.fill(0);
        if name == infinite {
            put(bytes, &[f32::INFINITY, f32::NAN]);
        }
    });
    let model = Loader::new(hosts(2)).load(&path, &mut go_on).unwrap();
    let found: Vec<_> = model.stats().proof.non_finite.iter().map(ToString::to_string).collect();
    let text = format!("{infinite} has 1 infinite and 1 NaN weights as f16 on host");
    assert_eq!(found, std::slice::from_ref(&text));
    let found: Vec<_> = model.stats().proof.all_zero.iter().map(|zero| &zero.tensor[..]).collect();
    assert_eq!(found, [zero]);
    let error = Loader::new(hosts(2).deny_overflow(true)).load(&path, &mut go_on).unwrap_err();
    assert_eq!((error.code(), error.to_string()), ("NON_FINITE_WEIGHTS", text));
}

#[test]
fn a_fingerprint_covers_all_parts() {
    let path = model_path("split-q8_0.gguf");
    let load = |devices| Loader::new(hosts(devices)).load(&path, &mut go_on).unwrap();
    let (one, two) = (load(1), load(2));
    let fingerprint = two.fingerprint().unwrap();
    load(2).verify_fingerprint(&fingerprint).unwrap();
    let of_second = two.parts()[1].fingerprint().unwrap();
    let error = two.verify_fingerprint(&of_second).unwrap_err();
    assert!(error.to_string().contains("belongs to another model"), "{error}");
    let mut rehash = Rehash::new(fingerprint);
    let mut bytes = 0;
    loop {
        let step = rehash.step(&two, 1).unwrap();
        bytes += step.bytes;
        if step.round_complete {
            break;
        }
    }
    let ops = one.plan().whole().ops().iter().map(|op| op.dest.end - op.dest.start);
    assert_eq!(bytes, ops.sum::<u64>(), "layers are on one device each");
}

#[test]
fn layers_on_up_to_nine_devices_make_up_the_whole() {
    for name in ["fused-f16.gguf", "split-q8_0.gguf"] {
        let path = model_path(name);
        let one = Loader::new(hosts(1)).load(&path, &mut go_on).unwrap();
        for placement in [2, 3, 5, 9].into_iter().flat_map(|n| placements(SplitMode::Layer, n)) {
            let model = load_in_parts(&path, Storage::F16, &placement).unwrap();
            check(&model, &one);
        }
    }
}

/// Host memory takes no bytes from other devices, so that a helper of a load to it carries none.
#[test]
fn a_helper_from_which_no_device_can_take_bytes_is_not_used() {
    let path = model_path("fused-f16.gguf");
    let one = Loader::new(hosts(1)).load(&path, &mut go_on).unwrap();
    let mut loader = Loader::new(hosts(1).via([DeviceChoice::Host]).verify(Verify::Readback));
    let model = loader.load(&path, &mut go_on).unwrap();
    check(&model, &one);
    let bytes = |model: &loader::LoadedModel| {
        model.stats().transfer.links.iter().map(|link| link.bytes).collect::<Vec<_>>()
    };
    assert_eq!(bytes(&one), [one.stats().source_bytes]);
    assert_eq!(bytes(&model), [one.stats().source_bytes, 0]);
    assert_eq!(model.stats().device.to_string(), "host");
}
