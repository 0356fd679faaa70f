//! Loads to several lanes of host memory that take the same bytes of the file: all of them, columns of a matrix or,
//! if layers are divided, a tied output and RoPE factors.

use crate::changed_weights::changed;
use crate::changes::rng;
use crate::common::{expected, go_on, golden_models_load_exactly_in_parts, model_path};
use crate::divided::{check, divide, hosts, load_in_parts, load_with, placements};
use crate::small_model::phi3_keys_of;
use gguf_format::GgmlType;
use gguf_format::write::GgufWriter;
use loader::{
    DeviceChoice, Fused, Io, Loader, NonFiniteTensor, Placement, Rehash, Slot, SplitMode, Storage,
};
use std::path::Path;
use std::sync::Arc;

#[test]
fn layers_on_several_devices_are_those_of_one_device() {
    for name in expected().keys() {
        assert!(divide(&model_path(name), SplitMode::Layer) > 20, "{name}");
    }
}

#[test]
fn parts_of_every_matrix_make_up_the_whole() {
    let mut loads = 0;
    for name in expected().keys() {
        loads += divide(&model_path(name), SplitMode::Tensor);
    }
    assert!(loads > 10, "{loads}");
}

#[test]
fn every_replica_is_the_whole_model() {
    for name in expected().keys() {
        assert_eq!(divide(&model_path(name), SplitMode::Replicate), 6, "{name}");
    }
    let placement = Placement::new(SplitMode::Replicate, 2).unwrap();
    let path = model_path("fused-f16.gguf");
    let model = load_in_parts(&path, Storage::F16, &placement).unwrap();
    let first = &model.parts()[0];
    assert_eq!(model.weights().unwrap().output.address, first.slot(Slot::Output).unwrap().address);
    assert_eq!(first.fingerprint().unwrap(), model.parts()[1].fingerprint().unwrap());
    for part in model.parts() {
        assert!(part.c_weights().layers().iter().all(|layer| !layer.attn_q.data.is_null()));
    }
}

#[test]
fn golden_models_load_exactly_in_every_mode() {
    for mode in [SplitMode::Layer, SplitMode::Tensor, SplitMode::Replicate] {
        golden_models_load_exactly_in_parts(&[DeviceChoice::Host; 2], mode);
    }
}

#[test]
fn a_part_has_its_rows_columns_and_heads() {
    let placement = Placement::new(SplitMode::Tensor, 2).unwrap();
    let path = model_path("fused-k-quants.gguf");
    let model = load_in_parts(&path, Storage::F16, &placement).unwrap();
    let config = model.config();
    assert!(model.weights().is_none() && model.slot(Slot::AttnQ(0)).is_none());
    assert!(model.fused(Fused::AttnQkv(0)).is_none());
    assert!(model.slot(Slot::OutputNorm).is_some(), "both devices hold the norms");
    let mut heads = 0;
    let mut cols = 0;
    for part in model.parts() {
        let q = part.slot(Slot::AttnQ(0)).unwrap();
        let of = q.heads.unwrap();
        let head_dim = u64::from(config.head_dim);
        assert_eq!((of.first_head, q.rows.start), (heads, u64::from(heads) * head_dim));
        heads += of.heads;
        let output = part.slot(Slot::AttnOutput(0)).unwrap();
        assert_eq!((output.cols.start, output.rows.clone()), (cols, 0..config.hidden));
        cols = output.cols.end;
        let fused = part.fused(Fused::AttnQkv(0)).unwrap();
        assert_eq!(fused.address, q.address);

        let c = part.c_weights();
        assert_eq!((c.get().first_q_head, c.get().part_q_heads), (of.first_head, of.heads));
        assert_eq!((c.get().first_kv_head, c.get().part_kv_heads), (of.first_kv_head, of.kv_heads));
        let tensor = c.layers()[0].attn_output;
        assert_eq!((tensor.first_col, tensor.cols), (output.cols.start, output.shape[1]));
        assert_eq!((tensor.whole_rows, tensor.whole_cols), (config.hidden, config.hidden));
        let all_rows = u64::from(config.heads + 2 * config.kv_heads) * head_dim;
        let tensor = c.layers()[0].attn_qkv;
        assert_eq!((tensor.rows, tensor.whole_rows), (fused.shape[0], all_rows));
    }
    assert_eq!((heads, cols), (config.heads, config.hidden));
}

