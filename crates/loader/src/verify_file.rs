//! Reads a GGUF file of any model once, and reports whether it is whole. Loads nothing.

use crate::cancel::CancelToken;
use crate::error::Error;
use crate::input::Input;
use crate::source::Source;
use crate::turns::Turns;
use crate::warning::Warning;
use crate::{host_memory, threads};
use cuda_sys::HostIsa;
use gguf_format::{GgmlType, GgufFile, Limits, Shard, TensorInfo, escape, path_text};
use half::{bf16, f16};
use sha2::{Digest, Sha256};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// The largest number of bytes that a thread reads and checks at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// The number of values that are decoded at a time. At least the values of one block of every type.
const DECODED_VALUES: usize = 4096;

/// The size of the parts that are searched for zeros. File systems allocate space in multiples of it.
const PART_BYTES: usize = 4096;

/// The largest number of tensors that a message names.
const SHOWN_TENSORS: usize = 5;

/// What [`verify_file`] does in addition to reading and checking all bytes.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct VerifyFileOptions {
    /// Compute the sha256 of every file and tensor. It is the slowest part on most machines: the bytes of one file
    /// are digested one after the other.
    pub digests: bool,
    /// The sha256 that the given file must have, as 64 hexadecimal digits. Other shards have digests of their own.
    pub sha256: Option<String>,
    /// Limits for the header.
    pub limits: Limits,
}

/// The content of a file.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FileReport {
    /// The files that were read: one, or all shards in their order.
    pub files: Vec<FileDigest>,
    /// All tensors, in the order of the files.
    pub tensors: Vec<TensorReport>,
    /// Possible faults of the header and of tensors.
    pub warnings: Vec<Warning>,
    given: PathBuf,
    problems: Vec<String>,
}

/// A file that was read from its first to its last byte.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FileDigest {
    /// The path.
    pub path: PathBuf,
    /// The length in bytes.
    pub bytes: u64,
    /// The sha256 of the file in hexadecimal digits, if it was computed.
    pub sha256: Option<String>,
}

/// The content of a tensor.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TensorReport {
    /// The name.
    pub name: String,
    /// The type.
    #[cfg_attr(feature = "serde", serde(rename = "type", serialize_with = "type_name"))]
    pub ggml_type: GgmlType,
    /// The position of its file in [`FileReport::files`].
    pub shard: usize,
    /// The bytes in the file.
    pub bytes: u64,
    /// Whether it has bytes, and all of them are zero.
    pub all_zero: bool,
    /// Bytes in parts of 4 KiB that are all zero. An incomplete download has such parts. So have some models, in rows
    /// that they do not use.
    pub zero_bytes: u64,
    /// The number of infinite values; `None` if the type cannot be decoded. Values that are only too large for f16 do
    /// not count.
    pub infinite: Option<u64>,
    /// The number of NaN values; `None` if the type cannot be decoded.
    pub nan: Option<u64>,
    /// The sha256 of its bytes in hexadecimal digits, if it was computed.
    pub sha256: Option<String>,
}

#[cfg(feature = "serde")]
fn type_name<S: serde::Serializer>(of: &GgmlType, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(of.name())
}

