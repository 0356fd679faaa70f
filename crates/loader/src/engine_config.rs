//! The engine's settings for a load on this machine.

use crate::devices::Devices;
use crate::options::LoadOptions;
use crate::session::Wanted;
use cuda_sys::{DeviceKind, EngineConfig};

/// On idle machines, 10 to 16 readers saturated the link of one GPU (docs/performance.md). More readers for each link
/// gain nothing and take cores from other work.
const MAX_CUDA_READERS: usize = 16;
/// Decoding on the host scales up to this number of cores. With more, memory bandwidth is the limit.
const MAX_HOST_READERS: usize = 32;
/// Number of parallel reads from storage (docs/performance.md). It can exceed the number of cores, because a
/// thread that waits for storage needs no core.
const STORAGE_READERS: u32 = 16;
/// Measured on an H100 (docs/performance.md): with larger chunks the ring no longer fits into the second-level
/// caches of the readers' cores, and the readers lose more time than the larger copies save.
const CUDA_CHUNK_BYTES: u64 = 8 << 20;
/// Bytes of the ring for each link. If fewer than [`MIN_DEPTH`] chunks fit, the ring is larger.
const RING_BYTES: u64 = 32 << 20;
/// With fewer chunks in flight, readers wait for each other.
const MIN_DEPTH: u64 = 3;
const MAX_CUDA_DEPTH: u64 = 64;
/// Bytes of one read, a part of a chunk. They stay in the core's own cache until their digest is computed.
const READ_BYTES: u64 = 512 << 10;
/// On the host the reader also decodes the chunk. Its source and decoded bytes stay in the core's own cache.
const HOST_CHUNK_BYTES: u64 = 256 << 10;
/// With two, a reader can start the next chunk while a slower reader still works on the one before.
const HOST_CHUNKS_A_READER: u64 = 2;

/// Returns the engine's settings for this machine. Values in `options` take precedence.
pub(crate) fn engine_config(
    options: &LoadOptions,
    devices: &Devices,
    wanted: &Wanted,
) -> EngineConfig {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    settings(options, gpus_of(devices), cores, wanted)
}

/// Returns the number of GPUs. Each has a link of its own.
fn gpus_of(devices: &Devices) -> usize {
    devices.distinct().iter().filter(|device| **device != DeviceKind::Host).count()
}

fn settings(options: &LoadOptions, gpus: usize, cores: usize, wanted: &Wanted) -> EngineConfig {
    // Leave some cores to other work: if one reader waits for a core, all readers wait for it.
    let most_cores = cores - cores / 8;
    let (readers, chunk_bytes) = match gpus {
        0 => (cores.min(MAX_HOST_READERS), HOST_CHUNK_BYTES),
        _ => (most_cores.min(gpus * MAX_CUDA_READERS), CUDA_CHUNK_BYTES),
    };
    let readers = u32::try_from(readers).unwrap_or(u32::MAX);
    let readers = options.threads.unwrap_or(readers.min(EngineConfig::MAX_READERS));
    let storage_readers = options.threads.unwrap_or(readers.max(STORAGE_READERS));
    // A chunk larger than the model would only waste memory.
    let most_bytes = wanted.source_bytes.max(chunk_bytes);
    let chunk_bytes = options.chunk_bytes.unwrap_or(chunk_bytes).min(most_bytes);
    let chunk_bytes = chunk_bytes.max(wanted.least_chunk_bytes).max(1);
    let links = gpus.max(1) as u64;
    let most = match gpus {
        0 => u64::from(storage_readers) * HOST_CHUNKS_A_READER,
        _ => MAX_CUDA_DEPTH * links,
    };
    let depth = (links * RING_BYTES / chunk_bytes).max(MIN_DEPTH).min(most);
    let depth = depth.min(EngineConfig::MAX_DEPTH.into());
    EngineConfig {
        readers,
        storage_readers,
        depth: options.depth.unwrap_or(u32::try_from(depth).unwrap_or(u32::MAX)),
        chunk_bytes,
        read_bytes: options.read_bytes.unwrap_or(READ_BYTES),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: Wanted = Wanted { source_bytes: 8 << 30, ..Wanted::UNKNOWN };

    #[test]
    fn the_ring_takes_no_more_than_it_needs() {
        const MIB: u64 = 1 << 20;
        for device in [DeviceKind::Host, DeviceKind::Cuda(0)] {
            let devices = Devices::new([device]);
            let config = |options| engine_config(&options, &devices, &LARGE);
            // 32 MiB plus slack for aligned reads, rounded up to a multiple of 2 MiB.
            assert!(config(LoadOptions::new()).ring_bytes() <= 34 * MIB, "{device}");
            for chunk_bytes in [1, 4096, MIB, 8 * MIB, 16 * MIB, 64 * MIB, 1024 * MIB] {
                let ring = config(LoadOptions::new().chunk_bytes(chunk_bytes)).ring_bytes();
                assert!(
                    ring <= (3 * chunk_bytes).max(32 * MIB) + 2 * MIB,
                    "{device}: {chunk_bytes}"
                );
            }
            let named = config(LoadOptions::new().threads(3));
            assert_eq!((named.readers, named.storage_readers), (3, 3), "{device}");
            let left_open = config(LoadOptions::new());
            assert!(left_open.storage_readers >= left_open.readers.max(16), "{device}");
        }
    }

    #[test]
    fn readers_and_depth_grow_with_the_number_of_gpus() {
        let gpu = DeviceKind::Cuda;
        for (devices, gpus) in [
            (vec![gpu(0)], 1),
            (vec![gpu(0), gpu(0), DeviceKind::Host], 1),
            (vec![gpu(3), gpu(1)], 2),
            (vec![DeviceKind::Host, DeviceKind::Host], 0),
        ] {
            assert_eq!(gpus_of(&Devices::new(devices)), gpus);
        }
        for (gpus, cores, readers, depth) in
            [(1, 32, 16, 4), (1, 8, 7, 4), (2, 32, 28, 8), (2, 16, 14, 8), (8, 128, 112, 32)]
        {
            let config = settings(&LoadOptions::new(), gpus, cores, &LARGE);
            assert_eq!((config.readers, config.depth), (readers, depth), "{gpus} {cores}");
            let config = settings(&LoadOptions::new().threads(3).depth(5), gpus, cores, &LARGE);
            assert_eq!((config.readers, config.depth), (3, 5), "{gpus} {cores}");
        }
    }
}
