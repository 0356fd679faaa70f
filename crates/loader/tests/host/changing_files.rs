//! Files that somebody changes while they are loaded, at random moments.

use crate::common::go_on;
use crate::small_model::phi3_keys_of;
use gguf_format::GgmlType;
use gguf_format::write::GgufWriter;
use loader::{DeviceChoice, IoChoice, LoadEvent, LoadOptions, LoadedModel, Loader, Verify};
use serde_json::Value;
use std::fs::OpenOptions;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Random moments for each way of reading.
const MOMENTS: usize = 200;

/// The same for a model in shards.
const SHARD_MOMENTS: usize = 40;

/// Changes within a load, and as many after one, for each level of proof.
const CERTAIN: usize = 4;

/// Files that are written together, so that one wait lets all of them settle.
const BATCH: usize = 20;

/// Longer than files are unsettled.
const SETTLING: Duration = Duration::from_millis(25);

const TENSORS: [(&str, &[u64], GgmlType); 9] = [
    ("token_embd.weight", &[128, 512], GgmlType::F16),
    ("blk.0.attn_norm.weight", &[128], GgmlType::F32),
    ("blk.0.attn_qkv.weight", &[128, 384], GgmlType::F16),
    ("blk.0.attn_output.weight", &[128, 128], GgmlType::F16),
    ("blk.0.ffn_norm.weight", &[128], GgmlType::F32),
    ("blk.0.ffn_up.weight", &[128, 512], GgmlType::Q8_0),
    ("blk.0.ffn_down.weight", &[256, 128], GgmlType::F16),
    ("output_norm.weight", &[128], GgmlType::F32),
    ("output.weight", &[128, 512], GgmlType::F16),
];

/// The bytes of a model's files. Models of other contents differ in every byte of data.
fn contents(shards: usize, content: u8) -> Vec<Vec<u8>> {
    let share = TENSORS.len() / shards;
    (0..shards)
        .map(|no| {
            let mut writer = if no == 0 { phi3_keys_of(128, 256, 8) } else { GgufWriter::new() };
            if shards > 1 {
                writer.split(no as u16, shards as u16, TENSORS.len() as i32);
            }
            for (name, dims, ggml_type) in &TENSORS[no * share..(no + 1) * share] {
                writer.tensor(*name, dims, *ggml_type);
            }
            // No exponent of a half or of a single is full, whatever the content.
            let fill = |index: usize, data: &mut [u8]| {
                for (at, byte) in data.iter_mut().enumerate() {
                    *byte = ((index * 7 + at * 31 + at / 251) as u8 & 0x1f) + 0x20 * content;
                }
            };
            writer.to_bytes(fill).unwrap()
        })
        .collect()
}

fn file_name(shards: usize, no: usize) -> String {
    match shards {
        1 => "model.gguf".to_owned(),
        _ => format!("model-{:05}-of-{shards:05}.gguf", no + 1),
    }
}

/// One thing that somebody does to one of the files.
#[derive(Debug)]
enum Change {
    Truncate(u64),
    /// Pieces of the new content, in this order.
    Rewrite(Vec<std::ops::Range<usize>>),
    /// By the new content, which lies beside it already.
    Rename,
}

impl Change {
    fn random(bytes: usize, rng: &mut fastrand::Rng) -> Self {
        match rng.u8(..3) {
            0 => Self::Truncate(rng.u64(..bytes as u64)),
            1 => {
                let mut cuts: Vec<_> = (0..rng.usize(..8)).map(|_| rng.usize(..bytes)).collect();
                cuts.extend([0, bytes]);
                cuts.sort_unstable();
                let mut pieces: Vec<_> = cuts.windows(2).map(|cut| cut[0]..cut[1]).collect();
                rng.shuffle(&mut pieces);
                Self::Rewrite(pieces)
            }
            _ => Self::Rename,
        }
    }

    fn make(&self, file: &Path, new: &[u8]) {
        let open = || OpenOptions::new().write(true).open(file).unwrap();
        match self {
            Self::Truncate(bytes) => open().set_len(*bytes).unwrap(),
            Self::Rewrite(pieces) => {
                let file = open();
                for piece in pieces {
                    file.write_all_at(&new[piece.clone()], piece.start as u64).unwrap();
                }
            }
            Self::Rename => std::fs::rename(beside(file), file).unwrap(),
        }
    }
}

fn beside(file: &Path) -> PathBuf {
    file.with_extension("new")
}

/// A model in files, and what is about to happen to one of them.
struct Case {
    first: PathBuf,
    shard: usize,
    change: Change,
    /// After the start of the load, as a share of what a load takes.
    moment: f64,
}

