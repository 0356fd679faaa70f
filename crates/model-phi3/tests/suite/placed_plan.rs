//! Loads synthetic files according to plans, and compares the parts with the whole.

use std::ops::Range;

use crate::plan::{AnyModel, Layer};
use crate::support::TestFile;
use gguf_format::GgmlType;
use model_phi3::{
    BoundScale, Conversion, Error, LoadPlan, PlacedOp, PlacedPart, PlacedPlan, PlacedSlot,
    Placement, PlannedSlot, Slot, SourceRange, SplitMode, Storage,
};
use proptest::prelude::*;

fn bounds(range: &Range<u64>) -> Range<usize> {
    usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap()
}

/// Returns a file with different bytes everywhere.
fn bytes_of(file: &TestFile) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let fill = |_, data: &mut [u8]| {
        for byte in data {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            *byte = (state >> 56) as u8;
        }
    };
    file.writer().to_bytes(fill).unwrap()
}

fn source<'a>(file: &'a [u8], source: &SourceRange) -> &'a [u8] {
    assert_eq!(source.shard, 0);
    &file[bounds(&source.range)]
}

/// Converts whole blocks. A decoded element depends on all bytes of its block, on its position there and on the
/// scale. Thus an element of another place is another value.
fn convert(conversion: Conversion, scale: &[u8], blocks: &[u8]) -> Vec<u8> {
    let Conversion::ToF16(ggml_type) = conversion else { return blocks.to_vec() };
    let mut decoded = Vec::new();
    for block in blocks.chunks_exact(size(ggml_type.block_bytes())) {
        let seed = scale.iter().chain(block).fold(0xcbf2_9ce4_u32, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        });
        for element in 0..ggml_type.block_len() as u32 {
            let mixed = (seed ^ element.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b);
            decoded.extend(((mixed >> 16) as u16).to_le_bytes());
        }
    }
    decoded
}

fn scale_bytes<'a>(file: &'a [u8], scale: Option<&BoundScale>) -> &'a [u8] {
    scale.map_or(&[], |scale| source(file, &scale.source))
}

fn load_whole(file: &[u8], plan: &LoadPlan) -> Vec<u8> {
    let mut arena = vec![0xaa; size(plan.device_bytes())];
    for op in plan.ops() {
        let scale = scale_bytes(file, op.scale.as_ref());
        let converted = convert(op.conversion, scale, source(file, &op.source));
        arena[bounds(&op.dest)].copy_from_slice(&converted);
    }
    arena
}

fn load_op(file: &[u8], op: &PlacedOp, dest: &mut [u8]) {
    let scale = scale_bytes(file, op.scale.as_ref());
    let rows = source(file, &op.source).chunks_exact(size(op.row_stride));
    assert_eq!(rows.len(), size(op.rows.end - op.rows.start));
    for (row, dest) in rows.zip(dest.chunks_exact_mut(size(op.dest_row_bytes))) {
        let converted = convert(op.conversion, scale, &row[bounds(&op.row_range)]);
        let element = match op.conversion {
            Conversion::ToF16(_) => 2,
            Conversion::Copy => 0,
        };
        let start = size(op.skip) * element;
        dest.copy_from_slice(&converted[start..start + dest.len()]);
        assert!(op.skip == 0 || element == 2, "blocks that are copied are not cut");
    }
}

fn load_part(file: &[u8], part: &PlacedPart) -> Vec<u8> {
    let mut arena = vec![0x55; size(part.device_bytes())];
    for op in part.ops() {
        load_op(file, op, &mut arena[bounds(&op.dest)]);
    }
    arena
}

/// Returns the bytes of some columns of a row, in the format of the slot.
fn columns(planned: &PlannedSlot, cols: &Range<u64>) -> Range<usize> {
    let ggml_type = planned.format.ggml_type();
    let at = |col: u64| {
        assert_eq!(col % ggml_type.block_len(), 0, "{} is cut inside a block", planned.slot);
        size(col / ggml_type.block_len() * ggml_type.block_bytes())
    };
    at(cols.start)..at(cols.end)
}

