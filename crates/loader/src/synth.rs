//! Valid files with a model's real shapes and random weights.

use crate::error::Error;
use crate::output_file::OutputFile;
use crate::{host_memory, threads};
use gguf_format::GgmlType;
use gguf_format::write::Layout as FileLayout;
use model_phi3::preset::{Blueprint, TensorSpec};
use std::fs::File;
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

pub use model_phi3::preset::{Layout, Preset, TypeMix};

/// Options of a synthetic file.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SynthOptions {
    /// The model whose shapes the tensors have.
    pub preset: Preset,
    /// Fused or split tensors.
    pub layout: Layout,
    /// Types of the weights.
    pub type_mix: TypeMix,
    /// Seed of the random weights. The same options give the same file.
    pub seed: u64,
}

impl SynthOptions {
    /// Returns these options.
    pub fn new(preset: Preset, layout: Layout, type_mix: TypeMix, seed: u64) -> Self {
        Self { preset, layout, type_mix, seed }
    }
}

impl Default for SynthOptions {
    /// Returns the options of the tiny preset with fused f16 tensors and seed 0.
    fn default() -> Self {
        Self::new(Preset::Tiny, Layout::Fused, TypeMix::F16, 0)
    }
}

/// The largest number of bytes that one thread generates and writes at a time.
const PIECE_BYTES: u64 = 4 << 20;

const REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// Writes the file on all cores and returns its length in bytes.
///
/// `observe` is called about ten times a second with the bytes written so far and the total bytes.
/// [`ControlFlow::Break`] cancels. The file appears at `path` when it is complete. Until then, and if this
/// fails, an existing file at `path` is unchanged. Symbolic links are followed. The new file keeps the
/// permission bits of the file that it replaces. If several writers write one path at the same time, the writer
/// that ends last replaces the files of the others.
///
/// # Errors
///
/// [`Error::Write`], also if `path` is not a regular file: a folder, a pipe or a device.
/// [`Error::HostMemory`], [`Error::Cancelled`].
pub fn write(
    path: &Path,
    options: &SynthOptions,
    observe: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<u64, Error> {
    write_to(&OutputFile::find(path)?, options, observe)
}

/// Writes the file as [`write()`] does, to an [`OutputFile`] that the caller has found.
///
/// # Errors
///
/// Those of [`write()`].
pub fn write_to(
    target: &OutputFile,
    options: &SynthOptions,
    observe: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<u64, Error> {
    let blueprint = Blueprint::new(options.preset, options.layout, options.type_mix);
    let layout =
        blueprint.writer().layout().map_err(|error| target.failed(std::io::Error::other(error)))?;
    let pieces = pieces(&blueprint.tensors, &layout);
    let largest = pieces.iter().map(|piece| piece.range.end - piece.range.start).max().unwrap_or(0);
    host_memory::check(largest, "making weights")?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = host_memory::room_for_threads(cores, largest);
    let bytes = layout.file_len() + threads as u64 * largest;
    target.write(bytes, |file| {
        let job = Job { file, pieces, seed: options.seed, threads };
        match write_file(&job, &layout, observe) {
            Ok(ControlFlow::Continue(())) => Ok(layout.file_len()),
            Ok(ControlFlow::Break(())) => Err(Error::Cancelled),
            Err(error) => Err(target.failed(error)),
        }
    })
}

fn write_file(
    job: &Job<'_>,
    layout: &FileLayout,
    observe: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> std::io::Result<ControlFlow<()>> {
    job.file.set_len(layout.file_len())?;
    let flow = job.run(observe)?;
    if flow.is_continue() {
        // Write the header last: if the process is killed before that, the file it leaves is not a valid model.
        job.file.write_all_at(layout.header(), 0)?;
    }
    Ok(flow)
}

/// A run of whole blocks of one tensor.
struct Piece {
    range: Range<u64>,
    ggml_type: GgmlType,
    values: Values,
}

/// Distribution of a tensor's random values.
#[derive(Clone, Copy)]
enum Values {
    /// Small, of both signs.
    Weights,
    /// From 1 to 2, the range of typical norms and RoPE factors.
    Factors,
}

fn pieces(tensors: &[TensorSpec], layout: &FileLayout) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (tensor, range) in tensors.iter().zip(layout.ranges()) {
        let block = tensor.ggml_type.block_bytes();
        let step = (PIECE_BYTES / block).max(1) * block;
        let values = if tensor.dims.len() == 1 { Values::Factors } else { Values::Weights };
        let mut start = range.start;
        while start < range.end {
            let end = range.end.min(start + step);
            pieces.push(Piece { range: start..end, ggml_type: tensor.ggml_type, values });
            start = end;
        }
    }
    pieces
}

struct Job<'a> {
    file: &'a File,
    pieces: Vec<Piece>,
    seed: u64,
    /// Threads to start; 0 to use only the calling thread. Each has one piece in memory.
    threads: usize,
}

impl Job<'_> {
    fn run(
        &self,
        observe: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> std::io::Result<ControlFlow<()>> {
        let total = self.pieces.iter().map(|piece| piece.range.end - piece.range.start).sum();
        let next = AtomicUsize::new(0);
        let written = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let (done, results) = mpsc::channel();
        std::thread::scope(|scope| {
            let (next, written, stop) = (&next, &written, &stop);
            let mut started = 0;
            for _ in 0..self.threads {
                let done = done.clone();
                let writer = move || {
                    let proceed = || !stop.load(Ordering::Relaxed);
                    let result = self.write_pieces(next, written, proceed);
                    stop.fetch_or(result.is_err(), Ordering::Relaxed);
                    // The receiver lives until every sender is gone.
                    let _ = done.send(result);
                };
                started += usize::from(threads::builder().spawn_scoped(scope, writer).is_ok());
            }
            drop(done);
            let mut flow = ControlFlow::Continue(());
            let mut report = || {
                if flow.is_continue() {
                    flow = observe(written.load(Ordering::Relaxed), total);
                    stop.fetch_or(flow.is_break(), Ordering::Relaxed);
                }
                flow.is_continue()
            };
            let mut result = Ok(());
            if started == 0 {
                // No thread could be started, so this thread writes all pieces.
                result = self.write_pieces(next, written, &mut report);
            }
            loop {
                match results.recv_timeout(REPORT_INTERVAL) {
                    Ok(thread_result) => result = result.and(thread_result),
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                    Err(mpsc::RecvTimeoutError::Disconnected) => return result.map(|()| flow),
                }
                report();
            }
        })
    }

    /// Writes pieces until none is left. Calls `proceed` before each piece and stops when it returns false.
    fn write_pieces(
        &self,
        next: &AtomicUsize,
        written: &AtomicU64,
        mut proceed: impl FnMut() -> bool,
    ) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        while proceed() {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(piece) = self.pieces.get(index) else { break };
            let len = piece.range.end - piece.range.start;
            bytes.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
            // Seed each piece separately: the content of the file must not depend on the number of threads.
            let mut rng = fastrand::Rng::with_seed(self.seed ^ (index as u64).rotate_left(32));
            fill(&mut bytes, piece.ggml_type, piece.values, &mut rng);
            self.file.write_all_at(&bytes, piece.range.start)?;
            written.fetch_add(len, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Fills the bytes with random bits. For the types of `TypeMix`, also sets the exponents so that all values are
/// finite and small. No tensor has another type.
fn fill(bytes: &mut [u8], ggml_type: GgmlType, values: Values, rng: &mut fastrand::Rng) {
    rng.fill(bytes);
    match (ggml_type, values) {
        (GgmlType::F32, Values::Factors) => each_u32(bytes, |r| r & 0x007f_ffff | 0x3f80_0000),
        (GgmlType::F32, Values::Weights) => each_u32(bytes, |r| r & 0x807f_ffff | 0x3c00_0000),
        (GgmlType::F16, _) => each_u16(bytes, |r| r & 0x83ff | 0x2000),
        (GgmlType::BF16, _) => each_u16(bytes, |r| r & 0x807f | 0x3c00),
        (GgmlType::Q8_0, _) => set_scales(bytes, 34, 0..2),
        (GgmlType::Q4_K, _) => set_scales(bytes, 144, 0..4),
        (GgmlType::Q5_K, _) => set_scales(bytes, 176, 0..4),
        (GgmlType::Q6_K, _) => set_scales(bytes, 210, 208..210),
        _ => {}
    }
}

fn each_u32(bytes: &mut [u8], f: impl Fn(u32) -> u32) {
    for word in bytes.as_chunks_mut::<4>().0 {
        *word = f(u32::from_le_bytes(*word)).to_le_bytes();
    }
}

fn each_u16(bytes: &mut [u8], f: impl Fn(u16) -> u16) {
    for word in bytes.as_chunks_mut::<2>().0 {
        *word = f(u16::from_le_bytes(*word)).to_le_bytes();
    }
}

/// Makes the f16 scales at `scales` of every block positive and small.
fn set_scales(bytes: &mut [u8], block_bytes: usize, scales: Range<usize>) {
    for block in bytes.chunks_exact_mut(block_bytes) {
        each_u16(&mut block[scales.clone()], |r| r & 0x03ff | 0x1000);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// Writes the tiny model and cancels when `go_on` returns false.
    fn write_while(path: &Path, mut go_on: impl FnMut() -> bool) -> Result<u64, Error> {
        write(path, &SynthOptions::default(), &mut |_, _| {
            if go_on() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
    }

    #[test]
    fn a_file_appears_only_when_it_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tiny.gguf");
        let mut calls = 0;
        write_while(&path, || {
            calls += 1;
            !path.exists()
        })
        .unwrap();
        assert!(calls > 0);
        gguf_format::GgufFile::open(&path).unwrap();
    }

    #[test]
    fn a_cancelled_write_keeps_the_existing_file_and_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("tiny.gguf"), dir.path().join("link"));
        symlink("tiny.gguf", &link).unwrap();
        assert!(matches!(write_while(&link, || false), Err(Error::Cancelled)));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        std::fs::write(&path, "old content").unwrap();
        for path in [&path, &link] {
            assert!(matches!(write_while(path, || false), Err(Error::Cancelled)));
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"old content");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn concurrent_writers_of_one_path_do_not_mix_their_content() {
        let dir = tempfile::tempdir().unwrap();
        let write_seed = |name: &str, seed| {
            let options = SynthOptions { seed, ..SynthOptions::default() };
            let path = dir.path().join(name);
            write(&path, &options, &mut |_, _| ControlFlow::Continue(())).unwrap();
            path
        };
        let alone = [1, 2].map(|seed| std::fs::read(write_seed("alone", seed)).unwrap());
        for _ in 0..8 {
            let written = std::thread::scope(|scope| {
                let writers = [1, 2].map(|seed| scope.spawn(move || write_seed("both", seed)));
                writers.map(|writer| writer.join().unwrap())
            });
            assert!(alone.contains(&std::fs::read(&written[0]).unwrap()));
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
