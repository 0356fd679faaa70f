use std::collections::BTreeSet;
use std::ops::Range;

use crate::support::TestFile;
use gguf_format::GgmlType;
use model_phi3::preset::{Layout, Preset, TypeMix};
use model_phi3::{
    Conversion, Error, LoadPlan, Phi3Config, PlannedSlot, Slot, SlotFormat, Storage, Unit,
};
use proptest::prelude::*;

/// Returns the slots and shapes that consumers rely on.
fn published_shape(slot: Slot, config: &Phi3Config) -> Vec<u64> {
    let Phi3Config { hidden, ffn, vocab, .. } = *config;
    let queries = u64::from(config.heads) * u64::from(config.head_dim);
    let keys = u64::from(config.kv_heads) * u64::from(config.head_dim);
    match slot {
        Slot::TokenEmbedding | Slot::Output => vec![vocab, hidden],
        Slot::AttnNorm(_) | Slot::FfnNorm(_) | Slot::OutputNorm => vec![hidden],
        Slot::AttnQ(_) => vec![queries, hidden],
        Slot::AttnK(_) | Slot::AttnV(_) => vec![keys, hidden],
        Slot::AttnOutput(_) => vec![hidden, queries],
        Slot::FfnGate(_) | Slot::FfnUp(_) => vec![ffn, hidden],
        Slot::FfnDown(_) => vec![hidden, ffn],
        Slot::RopeFactorsLong | Slot::RopeFactorsShort => {
            vec![u64::from(config.rope.dimension_count) / 2]
        }
        Slot::Scale(_) | Slot::InputScale(_) => vec![1],
    }
}

fn len(range: &Range<u64>) -> u64 {
    range.end - range.start
}

/// Checks a plan against values that are computed from the file.
fn check(file: &TestFile, storage: Storage) {
    let config = file.config().unwrap();
    let plan = file.plan(storage).unwrap();
    plan.verify().unwrap();
    check_arena(&plan);
    check_sources(file, &plan);
    assert!(plan.slots().iter().map(|planned| planned.slot).eq(expected_slots(file, &plan)));
    check_destinations(&plan, &config);
}

/// Checks that transfers follow each other, each from a multiple of 256, and fill the arena.
fn check_arena(plan: &LoadPlan) {
    let mut arena = 0;
    for op in plan.ops() {
        assert_eq!(op.dest.start, arena, "{}", op.tensor);
        arena = op.dest.end.next_multiple_of(256);
    }
    assert_eq!(plan.device_bytes(), arena);
}

/// Checks that every tensor of the file is read once, whole, folded into another as its scale, or left out.
fn check_sources(file: &TestFile, plan: &LoadPlan) {
    let read: BTreeSet<(u64, u64, String)> = plan
        .ops()
        .iter()
        .map(|op| (op.source.range.start, op.source.range.end, op.tensor.to_string()))
        .collect();
    let (scales, mut stored): (BTreeSet<_>, BTreeSet<_>) = file.with_parsed(|gguf| {
        let tensors = gguf.tensors().iter();
        tensors
            .map(|t| (t.range().start, t.range().end, t.name().to_owned()))
            .partition(|(_, _, name)| name.ends_with("scale"))
    });
    let folded: BTreeSet<(u64, u64, String)> = plan
        .ops()
        .iter()
        .filter_map(|op| op.scale.as_ref())
        .map(|scale| (scale.source.range.start, scale.source.range.end, scale.name.to_string()))
        .collect();
    let left_out: Vec<&str> = plan.left_out().iter().map(|name| &**name).collect();
    match plan.storage() {
        Storage::F16 => {
            let is_input = |name: &str| name.ends_with(".input_scale");
            let (inputs, factors): (BTreeSet<_>, BTreeSet<_>) =
                scales.into_iter().partition(|(_, _, name)| is_input(name));
            assert_eq!(folded, factors);
            assert_eq!(left_out.len(), inputs.len());
            assert!(inputs.iter().all(|(_, _, name)| left_out.contains(&name.as_str())));
        }
        _ => {
            stored.extend(scales);
            assert!(folded.is_empty() && left_out.is_empty());
        }
    }
    assert_eq!(read, stored, "every tensor of the file is read once, whole");
    assert_eq!(plan.source_bytes(), stored.iter().map(|(start, end, _)| end - start).sum::<u64>());
    assert!(plan.ops().is_sorted_by_key(|op| (op.unit, op.source.range.start)));
}