#[test]
fn a_tensor_of_zeros_counts_once_and_only_if_all_parts_are_zero() {
    let dir = tempfile::tempdir().unwrap();
    let (zero, half) = ("blk.0.attn_output.weight", "blk.0.attn_qkv.weight");
    let path = changed(dir.path(), "fused-k-quants.gguf", &[zero, half], |name, _, bytes| {
        let len = bytes.len() / if name == half { 2 } else { 1 };
        bytes[..len].fill(0);
    });
    for mode in [SplitMode::Tensor, SplitMode::Replicate] {
        let placement = Placement::new(mode, 2).unwrap();
        let model = load_in_parts(&path, Storage::F16, &placement).unwrap();
        let found: Vec<_> =
            model.stats().proof.all_zero.iter().map(|zero| &zero.tensor[..]).collect();
        assert_eq!(found, [zero], "{mode}");
    }
}

#[test]
fn infinite_weights_are_counted_on_each_device() {
    let dir = tempfile::tempdir().unwrap();
    let name = "blk.0.ffn_norm.weight";
    let path = changed(dir.path(), "fused-f16.gguf", &[name], |_, _, bytes| {
        bytes[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    });
    let placement = Placement::new(SplitMode::Replicate, 3).unwrap();
    let model = load_in_parts(&path, Storage::F16, &placement).unwrap();
    let found: Vec<_> = model.stats().proof.non_finite.iter().map(ToString::to_string).collect();
    assert_eq!(found, vec![format!("{name} has 1 infinite and 0 NaN weights as f16 on host"); 3]);
}

#[test]
fn infinite_weights_of_a_tensor_are_counted_together() {
    let dir = tempfile::tempdir().unwrap();
    // Q, K and V of each device are moved by operations of their own.
    let name = "blk.0.attn_qkv.weight";
    let path = changed(dir.path(), "one-and-two-bits.gguf", &[name], |_, _, bytes| {
        let infinite = [0x00, 0x7c].into_iter().cycle();
        bytes.iter_mut().zip(infinite).for_each(|(byte, infinite)| *byte = infinite);
    });
    let one = Loader::new(hosts(1)).load(&path, &mut go_on).unwrap();
    let sum = |found: &[NonFiniteTensor]| found.iter().map(|of| of.infinite + of.nan).sum::<u64>();
    let placement = Placement::new(SplitMode::Tensor, 2).unwrap();
    let model = load_in_parts(&path, Storage::F16, &placement).unwrap();
    let found = &model.stats().proof.non_finite;
    assert_eq!(found.iter().map(|of| &of.tensor[..]).collect::<Vec<_>>(), [name; 2]);
    assert_eq!(sum(found), sum(&one.stats().proof.non_finite));
}

#[test]
fn weights_of_parts_outlive_model_and_loader_on_other_threads() {
    const SLOT: Slot = Slot::FfnDown(0);
    let path = model_path("one-and-two-bits.gguf");
    let whole = Loader::new(hosts(1)).load(&path, &mut go_on).unwrap().read_slot(SLOT).unwrap();
    let load = || {
        let placement = Placement::new(SplitMode::Tensor, 2).unwrap();
        let model = Arc::new(load_in_parts(&path, Storage::F16, &placement).unwrap());
        assert_eq!(model.read_slot(SLOT).unwrap(), whole);
        let left = Arc::downgrade(&model);
        let shared = [0, 1].map(|part| model.share_of_part(part, SLOT).unwrap());
        let bytes = [0, 1].map(|part| model.parts()[part].read_slot(SLOT).unwrap());
        (left, shared, bytes)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(load)).collect();
        for (left, [first, second], bytes) in threads.into_iter().map(|of| of.join().unwrap()) {
            assert_eq!(
                [first.host_bytes(), second.host_bytes()],
                bytes.each_ref().map(|b| b.as_deref())
            );
            let kept = second.to_dlpack();
            drop((first, second));
            assert!(left.upgrade().is_some());
            scope.spawn(move || drop(kept)).join().unwrap();
            assert!(left.upgrade().is_none(), "the last tensor frees all parts");
        }
    });
}

