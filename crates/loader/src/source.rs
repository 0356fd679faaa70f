//! The open files of a load, and checks that they have not changed.

use crate::cancel::CancelToken;
use crate::error::Error;
use crate::file_identity::FileIdentity;
use crate::host_memory;
use crate::input::Input;
use crate::model::ModelFile;
use cuda_sys::{ErrorCode, SourceFile};
use gguf_format::{GgufFile, Limits, Shard};
use model_phi3::SourceRange;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// The number of times a file is opened if it was modified shortly before each time.
const ATTEMPTS: usize = 5;

/// The time between two checks of the token during a wait.
const LOOK: Duration = Duration::from_millis(10);

/// An open GGUF file with all its shards.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    gguf: GgufFile,
    identities: Vec<FileIdentity>,
}

/// Returns the path of the file that ended before the length that it had when it was opened. It can be any
/// shard.
fn ended_early(error: &gguf_format::Error) -> Option<&Path> {
    match error {
        gguf_format::Error::Io { path, source } if source.kind() == ErrorKind::UnexpectedEof => {
            Some(path)
        }
        _ => None,
    }
}

/// Returns the error for a file that contains fewer bytes than its stated length although nothing changes it,
/// for example a file of sysfs. `None` for other files.
fn shorter_than_its_length(path: &Path) -> Option<Error> {
    let file = File::open(path).ok()?;
    let opened = file.metadata().ok()?;
    let bytes = file.read_at(&mut [0], opened.len().checked_sub(1)?).ok()?;
    (bytes == 0 && FileIdentity::new(path, &opened).check(&file).is_ok()).then(|| {
        let what = format!("it contains fewer bytes than its length of {} bytes", opened.len());
        let source = std::io::Error::new(ErrorKind::UnexpectedEof, what);
        Error::Gguf(gguf_format::Error::of_io(path, source))
    })
}

impl Source {
    /// Opens the file so that [`check_unchanged`](Self::check_unchanged) detects every later change. If the
    /// file was modified shortly before, waits and opens it again, because a further write in the same clock
    /// tick would not change its times.
    pub(crate) fn open_settled(
        input: &Input,
        limits: &Limits,
        token: &CancelToken,
    ) -> Result<Self, Error> {
        Self::open_settled_by(SystemTime::now, input, limits, token)
    }

    fn open_settled_by(
        clock: impl Fn() -> SystemTime,
        input: &Input,
        limits: &Limits,
        token: &CancelToken,
    ) -> Result<Self, Error> {
        let mut attempts = 0;
        loop {
            let opening = clock();
            let source = Self::open(input, limits)?;
            let waits = source.identities.iter().map(|identity| identity.unsettled_for(opening));
            let unsettled = source.identities.iter().zip(waits);
            let longest = unsettled
                .filter_map(|(identity, wait)| Some((wait?, identity)))
                .max_by_key(|(wait, _)| *wait);
            let Some((wait, identity)) = longest else { return Ok(source) };
            attempts += 1;
            if attempts == ATTEMPTS {
                return Err(identity.still_written());
            }
            tracing::debug!(?wait, "the file has just been written to");
            let start = Instant::now();
            while start.elapsed() < wait {
                token.check()?;
                std::thread::sleep(LOOK.min(wait));
            }
        }
    }

    /// Opens the file and checks its header.
    pub(crate) fn open(input: &Input, limits: &Limits) -> Result<Self, Error> {
        let path = input.path();
        let before = input.facts();
        let limits = host_memory::limits_for_headers(limits)?;
        let gguf = input.open(&limits).map_err(|error| {
            if let Some(error) = host_memory::no_room_for_header(&error) {
                return error;
            }
            let short = ended_early(&error);
            if input.facts() == before && short.is_none() {
                return Error::Gguf(error);
            }
            short.and_then(shorter_than_its_length).unwrap_or_else(|| Error::FileChanged {
                path: short.unwrap_or(path).to_owned(),
                what: "it changed while its header was read".to_owned(),
                source: None,
            })
        })?;
        // The other shards are found by the name of the given one, so that name must lead to it.
        let only_given = input.is_open_file() && gguf.shards().len() == 1;
        let identity = if only_given { FileIdentity::of_open_file } else { FileIdentity::new };
        let identities =
            gguf.shards().iter().map(|shard| identity(shard.path(), shard.opened_as())).collect();
        let source = Self { path: path.to_owned(), gguf, identities };
        if input.is_open_file() {
            source.check_unchanged()?;
        }
        Ok(source)
    }

