//! Memory on a device.

use crate::bridge::ffi;
use crate::device::{Device, DeviceKind};
use crate::digest::Digest;
use crate::error::{Error, ErrorCode};
use cxx::UniquePtr;
use std::ops::Range;
use std::os::fd::{FromRawFd, OwnedFd};

/// The memory of a pointer, as the driver reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Location {
    /// The address of the query.
    pub address: u64,
    /// The device whose memory it points into.
    pub device: DeviceKind,
}

/// What a process may do with memory of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Read.
    ReadOnly,
    /// Read and write.
    ReadWrite,
}

/// A descriptor of memory on a device. The memory exists as long as the descriptor is open.
#[derive(Debug)]
pub struct SharedMemory {
    /// The descriptor. It is closed when a program is executed.
    pub descriptor: OwnedFd,
    /// The bytes of that memory.
    pub bytes: u64,
}

/// One allocation on a device. Dropping it frees the memory, unless it is shared.
pub struct DeviceBuffer {
    inner: UniquePtr<ffi::Buffer>,
    device: DeviceKind,
}

impl DeviceBuffer {
    /// The address of the first byte, aligned to at least 256 bytes; 0 for an empty buffer. It is valid
    /// on the device. On the host it is valid only for [`DeviceKind::Host`].
    pub fn address(&self) -> u64 {
        self.inner.address()
    }

    /// The size in bytes.
    pub fn len(&self) -> u64 {
        self.inner.size()
    }

    /// Whether the buffer holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The device of the buffer.
    pub fn device(&self) -> DeviceKind {
        self.device
    }

