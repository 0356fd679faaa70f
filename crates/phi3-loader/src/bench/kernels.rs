//! Measures every decoder, and a plain copy for comparison.

use super::document::{KernelFigures, Spread};
use super::{cores, is_gpu};
use crate::args::Bench;
use cuda_sys::Device;
use cuda_sys::measure::{self, Work, WorkShape};
use loader::{CancelToken, Error};

/// Values of one run on a GPU: as f16 they take 512 MiB, ten times the second-level cache of the largest GPUs.
const GPU_ELEMENTS: u64 = 256 << 20;
/// The smallest number of runs on a GPU, because one run takes less than 1 ms.
const GPU_RUNS: u32 = 20;
/// Values of each thread on the host: as f16 they take 16 MiB, more than the caches of one core.
const HOST_ELEMENTS: u64 = 8 << 20;

pub(super) fn measure(
    arguments: &Bench,
    device: &Device,
    token: &CancelToken,
) -> Result<Vec<KernelFigures>, Error> {
    if is_gpu(device.kind()) {
        let shape = WorkShape { elements: GPU_ELEMENTS, threads: 1 };
        return table(device, shape, arguments.repeat.max(GPU_RUNS), None, token);
    }
    let mut figures = Vec::new();
    let mut counts = vec![1, cores()];
    counts.dedup();
    for threads in counts {
        let shape = WorkShape { elements: HOST_ELEMENTS, threads };
        figures.extend(table(device, shape, arguments.repeat, Some(threads), token)?);
    }
    Ok(figures)
}

fn table(
    device: &Device,
    shape: WorkShape,
    runs: u32,
    threads: Option<u32>,
    token: &CancelToken,
) -> Result<Vec<KernelFigures>, Error> {
    let mut works = vec![("copy".to_owned(), Work::Copy)];
    works.extend(
        cuda_sys::decoders()
            .into_iter()
            .map(|decoder| (decoder.name, Work::DecodeToF16 { ggml_type: decoder.ggml_type })),
    );
    works.push(("count non-finite".to_owned(), Work::CountNonFinite));
    works.push(("digest".to_owned(), Work::Digest));
    let mut copy = None;
    works
        .into_iter()
        .map(|(name, work)| {
            token.check()?;
            let gb_per_s = Spread::from(measure::work(device, work, shape, runs)?);
            let copy = *copy.get_or_insert(gb_per_s.median);
            Ok(KernelFigures { name, threads, gb_per_s, share_of_copy: gb_per_s.median / copy })
        })
        .collect()
}
