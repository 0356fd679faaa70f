use crate::support::TestFile;
use gguf_format::GgmlType;
use model_phi3::preset::{Layout, Preset, TypeMix};
use model_phi3::{
    Error, Fused, HeadRange, InvalidPlacement, LoadPlan, PlacedPart, PlacedPlan, Placement,
    Proposal, Slot, SplitMode, Storage, TensorMap,
};

fn tensor(devices: usize) -> Placement {
    Placement::new(SplitMode::Tensor, devices).unwrap()
}

fn layer(devices: usize) -> Placement {
    Placement::new(SplitMode::Layer, devices).unwrap()
}

fn published(preset: Preset, mix: TypeMix) -> TestFile {
    TestFile::new(preset, Layout::Fused, mix)
}

/// Returns configuration and tensors, which several placements share.
fn bound(file: &TestFile) -> (model_phi3::Phi3Config, TensorMap) {
    (file.config().unwrap(), file.bind().unwrap())
}

fn heads(part: &PlacedPart) -> HeadRange {
    part.slot(Slot::AttnQ(0)).unwrap().heads.unwrap()
}

fn ffn(part: &PlacedPart) -> u64 {
    let cols = &part.slot(Slot::FfnDown(0)).unwrap().cols;
    cols.end - cols.start
}

/// Returns the numbers of devices that a model can be divided among, from 2.
fn possible(file: &TestFile, storage: Storage) -> Vec<usize> {
    // A prime number above all numbers of heads.
    match file.place(storage, &tensor(251)).unwrap_err() {
        Error::Placement { possible, .. } => possible[1..].to_vec(),
        other => panic!("{other}"),
    }
}

/// Returns the numbers of devices that give each device the same heads and the same part of the feed-forward
/// network.
fn even(file: &TestFile, storage: Storage) -> Vec<usize> {
    let (config, tensors) = bound(file);
    let is_even = |devices: &usize| {
        let plan = PlacedPlan::new(&config, &tensors, storage, &tensor(*devices)).unwrap();
        let mut sizes = plan.parts().iter().map(|part| (heads(part).heads, ffn(part)));
        let first = sizes.next();
        sizes.all(|size| Some(size) == first)
    };
    let mut possible = possible(file, storage);
    possible.retain(is_even);
    possible
}

#[test]
fn degrees_of_the_published_models_are_those_of_the_table() {
    // All degrees that the heads allow, and those that whole blocks of 256 columns allow.
    let table: [(Preset, &[usize], &[usize]); 4] = [
        (Preset::Mini4k, &[2, 4, 8, 16, 32], &[2, 4]),
        (Preset::Medium, &[2, 5, 10, 20, 40], &[2, 5, 10]),
        (Preset::Phi4, &[2, 5, 10, 20, 40], &[2, 5, 10]),
        (Preset::Phi4Mini, &[2, 4, 8], &[2, 4]),
    ];
    for (preset, all, of_long_blocks) in table {
        for (mix, storage, expected) in [
            (TypeMix::F16, Storage::F16, all),
            (TypeMix::F16, Storage::Native, all),
            (TypeMix::Q4_K_M, Storage::F16, all),
            (TypeMix::Q4_K_M, Storage::Native, of_long_blocks),
            (TypeMix::Q8_0, Storage::Native, all),
        ] {
            let found = even(&published(preset, mix), storage);
            assert_eq!(found, expected, "{preset} {mix} {storage}");
        }
    }
}

#[test]
fn uneven_degrees_are_possible_up_to_the_number_of_units() {
    let up_to = |last: usize| (2..=last).collect::<Vec<_>>();
    let mini = |mix, storage| possible(&published(Preset::Mini4k, mix), storage);
    assert_eq!(mini(TypeMix::Q8_0, Storage::F16), up_to(32));
    assert_eq!(mini(TypeMix::Q4_K_M, Storage::Native), up_to(4));
    let phi_4 = |mix, storage| possible(&published(Preset::Phi4, mix), storage);
    assert_eq!(phi_4(TypeMix::F16, Storage::F16), [up_to(10), vec![20, 40]].concat());
    assert_eq!(phi_4(TypeMix::Q4_K_M, Storage::Native), [up_to(10), vec![20]].concat());
    let phi_4_mini = |mix, storage| possible(&published(Preset::Phi4Mini, mix), storage);
    assert_eq!(phi_4_mini(TypeMix::Bf16, Storage::F16), [up_to(8), vec![24]].concat());
}