impl FileReport {
    /// Returns whether the content is that of a whole file. Warnings do not count.
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }

    /// Returns the error for a file that is not whole.
    pub fn error(&self) -> Option<Error> {
        let what = match &self.problems[..] {
            [] => return None,
            few if few.len() <= SHOWN_TENSORS => few.join("; "),
            many => format!(
                "{}; and {} more",
                many[..SHOWN_TENSORS].join("; "),
                many.len() - SHOWN_TENSORS
            ),
        };
        Some(Error::DamagedFile { path: self.given.clone(), what })
    }

    /// Returns the faults, one text for each. They are printable.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl TensorReport {
    fn new(tensor: &TensorInfo<'_>, found: Found) -> Self {
        let bytes = tensor.byte_len();
        Self {
            name: tensor.name().to_owned(),
            ggml_type: tensor.ggml_type(),
            shard: tensor.shard(),
            bytes,
            all_zero: bytes > 0 && found.zero_bytes == bytes,
            zero_bytes: found.zero_bytes,
            infinite: found.non_finite.map(|of| of.infinite),
            nan: found.non_finite.map(|of| of.nan),
            sha256: found.digest.map(hex),
        }
    }

    /// Biases may be zero: some models have none, and their files have zeros for them.
    fn may_be_zero(&self) -> bool {
        self.name.ends_with(".bias")
    }

    fn warning(&self) -> Option<Warning> {
        let Self { name, bytes, zero_bytes, all_zero, .. } = self;
        // The last part of a small tensor may be one value.
        (*zero_bytes >= PART_BYTES as u64 && !all_zero).then(|| Warning::ZeroPart {
            tensor: name.clone(),
            zero_bytes: *zero_bytes,
            bytes: *bytes,
        })
    }

    fn problem(&self) -> Option<String> {
        let name = escape(&self.name);
        match (self.infinite.unwrap_or(0), self.nan.unwrap_or(0)) {
            (0, 0) => (self.all_zero && !self.may_be_zero()).then(|| {
                format!("{name} is all zero: the file has {} zero bytes for it", self.bytes)
            }),
            (infinite, nan) => Some(format!("{name} has {infinite} infinite and {nan} NaN values")),
        }
    }
}

/// Reads all bytes of a file and of its other shards once, and reports on the header, the tensors and the digests.
/// The file can be of any architecture. Uses all cores, and some MB of memory.
///
/// A report can have faults: see [`FileReport::error`]. `progress` gets the bytes that were checked so far and all
/// bytes; threads of this call call it one after the other.
///
/// ```
/// # use loader::{CancelToken, VerifyFileOptions};
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/models/fused-f16.gguf");
/// let options = VerifyFileOptions::default();
/// let report = loader::verify_file(path, &options, &|_, _| (), &CancelToken::new())?;
/// assert!(report.is_ok());
/// # Ok::<(), loader::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::Gguf`] if the header is malformed, or bytes cannot be read. [`Error::FileChanged`],
/// [`Error::HostMemory`], [`Error::Cancelled`].
pub fn verify_file(
    input: impl Into<Input>,
    options: &VerifyFileOptions,
    progress: &(dyn Fn(u64, u64) + Sync),
    token: &CancelToken,
) -> Result<FileReport, Error> {
    let input = input.into();
    let source = Source::open_settled(&input, &options.limits, token)?;
    let (files, tensors) = Reading::new(&source, options, progress, token).run()?;
    source.check_unchanged()?;

    let gguf = source.gguf();
    let files: Vec<_> = gguf
        .shards()
        .iter()
        .zip(files)
        .map(|(shard, digest)| FileDigest {
            path: shard.path().to_owned(),
            bytes: shard.len(),
            sha256: digest.map(hex),
        })
        .collect();
    let tensors: Vec<_> = gguf
        .tensors()
        .iter()
        .zip(tensors)
        .map(|(tensor, found)| TensorReport::new(tensor, found))
        .collect();
    let differs =
        options.sha256.as_deref().and_then(|wanted| other_digest(&files, source.path(), wanted));
    let problems =
        differs.into_iter().chain(tensors.iter().filter_map(TensorReport::problem)).collect();
    let of_tensors = tensors.iter().filter_map(TensorReport::warning);
    let warnings = Warning::of(gguf, None).into_iter().chain(of_tensors).collect();
    Ok(FileReport { files, tensors, warnings, given: source.path().to_owned(), problems })
}

/// Returns the fault if the given file does not have this digest.
fn other_digest(files: &[FileDigest], given: &std::path::Path, wanted: &str) -> Option<String> {
    let file = files.iter().find(|file| file.path == given)?;
    let found = file.sha256.as_deref()?;
    (!found.eq_ignore_ascii_case(wanted))
        .then(|| format!("the sha256 of {} is {found}, not {}", path_text(given), escape(wanted)))
}