fn cases(
    folder: &Path,
    old: &[Vec<u8>],
    new: &[Vec<u8>],
    count: usize,
    rng: &mut fastrand::Rng,
) -> Vec<Case> {
    let cases = (0..count)
        .map(|index| {
            let folder = folder.join(index.to_string());
            std::fs::create_dir_all(&folder).unwrap();
            let path = |no| folder.join(file_name(old.len(), no));
            for (no, bytes) in old.iter().enumerate() {
                std::fs::write(path(no), bytes).unwrap();
            }
            let shard = rng.usize(..old.len());
            let change = Change::random(old[shard].len(), rng);
            if matches!(change, Change::Rename) {
                std::fs::write(beside(&path(shard)), &new[shard]).unwrap();
            }
            Case { first: path(0), shard, change, moment: rng.f64() * 1.25 }
        })
        .collect();
    std::thread::sleep(SETTLING);
    cases
}

impl Case {
    fn file(&self, shards: usize) -> PathBuf {
        self.first.with_file_name(file_name(shards, self.shard))
    }

    /// Does `load` while the change is made at its moment.
    fn run<T>(&self, new: &[Vec<u8>], whole: Duration, load: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while start.elapsed() < whole.mul_f64(self.moment) {
                    std::thread::yield_now();
                }
                self.change.make(&self.file(new.len()), &new[self.shard]);
            });
            load()
        })
    }
}

/// How loads ended.
#[derive(Debug, Default)]
struct Tally {
    old: usize,
    new: usize,
    changed: usize,
    too_late: usize,
}

impl Tally {
    /// `loaded` is what the load yielded, `old` and `new` what it may have; otherwise its error's code
    /// and exit code, and whether it had opened the file.
    fn count<T: PartialEq>(
        &mut self,
        case: &Case,
        result: Result<(T, &T, &T), (&str, i32, bool)>,
        context: &str,
    ) {
        let truncates = matches!(case.change, Change::Truncate(_));
        match result {
            Ok((loaded, old, _)) if loaded == *old => self.old += 1,
            Ok((loaded, _, new)) if loaded == *new && !truncates => self.new += 1,
            Ok(_) => panic!("{context}: {:?} gave bytes of neither file", case.change),
            Err(("FILE_CHANGED", 7, _)) => self.changed += 1,
            // It was short already when it was opened.
            Err((_, 3, false)) if truncates => self.too_late += 1,
            Err(error) => panic!("{context}: {:?} gave {error:?}", case.change),
        }
    }
}

/// What holds at any speed: a change within a load is noticed, and one after it does no harm.
fn certain_moments(
    loader: &mut Loader,
    folder: &Path,
    old: &[Vec<u8>],
    new: &[Vec<u8>],
    old_slots: &Slots,
    rng: &mut fastrand::Rng,
) {
    for case in cases(&folder.join("within"), old, new, CERTAIN, rng) {
        let change = || case.change.make(&case.file(new.len()), &new[case.shard]);
        let mut change_when_allocated = |event: &LoadEvent<'_>| {
            if matches!(event, LoadEvent::Allocated { .. }) {
                change();
            }
            ControlFlow::Continue(())
        };
        let error = loader.load(&case.first, &mut change_when_allocated).unwrap_err();
        assert_eq!((error.code(), error.exit_code()), ("FILE_CHANGED", 7), "{:?}", case.change);
    }
    for case in cases(&folder.join("after"), old, new, CERTAIN, rng) {
        let model = loader.load(&case.first, &mut go_on).unwrap();
        case.change.make(&case.file(new.len()), &new[case.shard]);
        assert!(slots(&model) == *old_slots, "{:?}", case.change);
    }
}