/// Columns are cut at multiples of this number.
const STEP: u64 = 32;

/// Counts for each row and each group of columns of a weight how many devices hold it.
struct Owners {
    groups: usize,
    counts: Vec<usize>,
}

impl Owners {
    fn of(whole: &PlannedSlot) -> Self {
        let groups = size(whole.shape.last().unwrap().div_ceil(STEP));
        Self { groups, counts: vec![0; groups * rows_of(whole)] }
    }

    fn add(&mut self, placed: &PlacedSlot) {
        assert_eq!(placed.cols.start % STEP, 0);
        let groups = size(placed.cols.start / STEP)..size(placed.cols.end.div_ceil(STEP));
        for row in bounds(&placed.rows) {
            for count in &mut self.counts[row * self.groups..][groups.clone()] {
                *count += 1;
            }
        }
    }
}

fn rows_of(planned: &PlannedSlot) -> usize {
    if planned.shape.len() == 1 { 1 } else { size(planned.shape[0]) }
}

/// Returns the number of devices that must hold each element of a weight.
fn expected_owners(plan: &PlacedPlan, slot: Slot, kv_heads: usize) -> usize {
    let devices = plan.parts().len();
    match plan.placement().mode() {
        SplitMode::Layer if slot.is_rope_factors() => {
            let has_layer = |part: &&PlacedPart| part.slots().iter().any(|p| p.heads.is_some());
            plan.parts().iter().filter(has_layer).count()
        }
        SplitMode::None | SplitMode::Layer => 1,
        SplitMode::Tensor if slot.matrix().is_some() => match slot {
            Slot::AttnK(_) | Slot::AttnV(_) => (devices / kv_heads).max(1),
            _ => 1,
        },
        _ => devices,
    }
}

/// Loads the file to one device and to the devices of the plan, and compares every element.
fn check(file: &TestFile, plan: &PlacedPlan) {
    plan.verify().unwrap();
    let bytes = bytes_of(file);
    let whole = load_whole(&bytes, plan.whole());
    let parts: Vec<Vec<u8>> = plan.parts().iter().map(|part| load_part(&bytes, part)).collect();
    let kv_heads = file.config().unwrap().kv_heads as usize;
    for of_whole in plan.whole().slots() {
        let mut owners = Owners::of(of_whole);
        for (part, arena) in plan.parts().iter().zip(&parts) {
            let Some(placed) = part.slot(of_whole.slot) else { continue };
            owners.add(placed);
            let cols = columns(of_whole, &placed.cols);
            let rows =
                arena[bounds(&placed.planned.dest)].chunks_exact(size(placed.planned.row_bytes));
            assert_eq!(rows.len(), bounds(&placed.rows).len());
            let whole_rows = whole[bounds(&of_whole.dest)].chunks_exact(size(of_whole.row_bytes));
            for (row, whole_row) in rows.zip(whole_rows.skip(bounds(&placed.rows).start)) {
                assert_eq!(row, &whole_row[cols.clone()], "{}", of_whole.slot);
            }
        }
        let expected = expected_owners(plan, of_whole.slot, kv_heads);
        assert!(owners.counts.iter().all(|count| *count == expected), "{}", of_whole.slot);
    }
    assert_eq!(plan.source_bytes(), needed_bytes(plan), "each byte of the file counts once");
    if plan.parts().len() == 1 {
        is_whole(plan);
    }
}

/// Returns the number of bytes that at least one transfer needs.
fn needed_bytes(plan: &PlacedPlan) -> u64 {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for op in plan.parts().iter().flat_map(PlacedPart::ops) {
        if op.is_rows() {
            ranges.push(op.source.range.clone());
            continue;
        }
        let starts = op.source.range.clone().step_by(size(op.row_stride));
        ranges.extend(starts.map(|row| row + op.row_range.start..row + op.row_range.end));
    }
    ranges.sort_by_key(|range| (range.start, range.end));
    let (mut sum, mut end) = (0, 0);
    for range in ranges {
        sum += range.end.saturating_sub(range.start.max(end));
        end = end.max(range.end);
    }
    sum
}

