//! Provokes every error code.

use crate::common::{go_on, model_path};
use crate::program::{below_shell, program};
use crate::small_model::{TENSORS, phi3_keys};
use cuda_sys::{
    CopyOp, Device, DeviceKind, Engine, EngineConfig, Io, Request, SourceFile, StagingRing,
};
use gguf_format::write::{GgufWriter, Layout};
use gguf_format::{GgmlType, Gguf, GgufFile, Limits, OpenFile};
use keeper::{Connection, Keeper, KeeperOptions, Manifest};
use loader::{
    CancelToken, DeviceChoice, Error, FailureCode, LoadEvent, LoadOptions, LoadedModel, Loader,
    VerifyFileOptions, verify_file,
};
use model_phi3::{LoadPlan, Phi3Config, PlacedPlan, Placement, SplitMode, Storage, TensorMap};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// The way to provoke a code.
enum By {
    /// Run `phi3-loader load` with this file and these arguments. Each row has its own folder.
    Load(fn(&Path) -> (PathBuf, Vec<String>)),
    /// Run `phi3-loader bench` with this file and these arguments, in an address space limited to 16 GiB, so
    /// that memory runs out on every machine.
    SmallBench(fn(&Path) -> (PathBuf, Vec<String>)),
    /// Call the library.
    Library(fn(&Path) -> Error),
    /// Provoke an error of a lower crate, which the loader wraps. No file can provoke it.
    Model(fn() -> model_phi3::Error),
    /// Do not provoke the code: other tests do. Without a GPU, engine codes cannot be provoked from outside.
    /// `cuda-sys` tests that each of them is passed from C++ to Rust, and
    /// `every_engine_code_maps_to_its_loader_code` in `crates/loader/src/error.rs` tests the next step. The
    /// fault matrix of `cuda-sys` provokes `INTERNAL` by an unexpected exception, and `DEVICE_FAILURE` on a
    /// GPU. `KEEPER_REFUSED` needs two users, which the tests of `keeper` have if root runs them.
    /// `RESIDENT_UNKNOWN` is an error of `phi3-loader resident` (`resident/listing.rs`).
    Elsewhere,
}

struct Row {
    code: &'static str,
    expected: Expected,
    by: By,
    /// Words that the message must contain.
    names: &'static [&'static str],
}

