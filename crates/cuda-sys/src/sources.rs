//! Where the bytes of a call come from.

use crate::bridge::ffi;
use crate::error::ErrorCode;
use std::any::Any;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, PoisonError};

/// One of the sources that operations read.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// A file, read as [`Request::io`](crate::Request::io) says.
    File(SourceFile<'a>),
    /// Something else that has bytes at positions.
    Reader(&'a dyn PositionedRead),
}

impl<'a> From<SourceFile<'a>> for Source<'a> {
    fn from(file: SourceFile<'a>) -> Self {
        Self::File(file)
    }
}

impl std::fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(file) => file.fmt(f),
            Self::Reader(reader) => f.debug_tuple("Reader").field(&reader.size()).finish(),
        }
    }
}

/// A file that operations read.
#[derive(Clone, Copy, Debug)]
pub struct SourceFile<'a> {
    /// Open for reading.
    pub file: BorrowedFd<'a>,
    /// The length its operations were checked against.
    pub bytes: u64,
}

/// Bytes that can be read at any position, from several threads at once.
pub trait PositionedRead: Sync {
    /// The length in bytes, against which operations are checked.
    fn size(&self) -> u64;

    /// Fills `out` with the bytes from `offset` on. Called on the engine's reader threads, for ranges
    /// that end at [`size`](Self::size) at the latest.
    ///
    /// A read that takes long looks at `stop` from time to time, and returns soon after it is set:
    /// the call was cancelled, or has failed, and waits for this read. What it then returns does not
    /// matter. A panic ends the call, and goes on in the thread that made it.
    ///
    /// # Errors
    ///
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) where the source has fewer bytes than it
    /// promised: the call fails with [`FileTruncated`](crate::ErrorCode::FileTruncated). For every
    /// other error it fails with [`Io`](crate::ErrorCode::Io).
    fn read_exact_at(&self, out: &mut [u8], offset: u64, stop: Stop<'_>) -> io::Result<()>;

    /// How it likes to be read.
    fn hints(&self) -> ReadHints {
        ReadHints::default()
    }
}

/// How a [`PositionedRead`] likes to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadHints {
    /// Reads begin on multiples of 4096 bytes, and end on such a multiple or at the source's end. The
    /// buffer's address is then such a multiple, too. By default they begin and end anywhere.
    pub whole_pages: bool,
    /// Largest read in bytes; rounded down to multiples of 4096, at least one. No limit by default;
    /// the engine's own is [`EngineConfig::read_bytes`](crate::EngineConfig::read_bytes). A chunk
    /// that is digested and does not start on a word of its operation is read at once.
    pub read_bytes: u64,
    /// Reads wait for something else than a core, such as a network: as many threads read as for
    /// storage. Not so by default.
    pub concurrent: bool,
}

impl Default for ReadHints {
    fn default() -> Self {
        Self { whole_pages: false, read_bytes: u64::MAX, concurrent: false }
    }
}

/// Tells a read whether its bytes are still wanted.
#[derive(Clone, Copy)]
pub struct Stop<'a>(&'a ffi::Stop);

impl Stop<'_> {
    /// Whether the read is to end.
    pub fn is_set(&self) -> bool {
        self.0.is_set()
    }
}

impl std::fmt::Debug for Stop<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Stop").field(&self.is_set()).finish()
    }
}

/// What C++ has to know of each source.
pub(crate) fn infos(sources: &[Source<'_>]) -> Vec<ffi::SourceInfo> {
    sources
        .iter()
        .map(|source| match source {
            Source::File(SourceFile { file, bytes }) => ffi::SourceInfo {
                is_file: true,
                descriptor: file.as_raw_fd(),
                bytes: *bytes,
                whole_pages: false,
                read_bytes: 0,
                concurrent: false,
            },
            Source::Reader(reader) => {
                let ReadHints { whole_pages, read_bytes, concurrent } = reader.hints();
                let bytes = reader.size();
                ffi::SourceInfo {
                    is_file: false,
                    descriptor: -1,
                    bytes,
                    whole_pages,
                    read_bytes,
                    concurrent,
                }
            }
        })
        .collect()
}

/// Carries reads out of C++, and panics around it.
pub(crate) struct SourceReaders<'a> {
    sources: &'a [Source<'a>],
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl<'a> SourceReaders<'a> {
    pub(crate) fn new(sources: &'a [Source<'a>]) -> Self {
        Self { sources, panic: Mutex::new(None) }
    }

    /// Called by the engine's reader threads. A panic must not unwind through C++: it fails the read,
    /// and waits here until C++ has cleaned up.
    pub(crate) fn read(
        &self,
        index: usize,
        offset: u64,
        out: &mut [u8],
        stop: &ffi::Stop,
    ) -> ffi::ReadOutcome {
        let failed = |code: ErrorCode, status, context| ffi::ReadOutcome {
            failed: true,
            code: code.number(),
            status,
            context,
        };
        let Some(Source::Reader(reader)) = self.sources.get(index) else {
            return failed(ErrorCode::Internal, 0, format!("source {index} is no reader"));
        };
        // The reader may be left in a broken state; the engine does not read from it again before the
        // panic goes on.
        match catch_unwind(AssertUnwindSafe(|| reader.read_exact_at(out, offset, Stop(stop)))) {
            Ok(Ok(())) => {
                ffi::ReadOutcome { failed: false, code: 0, status: 0, context: String::new() }
            }
            Ok(Err(error)) => {
                let code = match error.kind() {
                    io::ErrorKind::UnexpectedEof => ErrorCode::FileTruncated,
                    _ => ErrorCode::Io,
                };
                let context = format!("reading source {index} at byte {offset}: {error}");
                failed(code, error.raw_os_error().unwrap_or(0), context)
            }
            Err(payload) => {
                let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(payload);
                failed(ErrorCode::Internal, 0, format!("reading source {index} panicked"))
            }
        }
    }

    /// Lets a caught panic go on.
    pub(crate) fn resume_panic(self) {
        if let Some(payload) = self.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(payload);
        }
    }
}
