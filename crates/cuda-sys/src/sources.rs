//! The sources of a call's bytes.

use crate::bridge::ffi;
use crate::error::{Error, ErrorCode};
use std::any::Any;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One of the sources that operations read.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// A file, which is read as [`Request::io`](crate::Request::io) says.
    File(SourceFile<'a>),
    /// Another object with bytes at positions.
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
    /// The length against which its operations were checked.
    pub bytes: u64,
}

/// Bytes that can be read at any position, from several threads at once.
pub trait PositionedRead: Sync {
    /// Returns the length in bytes, against which operations are checked.
    fn size(&self) -> u64;

    /// Fills `out` with the bytes from `offset` on. Called on the engine's reader threads, for ranges
    /// that end at [`size`](Self::size) at the latest.
    ///
    /// A long read should check `stop` from time to time, and return soon after it is set: the call was
    /// cancelled or has failed, and waits for this read. The result of the read then does not matter. A
    /// panic ends the call and then continues in the thread that made the call.
    ///
    /// # Errors
    ///
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if the source is shorter than it promised: the call
    /// fails with [`FileTruncated`](crate::ErrorCode::FileTruncated). For every other error, it fails with
    /// [`Io`](crate::ErrorCode::Io).
    fn read_exact_at(&self, out: &mut [u8], offset: u64, stop: Stop<'_>) -> io::Result<()>;

    /// Returns the preferred kind of reads.
    fn hints(&self) -> ReadHints {
        ReadHints::default()
    }
}

/// The kind of reads that a [`PositionedRead`] prefers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadHints {
    /// Whether reads begin on multiples of 4096 bytes, and end on such a multiple or at the source's end.
    /// The buffer's address is then such a multiple, too. By default, reads begin and end anywhere.
    pub whole_pages: bool,
    /// Largest read in bytes; rounded down to multiples of 4096, at least one. No limit by default;
    /// the engine's own is [`EngineConfig::read_bytes`](crate::EngineConfig::read_bytes). A chunk
    /// that is digested and does not start on a word of its operation is read at once.
    pub read_bytes: u64,
    /// Whether reads wait for something other than a core, such as a network. Then as many threads read as
    /// for storage. `false` by default.
    pub concurrent: bool,
}

impl Default for ReadHints {
    fn default() -> Self {
        Self { whole_pages: false, read_bytes: u64::MAX, concurrent: false }
    }
}

/// Tells a read whether its bytes are still needed.
#[derive(Clone, Copy)]
pub struct Stop<'a>(&'a ffi::Stop);

impl Stop<'_> {
    /// Whether the read should end.
    pub fn is_set(&self) -> bool {
        self.0.is_set()
    }
}

impl std::fmt::Debug for Stop<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Stop").field(&self.is_set()).finish()
    }
}

/// Returns the properties of each source for C++.
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

/// Passes reads from C++ to Rust sources, and keeps panics out of C++.
pub(crate) struct SourceReaders<'a> {
    sources: &'a [Source<'a>],
    failures: Mutex<Failures>,
}

/// The failures of a call's reads, which cannot cross C++.
#[derive(Default)]
struct Failures {
    panic: Option<Box<dyn Any + Send>>,
    /// Errors with the message that C++ gets in their place.
    errors: Vec<(String, io::Error)>,
}