/// Returns the slots of a plan for this file, in order.
fn expected_slots(file: &TestFile, plan: &LoadPlan) -> Vec<Slot> {
    let has = |name: &str| file.tensors.iter().any(|tensor| tensor.name == name);
    let mut expected: Vec<Slot> = Slot::required(file.config().unwrap().layers).collect();
    if has("rope_factors_long.weight") {
        expected.extend([Slot::RopeFactorsLong, Slot::RopeFactorsShort]);
    }
    if plan.storage() == Storage::Native {
        let matrices: Vec<_> = expected.iter().filter_map(|slot| slot.matrix()).collect();
        for matrix in matrices {
            let tensor = &plan.slot(matrix.slot()).unwrap().tensor;
            let stem = tensor.strip_suffix(".weight").unwrap();
            let scaled = |suffix, slot| has(&format!("{stem}.{suffix}")).then_some(slot);
            expected.extend(scaled("scale", Slot::Scale(matrix)));
            expected.extend(scaled("input_scale", Slot::InputScale(matrix)));
        }
        expected.sort();
    }
    expected
}

/// Checks every slot, and that slots overlap only where weights are shared: a tied output, and the scales of a
/// fused tensor.
fn check_destinations(plan: &LoadPlan, config: &Phi3Config) {
    let mut tiles: Vec<&PlannedSlot> = Vec::new();
    for planned in plan.slots() {
        check_slot(plan, planned, config);
        if planned.slot == Slot::Output && config.tied_output {
            assert_eq!(planned.dest, plan.slot(Slot::TokenEmbedding).unwrap().dest);
        } else if !planned.slot.is_scale() || !tiles.iter().any(|tile| tile.dest == planned.dest) {
            tiles.push(planned);
        }
    }
    tiles.sort_by_key(|planned| planned.dest.start);
    assert!(tiles.windows(2).all(|pair| pair[0].dest.end <= pair[1].dest.start));
    let tiled: u64 = tiles.iter().map(|planned| len(&planned.dest)).sum();
    assert_eq!(tiled, plan.ops().iter().map(|op| len(&op.dest)).sum::<u64>());

    if plan.storage() == Storage::F16 {
        let halves = tiles.iter().filter(|planned| !planned.slot.is_rope_factors());
        let halves: u64 = halves.map(|planned| len(&planned.dest) / 2).sum();
        assert_eq!(Some(halves), config.parameters());
    }
}

fn check_slot(plan: &LoadPlan, planned: &PlannedSlot, config: &Phi3Config) {
    let op = &plan.ops()[planned.op];
    assert_eq!(planned.tensor, op.tensor);
    assert_eq!(planned.shape, published_shape(planned.slot, config), "{}", planned.slot);
    let format = match plan.storage() {
        Storage::F16 if !planned.slot.is_rope_factors() => GgmlType::F16,
        _ if planned.slot.is_scale() => GgmlType::F32,
        _ => planned.source_type,
    };
    assert_eq!(planned.format.ggml_type(), format);
    let elements = planned.shape.iter().product();
    assert_eq!(Some(len(&planned.dest)), format.bytes_for(elements));
    let rows = if planned.shape.len() == 2 { planned.shape[0] } else { 1 };
    assert_eq!(planned.row_bytes * rows, len(&planned.dest));
    let conversion = if format == planned.source_type {
        Conversion::Copy
    } else {
        Conversion::ToF16(planned.source_type)
    };
    assert_eq!(op.conversion, conversion);
    let matrix = match planned.slot {
        Slot::Scale(matrix) | Slot::InputScale(matrix) => matrix.slot(),
        slot => slot,
    };
    let unit = match matrix.layer() {
        Some(layer) => layer + 1,
        None if matrix == Slot::OutputNorm => plan.units() - 1,
        None if matrix == Slot::Output && !config.tied_output => plan.units() - 1,
        None => 0,
    };
    assert_eq!(op.format, planned.format);
    assert_eq!(op.unit, unit, "{}", planned.slot);
}

#[test]
fn plans_of_all_presets_pass_the_checks() {
    for &preset in Preset::ALL {
        for &layout in Layout::ALL {
            for mix in [TypeMix::F32, TypeMix::Q4_K_M] {
                let file = TestFile::new(preset, layout, mix);
                check(&file, Storage::F16);
                check(&file, Storage::Native);
            }
        }
    }
}