/// Checks that the only part is laid out as the plan for one device.
fn is_whole(plan: &PlacedPlan) {
    let (whole, part) = (plan.whole(), &plan.parts()[0]);
    assert_eq!(
        (part.device_bytes(), plan.device_bytes()),
        (whole.device_bytes(), part.device_bytes())
    );
    assert_eq!(part.ops().len(), whole.ops().len());
    for (placed, op) in part.ops().iter().zip(whole.ops()) {
        assert!(placed.is_rows());
        assert_eq!(
            (&placed.tensor, &placed.source, &placed.dest, placed.conversion),
            (&op.tensor, &op.source, &op.dest, op.conversion)
        );
        assert_eq!((&placed.scale, placed.format, placed.unit), (&op.scale, op.format, op.unit));
    }
    assert!(part.slots().iter().map(|placed| &placed.planned).eq(whole.slots()));
}

#[test]
fn one_device_is_laid_out_as_without_a_placement() {
    use model_phi3::preset::{Layout, Preset, TypeMix};
    for &preset in Preset::ALL {
        for &layout in Layout::ALL {
            let file = TestFile::new(preset, layout, TypeMix::Q4_K_M);
            for &mode in SplitMode::ALL {
                let placement = Placement::new(mode, 1).unwrap();
                for storage in Storage::ALL {
                    is_whole(&file.place(*storage, &placement).unwrap());
                }
            }
        }
    }
}

/// Types whose blocks have at most 32 elements, and types with longer blocks.
const SHORT: &[GgmlType] = &[
    GgmlType::F16,
    GgmlType::F32,
    GgmlType::BF16,
    GgmlType::Q8_0,
    GgmlType::Q4_0,
    GgmlType::Q5_1,
    GgmlType::MXFP4,
];
const LONG: &[GgmlType] = &[
    GgmlType::Q4_K,
    GgmlType::Q6_K,
    GgmlType::IQ1_S,
    GgmlType::NVFP4,
    GgmlType::Q1_0,
    GgmlType::Q8_0,
];

fn model(
    heads: (u32, u32, u64),
    sizes: (u64, u64, u64),
    flags: [bool; 6],
    types: Vec<GgmlType>,
) -> TestFile {
    let [llama, tied, factors, scales, fused_qkv, fused_ffn] = flags;
    let layers = vec![
        Layer { fused_qkv, fused_ffn },
        Layer { fused_qkv: !fused_qkv, fused_ffn: !fused_ffn },
    ];
    let ((kv_heads, group, head_dim), (hidden, ffn, vocab)) = (heads, sizes);
    let model = AnyModel {
        layers,
        llama,
        tied,
        factors,
        scales,
        input_scales: scales && tied,
        heads: kv_heads * group,
        kv_heads,
        head_dim,
        hidden,
        ffn,
        vocab,
        types,
    };
    model.file()
}

