use crate::plan::{any_file, any_type};
use crate::support::TestFile;
use gguf_format::GgmlType;
use model_phi3::preset::{Layout, Preset, TypeMix};
use model_phi3::{Fused, FusedSlot, LoadPlan, Matrix, PlannedSlot, Slot, SlotFormat, Storage};
use proptest::prelude::*;

const BOTH: [fn(u32) -> Fused; 2] = [Fused::AttnQkv, Fused::FfnGateUp];

/// Returns the planned parts of a fused view.
fn parts(plan: &LoadPlan, fused: Fused) -> Vec<&PlannedSlot> {
    fused.slots().map(|slot| plan.slot(slot).unwrap()).collect()
}

/// Returns the address of each row in the arena.
fn rows(start: u64, rows: u64, row_bytes: u64) -> impl Iterator<Item = u64> {
    (0..rows).map(move |row| start + row * row_bytes)
}

/// Checks that the view has exactly the bytes and rows of its parts.
fn check(plan: &LoadPlan, view: &FusedSlot) {
    let parts = parts(plan, view.fused);
    let [view_rows, cols] = view.shape;
    let rows_of_parts = parts.iter().flat_map(|p| rows(p.dest.start, p.shape[0], p.row_bytes));
    assert!(rows(view.dest.start, view_rows, view.row_bytes).eq(rows_of_parts), "{view:?}");
    assert_eq!(view.dest.end, parts.last().unwrap().dest.end);
    assert_eq!(view.dest.end - view.dest.start, view_rows * view.row_bytes);
    for part in parts {
        assert_eq!((part.shape[1], part.format), (cols, view.format), "{view:?}");
    }
}

/// Returns the places of the scales of a part.
fn scales(plan: &LoadPlan, part: &PlannedSlot) -> [Option<u64>; 2] {
    let matrix = part.slot.matrix().unwrap();
    let start = |slot| plan.slot(slot).map(|scale| scale.dest.start);
    [start(Slot::Scale(matrix)), start(Slot::InputScale(matrix))]
}

/// Returns whether two parts follow each other, as the documentation defines it.
fn is_followed(plan: &LoadPlan, [one, next]: [&PlannedSlot; 2]) -> bool {
    one.dest.end == next.dest.start
        && (one.format, one.shape[1]) == (next.format, next.shape[1])
        && scales(plan, one) == scales(plan, next)
}

/// Checks both views of every layer: they are there exactly if the parts follow each other.
fn check_all(plan: &LoadPlan) {
    for layer in 0..plan.layers() {
        for fused in BOTH.map(|fused| fused(layer)) {
            let parts = parts(plan, fused);
            let contiguous = parts.windows(2).all(|pair| is_followed(plan, [pair[0], pair[1]]));
            let is_one_tensor = parts.windows(2).all(|pair| pair[0].op == pair[1].op);
            let view = plan.fused(fused);
            assert_eq!(view.is_some(), contiguous, "{fused}");
            assert!(contiguous || !is_one_tensor, "{fused}");
            view.iter().for_each(|view| check(plan, view));
        }
    }
    assert!(BOTH.iter().all(|fused| plan.fused(fused(plan.layers())).is_none()));
    assert!(BOTH.iter().all(|fused| plan.fused(fused(u32::MAX)).is_none()));
}

/// Returns the tiny preset with the tensors of layer 0's attention in the order Q, K, V.
fn split_in_order(types: [GgmlType; 3]) -> TestFile {
    let mut file = TestFile::tiny_split();
    for (letter, rows, ggml_type) in
        [("q", 256, types[0]), ("k", 128, types[1]), ("v", 128, types[2])]
    {
        let name = format!("blk.0.attn_{letter}.weight");
        file.remove(&name).add(&name, &[256, rows], ggml_type);
    }
    file
}