impl<'a> SourceReaders<'a> {
    pub(crate) fn new(sources: &'a [Source<'a>]) -> Self {
        Self { sources, failures: Mutex::default() }
    }

    /// The engine's reader threads call this. A panic must not unwind through C++. It fails the read
    /// instead, and is stored until C++ has cleaned up.
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
            return failed(ErrorCode::Internal, 0, format!("source {index} is not a reader"));
        };
        let read = || {
            let Err(error) = reader.read_exact_at(out, offset, Stop(stop)) else { return None };
            let code = match error.kind() {
                io::ErrorKind::UnexpectedEof => ErrorCode::FileTruncated,
                _ => ErrorCode::Io,
            };
            // C++ ends a text at a zero.
            let context =
                format!("reading source {index} at byte {offset}: {error}").replace('\0', "\\0");
            let status = error.raw_os_error().unwrap_or(0);
            self.lock().errors.push((context.clone(), error));
            Some(failed(code, status, context))
        };
        // The error's text is the reader's code, too. A panic may leave the reader in a broken state. The engine
        // does not read from it again before the panic continues.
        match catch_unwind(AssertUnwindSafe(read)) {
            Ok(None) => {
                ffi::ReadOutcome { failed: false, code: 0, status: 0, context: String::new() }
            }
            Ok(Some(failed)) => failed,
            Err(payload) => {
                let first = &mut self.lock().panic;
                if first.is_none() {
                    *first = Some(payload);
                } else {
                    // Dropping it could panic again, here in a callback of C++.
                    std::mem::forget(payload);
                }
                failed(ErrorCode::Internal, 0, format!("reading source {index} panicked"))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Continues a stored panic. Gives the error of the call its cause, if a read failed.
    pub(crate) fn resume<T>(self, result: Result<T, Error>) -> Result<T, Error> {
        let Failures { panic, errors } =
            self.failures.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
        result.map_err(|error| {
            let cause = errors.into_iter().find(|(context, _)| *context == error.context());
            match cause {
                Some((_, cause)) => error.caused_by(cause),
                None => error,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        CopyOp, Device, DeviceKind, Engine, EngineConfig, Error, ErrorCode, Io, PositionedRead,
        Request, Source, StagingRing, Stop,
    };
    use std::error::Error as _;
    use std::fmt;
    use std::io;
    use std::ops::ControlFlow;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// Fails at every read with the error that the function makes.
    struct Failing(fn() -> io::Error);

    impl PositionedRead for Failing {
        fn size(&self) -> u64 {
            64
        }

        fn read_exact_at(&self, _: &mut [u8], _: u64, _: Stop<'_>) -> io::Result<()> {
            Err((self.0)())
        }
    }

    #[derive(Debug)]
    struct PanicsWhenShown;

    impl fmt::Display for PanicsWhenShown {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("the error cannot be shown")
        }
    }

    impl std::error::Error for PanicsWhenShown {}

    fn read(reader: &Failing) -> Error {
        let device = Device::open(DeviceKind::Host).unwrap();
        let ring = StagingRing::new(EngineConfig::new(2, 2, 4096, 4096)).unwrap();
        let mut engine = Engine::new(&device, ring).unwrap();
        let (sources, ops) = ([Source::Reader(reader)], [CopyOp::copy(0, 64, 0)]);
        let request = Request::new(&sources, Io::Read, &ops, 1);
        let mut buffer = device.allocate(64).unwrap();
        engine.execute(request, &mut buffer, &mut |_| ControlFlow::Continue(())).unwrap_err()
    }

    #[test]
    fn the_cause_of_a_failed_read_is_the_error_of_the_source() {
        let lost = io::ErrorKind::ConnectionReset;
        for (failing, code, kind) in [
            (
                Failing(|| io::Error::new(io::ErrorKind::ConnectionReset, "lost\0here")),
                ErrorCode::Io,
                lost,
            ),
            (
                Failing(|| io::Error::new(io::ErrorKind::UnexpectedEof, "lost\0here")),
                ErrorCode::FileTruncated,
                io::ErrorKind::UnexpectedEof,
            ),
        ] {
            let error = read(&failing);
            assert_eq!((error.code(), error.source_file()), (code, Some(0)), "{error}");
            let cause = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
            assert_eq!((cause.kind(), cause.to_string()), (kind, "lost\0here".to_owned()));
            assert!(error.to_string().ends_with(r"lost\0here"), "{error}");
        }
    }

    #[test]
    fn a_panic_in_the_text_of_an_error_continues_in_the_caller() {
        let failing = Failing(|| io::Error::other(PanicsWhenShown));
        let payload = catch_unwind(AssertUnwindSafe(|| read(&failing))).unwrap_err();
        assert_eq!(payload.downcast_ref::<&str>(), Some(&"the error cannot be shown"));
    }
}