#[test]
fn phi_4_on_four_devices_has_uneven_heads_and_balances_them() {
    for preset in [Preset::Phi4, Preset::Medium] {
        let file = published(preset, TypeMix::Q4_K_M);
        let plan = file.place(Storage::Native, &tensor(4)).unwrap();
        let found: Vec<_> = plan.parts().iter().map(heads).collect();
        let numbers = |of: fn(&HeadRange) -> u32| found.iter().map(of).collect::<Vec<_>>();
        assert_eq!(numbers(|heads| heads.kv_heads), [3, 3, 2, 2]);
        assert_eq!(numbers(|heads| heads.heads), [12, 12, 8, 8]);
        assert_eq!(numbers(|heads| heads.first_kv_head), [0, 3, 6, 8]);
        assert_eq!(numbers(|heads| heads.first_head), [0, 12, 24, 32]);
        let units: Vec<u64> = plan.parts().iter().map(|part| ffn(part) / 256).collect();
        assert_eq!(units, [17, 17, 18, 18]);
        let f16 = file.place(Storage::F16, &tensor(4)).unwrap();
        let columns: Vec<u64> = f16.parts().iter().map(ffn).collect();
        // Multiples of 32. Each device has as many elements of a layer as the others, as near as that allows.
        assert_eq!(columns, [133 * 32, 133 * 32, 147 * 32, 147 * 32]);
    }
}

#[test]
fn phi_4_on_four_devices_is_priced_to_the_byte() {
    let file = published(Preset::Phi4, TypeMix::F16);
    let plan = file.place(Storage::F16, &tensor(4)).unwrap();
    // All norms are on all devices: 2 in each of 40 layers, and the last.
    let norms = 81 * 5120 * 2;
    assert_eq!(plan.device_bytes(), plan.whole().device_bytes() + 3 * norms);
    let row = 5120 * 2;
    let part = |heads: u64, kv_heads: u64, ffn: u64| {
        let layer_rows = 2 * 128 * (heads + kv_heads) + 3 * 32 * ffn;
        row * (40 * layer_rows + 2 * 100_352 / 4) + norms
    };
    let sizes: Vec<u64> = plan.parts().iter().map(PlacedPart::device_bytes).collect();
    assert_eq!(sizes, [part(12, 3, 133), part(12, 3, 133), part(8, 2, 147), part(8, 2, 147)]);
    assert_eq!(plan.source_bytes(), plan.whole().source_bytes());
}

/// Heads are dealt in large units here: 8 heads are 3 blocks of columns.
#[test]
fn the_feed_forward_network_makes_up_for_uneven_heads() {
    let file = published(Preset::Mini4k, TypeMix::Q4_K_M);
    let plan = file.place(Storage::Native, &tensor(3)).unwrap();
    let found: Vec<_> =
        plan.parts().iter().map(|part| (heads(part).heads, ffn(part) / 256)).collect();
    assert_eq!(found, [(16, 8), (8, 12), (8, 12)]);

    let proportions = tensor(2).with_proportions(&[3.0, 1.0]).unwrap();
    let plan = file.place(Storage::F16, &proportions).unwrap();
    let found: Vec<_> = plan.parts().iter().map(|part| (heads(part).heads, ffn(part))).collect();
    assert_eq!(found, [(24, 6144), (8, 2048)]);
    // If heads are repeated, each device has one. Proportions still count for everything else.
    let tiny = TestFile::tiny();
    let proportions = tensor(4).with_proportions(&[3.0, 1.0, 1.0, 1.0]).unwrap();
    let plan = tiny.place(Storage::F16, &proportions).unwrap();
    let found: Vec<_> = plan.parts().iter().map(|part| (heads(part).heads, ffn(part))).collect();
    assert_eq!(found, [(1, 480), (1, 96), (1, 96), (1, 96)]);
}

#[test]
fn more_devices_than_key_value_heads_repeat_them() {
    let file = published(Preset::Phi4, TypeMix::F16);
    let plan = file.place(Storage::F16, &tensor(20)).unwrap();
    for (device, part) in (0..).zip(plan.parts()) {
        let HeadRange { first_head, heads, first_kv_head, kv_heads, .. } = heads(part);
        assert_eq!((first_head, heads), (2 * device, 2));
        assert_eq!((first_kv_head, kv_heads), (device / 2, 1));
        assert_eq!(part.slot(Slot::AttnK(3)).unwrap().planned.shape, [128, 5120]);
    }
}