/// Small models: of any dimensions with plain types, and of whole blocks with others.
fn any_file() -> impl Strategy<Value = TestFile> {
    let types =
        |of: &'static [GgmlType]| proptest::collection::vec(proptest::sample::select(of), 20);
    let flags = any::<[bool; 6]>;
    let plain = (
        (1..7_u32, 1..5_u32, proptest::sample::select(vec![2_u64, 6, 16, 32, 40])),
        (40..64_u64, 1..300_u64, 1..50_u64),
        flags(),
        types(&SHORT[..3]),
    );
    let short = (
        (1..7_u32, 1..5_u32, proptest::sample::select(vec![32_u64, 64])),
        (proptest::sample::select(vec![64_u64, 96]), (1..10_u64).prop_map(|n| n * 32), 1..50_u64),
        flags(),
        types(SHORT),
    );
    let long = (
        proptest::sample::select(vec![
            (4_u32, 4_u32, 64_u64),
            (6, 1, 128),
            (5, 2, 128),
            (3, 1, 256),
            (8, 1, 96),
            (1, 8, 64),
        ]),
        (Just(256_u64), (2..5_u64).prop_map(|n| n * 256), 9..50_u64),
        flags(),
        types(LONG),
    );
    let build = |(heads, sizes, flags, types)| model(heads, sizes, flags, types);
    prop_oneof![plain.prop_map(build), short.prop_map(build), long.prop_map(build)]
}

/// Placements of all modes but `tensor`.
fn any_placement() -> impl Strategy<Value = Placement> {
    let proportions = proptest::option::of(proptest::collection::vec(0.1..9.0_f64, 9));
    let modes = vec![SplitMode::None, SplitMode::Replicate, SplitMode::Layer, SplitMode::Layer];
    (proptest::sample::select(modes), 1..10_usize, proportions, 0..6_u32).prop_map(
        |(mode, devices, proportions, layers)| {
            let with = |placement: Placement, count: usize| match &proportions {
                Some(all) => placement.with_proportions(&all[..count]).unwrap(),
                None => placement,
            };
            match mode {
                SplitMode::None => Placement::single(),
                SplitMode::Layer if layers < 3 && devices > 1 => {
                    with(Placement::last_layers(layers, devices).unwrap(), devices - 1)
                }
                SplitMode::Layer => with(Placement::new(mode, devices).unwrap(), devices),
                _ => Placement::new(mode, devices.min(4)).unwrap(),
            }
        },
    )
}

fn tensor(devices: usize) -> Placement {
    Placement::new(SplitMode::Tensor, devices).unwrap()
}

/// Returns all numbers of devices that the model can be divided among.
fn possible(file: &TestFile, storage: Storage) -> Vec<usize> {
    // No generated model has as many heads as this prime number, so it is refused.
    match file.place(storage, &tensor(251)).unwrap_err() {
        Error::Placement { possible, .. } => possible.into_vec(),
        other => panic!("{other}"),
    }
}

fn any_storage() -> impl Strategy<Value = Storage> {
    proptest::sample::select(Storage::ALL)
}

/// A part of the usual number of cases, because every case loads a file.
fn part_of_cases(divisor: u32) -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: usual.cases.div_ceil(divisor), ..usual }
}

proptest! {
    #![proptest_config(part_of_cases(2))]

    #[test]
    fn parts_of_matrices_make_up_the_whole(
        file in any_file(),
        storage in any_storage(),
        degree: prop::sample::Index,
        proportions in proptest::option::of(proptest::collection::vec(0.1..9.0_f64, 256)),
    ) {
        let possible = possible(&file, storage);
        let devices = if possible.len() == 1 { 1 } else { *degree.get(&possible[1..]) };
        let placement = match proportions {
            Some(all) => tensor(devices).with_proportions(&all[..devices]).unwrap(),
            None => tensor(devices),
        };
        check(&file, &file.place(storage, &placement).unwrap());
    }

    #[test]
    fn a_number_of_devices_is_possible_exactly_if_a_refusal_names_it(
        file in any_file(),
        storage in any_storage(),
    ) {
        let possible = possible(&file, storage);
        for devices in 1..10 {
            let plan = file.place(storage, &tensor(devices));
            prop_assert_eq!(plan.is_ok(), possible.contains(&devices), "{}", devices);
        }
    }
}

proptest! {
    #![proptest_config(part_of_cases(6))]

    #[test]
    fn layers_and_copies_make_up_the_whole(
        file in any_file(),
        storage in any_storage(),
        placement in any_placement(),
    ) {
        check(&file, &file.place(storage, &placement).unwrap());
    }
}