/// Prints its seed, which a failed test shows; `PHI3_LOADER_TEST_SEED` sets it.
fn rng() -> fastrand::Rng {
    let given = std::env::var("PHI3_LOADER_TEST_SEED").ok();
    let seed = given.map_or_else(|| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("PHI3_LOADER_TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

type Slots = Vec<Vec<u8>>;

fn slots(model: &LoadedModel) -> Slots {
    let slots = model.plan().slots().iter().map(|planned| planned.slot);
    slots.map(|slot| model.read_slot(slot).unwrap().unwrap()).collect()
}

/// What a model of these files holds, and the time that a load takes.
fn loaded(loader: &mut Loader, folder: &Path, files: &[Vec<u8>]) -> (Slots, Duration) {
    for (no, bytes) in files.iter().enumerate() {
        std::fs::write(folder.join(file_name(files.len(), no)), bytes).unwrap();
    }
    std::thread::sleep(SETTLING);
    let first = folder.join(file_name(files.len(), 0));
    let slots = slots(&loader.load(&first, &mut go_on).unwrap());
    let start = Instant::now();
    loader.load(&first, &mut go_on).unwrap();
    (slots, start.elapsed())
}

fn never_mixed(io: IoChoice, shards: usize, moments: usize) {
    let mut rng = rng();
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (contents(shards, 1), contents(shards, 2));
    let options = LoadOptions::new().device(DeviceChoice::Host).io(io).threads(2).chunk_bytes(4096);
    let mut loaders = [Verify::Residency, Verify::Checksum, Verify::Readback]
        .map(|verify| Loader::new(options.clone().verify(verify)));
    let (old_slots, _) = loaded(&mut loaders[0], dir.path(), &old);
    let times = loaders.each_mut().map(|loader| loaded(loader, dir.path(), &old).1);
    let new_slots: Vec<_> = (0..shards)
        .map(|shard| {
            let mut files = old.clone();
            files[shard].clone_from(&new[shard]);
            loaded(&mut loaders[0], dir.path(), &files).0
        })
        .collect();
    assert!(!new_slots.contains(&old_slots));
    for (level, loader) in loaders.iter_mut().enumerate() {
        let folder = dir.path().join(format!("certain-{level}"));
        certain_moments(loader, &folder, &old, &new, &old_slots, &mut rng);
    }

    let mut tally = Tally::default();
    for batch in 0..moments / BATCH {
        for case in cases(&dir.path().join("cases"), &old, &new, BATCH, &mut rng) {
            let level = rng.usize(..loaders.len());
            let mut opened = false;
            let result = case.run(&new, times[level], || {
                loaders[level].load(&case.first, &mut |_: &LoadEvent<'_>| {
                    opened = true;
                    ControlFlow::Continue(())
                })
            });
            let context = format!("{io:?}, batch {batch}, level {level}");
            let result = match &result {
                Ok(model) => Ok((slots(model), &old_slots, &new_slots[case.shard])),
                Err(error) => Err((error.code(), i32::from(error.exit_code()), opened)),
            };
            tally.count(&case, result, &context);
        }
    }
    println!("{tally:?}");
}

#[test]
fn no_mixture_of_an_old_and_a_new_file_passes_with_auto() {
    never_mixed(IoChoice::Auto, 1, MOMENTS);
}

#[test]
fn no_mixture_of_an_old_and_a_new_file_passes_with_read() {
    never_mixed(IoChoice::Read, 1, MOMENTS);
}

#[test]
fn no_mixture_of_an_old_and_a_new_file_passes_with_direct() {
    never_mixed(IoChoice::Direct, 1, MOMENTS);
}

#[test]
fn no_mixture_of_old_and_new_shards_passes() {
    for io in [IoChoice::Auto, IoChoice::Mmap, IoChoice::Read, IoChoice::Direct] {
        never_mixed(io, 3, SHARD_MOMENTS);
    }
}

/// By the program, whose process a fault would kill.
#[test]
fn no_mixture_passes_and_no_signal_kills_with_mmap() {
    let mut rng = rng();
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (contents(1, 1), contents(1, 2));
    let load = |file: &Path| {
        let dump = file.with_extension("safetensors");
        let output = Command::new(env!("CARGO_BIN_EXE_phi3-loader"))
            .args(["load", file.to_str().unwrap(), "--device=host", "--json", "--quiet"])
            .args(["--io=mmap", "--threads=2", "--chunk=4096", "--dump", dump.to_str().unwrap()])
            .env_remove("RUST_LOG")
            .output()
            .unwrap();
        let code = output.status.code().expect("no signal ends the process");
        let events: Vec<Value> = str::from_utf8(&output.stdout)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let opened = events[0]["event"] == "opened";
        let error = events.last().unwrap()["code"].as_str().unwrap_or_default().to_owned();
        (std::fs::read(dump), code, error, opened)
    };
    let clean = |files: &[Vec<u8>]| {
        let file = dir.path().join("model.gguf");
        std::fs::write(&file, &files[0]).unwrap();
        std::thread::sleep(SETTLING);
        let start = Instant::now();
        let (dump, code, error, _) = load(&file);
        assert_eq!(code, 0, "{error}");
        (dump.unwrap(), start.elapsed())
    };
    let (old_dump, whole) = clean(&old);
    let (new_dump, _) = clean(&new);
    assert!(old_dump != new_dump);

    let mut tally = Tally::default();
    for batch in 0..MOMENTS / BATCH {
        let folder = dir.path().join(batch.to_string());
        for case in cases(&folder, &old, &new, BATCH, &mut rng) {
            let (dump, code, error, opened) = case.run(&new, whole, || load(&case.first));
            let result = match code {
                0 => Ok((dump.unwrap(), &old_dump, &new_dump)),
                _ => Err((error.as_str(), code, opened)),
            };
            tally.count(&case, result, &format!("batch {batch}"));
        }
    }
    println!("{tally:?}");
}