#[test]
fn a_part_of_a_fused_tensor_is_still_one_matrix() {
    let file = published(Preset::Phi4, TypeMix::Q4_K_M);
    for storage in [Storage::F16, Storage::Native] {
        let plan = file.place(storage, &tensor(4)).unwrap();
        for part in plan.parts() {
            let HeadRange { heads, kv_heads, .. } = heads(part);
            let qkv = part.fused(Fused::AttnQkv(7)).unwrap();
            assert_eq!(qkv.shape, [u64::from(heads + 2 * kv_heads) * 128, 5120]);
            assert_eq!(part.fused(Fused::FfnGateUp(7)).unwrap().shape, [2 * ffn(part), 5120]);
            // Q, K and V come from three ranges of the file.
            let ops = [Slot::AttnQ(7), Slot::AttnK(7), Slot::AttnV(7)];
            let ops = ops.map(|slot| part.slot(slot).unwrap().planned.op);
            assert_eq!([ops[1], ops[2]], [ops[0] + 1, ops[0] + 2]);
        }
    }
}

#[test]
fn parts_of_a_fused_tensor_are_one_matrix_if_the_engine_can_start_between_them() {
    let mut file = TestFile::tiny();
    file.set("phi3.feed_forward_length", 99_u32);
    for layer in 0..3 {
        let up = file.tensor(&format!("blk.{layer}.ffn_up.weight"));
        (up.dims, up.ggml_type) = (vec![256, 198], GgmlType::Q4_0);
        file.tensor(&format!("blk.{layer}.ffn_down.weight")).dims = vec![99, 256];
    }
    let plan = file.place(Storage::Native, &tensor(4)).unwrap();
    let rows: Vec<u64> = plan.parts().iter().map(ffn).collect();
    assert_eq!(rows, [32, 32, 32, 3]);
    // A row of Q4_0 takes 144 bytes. 3 rows take a multiple of 16 bytes, but not of 256.
    for (part, rows) in plan.parts().iter().zip(rows) {
        let end = part.slot(Slot::FfnGate(0)).unwrap().planned.dest.end;
        assert_eq!(end % 256 == 0, rows == 32, "{rows}");
        assert_eq!(part.fused(Fused::FfnGateUp(0)).unwrap().shape, [2 * rows, 256]);
    }
    // A row of TQ2_0 takes 66 bytes. 3 rows take no multiple of 16 bytes.
    let mut narrow = file.clone();
    for layer in 0..3 {
        narrow.tensor(&format!("blk.{layer}.ffn_up.weight")).ggml_type = GgmlType::TQ2_0;
    }
    let plan = narrow.place(Storage::Native, &tensor(4)).unwrap();
    let views: Vec<bool> =
        plan.parts().iter().map(|part| part.fused(Fused::FfnGateUp(0)).is_some()).collect();
    assert_eq!(views, [true, true, true, false]);
}

/// Blocks of 64 columns, and heads of 32.
#[test]
fn nvfp4_is_cut_between_its_blocks() {
    let mut file = TestFile::tiny();
    file.set("phi3.attention.head_count", 8_u32).set("phi3.attention.head_count_kv", 8_u32);
    file.set("phi3.attention.key_length", 32_u32).set("phi3.rope.dimension_count", 32_u32);
    for length in ["long", "short"] {
        file.tensor(&format!("rope_factors_{length}.weight")).dims = vec![16];
    }
    for layer in 0..3 {
        file.tensor(&format!("blk.{layer}.attn_qkv.weight")).dims = vec![256, 768];
    }
    assert_eq!(possible(&file, Storage::Native), (2..=8).collect::<Vec<_>>());
    file.tensor("blk.1.attn_output.weight").ggml_type = GgmlType::NVFP4;
    assert_eq!(possible(&file, Storage::Native), [2, 3, 4]);
    assert_eq!(possible(&file, Storage::F16), (2..=8).collect::<Vec<_>>());
    let error = file.place(Storage::Native, &tensor(8)).unwrap_err().to_string();
    assert!(error.starts_with("tensor blk.1.attn_output.weight"), "{error}");
}