/// The exit code, the worker's class, and whether a retry can succeed.
type Expected = (u8, &'static str, bool);

const MALFORMED: Expected = (3, "MODEL_LOAD_FAILED", false);
const UNSUPPORTED: Expected = (4, "MODEL_LOAD_FAILED", false);
const BUG: Expected = (1, "INTERNAL", false);

fn rows() -> Vec<Row> {
    use By::{Elsewhere, Library, Load, Model, SmallBench};
    let row = |code, expected, by, names| Row { code, expected, by, names };
    vec![
        row(
            "GGUF_IO",
            (7, "MODEL_LOAD_FAILED", false),
            Load(|dir| file(dir.to_owned())),
            &["not a regular file"],
        ),
        row(
            "FILE_NOT_FOUND",
            (7, "MODEL_LOAD_FAILED", false),
            Load(|dir| file(dir.join("absent.gguf"))),
            &["absent.gguf", "No such file"],
        ),
        row(
            "FILE_PERMISSION",
            (7, "MODEL_LOAD_FAILED", false),
            // Root may read every file, so that no file provokes it where tests run as root.
            Library(|_| {
                let denied = |_: &Path| Err::<OpenFile, _>(ErrorKind::PermissionDenied.into());
                GgufFile::open_from("secret.gguf", &Limits::default(), denied).unwrap_err().into()
            }),
            &["secret.gguf", "permission denied"],
        ),
        row(
            "GGUF_TRUNCATED",
            MALFORMED,
            Load(|dir| {
                let bytes = std::fs::read(model_path("fused-f16.gguf")).unwrap();
                written(dir, &bytes[..bytes.len() - 1])
            }),
            &["model.gguf", "the data of tensor \"", "bytes"],
        ),
        row(
            "GGUF_HEADER_INCOMPLETE",
            MALFORMED,
            Library(|_| {
                let layout = model(&TENSORS).layout().unwrap();
                let start = &layout.header()[..30];
                Gguf::parse_header(start, layout.file_len(), &Limits::default()).unwrap_err().into()
            }),
            &["at least ", " bytes of the file"],
        ),
        row(
            "GGUF_BAD_MAGIC",
            MALFORMED,
            Load(|_| corpus("GGUF_BAD_MAGIC.zip")),
            &["GGUF_BAD_MAGIC.zip", "zip"],
        ),
        row(
            "GGUF_EMPTY_NAME",
            MALFORMED,
            Load(|_| corpus("GGUF_EMPTY_NAME.key")),
            &["key number "],
        ),
        row(
            "GGUF_INVALID_UTF8",
            MALFORMED,
            Load(|_| corpus("GGUF_INVALID_UTF8.name")),
            &["tensor number "],
        ),
        row(
            "GGUF_UNKNOWN_VALUE_TYPE",
            MALFORMED,
            Load(|_| corpus("GGUF_UNKNOWN_VALUE_TYPE")),
            &["key \"", "value type 13"],
        ),
        row(
            "GGUF_INVALID_BOOL",
            MALFORMED,
            Load(|_| corpus("GGUF_INVALID_BOOL")),
            &["key \"", "boolean of 2"],
        ),
        row(
            "GGUF_DUPLICATE_KEY",
            MALFORMED,
            Load(|_| corpus("GGUF_DUPLICATE_KEY")),
            &["the key \""],
        ),
        row(
            "GGUF_DUPLICATE_TENSOR",
            MALFORMED,
            Load(|_| corpus("GGUF_DUPLICATE_TENSOR")),
            &["the tensor \""],
        ),
        row(
            "GGUF_BAD_ALIGNMENT",
            MALFORMED,
            Load(|_| corpus("GGUF_BAD_ALIGNMENT.zero")),
            &["general.alignment is 0"],
        ),
        row(
            "GGUF_TOO_MANY_DIMENSIONS",
            MALFORMED,
            Load(|_| corpus("GGUF_TOO_MANY_DIMENSIONS")),
            &["tensor \"", "5 dimensions"],
        ),
        row(
            "GGUF_TENSOR_OVERFLOW",
            MALFORMED,
            Load(|_| corpus("GGUF_TENSOR_OVERFLOW.product-wraps")),
            &["tensor \"", "elements"],
        ),
        row(
            "GGUF_PARTIAL_BLOCK",
            MALFORMED,
            Load(|_| corpus("GGUF_PARTIAL_BLOCK.total-is-whole")),
            &["tensor \"", "blocks of "],
        ),
        row(
            "GGUF_MISALIGNED_TENSOR",
            MALFORMED,
            Load(|_| corpus("GGUF_MISALIGNED_TENSOR")),
            &["tensor \"", "alignment 32"],
        ),
        row(
            "GGUF_OVERLAPPING_TENSORS",
            MALFORMED,
            Load(|_| corpus("GGUF_OVERLAPPING_TENSORS")),
            &["tensor \"b\" (F32)", "offset 32", "expected at offset 64"],
        ),
        row(
            "GGUF_UNSUPPORTED_VERSION",
            UNSUPPORTED,
            Load(|_| corpus("GGUF_UNSUPPORTED_VERSION.1")),
            &["GGUF version 1"],
        ),
        row(
            "GGUF_BIG_ENDIAN",
            UNSUPPORTED,
            Load(|_| corpus("GGUF_BIG_ENDIAN")),
            &["big-endian GGUF (version 3)"],
        ),
        row(
            "GGUF_UNKNOWN_TENSOR_TYPE",
            UNSUPPORTED,
            Load(|_| corpus("GGUF_UNKNOWN_TENSOR_TYPE.43")),
            &["tensor \"", "ggml type 43"],
        ),
        row(
            "GGUF_REMOVED_TENSOR_TYPE",
            UNSUPPORTED,
            Load(|_| corpus("GGUF_REMOVED_TENSOR_TYPE.q4_2")),
            &["tensor \"", "Q4_2"],
        ),
        row(
            "GGUF_LIMIT_EXCEEDED",
            MALFORMED,
            Load(|_| corpus("GGUF_LIMIT_EXCEEDED.nesting")),
            &["the limit is 8"],
        ),
        row(
            "GGUF_MISSING_KEY",
            MALFORMED,
            Load(|dir| {
                let mut writer = GgufWriter::new();
                writer.kv("general.architecture", "phi3");
                written(dir, &zeroed(&with_tensors(writer, &TENSORS)))
            }),
            &["model.gguf", "the key \"phi3."],
        ),
        row(
            "GGUF_WRONG_TYPE",
            MALFORMED,
            Load(|dir| with_key(dir, "phi3.block_count", "one")),
            &["model.gguf", "\"phi3.block_count\" must be ", "string"],
        ),
        row(
            "GGUF_VALUE_OUT_OF_RANGE",
            MALFORMED,
            Load(|dir| with_key(dir, "phi3.block_count", -1_i32)),
            &["model.gguf", "\"phi3.block_count\" is -1"],
        ),
        row(
            "GGUF_SHARD_MISSING",
            MALFORMED,
            Load(|dir| shard(dir, "model-00001-of-00002.gguf", 0)),
            &["model-00002-of-00002.gguf", "(2 of 2)"],
        ),
        row(
            "GGUF_SHARD_NAME",
            MALFORMED,
            Load(|dir| shard(dir, "model.gguf", 0)),
            &["model.gguf", "-00001-of-00002.gguf"],
        ),
        row(
            "GGUF_SHARD_MISMATCH",
            MALFORMED,
            Load(|dir| {
                shard(dir, "model-00002-of-00002.gguf", 0);
                shard(dir, "model-00001-of-00002.gguf", 0)
            }),
            &["model-00002-of-00002.gguf", "split.no is 0", "must be 1"],
        ),
        row(
            "GGUF_MISPLACED_TENSOR",
            MALFORMED,
            Load(|_| corpus("GGUF_MISPLACED_TENSOR.gaps-and-order")),
            &["tensor \"", "expected at offset 0, where the data starts"],
        ),
        row(
            "GGUF_HEADER_PADDING",
            MALFORMED,
            Load(|_| corpus("GGUF_HEADER_PADDING.count-too-small")),
            &["number of tensors, 1, is too small"],
        ),
        row(
            "GGUF_SHARDS_JOINED",
            MALFORMED,
            Load(|dir| {
                let (first, more) = shard(dir, "model-00001-of-00002.gguf", 0);
                let (second, _) = shard(dir, "model-00002-of-00002.gguf", 1);
                let joined = [first, second].map(|path| std::fs::read(path).unwrap()).concat();
                (written(dir, &joined).0, more)
            }),
            &["model.gguf", "shard 1 of 2", "joined"],
        ),
        row(
            "GGUF_OUT_OF_MEMORY",
            (6, "INSUFFICIENT_VRAM", true),
            // This code needs a process that has used all its memory. The fault tests provoke it.
            Library(|_| {
                gguf_format::Error::OutOfMemory { what: "the list of keys", bytes: 96, left: None }
                    .into()
            }),
            &["the list of keys", "96 bytes"],
        ),
        row(
            "PHI3_UNSUPPORTED_ARCHITECTURE",
            UNSUPPORTED,
            Load(|dir| {
                let mut writer = GgufWriter::new();
                written(dir, &zeroed(writer.kv("general.architecture", "qwen2")))
            }),
            &["model.gguf", "\"qwen2\""],
        ),
        row(
            "PHI3_INVALID_VALUE",
            MALFORMED,
            Load(|dir| with_key(dir, "phi3.block_count", 0_u32)),
            &["model.gguf", "phi3.block_count is 0"],
        ),
        row(
            "PHI3_UNSUPPORTED_VALUE",
            UNSUPPORTED,
            Load(|dir| with_key(dir, "phi3.expert_count", 8_u32)),
            &["model.gguf", "phi3.expert_count is 8"],
        ),
        row(
            "PHI3_TENSOR_MISMATCH",
            MALFORMED,
            Load(|dir| written(dir, &zeroed(&model(&TENSORS[1..])))),
            &["model.gguf", "token_embd.weight"],
        ),
        row(
            "PHI3_UNSUPPORTED_TENSOR",
            UNSUPPORTED,
            Load(|dir| {
                let mut writer = model(&TENSORS);
                written(dir, &zeroed(writer.tensor("output.bias", &[8], GgmlType::F32)))
            }),
            &["model.gguf", "output.bias"],
        ),
        row(
            "PHI3_NO_CONVERSION",
            UNSUPPORTED,
            Load(|dir| {
                let mut tensors = TENSORS;
                tensors[3].2 = GgmlType::F64;
                written(dir, &zeroed(&model(&tensors)))
            }),
            &["model.gguf", "blk.0.attn_output.weight", "F64"],
        ),
        row("PHI3_TOO_LARGE", MALFORMED, Model(larger_than_64_bits), &["2^64 - 1 bytes"]),
        row(
            "PHI3_PLACEMENT",
            UNSUPPORTED,
            Model(divided_among_three),
            &["cannot be divided among 3 devices"],
        ),
        row("PHI3_INVALID_PLAN", BUG, Model(plan_of_another_model), &["load plan"]),
        row(
            "PHI3_NOT_A_MODEL",
            UNSUPPORTED,
            Load(|dir| with_key(dir, "general.type", "adapter")),
            &["model.gguf", "general.type", "\"adapter\""],
        ),
        row(
            "FILE_CHANGED",
            (7, "MODEL_LOAD_FAILED", true),
            Library(truncated_during_the_load),
            &["model.gguf", "file changed", "100 bytes now"],
        ),
        row(
            "READ_FAILED",
            (7, "MODEL_LOAD_FAILED", true),
            Library(|dir| read_by_engine(dir, 1).unwrap_err()),
            &["source file 0", "Bad file descriptor"],
        ),
        row(
            "WRITE_FAILED",
            (7, "MODEL_LOAD_FAILED", false),
            Load(|_| (model_path("fused-f16.gguf"), vec!["--timeline=/dev/full".to_owned()])),
            &["/dev/full", "not a regular file"],
        ),
        row(
            "INSUFFICIENT_VRAM",
            (6, "INSUFFICIENT_VRAM", false),
            Load(|_| (model_path("fused-f16.gguf"), vec!["--vram-limit=0".to_owned()])),
            &["host", " bytes required", "0 bytes available under the caller's limit"],
        ),
        row(
            "INSUFFICIENT_VRAM",
            (6, "INSUFFICIENT_VRAM", true),
            Load(|_| {
                // All memory except the size of the model. This amount is never free.
                let total =
                    Device::open(DeviceKind::Host).unwrap().memory().unwrap().unwrap().total;
                let reserve = format!("--reserve={}", total - (64 << 20));
                (model_path("fused-f16.gguf"), vec![reserve])
            }),
            &["host", " bytes required", " bytes reserved", " bytes free of ", " bytes total ("],
        ),
        row(
            "INSUFFICIENT_HOST_MEMORY",
            (6, "INSUFFICIENT_VRAM", true),
            SmallBench(|_| {
                let largest = "--shapes=1:1024:1GiB:4KiB".to_owned();
                (model_path("fused-f16.gguf"), vec![largest])
            }),
            &["staging memory: ", " bytes required, ", " bytes free of ", ", limited by "],
        ),
        row(
            "DEVICE_UNAVAILABLE",
            (5, "CUDA_ERROR", false),
            Load(|_| (model_path("fused-f16.gguf"), vec!["--device=cuda:65535".to_owned()])),
            // If there is no driver, a build with CUDA fails before it uses the ordinal.
            if cuda_sys::cuda_compiled() { &[] } else { &["CUDA device 65535"] },
        ),
        row("DEVICE_FAILURE", (8, "CUDA_ERROR", true), Elsewhere, &[]),
        row(
            "VERIFICATION_FAILED",
            (9, "MODEL_LOAD_FAILED", false),
            Library(|dir| {
                let before = filled(dir, 0).fingerprint().unwrap();
                filled(dir, 0x11).verify_fingerprint(&before).unwrap_err()
            }),
            &["tensor token_embd.weight on host differs"],
        ),
        row(
            "CANCELLED",
            (130, "CANCELLED", true),
            Library(|_| {
                let token = CancelToken::new();
                token.cancel();
                let path = model_path("fused-f16.gguf");
                Loader::new(options()).load_cancellable(path, &mut go_on, &token).unwrap_err()
            }),
            &["cancelled"],
        ),
        row(
            "INVALID_OPTION",
            (2, "MODEL_LOAD_FAILED", false),
            Library(|_| load_error(&options().threads(257))),
            &["threads is 257", "from 1 to 256"],
        ),
        row(
            "ENGINE_CONTRACT",
            BUG,
            Library(|dir| read_by_engine(dir, 2).unwrap_err()),
            &["operation 0", "source range"],
        ),
        row("INTERNAL", BUG, Elsewhere, &[]),
        row(
            "NON_FINITE_WEIGHTS",
            (9, "MODEL_LOAD_FAILED", false),
            Load(|dir| {
                let infinite = |index: usize, data: &mut [u8]| {
                    data.fill(0);
                    if TENSORS[index].0 == "blk.0.ffn_norm.weight" {
                        data[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
                    }
                };
                let (path, _) = written(dir, &model(&TENSORS).to_bytes(infinite).unwrap());
                (path, vec!["--deny-overflow".to_owned()])
            }),
            &["blk.0.ffn_norm.weight has 1 infinite and 0 NaN"],
        ),
        row(
            "RESIDENT_REFUSED",
            (9, "MODEL_LOAD_FAILED", false),
            Library(|_| {
                let mut loader = Loader::new(options().shareable(true));
                let mut model = loader.load(model_path("fused-f16.gguf"), &mut go_on).unwrap();
                let mut entry = model.hand_over().unwrap();
                entry.manifest.plan_digest = [0; 16];
                loader.attach(&entry, &mut go_on, &CancelToken::new()).unwrap_err()
            }),
            &["laid out in another way"],
        ),
        row("RESIDENT_UNKNOWN", (7, "MODEL_LOAD_FAILED", false), Elsewhere, &[]),
        row(
            "KEEPER_UNREACHABLE",
            (7, "MODEL_LOAD_FAILED", true),
            Load(|dir| {
                let socket = dir.join("absent.sock").display().to_string();
                (model_path("fused-f16.gguf"), vec!["--resident".to_owned(), socket])
            }),
            &["absent.sock", "No such file"],
        ),
        row("KEEPER_REFUSED", (7, "MODEL_LOAD_FAILED", false), Elsewhere, &[]),
        row(
            "KEEPER_PROTOCOL",
            (7, "MODEL_LOAD_FAILED", false),
            Library(|dir| {
                let stream = UnixListener::bind(dir.join("stream.sock")).unwrap();
                keeper_of(stream.into()).unwrap_err()
            }),
            &["SOCK_SEQPACKET"],
        ),
        row(
            "KEEPER_FULL",
            (7, "MODEL_LOAD_FAILED", false),
            Library(|dir| {
                let mut options = KeeperOptions::default();
                options.limits.connections = 0;
                let socket = dir.join("keeper.sock");
                let mut keeper = Keeper::bind(&socket, options).unwrap();
                let (stop, stopped) = std::io::pipe().unwrap();
                let serving = std::thread::spawn(move || keeper.run(stop.as_fd()));
                let error = Connection::open(&socket).unwrap_err();
                drop(stopped);
                serving.join().unwrap().unwrap();
                error.into()
            }),
            &["0 connections"],
        ),
        row(
            "KEEPER_SOCKET",
            (7, "MODEL_LOAD_FAILED", false),
            Library(|dir| {
                let (file, _) = written(dir, b"content");
                Keeper::bind(&file, KeeperOptions::default()).unwrap_err().into()
            }),
            &["cannot listen at ", "no socket"],
        ),
        row(
            "KEEPER_IO",
            (7, "MODEL_LOAD_FAILED", true),
            Library(|_| keeper_of(tempfile::tempfile().unwrap().into()).unwrap_err()),
            &["use the given descriptor", "Socket operation on non-socket"],
        ),
        row(
            "MANIFEST_INVALID",
            (9, "MODEL_LOAD_FAILED", false),
            Library(|_| keeper::Error::from(Manifest::decode(b"GGUF").unwrap_err()).into()),
            &["not a manifest"],
        ),
        row(
            "FILE_DAMAGED",
            (9, "MODEL_LOAD_FAILED", false),
            Library(|dir| {
                let (path, _) = written(dir, &zeroed(&model(&TENSORS)));
                let (options, token) = (VerifyFileOptions::default(), CancelToken::new());
                let report = verify_file(&path, &options, &|_, _| (), &token).unwrap();
                report.error().unwrap()
            }),
            &["token_embd.weight is all zero: the file has 512 zero bytes", "and 4 more"],
        ),
    ]
}

fn keeper_of(listener: OwnedFd) -> Result<Keeper, Error> {
    Ok(Keeper::from_listener(listener, KeeperOptions::default())?)
}

fn file(path: PathBuf) -> (PathBuf, Vec<String>) {
    (path, Vec::new())
}

fn written(dir: &Path, bytes: &[u8]) -> (PathBuf, Vec<String>) {
    let path = dir.join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    file(path)
}

/// Returns a file of the fuzzers' seed corpus.
fn corpus(name: &str) -> (PathBuf, Vec<String>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gguf-format/fuzz/corpus/parse");
    file(folder.join(format!("{name}.gguf")))
}

fn model(tensors: &[(&str, &[u64], GgmlType)]) -> GgufWriter {
    with_tensors(phi3_keys(), tensors)
}

fn with_tensors(mut writer: GgufWriter, tensors: &[(&str, &[u64], GgmlType)]) -> GgufWriter {
    for (name, dims, ggml_type) in tensors {
        writer.tensor(*name, dims, *ggml_type);
    }
    writer
}

fn zeroed(writer: &GgufWriter) -> Vec<u8> {
    writer.to_bytes(|_, data| data.fill(0)).unwrap()
}

/// Writes a model with this key. If the model already has the key, its value is replaced.
fn with_key(
    dir: &Path,
    key: &str,
    value: impl Into<gguf_format::write::WriteValue>,
) -> (PathBuf, Vec<String>) {
    let mut writer = GgufWriter::new();
    writer.kv("general.architecture", "phi3");
    for other in ["context_length", "embedding_length", "feed_forward_length", "block_count"] {
        let other = format!("phi3.{other}");
        if other != key {
            writer.kv(other, 64_u32);
        }
    }
    writer
        .kv("phi3.attention.head_count", 2_u32)
        .kv("phi3.attention.layer_norm_rms_epsilon", 1e-5_f32)
        .kv("phi3.rope.dimension_count", 16_u32)
        .kv(key, value);
    written(dir, &zeroed(&with_tensors(writer, &TENSORS)))
}

/// Writes shard `no` of a model in two shards, under this name.
fn shard(dir: &Path, name: &str, no: u16) -> (PathBuf, Vec<String>) {
    let mut writer = phi3_keys();
    writer.split(no, 2, TENSORS.len() as i32);
    let path = dir.join(name);
    std::fs::write(&path, zeroed(&with_tensors(writer, &TENSORS))).unwrap();
    file(path)
}

fn options() -> LoadOptions {
    LoadOptions::new().device(DeviceChoice::Host)
}

fn load_error(options: &LoadOptions) -> Error {
    Loader::new(options.clone()).load(model_path("fused-f16.gguf"), &mut go_on).unwrap_err()
}

/// Loads a model in which every byte of data has this value.
fn filled(dir: &Path, byte: u8) -> LoadedModel {
    let bytes = model(&TENSORS).to_bytes(|_, data| data.fill(byte)).unwrap();
    Loader::new(options()).load(written(dir, &bytes).0, &mut go_on).unwrap()
}

fn truncated_during_the_load(dir: &Path) -> Error {
    let (path, _) = written(dir, &zeroed(&model(&TENSORS)));
    let truncate = |event: &LoadEvent<'_>| {
        if matches!(event, LoadEvent::Allocated { .. }) {
            OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
        }
        ControlFlow::Continue(())
    };
    Loader::new(options()).load(&path, &mut { truncate }).unwrap_err()
}

/// Makes the engine read this number of bytes from a file of one byte that is open only for writing.
fn read_by_engine(dir: &Path, bytes: u64) -> Result<(), Error> {
    let path = dir.join("source");
    std::fs::write(&path, "x").unwrap();
    let source = OpenOptions::new().write(true).open(path).unwrap();
    let config = EngineConfig::new(1, 1, 4096, 4096);
    let device = Device::open(DeviceKind::Host)?;
    let mut engine = Engine::new(&device, StagingRing::new(config)?)?;
    let sources = [SourceFile { file: source.as_fd(), bytes: 1 }.into()];
    let ops = [CopyOp::copy(0, bytes, 0)];
    let request = Request::new(&sources, Io::Read, &ops, 1);
    let mut dest = device.allocate(bytes)?;
    engine.execute(request, &mut dest, &mut |_| ControlFlow::Continue(()))?;
    Ok(())
}

fn config_and_tensors(layout: &Layout) -> (Phi3Config, TensorMap) {
    let limits = Limits::default();
    // The parser checks the first 8 bytes of data if no padding precedes them.
    let prefix = [layout.header(), &[0; 8]].concat();
    let gguf = Gguf::parse_header(&prefix, layout.file_len(), &limits).unwrap();
    let config = Phi3Config::from_gguf(gguf.metadata(), gguf.tensors()).unwrap();
    let tensors = TensorMap::bind(&config, gguf.tensors()).unwrap();
    (config, tensors)
}

/// Divides a model of 2 key-value heads among 3 devices.
fn divided_among_three() -> model_phi3::Error {
    let gguf = GgufFile::open(model_path("fused-f16.gguf")).unwrap();
    let placement = Placement::new(SplitMode::Tensor, 3).unwrap();
    let (metadata, tensors) = (gguf.metadata(), gguf.tensors());
    PlacedPlan::from_gguf(metadata, tensors, Storage::F16, &placement).unwrap_err()
}

/// Plans a model whose vocabulary fits into 64 bits as blocks of 8-bit values, but not as f16 values.
fn larger_than_64_bits() -> model_phi3::Error {
    let vocabulary: [u64; 2] = [32, 1 << 57];
    let mut tensors = TENSORS;
    tensors[0] = ("token_embd.weight", &vocabulary, GgmlType::Q8_0);
    tensors[8] = ("output.weight", &vocabulary, GgmlType::Q8_0);
    let layout = model(&tensors).layout().unwrap();
    let (config, tensors) = config_and_tensors(&layout);
    LoadPlan::new(&config, &tensors, Storage::F16).unwrap_err()
}

fn plan_of_another_model() -> model_phi3::Error {
    let layout = model(&TENSORS).layout().unwrap();
    let (mut config, tensors) = config_and_tensors(&layout);
    config.layers = 2;
    LoadPlan::new(&config, &tensors, Storage::F16).unwrap_err()
}

/// The code, message and other facts of a failure.
struct Reported {
    code: String,
    exit_code: u8,
    class: String,
    retriable: bool,
    message: String,
}

impl Reported {
    fn by_load(file: &Path, more: &[String]) -> Self {
        let output = program(["load", file.to_str().unwrap(), "--json"])
            .args(more)
            .env("PHI3_LOADER_DEVICE", "host")
            .output()
            .unwrap();
        let stdout = str::from_utf8(&output.stdout).unwrap();
        let failed: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
        assert_eq!(failed["event"], "failed", "{file:?} {more:?}");
        let text = |field: &str| failed[field].as_str().unwrap().to_owned();
        let reported = Self {
            code: text("code"),
            exit_code: u8::try_from(output.status.code().unwrap()).unwrap(),
            class: text("class"),
            retriable: failed["retriable"].as_bool().unwrap(),
            message: text("message"),
        };
        assert_eq!(failed["exit_code"], reported.exit_code, "{}", reported.code);
        assert_eq!(
            str::from_utf8(&output.stderr).unwrap(),
            format!("error[{}]: {}\nhelp: {}\n", reported.code, reported.message, text("help")),
        );
        reported
    }

    fn by_small_bench(file: &Path, more: &[String]) -> Self {
        let bench = ["bench", file.to_str().unwrap(), "--device=host", "--repeat=1"];
        let output = below_shell("ulimit -v 16777216", bench).args(more).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let (code, rest) = stderr.strip_prefix("error[").unwrap().split_once("]: ").unwrap();
        let facts = FailureCode::all().into_iter().find(|facts| facts.code == code).unwrap();
        assert_eq!(output.status.code(), Some(facts.exit_code.into()));
        let (message, help) = rest.split_once("\nhelp: ").unwrap();
        assert_eq!(help.trim_end(), facts.cure);
        Self::by_facts(facts, message.to_owned())
    }

    fn by_library(error: &Error) -> Self {
        Self {
            code: error.code().to_owned(),
            exit_code: error.exit_code(),
            class: error.class().name().to_owned(),
            retriable: error.retriable(),
            message: error.to_string(),
        }
    }

    fn by_facts(facts: FailureCode, message: String) -> Self {
        Self {
            code: facts.code.to_owned(),
            exit_code: facts.exit_code,
            class: facts.class().name().to_owned(),
            retriable: facts.retriable,
            message,
        }
    }
}

/// Returns whether the test runs under `cargo xtask sanitize`.
pub(crate) fn is_sanitized() -> bool {
    ["ASAN_OPTIONS", "TSAN_OPTIONS"].iter().any(|name| std::env::var_os(name).is_some())
}

#[test]
fn every_code_is_provoked_with_the_expected_facts_and_message() {
    let rows = rows();
    for Row { code, expected, by, names } in &rows {
        let dir = tempfile::tempdir().unwrap();
        let reported = match by {
            By::Load(prepare) => {
                let (file, more) = prepare(dir.path());
                Reported::by_load(&file, &more)
            }
            // The shadow memory of a sanitizer needs more addresses than this.
            By::SmallBench(_) if is_sanitized() => continue,
            By::SmallBench(prepare) => {
                let (file, more) = prepare(dir.path());
                Reported::by_small_bench(&file, &more)
            }
            By::Library(provoke) => Reported::by_library(&provoke(dir.path())),
            By::Model(provoke) => {
                let error = provoke();
                Reported::by_facts(error.facts().into(), error.to_string())
            }
            By::Elsewhere => {
                let facts = FailureCode::all().into_iter().find(|facts| facts.code == *code);
                Reported::by_facts(facts.unwrap(), String::new())
            }
        };
        let Reported { message, .. } = &reported;
        assert_eq!(reported.code, *code, "{message}");
        let facts = (reported.exit_code, reported.class.as_str(), reported.retriable);
        assert_eq!(facts, *expected, "{code}");
        for name in *names {
            assert!(message.contains(name), "{code} does not name {name}: {message}");
        }
    }
    let provoked: BTreeSet<_> = rows.iter().map(|row| row.code).collect();
    let all = Error::all_codes();
    assert_eq!(provoked, all.iter().copied().collect(), "a code has no row");
    assert_eq!(provoked.len(), all.len(), "a code occurs twice");
    for facts in FailureCode::all() {
        let can_be_retried = rows.iter().any(|row| row.code == facts.code && row.expected.2);
        assert_eq!(facts.retriable, can_be_retried, "{}", facts.code);
    }
}
