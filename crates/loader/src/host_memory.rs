//! Memory of the host for what goes with a load.

use crate::error::{Error, host_figures};
use cuda_sys::{Device, DeviceKind};

/// Fails where so many bytes are known to be more than the host has: it promises memory that it does
/// not have, and ends processes that use it.
pub(crate) fn check(bytes: u64, purpose: &str) -> Result<(), Error> {
    match Device::open(DeviceKind::Host)?.memory()? {
        Some(memory) if bytes > memory.free => Err(Error::HostMemory {
            what: format!("{purpose}: {bytes} bytes required, {}", host_figures(&memory)),
        }),
        _ => Ok(()),
    }
}

/// The stack of a thread, and what the C library allocates for it when it starts: where it is refused
/// that, it ends the process.
const THREAD_BYTES: u64 = 3 << 20;

/// How many threads of `wanted` can be started that take so many bytes each beside their stacks, as
/// far as is known.
pub(crate) fn room_for_threads(wanted: usize, bytes: u64) -> usize {
    let memory = Device::open(DeviceKind::Host).and_then(|host| host.memory()).ok().flatten();
    let Some(memory) = memory else { return wanted };
    let room = memory.free / bytes.saturating_add(THREAD_BYTES);
    wanted.min(usize::try_from(room).unwrap_or(usize::MAX))
}

/// So many zeros.
pub(crate) fn zeroed(bytes: u64, purpose: &str) -> Result<Vec<u8>, Error> {
    check(bytes, purpose)?;
    let mut zeros = Vec::new();
    let len = usize::try_from(bytes).unwrap_or(usize::MAX);
    let refused = |_| Error::HostMemory { what: format!("{purpose}: {bytes} bytes are refused") };
    zeros.try_reserve_exact(len).map_err(refused)?;
    zeros.resize(len, 0);
    Ok(zeros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_there_is_is_refused_with_every_figure() {
        for bytes in [1 << 60, u64::MAX] {
            let error = zeroed(bytes, "looking").unwrap_err();
            assert_eq!((error.code(), error.exit_code()), ("INSUFFICIENT_HOST_MEMORY", 6));
            let text = error.to_string();
            let start = format!("looking: {bytes} bytes required, ");
            assert!(text.starts_with(&start), "{text}");
            assert!(text.contains(" bytes free of ") && text.contains(" bytes total, limited by "));
        }
        assert_eq!((room_for_threads(3, 1 << 60), room_for_threads(3, 4096)), (0, 3));
        assert_eq!(zeroed(3, "looking").unwrap(), [0; 3]);
    }
}