#[test]
fn a_fingerprint_of_another_division_is_no_changed_weight() {
    let path = model_path("one-and-two-bits.gguf");
    let load = |proportions: &[f64]| {
        let placement = Placement::new(SplitMode::Tensor, 2).unwrap();
        let placement = placement.with_proportions(proportions).unwrap();
        load_in_parts(&path, Storage::F16, &placement).unwrap()
    };
    let (one, other) = (load(&[1.0, 3.0]), load(&[3.0, 1.0]));
    let fingerprint = one.fingerprint().unwrap();
    one.verify_fingerprint(&fingerprint).unwrap();
    for error in [
        other.verify_fingerprint(&fingerprint).unwrap_err(),
        Rehash::new(fingerprint).step(&other, u64::MAX).unwrap_err(),
    ] {
        assert!(error.to_string().contains("another division of this model"), "{error}");
    }
}

#[test]
fn chunks_hold_the_rows_of_columns_whatever_the_options_say() {
    // Sixteen rows of 969 blocks of 17 bytes stay together. They do not fit in a chunk of the default size. 103 columns
    // are not whole vectors of a kernel.
    for (ffn, ffn_down) in
        [(969 * 32, GgmlType::MXFP4), (103, GgmlType::BF16), (103, GgmlType::F32)]
    {
        let mut writer = phi3_keys_of(64, ffn, 2);
        let ffn = u64::from(ffn);
        writer
            .tensor("token_embd.weight", &[64, 8], GgmlType::F16)
            .tensor("blk.0.attn_norm.weight", &[64], GgmlType::F32)
            .tensor("blk.0.attn_qkv.weight", &[64, 192], GgmlType::F16)
            .tensor("blk.0.attn_output.weight", &[64, 64], GgmlType::MXFP4)
            .tensor("blk.0.ffn_norm.weight", &[64], GgmlType::F32)
            .tensor("blk.0.ffn_up.weight", &[64, 2 * ffn], GgmlType::Q4_0)
            .tensor("blk.0.ffn_down.weight", &[ffn, 64], ffn_down)
            .tensor("output_norm.weight", &[64], GgmlType::F32);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wide.gguf");
        std::fs::write(&path, writer.to_bytes(fill).unwrap()).unwrap();
        for storage in [Storage::F16, Storage::Native] {
            let one = Loader::new(hosts(1).storage(storage)).load(&path, &mut go_on).unwrap();
            let placement = Placement::new(SplitMode::Tensor, 2).unwrap();
            for chunk in [None, Some(1), Some(4096), Some(1 << 20)] {
                let mut options = hosts(2).storage(storage);
                options.chunk_bytes = chunk;
                check(&load_with(options, &path, &placement).unwrap(), &one);
            }
            // A session that was opened for a smaller model has smaller chunks.
            let options = hosts(2).storage(storage).placement(placement).chunk_bytes(4096);
            let mut loader = Loader::new(options);
            loader.prepare().unwrap();
            for _ in 0..2 {
                check(&loader.load(&path, &mut go_on).unwrap(), &one);
            }
        }
    }
}

/// Fills a tensor. The exponents of floats, and of the scales of blocks, never have all bits set.
fn fill(index: usize, data: &mut [u8]) {
    for (at, byte) in data.iter_mut().enumerate() {
        *byte = (index * 7 + at * 31 + at / 251) as u8 & 0x1f | 0x20;
    }
}