#[test]
fn fused_tensors_have_both_views_in_every_layer() {
    let file = TestFile::new(Preset::Tiny, Layout::Fused, TypeMix::Q4_K_M);
    for (storage, format) in
        [(Storage::F16, SlotFormat::F16), (Storage::Native, SlotFormat::Blocks(GgmlType::Q5_K))]
    {
        let plan = file.plan(storage).unwrap();
        check_all(&plan);
        for layer in 0..3 {
            let qkv = plan.fused(Fused::AttnQkv(layer)).unwrap();
            assert_eq!((qkv.fused, qkv.shape), (Fused::AttnQkv(layer), [512, 256]));
            assert_eq!(qkv.format, format);
            assert_eq!(qkv.row_bytes, format.ggml_type().bytes_for(256).unwrap());
            let op = &plan.ops()[plan.slot(Slot::AttnK(layer)).unwrap().op];
            assert_eq!(qkv.dest, op.dest, "the view is the whole tensor");
            let gate_up = plan.fused(Fused::FfnGateUp(layer)).unwrap();
            assert_eq!(gate_up.shape, [2 * 768, 256]);
        }
    }
}

/// llama.cpp writes K before Q, and gate directly before up.
#[test]
fn split_tensors_have_the_views_of_neighbours_alone() {
    let plan = TestFile::tiny_split().plan(Storage::F16).unwrap();
    check_all(&plan);
    assert_eq!(plan.fused(Fused::AttnQkv(0)), None);
    assert_eq!(plan.fused(Fused::FfnGateUp(0)).unwrap().shape, [2 * 768, 256]);

    let plan = split_in_order([GgmlType::F16; 3]).plan(Storage::F16).unwrap();
    check_all(&plan);
    let qkv = plan.fused(Fused::AttnQkv(0)).unwrap();
    assert_eq!(qkv.dest.end - qkv.dest.start, 512 * 512);
    assert_eq!(plan.fused(Fused::AttnQkv(1)), None, "the other layers are as before");
}

/// The next tensor starts on a multiple of 256 bytes, which is not the end of a tensor of another size.
#[test]
fn neighbours_with_padding_between_them_have_no_view() {
    let mut file = TestFile::tiny_split();
    file.set("llama.feed_forward_length", 7_u32);
    for layer in 0..3 {
        for matrix in ["gate", "up", "down"] {
            let tensor = file.tensor(&format!("blk.{layer}.ffn_{matrix}.weight"));
            tensor.dims = if matrix == "down" { vec![7, 256] } else { vec![256, 7] };
        }
    }
    let plan = file.plan(Storage::F16).unwrap();
    check_all(&plan);
    assert!(plan.fused(Fused::FfnGateUp(0)).is_some(), "7 rows of 512 bytes");
    for layer in 0..3 {
        for matrix in ["gate", "up"] {
            file.tensor(&format!("blk.{layer}.ffn_{matrix}.weight")).ggml_type = GgmlType::Q4_0;
        }
    }
    let plan = file.plan(Storage::Native).unwrap();
    check_all(&plan);
    assert_eq!(plan.fused(Fused::FfnGateUp(0)), None, "7 rows of 144 bytes");
}

/// The types of a mix differ in the file and are equal after decoding.
#[test]
fn neighbours_of_several_types_have_a_view_only_when_decoded() {
    use GgmlType::{F32, Q4_K, Q6_K};
    for types in [[Q4_K, Q4_K, Q6_K], [Q6_K, Q4_K, Q4_K], [Q4_K, F32, Q4_K]] {
        let file = split_in_order(types);
        let native = file.plan(Storage::Native).unwrap();
        check_all(&native);
        assert_eq!(native.fused(Fused::AttnQkv(0)), None, "{types:?}");
        let decoded = file.plan(Storage::F16).unwrap();
        check_all(&decoded);
        assert!(decoded.fused(Fused::AttnQkv(0)).is_some(), "{types:?}");
    }
}

/// F16 and BF16 rows have the same number of bytes, and so do Q4_0 and IQ4_NL.
#[test]
fn formats_of_equal_size_are_not_one_matrix() {
    use GgmlType::{BF16, F16, IQ4_NL, Q4_0};
    for types in [[F16, BF16, BF16], [Q4_0, Q4_0, IQ4_NL]] {
        let plan = split_in_order(types).plan(Storage::Native).unwrap();
        let parts = parts(&plan, Fused::AttnQkv(0));
        assert!(parts.windows(2).all(|pair| pair[0].dest.end == pair[1].dest.start));
        assert_eq!(plan.fused(Fused::AttnQkv(0)), None, "{types:?}");
        check_all(&plan);
    }
}