    /// Copies the bytes that start at `offset` into `out`, and waits for the copy.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorCode::InvalidArgument) if the range leaves the buffer,
    /// [`DeviceFailure`](crate::ErrorCode::DeviceFailure) if the copy fails.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        Ok(self.inner.read(offset, out)?)
    }

    /// Copies `bytes` into the buffer, starting at `offset`, and waits for the copy.
    ///
    /// # Errors
    ///
    /// The same as for [`read`](Self::read).
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        Ok(self.inner.pin_mut().write(offset, bytes)?)
    }

    /// Returns the bytes of a buffer in host memory; `None` for a buffer on a GPU, and for memory to which another
    /// process may write.
    pub fn host_bytes(&self) -> Option<&[u8]> {
        let address =
            std::ptr::with_exposed_provenance::<u8>(usize::try_from(self.address()).ok()?);
        match (self.device, usize::try_from(self.len()).ok()?) {
            (DeviceKind::Cuda(_), _) => None,
            (DeviceKind::Host, _) if self.inner.may_change() => None,
            (DeviceKind::Host, 0) => Some(&[]),
            // SAFETY: the host device maps `len` bytes at `address`: anonymous memory or a file in memory, which the
            // kernel fills with zeros, and which cannot become shorter. They are unmapped only when this buffer is
            // dropped or resized, and the result borrows the buffer. No other process can write to them: the
            // memory is not shared, or is sealed, or `may_change` is true. Safe code writes to the memory only through `&mut self`. Code that writes to it
            // through the bare address is unsafe and must not do so while anyone may read it.
            (DeviceKind::Host, len) => Some(unsafe { std::slice::from_raw_parts(address, len) }),
        }
    }

    /// Computes digests of byte ranges on the device. Only the digests are copied to the host.
    ///
    /// # Errors
    ///
    /// The same as for [`read`](Self::read). The start of a range must be a multiple of 16 bytes.
    pub fn digests(&self, ranges: &[Range<u64>]) -> Result<Vec<Digest>, Error> {
        let ranges = ranges.iter().map(byte_range).collect::<Result<Vec<_>, _>>()?;
        Ok(self.inner.digests(&ranges)?.into_iter().map(Digest::from).collect())
    }

    /// Asks the driver which memory the byte at `offset` is in.
    ///
    /// # Errors
    ///
    /// The same as for [`read`](Self::read).
    pub fn locate(&self, offset: u64) -> Result<Location, Error> {
        let ffi::Location { address, kind, ordinal } = self.inner.locate(offset)?;
        Ok(Location { address, device: DeviceKind::from_parts(kind, ordinal)? })
    }

    /// Whether this process can write to the memory through [`address`](Self::address).
    pub fn is_writable(&self) -> bool {
        self.inner.is_writable()
    }

    /// Whether the memory is [shareable](Device::allocate_shareable), or was [imported](Device::import).
    pub fn is_shareable(&self) -> bool {
        self.inner.is_shareable()
    }

    /// Whether other processes may use the memory: it was [shared](Self::share) or [imported](Device::import).
    pub fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }

    /// Makes [shareable](Device::allocate_shareable) memory read-only for this process, at the same address. No work
    /// may be writing to it.
    ///
    /// A copy to it then fails. A kernel of a GPU that writes to it ends the context of the process; the memory stays as
    /// it is. On the host, such a write is a `SIGSEGV`.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorCode::InvalidArgument) if the memory is not shareable,
    /// [`DeviceFailure`](crate::ErrorCode::DeviceFailure) if the driver fails.
    pub fn protect(&mut self) -> Result<(), Error> {
        Ok(self.inner.pin_mut().protect()?)
    }

    /// Returns descriptors of [shareable](Device::allocate_shareable) memory, in the order of the addresses. The memory
    /// exists as long as a process has them or has [imported](Device::import) them, even if that process uses no
    /// GPU.
    ///
    /// The buffer can no longer be [resized](Self::resize). On the host, memory that was [protected](Self::protect) is
    /// sealed: no process can write to it any more.
    ///
    /// # Errors
    ///
    /// Those of [`protect`](Self::protect).
    pub fn share(&mut self) -> Result<Vec<SharedMemory>, Error> {
        let shares = self.inner.pin_mut().share()?;
        let own = |share: ffi::SharedMemory| SharedMemory {
            // SAFETY: share() returns descriptors that it has just made, and gives up their ownership.
            descriptor: unsafe { OwnedFd::from_raw_fd(share.descriptor) },
            bytes: share.bytes,
        };
        Ok(shares.into_iter().map(own).collect())
    }

    /// Changes the size of [shareable](Device::allocate_shareable) memory, and makes it writable. Keeps as much of
    /// the memory as possible, which is faster than to free it and to allocate other memory. Address and content are
    /// unspecified afterwards. Waits for all work of the device.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorCode::InvalidArgument) if the memory is not shareable, or is shared. After
    /// [`OutOfMemory`](crate::ErrorCode::OutOfMemory) and [`DeviceFailure`](crate::ErrorCode::DeviceFailure) the buffer
    /// is empty.
    pub fn resize(&mut self, bytes: u64) -> Result<(), Error> {
        Ok(self.inner.pin_mut().resize(bytes)?)
    }

    /// Lets another GPU read [shareable](Device::allocate_shareable) memory of a GPU, and write to it unless it is
    /// protected. On the host this does nothing.
    ///
    /// # Errors
    ///
    /// Those of [`protect`](Self::protect).
    pub fn give_access(&mut self, peer: &Device) -> Result<(), Error> {
        Ok(self.inner.pin_mut().give_access(peer.as_ffi())?)
    }

    pub(crate) fn new(inner: UniquePtr<ffi::Buffer>, device: DeviceKind) -> Self {
        Self { inner, device }
    }

    pub(crate) fn as_ffi_mut(&mut self) -> std::pin::Pin<&mut ffi::Buffer> {
        self.inner.pin_mut()
    }
}

fn byte_range(range: &Range<u64>) -> Result<ffi::ByteRange, Error> {
    let Range { start, end } = *range;
    let bytes = end.checked_sub(start).ok_or_else(|| {
        Error::new(
            ErrorCode::InvalidArgument,
            format!("the range {start}..{end} ends before its start"),
        )
    })?;
    Ok(ffi::ByteRange { offset: start, bytes })
}

impl std::fmt::Debug for DeviceBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceBuffer")
            .field("device", &self.device)
            .field("address", &format_args!("{:#x}", self.address()))
            .field("len", &self.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_in_host_memory_is_a_slice() {
        let host = Device::open(DeviceKind::Host).unwrap();
        let mut buffer = host.allocate(5).unwrap();
        buffer.write(1, b"abc").unwrap();
        let bytes = buffer.host_bytes().unwrap();
        assert_eq!(bytes, b"\0abc\0");
        assert_eq!(bytes.as_ptr() as u64, buffer.address());
        assert_eq!(host.allocate(0).unwrap().host_bytes(), Some(&[][..]));
    }
}