    /// Returns the path of the file that the caller gave.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the checked header.
    pub(crate) fn gguf(&self) -> &GgufFile {
        &self.gguf
    }

    /// Returns what a model keeps of its files, in the order of the shards.
    pub(crate) fn model_files(&self) -> Vec<ModelFile> {
        let shards = self.gguf.shards().iter().zip(&self.identities);
        let file = |(shard, identity): (&Shard, &FileIdentity)| ModelFile {
            path: shard.path().to_owned(),
            facts: identity.facts(),
            header: shard.to_header(),
        };
        shards.map(file).collect()
    }

    /// Returns what identifies each file, in the order of the shards.
    pub(crate) fn identities(&self) -> &[FileIdentity] {
        &self.identities
    }

    /// Returns the header without the file identities.
    pub(crate) fn into_gguf(self) -> GgufFile {
        self.gguf
    }

    /// Returns the files for the engine, in the order of the shards.
    pub(crate) fn files(&self) -> Vec<cuda_sys::Source<'_>> {
        self.gguf
            .shards()
            .iter()
            .map(|shard| SourceFile { file: shard.file().as_fd(), bytes: shard.len() }.into())
            .collect()
    }

    /// Reads the first `N` bytes of the range.
    pub(crate) fn read_at<const N: usize>(&self, range: &SourceRange) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        let shards = self.gguf.shards();
        let Some(shard) = shards.get(range.shard) else {
            return Err(Error::Verification {
                what: "the plan belongs to another file".to_owned(),
            });
        };
        match shard.file().read_exact_at(&mut bytes, range.range.start) {
            Ok(()) => Ok(bytes),
            Err(error) => {
                self.check_unchanged()?;
                Err(Error::Gguf(gguf_format::Error::of_io(shard.path(), error)))
            }
        }
    }

    /// Converts an error of a transfer from these files. The result names the shard that could not be read.
    pub(crate) fn engine_error(&self, error: cuda_sys::Error) -> Error {
        let shard = || self.gguf.shards().get(usize::try_from(error.source_file()?).ok()?);
        match error.code() {
            ErrorCode::Cancelled => Error::Cancelled,
            ErrorCode::Io | ErrorCode::FileTruncated => {
                let path = shard().map_or(self.path(), Shard::path).to_owned();
                Error::Read { path, source: error }
            }
            _ => Error::Engine(error),
        }
    }

    /// Returns the cause of a failed load. If bytes are missing, wrong or unreadable and the file has changed,
    /// the change is the cause.
    pub(crate) fn explain(&self, error: Error) -> Error {
        let changed = self.check_unchanged().err();
        let cause = match &error {
            Error::Read { path, source } if source.code() == ErrorCode::FileTruncated => {
                changed.or_else(|| shorter_than_its_length(path))
            }
            Error::Read { .. } | Error::Verification { .. } | Error::NonFinite(_) => changed,
            _ => None,
        };
        cause.unwrap_or(error)
    }

    /// Fails if any shard has changed since it was opened.
    pub(crate) fn check_unchanged(&self) -> Result<(), Error> {
        self.gguf
            .shards()
            .iter()
            .zip(&self.identities)
            .try_for_each(|(shard, identity)| identity.check(shard.file()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cuda_sys::{CopyOp, Device, DeviceKind, Engine, EngineConfig, Io, Request, StagingRing};
    use gguf_format::write::GgufWriter;
    use std::ops::ControlFlow;

    #[test]
    fn a_file_that_never_settles_is_refused_and_a_wait_can_be_cancelled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file.gguf");
        std::fs::write(&path, GgufWriter::new().to_bytes(|_, _| ()).unwrap()).unwrap();
        let written = std::fs::metadata(&path).unwrap().modified().unwrap();
        // With this clock, the last write to the file is always 19 ms ago, which is too recent.
        let moment_later = || written + Duration::from_millis(19);
        let open = |clock: &dyn Fn() -> SystemTime, token: &CancelToken| {
            Source::open_settled_by(clock, &Input::from(&path), &Limits::default(), token).map(drop)
        };
        let error = open(&moment_later, &CancelToken::new()).unwrap_err();
        assert_eq!((error.code(), error.exit_code()), ("FILE_CHANGED", 7));
        assert!(error.retriable());
        assert!(error.to_string().contains("it is being written to"), "{error}");

        let cancelled = CancelToken::new();
        cancelled.cancel();
        assert!(matches!(open(&moment_later, &cancelled), Err(Error::Cancelled)));
        open(&SystemTime::now, &CancelToken::new()).unwrap();
    }

    fn shard_path(folder: &Path, no: usize) -> PathBuf {
        folder.join(format!("m-{no:05}-of-00003.gguf"))
    }

    /// Writes a model in three shards and opens the first one.
    fn split(folder: &Path) -> Source {
        for no in 0..3 {
            let mut writer = GgufWriter::new();
            writer.split(no, 3, 0);
            let bytes = writer.to_bytes(|_, _| ()).unwrap();
            std::fs::write(shard_path(folder, usize::from(no) + 1), bytes).unwrap();
        }
        Source::open(&shard_path(folder, 1).into(), &Limits::default()).unwrap()
    }

    /// Makes the engine read this number of bytes from a shard, and returns its error. Shards count from 1.
    fn read_shard(sources: &[cuda_sys::Source<'_>], no: u32, bytes: u64) -> cuda_sys::Error {
        let config = EngineConfig::new(1, 1, 4096, 4096);
        let host = Device::open(DeviceKind::Host).unwrap();
        let mut engine = Engine::new(&host, StagingRing::new(config).unwrap()).unwrap();
        let ops = [CopyOp { source: no - 1, ..CopyOp::copy(0, bytes, 0) }];
        let request = Request::new(sources, Io::Read, &ops, 1);
        let mut dest = host.allocate(bytes).unwrap();
        engine.execute(request, &mut dest, &mut |_| ControlFlow::Continue(())).unwrap_err()
    }

    /// Returns the `io::Error` at the end of the error's chain.
    fn io_cause(error: &Error) -> &std::io::Error {
        let engine = std::error::Error::source(error).unwrap();
        engine.source().unwrap().downcast_ref().unwrap()
    }

    #[test]
    fn an_unreadable_second_shard_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let source = split(dir.path());
        let second = shard_path(dir.path(), 2);
        let unreadable = File::options().write(true).open(&second).unwrap();
        let mut sources = source.files();
        sources[1] = SourceFile { file: unreadable.as_fd(), bytes: 1 }.into();
        let error = source.explain(source.engine_error(read_shard(&sources, 2, 1)));
        assert_eq!((error.code(), error.retriable()), ("READ_FAILED", true));
        assert!(error.to_string().starts_with(&format!("{}: ", second.display())), "{error}");
        assert!(error.to_string().contains("Bad file descriptor"), "{error}");
        const EBADF: i32 = 9;
        assert_eq!(io_cause(&error).raw_os_error(), Some(EBADF));
    }

    #[test]
    fn a_truncated_third_shard_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let source = split(dir.path());
        let third = shard_path(dir.path(), 3);
        // The file has the stated length, but its content is shorter than the read.
        let mut sources = source.files();
        let cuda_sys::Source::File(file) = sources[2] else { panic!("a file") };
        sources[2] = SourceFile { bytes: 4096, ..file }.into();
        let error = source.explain(source.engine_error(read_shard(&sources, 3, 4096)));
        assert_eq!(error.code(), "READ_FAILED", "{error}");
        assert!(error.to_string().starts_with(&format!("{}: ", third.display())), "{error}");
        assert_eq!(io_cause(&error).kind(), ErrorKind::UnexpectedEof);

        std::fs::write(&third, "").unwrap();
        let error = source.explain(source.engine_error(read_shard(&sources, 3, 4096)));
        assert_eq!(error.code(), "FILE_CHANGED", "{error}");
        assert!(error.to_string().starts_with(&format!("{}: ", third.display())), "{error}");

        let opened = Source::open(&shard_path(dir.path(), 1).into(), &Limits::default());
        let error = opened.map(drop).unwrap_err();
        assert_eq!(error.code(), "GGUF_TRUNCATED", "{error}");
        assert!(error.to_string().starts_with(&format!("{}: ", third.display())), "{error}");
    }

    #[test]
    fn a_file_shorter_than_its_stated_length_is_not_reported_as_changed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        for content in ["", "some bytes"] {
            std::fs::write(&file, content).unwrap();
            assert!(shorter_than_its_length(&file).is_none(), "{content}");
        }
        // Files of sysfs. Some machines do not have all of them.
        let files =
            ["/sys/kernel/uevent_seqnum", "/sys/class/net/lo/address", "/sys/kernel/profiling"];
        for path in files.map(Path::new).into_iter().filter(|path| path.exists()) {
            let error = Source::open(&path.into(), &Limits::default()).map(drop).unwrap_err();
            assert_eq!((error.code(), error.exit_code(), error.retriable()), ("GGUF_IO", 7, false));
            assert!(error.to_string().contains("its length of 4096 bytes"), "{error}");
        }
    }
}