#[test]
fn fused_nvfp4_tensors_share_their_scales() {
    let mut file = TestFile::tiny();
    for (tensor, rows) in [("attn_qkv", 512), ("ffn_up", 1536)] {
        let stem = format!("blk.0.{tensor}");
        file.remove(&format!("{stem}.weight"));
        file.add(&format!("{stem}.weight"), &[256, rows], GgmlType::NVFP4);
        file.add(&format!("{stem}.scale"), &[1], GgmlType::F32);
        file.add(&format!("{stem}.input_scale"), &[1], GgmlType::F32);
    }
    for storage in [Storage::F16, Storage::Native] {
        let plan = file.plan(storage).unwrap();
        check_all(&plan);
        assert!(BOTH.iter().all(|fused| plan.fused(fused(0)).is_some()), "{storage}");
    }
}

#[test]
fn split_nvfp4_tensors_with_scales_of_their_own_have_no_view() {
    let without = split_in_order([GgmlType::NVFP4; 3]);
    let plan = without.plan(Storage::Native).unwrap();
    assert!(plan.fused(Fused::AttnQkv(0)).is_some(), "no scale at all");
    let all = ["q", "k", "v"];
    for scale in ["scale", "input_scale"] {
        for scaled in [&all[..], &all[..1], &all[1..2], &all[2..]] {
            let mut file = without.clone();
            for letter in scaled {
                file.add(&format!("blk.0.attn_{letter}.{scale}"), &[1], GgmlType::F32);
            }
            let plan = file.plan(Storage::Native).unwrap();
            let parts = parts(&plan, Fused::AttnQkv(0));
            assert!(parts.windows(2).all(|pair| pair[0].dest.end == pair[1].dest.start));
            assert_eq!(plan.fused(Fused::AttnQkv(0)), None, "{scale} of {scaled:?}");
            check_all(&plan);
            let decoded = file.plan(Storage::F16).unwrap();
            assert!(decoded.fused(Fused::AttnQkv(0)).is_some(), "scales are part of the weights");
        }
    }
    // Of the output, which is not a part.
    let mut file = without.clone();
    file.tensor("output.weight").ggml_type = GgmlType::NVFP4;
    file.add("output.scale", &[1], GgmlType::F32);
    let plan = file.plan(Storage::Native).unwrap();
    assert!(plan.slot(Slot::Scale(Matrix::Output)).is_some());
    assert!(plan.fused(Fused::AttnQkv(0)).is_some());
}

#[test]
fn only_canonical_names_parse() {
    for fused in BOTH.map(|fused| fused(10)) {
        assert_eq!(fused.layer(), 10);
        assert!(fused.slots().all(|slot| slot.layer() == Some(10)));
        assert_eq!(fused.to_string().parse(), Ok(fused));
    }
    assert!(Fused::AttnQkv(3).slots().eq([Slot::AttnQ(3), Slot::AttnK(3), Slot::AttnV(3)]));
    assert_eq!(format!("{:<20}|", Fused::AttnQkv(3)), "layers.3.attn_qkv   |");
    for name in [
        "",
        "attn_qkv",
        "layers.attn_qkv",
        "layers.+1.attn_qkv",
        "layers.01.attn_qkv",
        "layers.4294967296.attn_qkv",
        "layers.1.attn_q",
        "layers.1.attn_qkv.scale",
        "layers.1.ffn_up",
        "layers.1.ffn_gate_up ",
    ] {
        assert!(name.parse::<Fused>().is_err(), "{name:?}");
    }
    let error = "\u{1b}[2J".parse::<Fused>().unwrap_err().to_string();
    assert!(error.ends_with("expected layers.N.attn_qkv or layers.N.ffn_gate_up"), "{error}");
    assert!(!error.contains('\u{1b}'));
}

proptest! {
    #[test]
    fn views_are_the_unions_of_neighbours(file in any_file(any_type())) {
        check_all(&file.plan(Storage::Native).unwrap());
    }

    #[test]
    fn views_of_few_types_are_the_unions_of_neighbours(
        file in any_file(proptest::sample::select(vec![GgmlType::NVFP4, GgmlType::Q4_0])),
    ) {
        check_all(&file.plan(Storage::F16).unwrap());
        check_all(&file.plan(Storage::Native).unwrap());
    }
}
