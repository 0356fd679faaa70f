//! Detects changes of a file while it is being loaded.

use crate::error::Error;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Identity, length and times of a file when it was opened.
#[derive(Debug)]
pub(crate) struct FileIdentity {
    path: PathBuf,
    /// Whether the file was opened by its path, which must still lead to it. If not, the time of change does not
    /// matter either: it also changes when a file is renamed or loses a name.
    by_path: bool,
    facts: Facts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) bytes: u64,
    pub(crate) modified: (i64, i64),
    /// The time of the last change (ctime). Every write updates it. Programs cannot set it, but copying tools
    /// set `modified`.
    pub(crate) changed: (i64, i64),
}

impl Facts {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Returns the facts of the file at a path; `None` if they cannot be read.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().as_ref().map(Self::of)
    }

    /// Returns the facts of an open file; `None` if they cannot be read.
    pub(crate) fn of_file(file: &File) -> Option<Self> {
        file.metadata().ok().as_ref().map(Self::of)
    }
}

/// Twice the longest clock tick of a kernel, which is 10 ms. File times have the resolution of the tick.
const TICKS: Duration = Duration::from_millis(20);

/// For file systems whose times have a resolution of 1 or 2 seconds.
const SECONDS: Duration = Duration::from_secs(2);

/// Returns how long after `now` a write may leave the file's times unchanged, because it happens in the same
/// clock tick as the last change. `None` if every write changes the times, and for a time in the future: it
/// comes from another machine's clock.
fn unsettled_for((seconds, nanoseconds): (i64, i64), now: Duration) -> Option<Duration> {
    let seconds = Duration::from_secs(u64::try_from(seconds).ok()?);
    let changed = seconds + Duration::from_nanos(u64::try_from(nanoseconds).ok()?);
    let granularity = if nanoseconds == 0 { SECONDS } else { TICKS };
    let settled = changed + granularity;
    (changed <= now && now < settled).then(|| settled - now)
}

impl FileIdentity {
    /// Stores the metadata of a file that was opened by its path.
    pub(crate) fn new(path: &Path, opened: &Metadata) -> Self {
        Self { path: path.to_owned(), by_path: true, facts: Facts::of(opened) }
    }

    /// Stores the metadata of a file that the caller opened. Its path may lead to another file, now or later.
    /// Not detected: a write after which a program restores the time of modification.
    pub(crate) fn of_open_file(path: &Path, opened: &Metadata) -> Self {
        Self { by_path: false, ..Self::new(path, opened) }
    }

    pub(crate) fn facts(&self) -> Facts {
        self.facts
    }

    /// Returns whether these are the facts of the same file in the same state.
    pub(crate) fn is_as(&self, mut facts: Facts) -> bool {
        if !self.by_path {
            facts.changed = self.facts.changed;
        }
        facts == self.facts
    }

    /// Returns how long to wait after `opening` until [`check`](Self::check) detects every change. `opening`
    /// is a moment before the file was opened. `None` if no wait is needed.
    pub(crate) fn unsettled_for(&self, opening: SystemTime) -> Option<Duration> {
        let last = if self.by_path { self.facts.changed } else { self.facts.modified };
        unsettled_for(last, opening.duration_since(UNIX_EPOCH).ok()?)
    }

    /// Fails if the open file has changed or, if it was opened by its path, the file at that path is another one.
    pub(crate) fn check(&self, file: &File) -> Result<(), Error> {
        let open = file.metadata().map_err(|error| self.gone(error))?;
        let now = Facts::of(&open);
        if now.bytes != self.facts.bytes {
            let what = format!(
                "it had {} bytes when it was opened, and has {} bytes now",
                self.facts.bytes, now.bytes
            );
            return Err(self.changed(what));
        }
        if !self.is_as(now) {
            return Err(self.changed("its time of last change is different".to_owned()));
        }
        if !self.by_path {
            return Ok(());
        }
        let at_path = std::fs::metadata(&self.path).map_err(|error| self.gone(error))?;
        if Facts::of(&at_path) != self.facts {
            return Err(self.changed("its path now leads to another file".to_owned()));
        }
        Ok(())
    }

    /// Returns the error for a file that keeps changing.
    pub(crate) fn still_written(&self) -> Error {
        self.changed("it is being written to".to_owned())
    }

    fn changed(&self, what: String) -> Error {
        Error::FileChanged { path: self.path.clone(), what, source: None }
    }

    /// Returns the error for a file whose metadata can no longer be read.
    fn gone(&self, error: std::io::Error) -> Error {
        let what = error.to_string();
        Error::FileChanged { path: self.path.clone(), what, source: Some(error.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{FileTimes, OpenOptions};
    use std::os::unix::fs::FileExt;

    #[test]
    fn only_a_file_that_changed_shortly_before_needs_a_wait() {
        let now = Duration::new(1000, 500_000_000);
        let milliseconds = |ms: i64| (1000, 500_000_000 - ms * 1_000_000);
        assert_eq!(unsettled_for(milliseconds(0), now), Some(TICKS));
        assert_eq!(unsettled_for(milliseconds(15), now), Some(Duration::from_millis(5)));
        assert_eq!(unsettled_for(milliseconds(20), now), None);
        assert_eq!(unsettled_for(milliseconds(-1), now), None, "a time in the future");
        assert_eq!(unsettled_for((1000, 0), now), Some(Duration::from_millis(1500)));
        assert_eq!(unsettled_for((998, 0), now), None);
        assert_eq!(unsettled_for((-1, 0), now), None);
    }

    #[test]
    fn a_write_that_restores_the_modification_time_is_detected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "weights").unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let opened = file.metadata().unwrap();
        let identity = FileIdentity::new(&path, &opened);
        identity.check(&file).unwrap();
        while unsettled_for(identity.facts.changed, now()).is_some() {
            std::hint::spin_loop();
        }
        file.write_all_at(b"WEIGHTS", 0).unwrap();
        file.set_times(FileTimes::new().set_modified(opened.modified().unwrap())).unwrap();
        assert_eq!(file.metadata().unwrap().modified().unwrap(), opened.modified().unwrap());
        let error = identity.check(&file).unwrap_err();
        assert_eq!((error.code(), error.exit_code()), ("FILE_CHANGED", 7));
    }

    #[test]
    fn the_error_for_a_renamed_folder_has_the_system_error_as_its_cause() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("folder");
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("file");
        std::fs::write(&path, "weights").unwrap();
        let file = File::open(&path).unwrap();
        let identity = FileIdentity::new(&path, &file.metadata().unwrap());
        std::fs::rename(&folder, dir.path().join("other")).unwrap();
        let error = identity.check(&file).unwrap_err();
        assert_eq!(error.code(), "FILE_CHANGED");
        let cause = std::error::Error::source(&error).unwrap();
        let cause: &gguf_format::IoError = cause.downcast_ref().unwrap();
        assert_eq!(cause.kind(), std::io::ErrorKind::NotFound);
        assert!(error.to_string().contains(&cause.to_string()), "{error}");
    }

    fn now() -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
    }
}