/// Writes a random small model, of which many cannot be divided by heads or columns.
fn write_random_model(path: &Path, rng: &mut fastrand::Rng) -> String {
    let kv_heads = rng.u64(1..6);
    let heads = kv_heads * rng.u64(1..5);
    let head_dim = rng.choice([2, 6, 20, 32, 32, 48, 64, 96]).unwrap();
    let hidden = rng.choice([96, 100, 128, 256]).unwrap();
    let ffn = rng.choice([33, 100, 224, 256, 517, 768]).unwrap();
    let (layers, vocab) = (rng.u32(1..4), rng.u64(5..40));
    let mut writer = GgufWriter::new();
    writer
        .kv("general.architecture", "phi3")
        .kv("phi3.context_length", 4096_u32)
        .kv("phi3.embedding_length", hidden as u32)
        .kv("phi3.feed_forward_length", ffn as u32)
        .kv("phi3.block_count", layers)
        .kv("phi3.attention.head_count", heads as u32)
        .kv("phi3.attention.head_count_kv", kv_heads as u32)
        .kv("phi3.attention.key_length", head_dim as u32)
        .kv("phi3.attention.value_length", head_dim as u32)
        .kv("phi3.attention.layer_norm_rms_epsilon", 1e-5_f32)
        .kv("phi3.rope.dimension_count", head_dim as u32);
    let decoders: Vec<_> =
        cuda_sys::decoders().iter().filter_map(|of| GgmlType::from_id(of.ggml_type)).collect();
    let mut names = Vec::new();
    let is_split = rng.bool();
    let is_tied = rng.bool();
    let mut matrix = |writer: &mut GgufWriter, name: String, dims: [u64; 2]| {
        let possible = decoders.iter().filter(|of| dims[0].is_multiple_of(of.block_len()));
        let ggml_type = *rng.choice(possible.collect::<Vec<_>>()).unwrap();
        writer.tensor(&name[..], &dims, ggml_type);
        names.push(format!("{name} {dims:?} {}", ggml_type.name()));
    };
    matrix(&mut writer, "token_embd.weight".to_owned(), [hidden, vocab]);
    for layer in 0..layers {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        writer.tensor(&name("attn_norm")[..], &[hidden], GgmlType::F32);
        let (q_rows, kv_rows) = (heads * head_dim, kv_heads * head_dim);
        if is_split {
            matrix(&mut writer, name("attn_q"), [hidden, q_rows]);
            matrix(&mut writer, name("attn_k"), [hidden, kv_rows]);
            matrix(&mut writer, name("attn_v"), [hidden, kv_rows]);
            matrix(&mut writer, name("ffn_gate"), [hidden, ffn]);
            matrix(&mut writer, name("ffn_up"), [hidden, ffn]);
        } else {
            matrix(&mut writer, name("attn_qkv"), [hidden, q_rows + 2 * kv_rows]);
            matrix(&mut writer, name("ffn_up"), [hidden, 2 * ffn]);
        }
        matrix(&mut writer, name("attn_output"), [q_rows, hidden]);
        writer.tensor(&name("ffn_norm")[..], &[hidden], GgmlType::F32);
        matrix(&mut writer, name("ffn_down"), [ffn, hidden]);
    }
    writer.tensor("output_norm.weight", &[hidden], GgmlType::F32);
    if !is_tied {
        matrix(&mut writer, "output.weight".to_owned(), [hidden, vocab]);
    }
    std::fs::write(path, writer.to_bytes(fill).unwrap()).unwrap();
    format!("heads {heads} kv {kv_heads} dim {head_dim} ffn {ffn} vocab {vocab}: {names:?}")
}

#[test]
fn parts_of_random_models_make_up_the_whole() {
    const MODELS: usize = 60;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("random.gguf");
    let mut rng = rng();
    let mut loads = 0;
    for _ in 0..MODELS {
        println!("{}", write_random_model(&path, &mut rng));
        let storage = rng.choice([Storage::F16, Storage::Native]).unwrap();
        let modes = [SplitMode::Layer, SplitMode::Tensor, SplitMode::Tensor, SplitMode::Replicate];
        let mode = rng.choice(modes).unwrap();
        let one = Loader::new(hosts(1).storage(storage)).load(&path, &mut go_on).unwrap();
        for placement in placements(mode, rng.usize(1..7)) {
            let mut options = hosts(placement.devices()).storage(storage);
            options.chunk_bytes = rng.choice([None, Some(1), Some(5000), Some(1 << 20)]).unwrap();
            options.read_bytes = rng.choice([None, Some(1), Some(9000)]).unwrap();
            options.depth = rng.choice([None, Some(1), Some(2)]).unwrap();
            options.threads = rng.choice([None, Some(1), Some(5)]).unwrap();
            options.io = rng.choice([Io::Auto, Io::Mapped, Io::Read, Io::Direct]).unwrap();
            println!("{options:?} {placement:?}");
            if let Some(model) = load_with(options, &path, &placement) {
                check(&model, &one);
                loads += 1;
            }
        }
    }
    assert!(loads > MODELS / 2, "{loads}");
}