#[test]
fn one_call_does_what_the_steps_do() {
    for (file, storage) in
        [(TestFile::tiny(), Storage::F16), (TestFile::tiny_split(), Storage::Native)]
    {
        let in_one = |file: &TestFile| {
            file.with_parsed(|g| LoadPlan::from_gguf(g.metadata(), g.tensors(), storage))
        };
        let (config, plan) = in_one(&file).unwrap();
        assert_eq!((config, plan), (file.config().unwrap(), file.plan(storage).unwrap()));

        let mut broken = file.clone();
        broken.remove("output_norm.weight");
        assert_eq!(in_one(&broken).unwrap_err().code(), "PHI3_TENSOR_MISMATCH");
        broken.set("general.architecture", "qwen2");
        assert_eq!(in_one(&broken).unwrap_err().code(), "PHI3_UNSUPPORTED_ARCHITECTURE");
        let mut undecodable = file.clone();
        undecodable.tensor("output.weight").ggml_type = GgmlType::Q8_K;
        let result = in_one(&undecodable).map_err(|error| error.code());
        match storage {
            Storage::F16 => assert_eq!(result, Err("PHI3_NO_CONVERSION")),
            _ => assert_eq!(result.unwrap().1.storage(), storage),
        }
    }
}

#[test]
fn mini_takes_7_64_gb_of_halves() {
    let file = TestFile::new(Preset::Mini4k, Layout::Fused, TypeMix::Q4_K_M);
    let plan = file.plan(Storage::F16).unwrap();
    assert_eq!(plan.device_bytes(), 2 * 3_821_079_552);
    assert_eq!(plan.units(), 34);
    assert_eq!(plan.ops().len(), 195);
    assert_eq!(plan.slots().len(), 32 * 9 + 3);
}

#[test]
fn fused_rows_are_q_k_v_and_gate_up() {
    let plan = TestFile::tiny().plan(Storage::F16).unwrap();
    let dest = |slot| plan.slot(slot).unwrap().dest.clone();
    let row = 256 * 2;
    let start = dest(Slot::AttnQ(0)).start;
    assert_eq!(dest(Slot::AttnQ(0)), start..start + 256 * row);
    assert_eq!(dest(Slot::AttnK(0)), start + 256 * row..start + 384 * row);
    assert_eq!(dest(Slot::AttnV(0)), start + 384 * row..start + 512 * row);
    assert_eq!(dest(Slot::FfnGate(0)).end, dest(Slot::FfnUp(0)).start);
}

#[test]
fn native_slots_have_block_geometry() {
    let file = TestFile::new(Preset::Tiny, Layout::Fused, TypeMix::Q4_K_M);
    let plan = file.plan(Storage::Native).unwrap();
    let down = plan.slot(Slot::FfnDown(0)).unwrap();
    assert_eq!(down.format, SlotFormat::Blocks(GgmlType::Q4_K));
    assert_eq!(down.row_bytes, 768 / 256 * 144);
    assert_eq!(plan.slot(Slot::OutputNorm).unwrap().format, SlotFormat::F32);
    let op = &plan.ops()[down.op];
    assert_eq!(op.conversion, Conversion::Copy);
    assert_eq!(len(&op.dest), len(&op.source.range));
}

#[test]
fn a_tied_output_takes_no_additional_memory() {
    let file = TestFile::new(Preset::Phi4Mini, Layout::Fused, TypeMix::F16);
    let plan = file.plan(Storage::F16).unwrap();
    let embedding = plan.slot(Slot::TokenEmbedding).unwrap();
    let output = plan.slot(Slot::Output).unwrap();
    assert_eq!((&output.dest, output.op), (&embedding.dest, embedding.op));
    assert_eq!(plan.ops().len(), 196);
}

#[test]
fn units_are_labelled_as_progress_shows_them() {
    let plan = TestFile::tiny().plan(Storage::F16).unwrap();
    let labels: Vec<String> =
        (0..plan.units()).map(|unit| plan.unit(unit).unwrap().to_string()).collect();
    assert_eq!(
        labels,
        [
            "Embedding loaded",
            "Layer 0 loaded",
            "Layer 1 loaded",
            "Layer 2 loaded",
            "Output weights loaded"
        ]
    );
    assert_eq!(plan.unit(plan.units()), None);
    assert_eq!(plan.unit(u32::MAX), None);
    assert_eq!(plan.unit(0), Some(Unit::Embedding));
}

#[test]
fn weights_have_the_shape_of_the_model() {
    let plan = TestFile::tiny().plan(Storage::F16).unwrap();
    let weights = plan.weights(|planned| Ok::<_, Error>(planned.slot)).unwrap();
    assert_eq!(weights.layers.len(), 3);
    assert_eq!(weights.layers[2].attn_v, Slot::AttnV(2));
    assert_eq!(weights.rope_factors_long, Some(Slot::RopeFactorsLong));
    assert!(weights.iter().map(|(slot, _)| slot).eq(plan.slots().iter().map(|p| p.slot)));
}