#[test]
fn f16_is_cut_inside_a_block_which_both_devices_decode() {
    let file = published(Preset::Phi4, TypeMix::Q4_K_M);
    let plan = file.place(Storage::F16, &tensor(4)).unwrap();
    let cut = |device: usize| {
        let part = &plan.parts()[device];
        let op = &part.ops()[part.slot(Slot::FfnDown(0)).unwrap().planned.op];
        assert!(!op.is_rows());
        let bytes = op.source_type.block_bytes();
        (op.row_range.start / bytes..op.row_range.end / bytes, op.skip, op.keep)
    };
    assert_eq!(cut(0), (0..17, 0, 4256), "16.625 blocks");
    assert_eq!(cut(1), (16..34, 160, 4256));
    assert_eq!(cut(2), (33..52, 64, 4704));
    assert_eq!(cut(3), (51..70, 160, 4704));
}

#[test]
fn refusals_name_tensor_degree_block_and_what_is_possible() {
    let refused = |file: &TestFile, storage, devices| {
        let error = file.place(storage, &tensor(devices)).unwrap_err();
        assert_eq!(error.code(), "PHI3_PLACEMENT");
        assert!(error.help().is_some());
        error.to_string()
    };
    let mini = published(Preset::Mini4k, TypeMix::Q4_K_M);
    assert_eq!(
        refused(&mini, Storage::Native, 8),
        "tensor blk.0.attn_output.weight cannot be divided among 8 devices: its columns can be cut only \
         between Q4_K blocks of 256; 32 key-value heads, each with 96 columns of its query heads, make 4 such parts; \
         these numbers of devices are possible: 1 to 4"
    );
    let phi_4 = published(Preset::Phi4, TypeMix::Q4_K_M);
    assert_eq!(
        refused(&phi_4, Storage::Native, 40),
        "tensor blk.0.attn_output.weight cannot be divided among 40 devices: its columns can be cut only \
         between Q4_K blocks of 256, and each device would have 128 columns; these numbers of devices are \
         possible: 1 to 10, 20"
    );
    assert_eq!(
        refused(&phi_4, Storage::F16, 12),
        "tensor blk.0.attn_qkv.weight cannot be divided among 12 devices: 10 key-value heads for 40 query \
         heads can neither be divided nor repeated; these numbers of devices are possible: 1 to 10, 20, 40"
    );
    let mut narrow = TestFile::tiny();
    narrow.set("phi3.feed_forward_length", 24_u32);
    for layer in 0..3 {
        narrow.tensor(&format!("blk.{layer}.ffn_up.weight")).dims = vec![256, 48];
        narrow.tensor(&format!("blk.{layer}.ffn_down.weight")).dims = vec![24, 256];
    }
    assert_eq!(
        refused(&narrow, Storage::F16, 2),
        "tensor blk.0.ffn_down.weight cannot be divided among 2 devices: its columns can be cut only at \
         multiples of 32, and 24 columns are too few; these numbers of devices are possible: 1"
    );
    let mut few_tokens = TestFile::tiny();
    for name in ["token_embd.weight", "output.weight"] {
        few_tokens.tensor(name).dims = vec![256, 3];
    }
    few_tokens.unset("phi3.vocab_size");
    assert_eq!(
        refused(&few_tokens, Storage::F16, 4),
        "tensor token_embd.weight cannot be divided among 4 devices: it has 3 rows; these numbers of \
         devices are possible: 1, 2"
    );
    let Err(Error::Placement { block, devices, possible, .. }) =
        mini.place(Storage::Native, &tensor(8))
    else {
        panic!("not refused");
    };
    assert_eq!((block, devices, &possible[..]), (256, 8, &[1, 2, 3, 4][..]));
}