fn hex(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A part of a file that is read at once. A part of a tensor consists of whole blocks.
struct Piece {
    shard: usize,
    range: Range<u64>,
    /// The position of the tensor in the catalogue; `None` for the header and for padding.
    tensor: Option<usize>,
}

/// Cuts all files into pieces, in the order of their bytes.
fn pieces(gguf: &GgufFile) -> impl Iterator<Item = Piece> {
    let in_shard = |no| {
        let tensors = gguf.tensors().iter().enumerate();
        tensors.filter(move |(_, tensor)| tensor.shard() == no && tensor.byte_len() > 0)
    };
    gguf.shards().iter().enumerate().flat_map(move |(shard, file)| {
        let starts = in_shard(shard).map(|(_, tensor)| tensor.range().start).chain([file.len()]);
        let ends = std::iter::once(0).chain(in_shard(shard).map(|(_, tensor)| tensor.range().end));
        let gaps = ends.zip(starts).map(|(end, start)| (None, end..start, 1));
        let tensors = in_shard(shard)
            .map(|(at, tensor)| (Some(at), tensor.range(), tensor.ggml_type().block_bytes()))
            .map(Some)
            .chain([None]);
        gaps.zip(tensors).flat_map(|(gap, tensor)| [Some(gap), tensor]).flatten().flat_map(
            move |(tensor, Range { start, end }, block_bytes)| {
                let step = PIECE_BYTES / block_bytes * block_bytes;
                let count = (end - start).div_ceil(step);
                (0..count).map(move |no| {
                    let from = start + no * step;
                    Piece { shard, range: from..end.min(from + step), tensor }
                })
            },
        )
    })
}

/// The findings about a tensor, or a part of one.
#[derive(Clone)]
struct Found {
    zero_bytes: u64,
    non_finite: Option<NonFinite>,
    digest: Option<Sha256>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct NonFinite {
    infinite: u64,
    nan: u64,
}

impl NonFinite {
    /// Counts values, given as whether each is infinite and whether it is NaN.
    fn count(values: impl Iterator<Item = (bool, bool)>) -> Self {
        values.fold(Self::default(), |sum, (infinite, nan)| {
            sum.plus(Self { infinite: infinite.into(), nan: nan.into() })
        })
    }

    fn plus(self, other: Self) -> Self {
        Self { infinite: self.infinite + other.infinite, nan: self.nan + other.nan }
    }

    /// Counts the values of whole blocks; `None` if the type cannot be decoded.
    fn among(ggml_type: GgmlType, bytes: &[u8]) -> Option<Self> {
        match ggml_type {
            GgmlType::F64 => Some(Self::count(bytes.as_chunks().0.iter().map(|word| {
                let value = f64::from_le_bytes(*word);
                (value.is_infinite(), value.is_nan())
            }))),
            GgmlType::F32 => Some(Self::count(bytes.as_chunks().0.iter().map(|word| {
                let value = f32::from_le_bytes(*word);
                (value.is_infinite(), value.is_nan())
            }))),
            GgmlType::BF16 => Some(Self::count(bytes.as_chunks().0.iter().map(|word| {
                let value = bf16::from_le_bytes(*word);
                (value.is_infinite(), value.is_nan())
            }))),
            GgmlType::I8 | GgmlType::I16 | GgmlType::I32 | GgmlType::I64 => Some(Self::default()),
            GgmlType::F16 => Some(Self::count(bytes.as_chunks().0.iter().map(|word| {
                let value = f16::from_le_bytes(*word);
                (value.is_infinite(), value.is_nan())
            }))),
            _ => Self::among_decoded(ggml_type, bytes),
        }
    }

    fn among_decoded(ggml_type: GgmlType, bytes: &[u8]) -> Option<Self> {
        let index = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
        let (block_len, block_bytes) =
            (index(ggml_type.block_len()), index(ggml_type.block_bytes()));
        let (mut halves, mut values) = ([0; DECODED_VALUES], [0.0; DECODED_VALUES]);
        let runs = bytes.chunks(DECODED_VALUES / block_len * block_bytes);
        runs.map(|blocks| {
            let len = blocks.len() / block_bytes * block_len;
            let (id, halves, values) = (ggml_type.id(), &mut halves[..len], &mut values[..len]);
            cuda_sys::decode_to_f16(id, blocks, halves, 1.0, HostIsa::Best).ok()?;
            // Nearly all values are finite also as f16, which is faster.
            if halves.iter().all(|bits| f16::from_bits(*bits).is_finite()) {
                return Some(Self::default());
            }
            cuda_sys::decode_to_f32(id, blocks, values).ok()?;
            Some(Self::count(values.iter().map(|value| (value.is_infinite(), value.is_nan()))))
        })
        .try_fold(Self::default(), |sum, run| Some(sum.plus(run?)))
    }
}

/// One reading of all files. Each thread takes the next piece, reads it and checks it. Then it adds the piece to
/// the digests and to the findings, in the order of the pieces.
struct Reading<'a, P> {
    source: &'a Source,
    pieces: Mutex<P>,
    files: Turns<Vec<Option<Sha256>>>,
    tensors: Turns<Tensors>,
    all_bytes: u64,
    progress: &'a (dyn Fn(u64, u64) + Sync),
    token: &'a CancelToken,
}

struct Tensors {
    found: Vec<Found>,
    bytes: u64,
}

impl<'a> Reading<'a, ()> {
    fn new(
        source: &'a Source,
        options: &VerifyFileOptions,
        progress: &'a (dyn Fn(u64, u64) + Sync),
        token: &'a CancelToken,
    ) -> Reading<'a, impl Iterator<Item = (usize, Piece)> + Send> {
        let gguf = source.gguf();
        let is_given = |shard: &Shard| options.sha256.is_some() && shard.path() == source.path();
        let files = gguf.shards().iter();
        let files = files.map(|shard| (options.digests || is_given(shard)).then(Sha256::new));
        let found = Found {
            zero_bytes: 0,
            non_finite: Some(NonFinite::default()),
            digest: options.digests.then(Sha256::new),
        };
        Reading {
            source,
            pieces: Mutex::new(pieces(gguf).enumerate()),
            files: Turns::new(files.collect()),
            tensors: Turns::new(Tensors { found: vec![found; gguf.tensors().len()], bytes: 0 }),
            all_bytes: gguf.shards().iter().map(Shard::len).sum(),
            progress,
            token,
        }
    }
}

