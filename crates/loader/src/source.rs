//! The open file of a load, with what is needed to notice that it changed.

use crate::cancel::CancelToken;
use crate::error::Error;
use crate::file_identity::{Facts, FileIdentity};
use cuda_sys::SourceFile;
use gguf_format::{GgufFile, Limits};
use model_phi3::SourceRange;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Times that a file is opened anew because it was written to a moment before.
const ATTEMPTS: usize = 5;

/// Between looks at the token while a file settles.
const LOOK: Duration = Duration::from_millis(10);

/// A GGUF file, all shards of it, open for reading.
pub(crate) struct Source {
    path: PathBuf,
    gguf: GgufFile,
    identities: Vec<FileIdentity>,
}

/// Whether a file, which can be any shard, ended before the length that it had when it was opened.
fn ended_early(error: &gguf_format::Error) -> bool {
    let gguf_format::Error::Io { source, .. } = error.without_path() else { return false };
    source.kind() == std::io::ErrorKind::UnexpectedEof
}

impl Source {
    /// Opens the file so that [`check_unchanged`](Self::check_unchanged) sees every later change of
    /// it: one that was written to a moment ago is waited for.
    pub(crate) fn open_settled(
        path: &Path,
        limits: &Limits,
        token: &CancelToken,
    ) -> Result<Self, Error> {
        Self::open_settled_by(SystemTime::now, path, limits, token)
    }

    fn open_settled_by(
        clock: impl Fn() -> SystemTime,
        path: &Path,
        limits: &Limits,
        token: &CancelToken,
    ) -> Result<Self, Error> {
        let mut attempts = 0;
        loop {
            let opening = clock();
            let source = Self::open(path, limits)?;
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

    /// Opens the file and proves its header.
    pub(crate) fn open(path: &Path, limits: &Limits) -> Result<Self, Error> {
        let before = Facts::at(path);
        let gguf = GgufFile::open_with(path, limits).map_err(|error| {
            if Facts::at(path) == before && !ended_early(&error) {
                return Error::Gguf(error);
            }
            Error::FileChanged {
                path: path.to_owned(),
                what: "it is not what it was before its header was read".to_owned(),
            }
        })?;
        let identities = gguf
            .shards()
            .iter()
            .map(|shard| FileIdentity::new(shard.path(), shard.opened_as()))
            .collect();
        Ok(Self { path: path.to_owned(), gguf, identities })
    }

    /// The path that was asked for.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The proven header.
    pub(crate) fn gguf(&self) -> &GgufFile {
        &self.gguf
    }

    /// What the engine reads, in the order of the shards.
    pub(crate) fn files(&self) -> Vec<SourceFile<'_>> {
        self.gguf
            .shards()
            .iter()
            .map(|shard| SourceFile { file: shard.file().as_fd(), bytes: shard.len() })
            .collect()
    }

    /// Bytes of a range that is as long as the result.
    pub(crate) fn read_at<const N: usize>(&self, range: &SourceRange) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        let shards = self.gguf.shards();
        let Some(shard) = shards.get(range.shard) else {
            return Err(Error::Verification { what: "the plan is of another file".to_owned() });
        };
        match shard.file().read_exact_at(&mut bytes, range.range.start) {
            Ok(()) => Ok(bytes),
            Err(source) => {
                self.check_unchanged()?;
                let path = shard.path().to_owned();
                Err(Error::Gguf(gguf_format::Error::Io { path, source }))
            }
        }
    }

    /// What a failed load is told to have failed of. A file that changed explains bytes that are
    /// missing, wrong or cannot be read.
    pub(crate) fn explain(&self, error: Error) -> Error {
        let by_bytes =
            matches!(error, Error::Read { .. } | Error::Verification { .. } | Error::NonFinite(_));
        match self.check_unchanged() {
            Err(changed) if by_bytes => changed,
            _ => error,
        }
    }

    /// Fails where any shard is not what it was when it was opened.
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
    use gguf_format::write::GgufWriter;

    #[test]
    fn a_file_that_never_settles_is_refused_and_a_wait_can_be_cancelled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file.gguf");
        std::fs::write(&path, GgufWriter::new().to_bytes(|_, _| ()).unwrap()).unwrap();
        let written = std::fs::metadata(&path).unwrap().modified().unwrap();
        // As a file looks that is written to all the time: always a moment old.
        let moment_later = || written + Duration::from_millis(19);
        let open = |clock: &dyn Fn() -> SystemTime, token: &CancelToken| {
            Source::open_settled_by(clock, &path, &Limits::default(), token).map(drop)
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
}
