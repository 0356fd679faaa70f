//! Changes a model's files at random moments, and checks the results of loads during the changes.

use crate::small_model::phi3_keys_of;
use gguf_format::GgmlType;
use gguf_format::write::GgufWriter;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The number of random moments for each read method.
pub(crate) const MOMENTS: usize = 200;

/// The number of cases whose files are written together. One wait of [`SETTLING`] is then enough for all.
pub(crate) const BATCH: usize = 20;

/// A loader waits if a file was modified more recently than 20 ms ago. This is longer.
pub(crate) const SETTLING: Duration = Duration::from_millis(25);

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

/// Returns the bytes of a model's files. Two models with different `content` differ in every byte of data.
pub(crate) fn contents(shards: usize, content: u8) -> Vec<Vec<u8>> {
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
            // The exponent of an f16 or f32 value never has all bits set, so all values are finite.
            let fill = |index: usize, data: &mut [u8]| {
                for (at, byte) in data.iter_mut().enumerate() {
                    *byte = ((index * 7 + at * 31 + at / 251) as u8 & 0x1f) + 0x20 * content;
                }
            };
            writer.to_bytes(fill).unwrap()
        })
        .collect()
}

pub(crate) fn file_name(shards: usize, no: usize) -> String {
    match shards {
        1 => "model.gguf".to_owned(),
        _ => format!("model-{:05}-of-{shards:05}.gguf", no + 1),
    }
}

/// A change to one of the files.
#[derive(Debug)]
pub(crate) enum Change {
    Truncate(u64),
    /// Overwrites these byte ranges with the new content, in this order.
    Rewrite(Vec<std::ops::Range<usize>>),
    /// Replaces the file by renaming another file in the same folder, which has the new content.
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

    pub(crate) fn make(&self, file: &Path, new: &[u8]) {
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

/// The files of a model, and a change to one of them.
pub(crate) struct Case {
    pub(crate) first: PathBuf,
    pub(crate) shard: usize,
    pub(crate) change: Change,
    /// The time from the start of the load to the change, as a fraction of the time of a load.
    moment: f64,
}

pub(crate) fn cases(
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
    pub(crate) fn file(&self, shards: usize) -> PathBuf {
        self.first.with_file_name(file_name(shards, self.shard))
    }

    /// Runs `load`. Another thread makes the change at its moment. `whole` is the duration of a load.
    pub(crate) fn run<T>(&self, new: &[Vec<u8>], whole: Duration, load: impl FnOnce() -> T) -> T {
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

/// The number of loads with each outcome.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    old: usize,
    new: usize,
    changed: usize,
    too_late: usize,
}

impl Tally {
    /// Counts the result of a load. `Ok` contains its weights and the two allowed sets of weights, old and new.
    /// `Err` contains the error's code and exit code, and whether the file had been opened.
    pub(crate) fn count<T: PartialEq>(
        &mut self,
        case: &Case,
        result: Result<(T, &T, &T), (&str, i32, bool)>,
        context: &str,
    ) {
        let truncates = matches!(case.change, Change::Truncate(_));
        match result {
            Ok((loaded, old, _)) if loaded == *old => self.old += 1,
            Ok((loaded, _, new)) if loaded == *new && !truncates => self.new += 1,
            Ok(_) => panic!("{context}: {:?} gave weights of neither file", case.change),
            Err(("FILE_CHANGED", 7, _)) => self.changed += 1,
            // The file was already too short when it was opened.
            Err((_, 3, false)) if truncates => self.too_late += 1,
            Err(error) => panic!("{context}: {:?} gave {error:?}", case.change),
        }
    }
}

/// Returns a random number generator and prints its seed, which appears in the output of a failed test. The
/// environment variable `PHI3_LOADER_TEST_SEED` sets the seed.
pub(crate) fn rng() -> fastrand::Rng {
    let given = std::env::var("PHI3_LOADER_TEST_SEED").ok();
    let seed = given.map_or_else(|| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("PHI3_LOADER_TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}