impl<P: Iterator<Item = (usize, Piece)> + Send> Reading<'_, P> {
    fn run(self) -> Result<(Vec<Option<Sha256>>, Vec<Found>), Error> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let more = host_memory::room_for_threads(cores - 1, PIECE_BYTES);
        std::thread::scope(|scope| {
            let start = |_| threads::builder().spawn_scoped(scope, || self.work());
            // With fewer threads the work takes longer.
            let others: Vec<_> = (0..more).map_while(|no| start(no).ok()).collect();
            let first = self.work();
            others.into_iter().map(threads::joined).fold(first, Result::and)
        })?;
        Ok((self.files.into_inner(), self.tensors.into_inner().found))
    }

    /// Works on pieces until there are none. If that fails, other threads do not wait for the failed piece.
    fn work(&self) -> Result<(), Error> {
        let stop = StopOnDrop(self);
        let mut buffer = host_memory::zeroed(PIECE_BYTES, "verifying a file")?;
        loop {
            self.token.check()?;
            let next = self.pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((turn, piece)) = next else { break };
            let len = usize::try_from(piece.range.end - piece.range.start).unwrap_or(usize::MAX);
            let bytes = &mut buffer[..len];
            self.read(&piece, bytes)?;
            if !self.take(turn, &piece, bytes) {
                break;
            }
        }
        std::mem::forget(stop);
        Ok(())
    }

    fn read(&self, piece: &Piece, bytes: &mut [u8]) -> Result<(), Error> {
        let shard = &self.source.gguf().shards()[piece.shard];
        shard.file().read_exact_at(bytes, piece.range.start).or_else(|error| {
            self.source.check_unchanged()?;
            Err(Error::Gguf(gguf_format::Error::of_io(shard.path(), error)))
        })
    }

    /// Checks a piece and adds it to the results. Returns false if another thread has failed.
    fn take(&self, turn: usize, piece: &Piece, bytes: &[u8]) -> bool {
        let parts = bytes.chunks(PART_BYTES);
        let zeros = parts.filter(|part| part.iter().all(|byte| *byte == 0));
        let zero_bytes = zeros.map(|part| part.len() as u64).sum::<u64>();
        let ggml_type = piece.tensor.map(|at| self.source.gguf().tensors()[at].ggml_type());
        let non_finite = ggml_type.and_then(|ggml_type| NonFinite::among(ggml_type, bytes));
        let digested = self.files.take(turn, |digests| {
            if let Some(digest) = &mut digests[piece.shard] {
                digest.update(bytes);
            }
        });
        digested
            && self.tensors.take(turn, |tensors| {
                if let Some(at) = piece.tensor {
                    let found = &mut tensors.found[at];
                    found.zero_bytes += zero_bytes;
                    found.non_finite =
                        found.non_finite.zip(non_finite).map(|(sum, of)| sum.plus(of));
                    if let Some(digest) = &mut found.digest {
                        digest.update(bytes);
                    }
                }
                tensors.bytes += bytes.len() as u64;
                (self.progress)(tensors.bytes, self.all_bytes);
            })
    }
}

