//! The file to load: a path, or a file that is already open.

use crate::file_identity::Facts;
use gguf_format::{GgufFile, Limits, OpenFile, path_text};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The file to load: a path, or a file that is already open.
///
/// Everything that is a path converts to an input, and so do [`File`] and [`OwnedFd`]. An open file is useful if
/// a process may not open the path itself: it gets the file from another process or from a service manager. It must
/// be readable, and not opened with `O_DIRECT`. An input is used once: for several calls, clone the file
/// ([`File::try_clone`]).
///
/// If the file is a shard of a split model, the other shards are opened by the names that follow from its name.
/// Then the name of an open file must still lead to it, and it is refused if it has none.
///
/// A load fails if the file changes. For a path, this includes the path itself: it must lead to the same file at
/// the end. A file that was given open, and is the whole model, may be renamed, replaced at its name, or removed.
/// Its length and time of modification must not change.
///
/// ```
/// # use loader::{LoadOptions, Loader};
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/models/fused-f16.gguf");
/// let loader = Loader::new(LoadOptions::new());
/// let by_path = loader.plan(path)?;
/// let by_file = loader.plan(std::fs::File::open(path)?)?;
/// assert_eq!(by_path.plan, by_file.plan);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Input(Kind);

#[derive(Debug)]
enum Kind {
    Path(PathBuf),
    File { file: File, path: PathBuf },
}

impl<T: AsRef<OsStr> + ?Sized> From<&T> for Input {
    fn from(path: &T) -> Self {
        Self(Kind::Path(path.into()))
    }
}

impl From<PathBuf> for Input {
    fn from(path: PathBuf) -> Self {
        Self(Kind::Path(path))
    }
}

impl From<String> for Input {
    fn from(path: String) -> Self {
        Self(Kind::Path(path.into()))
    }
}

impl From<OsString> for Input {
    fn from(path: OsString) -> Self {
        Self(Kind::Path(path.into()))
    }
}

/// Takes the name of the file from the system.
impl From<File> for Input {
    fn from(file: File) -> Self {
        let link = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let path = std::fs::read_link(&link).unwrap_or(link);
        Self(Kind::File { file, path })
    }
}

impl From<OwnedFd> for Input {
    fn from(fd: OwnedFd) -> Self {
        File::from(fd).into()
    }
}

impl Input {
    /// Returns the path. For an open file, its name when it was given; for one that has no name any more, the system
    /// appends ` (deleted)`.
    pub fn path(&self) -> &Path {
        let (Kind::Path(path) | Kind::File { path, .. }) = &self.0;
        path
    }

    /// Returns whether this is an open file. Its path may then lead to another file, or nowhere.
    pub(crate) fn is_open_file(&self) -> bool {
        matches!(self.0, Kind::File { .. })
    }

    /// Returns the facts of the file as it is now; `None` if they cannot be read.
    pub(crate) fn facts(&self) -> Option<Facts> {
        match &self.0 {
            Kind::Path(path) => Facts::at(path),
            Kind::File { file, .. } => Facts::of_file(file),
        }
    }

    /// Opens the model and reads its header.
    pub(crate) fn open(&self, limits: &Limits) -> Result<GgufFile, gguf_format::Error> {
        match &self.0 {
            Kind::Path(path) => GgufFile::open_with(path, limits),
            Kind::File { file, path } => {
                let opened = file.try_clone().and_then(|file| OpenFile::from_file(file, path));
                let unread = |error| gguf_format::Error::of_io(path, error);
                GgufFile::open_file(opened.map_err(unread)?, limits)
            }
        }
    }
}

/// Writes the path, escaped.
impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        path_text(self.path()).fmt(f)
    }
}