#[test]
fn impossible_wishes_are_errors_of_the_caller() {
    use SplitMode::{Layer, None, Replicate, Tensor};
    let text = |result: Result<Placement, InvalidPlacement>| result.unwrap_err().to_string();
    for mode in SplitMode::ALL {
        assert!(text(Placement::new(*mode, 0)).starts_with("0 devices are not possible"));
        assert!(text(Placement::new(*mode, 257)).ends_with("1 to 256 devices"));
    }
    assert_eq!(
        text(Placement::new(None, 2)),
        "the split mode none has one device, not 2: choose layer, tensor or replicate"
    );
    assert!(text(Placement::last_layers(3, 1)).contains("a second device"));
    for mode in [None, Replicate] {
        let placement = Placement::new(mode, 1).unwrap();
        assert!(text(placement.with_proportions(&[1.0])).contains("only layer and tensor"));
    }
    for mode in [Layer, Tensor] {
        let with =
            |proportions: &[f64]| Placement::new(mode, 2).unwrap().with_proportions(proportions);
        assert_eq!(
            text(with(&[1.0])),
            "1 proportions are given, but 2 are needed: one for each device"
        );
        for wrong in [[f64::NAN, 1.0], [-1.0, 1.0], [0.0, 0.0], [f64::INFINITY, 1.0], [1e20, 1.0]] {
            assert!(text(with(&wrong)).contains("are not possible"), "{wrong:?}");
        }
        assert!(text(with(&[1e300, 1e-300])).contains("1e300,1e-300"));
        assert!(text(with(&[-1.0, 0.5])).contains("-1,0.5"));
        assert_eq!(with(&[3.0, 1.0]).unwrap().proportions(), [3.0, 1.0]);
        assert_eq!(with(&[0.0, 1.0]).is_ok(), mode == Layer);
    }
    let offloaded = Placement::last_layers(3, 3).unwrap();
    let error = text(offloaded.with_proportions(&[1.0; 3]));
    assert!(error.ends_with("2 are needed: one for each device after device 0"), "{error}");
}

#[test]
fn split_mode_names_round_trip() {
    let names: Vec<&str> = SplitMode::ALL.iter().map(|mode| mode.name()).collect();
    assert_eq!(names, ["none", "layer", "tensor", "replicate"]);
    assert!(SplitMode::ALL.iter().all(|mode| mode.to_string().parse() == Ok(*mode)));
}

/// Returns for each device: layers, and whether it has the embedding, the output and the RoPE factors.
fn layout(plan: &PlacedPlan) -> Vec<(usize, bool, bool, bool)> {
    let has = |part: &PlacedPart, slot| part.slot(slot).is_some();
    plan.parts()
        .iter()
        .map(|part| {
            let layers = (0..plan.layers()).filter(|layer| has(part, Slot::AttnQ(*layer)));
            assert_eq!(has(part, Slot::OutputNorm), has(part, Slot::Output));
            (
                layers.count(),
                has(part, Slot::TokenEmbedding),
                has(part, Slot::Output),
                has(part, Slot::RopeFactorsLong),
            )
        })
        .collect()
}

#[test]
fn layers_are_consecutive_with_embedding_first_and_output_last() {
    let file = published(Preset::Mini128k, TypeMix::F16);
    let plan = |placement: Placement| layout(&file.place(Storage::F16, &placement).unwrap());
    assert_eq!(
        plan(layer(3)),
        [(11, true, false, true), (11, false, false, true), (10, false, true, true)]
    );
    let uneven = layer(2).with_proportions(&[3.0, 1.0]).unwrap();
    assert_eq!(plan(uneven), [(24, true, false, true), (8, false, true, true)]);
    let none_first = layer(3).with_proportions(&[0.0, 1.0, 0.0]).unwrap();
    assert_eq!(
        plan(none_first),
        [(0, true, false, false), (32, false, false, true), (0, false, true, false)]
    );
    for (offloaded, host, gpu) in [(20, 12, 20), (32, 0, 32), (99, 0, 32), (1, 31, 1)] {
        let placement = Placement::last_layers(offloaded, 2).unwrap();
        let expected = [(host, true, false, host > 0), (gpu, false, true, true)];
        assert_eq!(plan(placement), expected, "{offloaded}");
    }
    assert_eq!(
        plan(Placement::last_layers(0, 2).unwrap()),
        [(32, true, true, true), (0, false, false, false)]
    );
    let two_gpus = Placement::last_layers(8, 3).unwrap().with_proportions(&[3.0, 1.0]).unwrap();
    assert_eq!(
        plan(two_gpus),
        [(24, true, false, true), (6, false, false, true), (2, false, true, true)]
    );
}

#[test]
fn more_devices_than_layers_leave_some_empty() {
    let plan = TestFile::tiny().place(Storage::F16, &layer(6)).unwrap();
    let sizes: Vec<bool> = plan.parts().iter().map(|part| part.device_bytes() > 0).collect();
    assert_eq!(sizes, [true, true, true, false, false, true]);
    assert_eq!(layout(&plan)[5], (0, false, true, false));
    assert!(plan.parts()[3].ops().is_empty() && plan.parts()[3].slots().is_empty());
}