#[test]
fn weights_returns_the_error_of_its_closure() {
    #[derive(Debug, PartialEq)]
    struct Stop;
    impl From<Error> for Stop {
        fn from(_: Error) -> Self {
            Self
        }
    }
    let plan = TestFile::tiny().plan(Storage::F16).unwrap();
    assert_eq!(plan.weights(|_| Err::<(), _>(Stop)), Err(Stop));
}

#[test]
fn storage_names_round_trip() {
    assert_eq!(Storage::ALL, [Storage::F16, Storage::Native]);
    for storage in Storage::ALL {
        assert_eq!(storage.to_string().parse(), Ok(*storage));
    }
    let unknown = "q4\n".parse::<Storage>().unwrap_err();
    assert_eq!(unknown.to_string(), r#""q4\n" is unknown: expected f16 or native"#);
}

/// Types that weights can have and whose blocks divide every row of a generated model.
pub(crate) fn any_type() -> impl Strategy<Value = GgmlType> {
    let integers = [GgmlType::I8, GgmlType::I16, GgmlType::I32, GgmlType::I64];
    proptest::sample::select(GgmlType::ALL)
        .prop_filter("no integer", move |t| !integers.contains(t))
}

fn convertible_type() -> impl Strategy<Value = GgmlType> {
    any_type().prop_filter("convertible", |t| Conversion::to_f16(*t).is_some())
}

#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) fused_qkv: bool,
    pub(crate) fused_ffn: bool,
}

/// A valid model with random dimensions, layouts and types.
#[derive(Debug)]
pub(crate) struct AnyModel {
    pub(crate) layers: Vec<Layer>,
    pub(crate) llama: bool,
    pub(crate) tied: bool,
    pub(crate) factors: bool,
    pub(crate) scales: bool,
    pub(crate) input_scales: bool,
    pub(crate) heads: u32,
    pub(crate) kv_heads: u32,
    pub(crate) head_dim: u64,
    pub(crate) hidden: u64,
    pub(crate) ffn: u64,
    pub(crate) vocab: u64,
    /// The types of the matrices, repeated as often as needed.
    pub(crate) types: Vec<GgmlType>,
}

impl AnyModel {
    pub(crate) fn file(&self) -> TestFile {
        let mut file = TestFile::default();
        self.set_metadata(&mut file);
        self.add_matrices(&mut file);
        self.add_vectors(&mut file);
        file
    }

    fn set_metadata(&self, file: &mut TestFile) {
        let prefix = if self.llama { "llama" } else { "phi3" };
        file.set("general.architecture", prefix);
        for (suffix, value) in [
            ("context_length", 4096),
            ("embedding_length", self.hidden),
            ("feed_forward_length", self.ffn),
            ("block_count", self.layers.len() as u64),
            ("attention.head_count", self.heads.into()),
            ("attention.head_count_kv", self.kv_heads.into()),
            ("attention.key_length", self.head_dim),
        ] {
            file.set(&format!("{prefix}.{suffix}"), value);
        }
        file.set(&format!("{prefix}.attention.layer_norm_rms_epsilon"), 1e-5_f32);
    }

    fn add_matrices(&self, file: &mut TestFile) {
        let Self { hidden, ffn, vocab, head_dim, .. } = *self;
        let (queries, keys) =
            (u64::from(self.heads) * head_dim, u64::from(self.kv_heads) * head_dim);
        let mut types = self.types.iter().copied().cycle();
        let mut matrix = |name: &str, cols, rows| {
            let ggml_type = types.next().unwrap();
            file.add(name, &[cols, rows], ggml_type);
            let stem = name.strip_suffix(".weight").unwrap();
            for (suffix, there) in [("scale", self.scales), ("input_scale", self.input_scales)] {
                if there && ggml_type == GgmlType::NVFP4 {
                    file.add(&format!("{stem}.{suffix}"), &[1], GgmlType::F32);
                }
            }
        };
        matrix("token_embd.weight", hidden, vocab);
        if !self.tied {
            matrix("output.weight", hidden, vocab);
        }
        for (i, layer) in self.layers.iter().enumerate() {
            let name = |stem: &str| format!("blk.{i}.{stem}.weight");
            if layer.fused_qkv {
                matrix(&name("attn_qkv"), hidden, queries + 2 * keys);
            } else {
                matrix(&name("attn_q"), hidden, queries);
                matrix(&name("attn_k"), hidden, keys);
                matrix(&name("attn_v"), hidden, keys);
            }
            matrix(&name("attn_output"), queries, hidden);
            if layer.fused_ffn {
                matrix(&name("ffn_up"), hidden, 2 * ffn);
            } else {
                matrix(&name("ffn_gate"), hidden, ffn);
                matrix(&name("ffn_up"), hidden, ffn);
            }
            matrix(&name("ffn_down"), ffn, hidden);
        }
    }