/// Ends the waits of the other threads, also if this one panics.
struct StopOnDrop<'a, 'b, P>(&'a Reading<'b, P>);

impl<P> Drop for StopOnDrop<'_, '_, P> {
    fn drop(&mut self) {
        self.0.files.stop();
        self.0.tensors.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gguf_format::write::GgufWriter;

    #[test]
    fn pieces_cover_all_files_once_in_order_and_end_between_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        let mut writer = GgufWriter::new();
        writer
            .tensor("large.weight", &[256, 20_000], GgmlType::Q6_K)
            .tensor("empty.weight", &[0], GgmlType::F32)
            .tensor("odd.weight", &[3], GgmlType::F16)
            .tensor("last.weight", &[5], GgmlType::F32);
        let mut bytes = writer.to_bytes(|_, _| ()).unwrap();
        bytes.extend([0; 100]);
        std::fs::write(&path, &bytes).unwrap();
        let gguf = GgufFile::open(&path).unwrap();
        let mut end = 0;
        for piece in pieces(&gguf) {
            assert_eq!(piece.range.start, end);
            end = piece.range.end;
            assert!(piece.range.start < end && end - piece.range.start <= PIECE_BYTES);
            if let Some(at) = piece.tensor {
                let tensor = &gguf.tensors()[at];
                assert_eq!((end - piece.range.start) % tensor.ggml_type().block_bytes(), 0);
                assert!(piece.range.start >= tensor.range().start && end <= tensor.range().end);
            }
        }
        assert_eq!(end, bytes.len() as u64);
    }

    #[test]
    fn every_type_that_can_be_decoded_is_counted() {
        for &ggml_type in GgmlType::ALL {
            let block = vec![0; usize::try_from(ggml_type.block_bytes()).unwrap()];
            let counted = NonFinite::among(ggml_type, &block.repeat(3));
            let is_of_activations = matches!(ggml_type, GgmlType::Q8_1 | GgmlType::Q8_K);
            assert_eq!(counted.is_none(), is_of_activations, "{ggml_type:?}");
        }
        let nan = f64::NAN.to_le_bytes();
        let found = NonFinite::among(GgmlType::F64, &[nan, f64::INFINITY.to_le_bytes()].concat());
        assert_eq!(found, Some(NonFinite { infinite: 1, nan: 1 }));
    }
}