#[test]
fn a_tied_output_is_on_the_first_and_the_last_device() {
    let file = published(Preset::Phi4Mini, TypeMix::Q4_K_M);
    let plan = file.place(Storage::Native, &layer(2)).unwrap();
    let matrix = |device: usize, slot| &plan.parts()[device].slot(slot).unwrap().planned;
    let (embedding, output) = (matrix(0, Slot::TokenEmbedding), matrix(1, Slot::Output));
    assert_eq!((&embedding.shape, embedding.format), (&output.shape, output.format));
    assert_eq!(embedding.tensor, output.tensor);
    assert_eq!(plan.parts()[1].ops()[output.op].unit, 0, "it is read with the embedding");
    assert_eq!(plan.source_bytes(), plan.whole().source_bytes());
    assert!(plan.device_bytes() > plan.whole().device_bytes());
}

#[test]
fn nvfp4_scales_are_on_every_device_with_a_part() {
    let mut file = TestFile::tiny();
    file.tensor("blk.1.attn_qkv.weight").ggml_type = GgmlType::NVFP4;
    file.add("blk.1.attn_qkv.scale", &[1], GgmlType::F32);
    let scale = Slot::Scale(model_phi3::Matrix::AttnK(1));
    let owners = |placement: Placement| -> Vec<bool> {
        let plan = file.place(Storage::Native, &placement).unwrap();
        plan.parts().iter().map(|part| part.slot(scale).is_some()).collect()
    };
    assert_eq!(owners(tensor(2)), [true, true]);
    assert_eq!(owners(Placement::new(SplitMode::Replicate, 2).unwrap()), [true, true]);
    assert_eq!(owners(layer(3)), [false, true, false]);
    let plan = file.place(Storage::F16, &tensor(2)).unwrap();
    for part in plan.parts() {
        let op = &part.ops()[part.slot(Slot::AttnV(1)).unwrap().planned.op];
        assert_eq!(&*op.scale.as_ref().unwrap().name, "blk.1.attn_qkv.scale");
    }
}

#[test]
fn weights_of_a_part_have_no_value_where_it_has_nothing() {
    let plan = TestFile::tiny().place(Storage::F16, &layer(2)).unwrap();
    let weights = plan.parts()[1]
        .weights(|_, placed| Ok::<_, Error>(placed.map(|placed| placed.planned.dest.start)))
        .unwrap();
    assert_eq!(weights.token_embedding, None);
    assert!(weights.output.is_some() && weights.rope_factors_long.is_some());
    assert!(weights.layers[0].attn_q.is_none() && weights.layers[2].attn_q.is_some());
}

#[test]
fn one_call_does_what_the_steps_do() {
    let file = TestFile::tiny();
    let placement = tensor(2);
    let (config, plan) = file
        .with_parsed(|g| {
            PlacedPlan::from_gguf(g.metadata(), g.tensors(), Storage::Native, &placement)
        })
        .unwrap();
    assert_eq!(config, file.config().unwrap());
    assert_eq!(plan, file.place(Storage::Native, &placement).unwrap());
    assert_eq!((plan.storage(), plan.placement()), (Storage::Native, &placement));
    assert_eq!((plan.units(), plan.unit(4)), (5, plan.whole().unit(4)));
}

/// Returns the proposal, after a comparison with the sizes of the plan that it makes.
fn fit(file: &TestFile, free: &[u64], reserve: u64) -> Proposal {
    let (config, tensors) = bound(file);
    let proposal = Placement::fit(&config, &tensors, Storage::F16, free, reserve).unwrap();
    let plan = PlacedPlan::new(&config, &tensors, Storage::F16, &proposal.placement).unwrap();
    let short = plan.parts().iter().zip(&proposal.devices).map(|(part, device)| {
        let free = free.get(*device).copied().unwrap_or(0);
        part.device_bytes().saturating_sub(free.saturating_sub(reserve))
    });
    assert_eq!(proposal.short_by, short.sum::<u64>());
    assert_eq!(plan.parts().len(), proposal.devices.len());
    proposal
}

