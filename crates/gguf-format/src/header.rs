//! The header of one source, together with the bytes that it borrows from.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::sync::Arc;

use self_cell::self_cell;

use crate::byte_source::ByteSource;
use crate::error::Error;
use crate::gguf::Gguf;
use crate::limits::Limits;
use crate::memory::Memory;
use crate::prefix::Prefix;

/// The purpose, in errors, of the memory for a header's bytes.
pub(crate) const BYTES: &str = "the bytes";

/// The largest number of bytes of a tensor description without its name.
const DESCRIPTION_BYTES: u64 = 8 + 4 + 4 * 8 + 4 + 8;

/// The bytes that a header was parsed from.
pub(crate) enum HeaderBytes {
    /// A copy of the first bytes of the source.
    Read(Prefix),
    /// The whole file.
    Mapped(memmap2::Mmap),
}

impl Deref for HeaderBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Read(prefix) => prefix,
            Self::Mapped(map) => map,
        }
    }
}

self_cell! {
    /// A header together with the bytes that it borrows from.
    pub(crate) struct OwnedGguf {
        owner: HeaderBytes,
        #[covariant]
        dependent: Gguf,
    }
}

/// The header of one file in memory, without the file. Clones share it.
///
/// For programs that close the file and still need its metadata, such as the tokens of a model.
#[derive(Clone)]
pub struct GgufHeader(Arc<OwnedGguf>);

impl GgufHeader {
    pub(crate) fn new(header: Arc<OwnedGguf>) -> Self {
        Self(header)
    }

    /// Returns the header. It contains no tensor data, unless the file was
    /// [mapped](crate::GgufFile::map).
    #[must_use]
    pub fn gguf(&self) -> &Gguf<'_> {
        self.0.gguf()
    }

    /// Returns the bytes of memory that the header takes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.0.memory_bytes()
    }

    /// Returns the bytes that were read of the file: the header, and perhaps some that follow it. A source of these bytes
    /// that has the length of the file, and zeros after them, gives the same header.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.0.borrow_owner()
    }
}

impl fmt::Debug for GgufHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gguf = self.gguf();
        f.debug_struct("GgufHeader")
            .field("metadata", &gguf.metadata().len())
            .field("tensors", &gguf.tensors().len())
            .finish_non_exhaustive()
    }
}

/// An error that does not name its source yet.
pub(crate) enum HeaderError {
    Io(io::Error),
    Gguf(Error),
}

impl OwnedGguf {
    /// Parses the header of a source of `len` bytes that starts with `bytes`. An error includes the bytes.
    pub(crate) fn parse(
        bytes: HeaderBytes,
        len: u64,
        limits: &Limits,
    ) -> Result<Self, (HeaderBytes, Error)> {
        Self::try_new_or_recover(bytes, |bytes| Gguf::parse_header(bytes, len, limits))
    }

    /// Reads the first `first_read` bytes of a source, and more until its header is complete.
    pub(crate) fn read(
        source: &impl ByteSource,
        limits: &Limits,
        first_read: u64,
    ) -> Result<Self, HeaderError> {
        let len = source.byte_len();
        // After the longest header there is padding. If there is none, the parser checks for one more tensor
        // description at that place.
        let after = limits.max_alignment.max(limits.max_name_len.saturating_add(DESCRIPTION_BYTES));
        let most = len.min(limits.max_header_bytes.saturating_add(after));
        let mut prefix = Prefix::with_room_for(most).map_err(HeaderError::Io)?;
        let mut wanted = first_read;
        loop {
            let read = wanted.min(most);
            let mut memory = Memory::new(limits.max_memory);
            memory.grow(0, Prefix::memory_bytes(read), BYTES).map_err(HeaderError::Gguf)?;
            prefix.read_until(source, read).map_err(HeaderError::Io)?;
            let limits = &limits.clone().with_max_memory(memory.left());
            match Self::parse(HeaderBytes::Read(prefix), len, limits) {
                Ok(gguf) => return Ok(gguf),
                Err((HeaderBytes::Read(read), Error::Incomplete { needed })) => {
                    let more = (read.len() as u64).saturating_mul(4).min(limits.max_header_bytes);
                    wanted = more.max(needed.saturating_add(first_read));
                    prefix = read;
                }
                Err((_, error)) => return Err(HeaderError::Gguf(error)),
            }
        }
    }

    /// Returns the parsed header.
    pub(crate) fn gguf(&self) -> &Gguf<'_> {
        self.borrow_dependent()
    }

    /// Returns the whole file, if it was mapped.
    pub(crate) fn mapped(&self) -> Option<&[u8]> {
        match self.borrow_owner() {
            HeaderBytes::Mapped(map) => Some(map),
            HeaderBytes::Read(_) => None,
        }
    }

    /// Returns the bytes of memory that the header takes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let bytes = match self.borrow_owner() {
            HeaderBytes::Read(prefix) => Prefix::memory_bytes(prefix.len() as u64),
            HeaderBytes::Mapped(_) => 0,
        };
        bytes.saturating_add(self.gguf().list_bytes())
    }
}