    /// Adds the norms and the RoPE factors.
    fn add_vectors(&self, file: &mut TestFile) {
        for i in 0..self.layers.len() {
            file.add(&format!("blk.{i}.attn_norm.weight"), &[self.hidden], GgmlType::F32);
            file.add(&format!("blk.{i}.ffn_norm.weight"), &[self.hidden], GgmlType::F16);
        }
        file.add("output_norm.weight", &[self.hidden], GgmlType::F32);
        if self.factors {
            for length in ["long", "short"] {
                let name = format!("rope_factors_{length}.weight");
                file.add(&name, &[self.head_dim / 2], GgmlType::F32);
            }
        }
    }
}

fn any_model(tensor_type: impl Strategy<Value = GgmlType>) -> impl Strategy<Value = AnyModel> {
    let layer = (any::<bool>(), any::<bool>())
        .prop_map(|(fused_qkv, fused_ffn)| Layer { fused_qkv, fused_ffn });
    (
        proptest::collection::vec(layer, 1..5),
        proptest::sample::select(vec![(4, 64), (8, 32), (2, 256), (6, 128), (16, 80)]),
        proptest::sample::select(vec![1_u32, 2]),
        (1..4_u64, 1..5_u64, 1..700_u64),
        any::<[bool; 5]>(),
        proptest::collection::vec(tensor_type, 50),
    )
        .prop_map(|(layers, (heads, head_dim), sharing, sizes, flags, types)| {
            let [llama, tied, factors, scales, input_scales] = flags;
            let hidden = sizes.0 * 256;
            AnyModel {
                layers,
                llama,
                tied,
                factors,
                scales,
                input_scales,
                heads,
                kv_heads: heads / sharing,
                // Heads wider than the hidden state are refused, so the two cannot both be small.
                head_dim: hidden.min(head_dim),
                hidden,
                ffn: sizes.1 * 256,
                vocab: sizes.2,
                types,
            }
        })
}

/// Returns a valid file with random dimensions, layouts, types and order of tensors.
pub(crate) fn any_file(
    tensor_type: impl Strategy<Value = GgmlType>,
) -> impl Strategy<Value = TestFile> {
    (any_model(tensor_type), any::<u64>()).prop_map(|(model, seed)| {
        let mut file = model.file();
        let count = file.tensors.len();
        file.tensors.rotate_left(usize::try_from(seed % count as u64).unwrap());
        if seed & (1 << 40) != 0 {
            file.tensors.reverse();
        }
        file
    })
}

proptest! {
    #[test]
    fn any_file_decodes_to_halves(file in any_file(convertible_type())) {
        check(&file, Storage::F16);
    }

    /// Only NVFP4, so that every matrix can have scales.
    #[test]
    fn any_file_of_nvfp4_is_planned(file in any_file(Just(GgmlType::NVFP4))) {
        check(&file, Storage::F16);
        check(&file, Storage::Native);
    }

    #[test]
    fn any_file_is_kept_as_stored(file in any_file(any_type())) {
        check(&file, Storage::Native);
    }

    /// For any faulty file, the result is a plan or an error.
    #[test]
    fn faulty_files_never_panic(
        mut file in any_file(any_type()),
        key in 0..9_usize,
        value: u64,
        tensor: prop::sample::Index,
        dims in proptest::collection::vec(prop_oneof![0..3_u64, Just(256), any::<u32>().prop_map(u64::from)], 0..4),
    ) {
        if let Some((_, old)) = file.metadata.get_mut(key) {
            *old = value.into();
        }
        let spoilt = tensor.get_mut(&mut file.tensors);
        spoilt.ggml_type = GgmlType::F32;
        spoilt.dims = dims;
        if spoilt.dims.iter().try_fold(4_u64, |a, &b| a.checked_mul(b.max(1))).is_some_and(|n| n < 1 << 62) {
            let _ = file.plan(Storage::F16);
            let _ = file.plan(Storage::Native);
        }
    }
}