#[test]
fn one_device_is_proposed_if_it_is_enough() {
    let file = TestFile::tiny();
    let bytes = file.plan(Storage::F16).unwrap().device_bytes();
    for (free, device) in [(vec![bytes], 0), (vec![bytes - 1, bytes, bytes * 9], 1)] {
        let proposal = fit(&file, &free, 0);
        assert_eq!((proposal.placement, proposal.devices), (Placement::single(), vec![device]));
        assert_eq!(proposal.short_by, 0);
    }
    let proposal = fit(&file, &[bytes + 99, bytes + 100], 100);
    assert_eq!(proposal.devices, [1]);
}

#[test]
fn layers_are_proposed_in_proportion_to_free_bytes() {
    let file = published(Preset::Medium, TypeMix::Q4_K_M);
    let proposal = fit(&file, &[24 << 30, 12 << 30], 1 << 30);
    assert!(proposal.fits());
    assert_eq!(proposal.placement.mode(), SplitMode::Layer);
    assert_eq!(proposal.devices, [0, 1]);
    let layers = proposal.placement.proportions();
    assert_eq!(layers.iter().sum::<f64>().to_bits(), 40_f64.to_bits());
    assert!(layers[0] > layers[1] * 1.5 && layers[0] < layers[1] * 2.5, "{layers:?}");
}

#[test]
fn devices_that_would_hold_nothing_are_left_out() {
    let file = published(Preset::Medium, TypeMix::Q4_K_M);
    let proposal = fit(&file, &[1 << 20, 20 << 30, 1 << 20, 20 << 30, 1 << 20], 0);
    assert!(proposal.fits());
    assert_eq!(proposal.devices, [1, 3]);
}

/// In proportion to the free bytes, the second device would get a layer that does not fit there.
#[test]
fn layers_are_proposed_where_they_fit_if_proportions_do_not() {
    let file = TestFile::tiny();
    let plan = file.place(Storage::F16, &layer(3)).unwrap();
    let size = |slots: &[Slot], part: usize| -> u64 {
        let part = &plan.parts()[part];
        let dests = slots.iter().map(|slot| &part.slot(*slot).unwrap().planned.dest);
        dests.map(|dest| dest.end.next_multiple_of(256) - dest.start).sum()
    };
    let factors = size(&[Slot::RopeFactorsLong, Slot::RopeFactorsShort], 1);
    let one_layer = plan.parts()[1].device_bytes() - factors;
    let tenths = |tenths: u64| factors + one_layer * tenths / 10;
    let free = [
        size(&[Slot::TokenEmbedding], 0) + tenths(20),
        tenths(9),
        tenths(9),
        size(&[Slot::OutputNorm, Slot::Output], 2) + tenths(10),
    ];
    let proposal = fit(&file, &free, 0);
    assert!(proposal.fits(), "{proposal:?}");
    assert_eq!(
        (proposal.placement.proportions(), &*proposal.devices),
        (&[2.0, 1.0][..], &[0, 3][..])
    );
}

#[test]
fn every_division_is_found_that_fits_exactly() {
    for preset in [Preset::Tiny, Preset::Mini128k, Preset::Phi4Mini] {
        let file = published(preset, TypeMix::Q4_K_M);
        for proportions in [[1.0, 1.0, 1.0], [7.0, 1.0, 1.0], [0.0, 1.0, 2.0], [2.0, 0.0, 1.0]] {
            let placement = layer(3).with_proportions(&proportions).unwrap();
            let plan = file.place(Storage::F16, &placement).unwrap();
            let free: Vec<u64> =
                plan.parts().iter().map(|part| part.device_bytes() + 1000).collect();
            let proposal = fit(&file, &free, 1000);
            assert!(proposal.fits(), "{preset} {proportions:?}: {proposal:?}");
        }
    }
}

#[test]
fn a_model_that_does_not_fit_is_short_by_a_number_of_bytes() {
    let file = TestFile::tiny();
    let plan: LoadPlan = file.plan(Storage::F16).unwrap();
    let bytes = plan.device_bytes();
    let proposal = fit(&file, &[], 0);
    assert_eq!((proposal.short_by, proposal.placement), (bytes, Placement::single()));
    let proposal = fit(&file, &[bytes / 4, bytes / 2], 0);
    assert!(!proposal.fits());
    assert!(proposal.short_by < bytes / 2, "several devices are closer than one");
    let proposal = fit(&file, &[u64::MAX], u64::MAX);
    assert_eq!(proposal.short_by, bytes);
}
