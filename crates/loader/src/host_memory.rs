//! Checks the host's free memory before an allocation. Free memory is the smallest of three: what the machine
//! has free, what the memory cgroups still allow, and what the limits of the process still allow.

use crate::error::{self, Error, host_figures};
use crate::threads::STACK_BYTES;
use cuda_sys::{Device, DeviceKind, MemoryBound, MemoryInfo};
use gguf_format::{Limits, path_text};

/// Fails if the host is known to have fewer than `bytes` free. Without this check the kernel would allow the
/// allocation and kill the process when it uses the memory. The message starts with `purpose`.
///
/// # Errors
///
/// [`Error::HostMemory`]; [`Error::Engine`] if the host device cannot be opened.
pub fn check(bytes: u64, purpose: &str) -> Result<(), Error> {
    check_unless(bytes, purpose, |_| false)
}

/// Checks like [`check`], for files that a file system keeps in memory. They do not count towards the
/// address-space and data limits of the process.
#[cfg(feature = "output")]
pub(crate) fn check_files(bytes: u64, path: &str) -> Result<(), Error> {
    let counts_addresses = |bound| matches!(bound, MemoryBound::AddressSpace | MemoryBound::Data);
    check_unless(bytes, path, counts_addresses)
}

fn check_unless(
    bytes: u64,
    purpose: &str,
    ignored: impl FnOnce(MemoryBound) -> bool,
) -> Result<(), Error> {
    match memory()? {
        Some(memory) if bytes > memory.free && !ignored(memory.bound) => {
            Err(no_room(purpose, bytes, &memory))
        }
        _ => Ok(()),
    }
}

/// Returns the host's memory; `None` if it is unknown.
fn memory() -> Result<Option<MemoryInfo>, Error> {
    Ok(Device::open(DeviceKind::Host)?.memory()?)
}

fn no_room(purpose: &str, bytes: u64, memory: &MemoryInfo) -> Error {
    let (needs, figures) = (error::bytes(bytes, "required"), host_figures(memory));
    Error::HostMemory { what: format!("{purpose}: {needs}, {figures}") }
}

/// Memory that a command needs for a file's header, in multiples of the memory for parsing. The rest is for the
/// plan, the report and other values that are derived from the header.
const HEADER_COPIES: u64 = 2;

/// Returns limits that refuse a header which does not fit into the host's free memory.
pub(crate) fn limits_for_headers(limits: &Limits) -> Result<Limits, Error> {
    let room = memory()?.map_or(u64::MAX, |memory| memory.free / HEADER_COPIES);
    Ok(limits.clone().with_max_memory(room.min(limits.max_memory)))
}

/// Returns the error, with the host's figures, for a header that these limits refused. `None` for other errors.
pub(crate) fn no_room_for_header(error: &gguf_format::Error) -> Option<Error> {
    let gguf_format::Error::OutOfMemory { what, bytes, left: Some(_) } = error.without_path()
    else {
        return None;
    };
    let memory = memory().ok().flatten()?;
    let file = error.path().map_or_else(String::new, |path| format!("{}: ", path_text(path)));
    let purpose = format!("{file}{what} of the header, and data derived from it");
    Some(no_room(&purpose, bytes.saturating_mul(HEADER_COPIES), &memory))
}

/// A thread's stack, and 1 MiB for what the C library allocates when the thread starts. If that
/// allocation fails, the C library ends the process.
const THREAD_BYTES: u64 = STACK_BYTES as u64 + (1 << 20);

/// Returns the bytes of memory that `count` threads of [`threads::builder`](crate::threads::builder) need. Each
/// has `bytes` in addition to its stack.
pub fn bytes_of_threads(count: usize, bytes: u64) -> u64 {
    (count as u64).saturating_mul(bytes.saturating_add(THREAD_BYTES))
}

/// Returns the host's free and total memory and the limit that applies, for messages. `None` if they are
/// unknown.
pub fn figures() -> Option<String> {
    memory().ok().flatten().map(|memory| host_figures(&memory))
}

/// Returns how many of `wanted` threads fit into the free memory. Each needs `bytes` in addition to its
/// stack. If the free memory is unknown, returns `wanted`.
pub(crate) fn room_for_threads(wanted: usize, bytes: u64) -> usize {
    let Some(memory) = memory().ok().flatten() else { return wanted };
    let room = memory.free / bytes_of_threads(1, bytes);
    wanted.min(usize::try_from(room).unwrap_or(usize::MAX))
}

/// Allocates a vector of zeros. Fails if the host has too little free memory.
pub(crate) fn zeroed(bytes: u64, purpose: &str) -> Result<Vec<u8>, Error> {
    check(bytes, purpose)?;
    let mut zeros = Vec::new();
    let len = usize::try_from(bytes).unwrap_or(usize::MAX);
    let refused =
        |_| Error::HostMemory { what: format!("{purpose}: the system refused {bytes} bytes") };
    zeros.try_reserve_exact(len).map_err(refused)?;
    zeros.resize(len, 0);
    Ok(zeros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_for_more_than_the_free_memory_is_refused_with_all_figures() {
        for bytes in [1 << 60, u64::MAX] {
            let error = zeroed(bytes, "testing").unwrap_err();
            assert_eq!((error.code(), error.exit_code()), ("INSUFFICIENT_HOST_MEMORY", 6));
            let text = error.to_string();
            let start = format!("testing: {bytes} bytes required (");
            assert!(text.starts_with(&start), "{text}");
            assert!(text.contains(" bytes free of ") && text.contains("), limited by "));
        }
        assert_eq!((room_for_threads(3, 1 << 60), room_for_threads(3, 4096)), (0, 3));
        assert_eq!(bytes_of_threads(2, 4096), 2 * (4096 + THREAD_BYTES));
        assert_eq!(zeroed(3, "testing").unwrap(), [0; 3]);
    }
}
