//! Output files that appear at their path only when they are complete.

use crate::error::Error;
use crate::host_memory;
use gguf_format::path_text;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tempfile::TempPath;

/// The largest number of symbolic links that are followed in a chain; Linux has the same limit.
const MAX_LINKS: usize = 40;

/// The start of the name of an incomplete file. The rest of the name is random.
const PREFIX: &str = ".phi3-loader-";

/// The mode of a new file, before the umask is applied.
const FRESH_MODE: u32 = 0o666;

/// An output file. Its path always has either the complete new file or the previous content.
///
/// ```
/// use loader::OutputFile;
/// use std::io::Write;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("figures.txt");
/// let output = OutputFile::find(&path)?;
/// output.write(7, |mut file| file.write_all(b"figures").map_err(|error| output.failed(error)))?;
/// assert_eq!(std::fs::read(&path)?, b"figures");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct OutputFile {
    /// The name in messages: the path as the caller gave it, or standard output.
    named: PathBuf,
    folder: PathBuf,
    /// The path in `folder`. It is not a symbolic link.
    path: PathBuf,
    /// The permission bits of the existing file, if there is one.
    mode: Option<u32>,
}

impl OutputFile {
    /// Finds the file behind `path`. Follows symbolic links, even to a file that does not exist yet. Only
    /// a regular file that the caller may write can be replaced; a device, a pipe or a folder is refused. So is a
    /// path in a folder in which the caller cannot create files.
    ///
    /// # Errors
    ///
    /// [`Error::Write`].
    pub fn find(named: &Path) -> Result<Self, Error> {
        Self::resolve(named).map_err(|source| write_error(named, source))
    }

    /// Finds the file behind standard output. Messages call it standard output.
    ///
    /// # Errors
    ///
    /// [`Error::Write`] if standard output is not a regular file.
    pub fn standard_output() -> Result<Self, Error> {
        let named = Path::new("standard output");
        let file = Self::resolve(Path::new("/dev/stdout"));
        let file = file.map_err(|source| write_error(named, source))?;
        Ok(Self { named: named.to_owned(), ..file })
    }

    fn resolve(named: &Path) -> io::Result<Self> {
        let (target, mode) = match fs::metadata(named) {
            Ok(metadata) if metadata.is_file() => {
                // Replacing a file needs only the permission of its folder. Check the file's own
                // permission as well.
                OpenOptions::new().write(true).open(named)?;
                (fs::canonicalize(named)?, Some(metadata.permissions().mode() & 0o777))
            }
            Ok(_) => {
                return Err(refused(
                    "it is not a regular file: give the path of a file, or redirect standard output to a file",
                ));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => (end_of_links(named), None),
            Err(error) => return Err(error),
        };
        let bytes = target.as_os_str().as_bytes();
        let name = match target.file_name() {
            Some(name) if bytes.ends_with(name.as_bytes()) => name,
            _ => return Err(refused("it does not end in a file name")),
        };
        let of_folder = |error: io::Error| {
            io::Error::new(error.kind(), format!("the folder of the file: {error}"))
        };
        let folder = fs::canonicalize(folder_of(&target)).map_err(of_folder)?;
        let found = Self { named: named.to_owned(), path: folder.join(name), folder, mode };
        // The content may come much later. This file is removed at once.
        found.create().map_err(of_folder)?;
        Ok(found)
    }

    /// Returns the folder of the file.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the path of the file itself, after all symbolic links are followed.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the error for a failed write to the file.
    pub fn failed(&self, source: io::Error) -> Error {
        write_error(&self.named, source)
    }

    /// Creates a new file with the content that `fill` writes. When the file is complete and on disk, moves it
    /// to its path. If a file exists there, the new file keeps its permission bits. If this fails, the existing
    /// file is unchanged.
    ///
    /// `bytes` is the length of the file plus the host memory that `fill` needs. If the file system keeps
    /// its files in memory and the host has less memory free, this fails before it writes anything.
    /// Otherwise a memory cgroup would kill the process.
    ///
    /// # Errors
    ///
    /// [`Error::Write`], [`Error::HostMemory`], and the errors of `fill`.
    pub fn write<T>(
        &self,
        bytes: u64,
        fill: impl FnOnce(&File) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if is_in_memory(&self.folder) {
            host_memory::check_files(bytes, &path_text(&self.named).to_string())?;
        }
        let unfinished = self.create().map_err(|error| self.failed(error))?;
        self.finish(unfinished, fill)
    }

    fn finish<T>(
        &self,
        unfinished: Unfinished,
        fill: impl FnOnce(&File) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let result = fill(&unfinished.file)?;
        self.replace(unfinished).map_err(|error| self.failed(error))?;
        Ok(result)
    }

    fn create(&self) -> io::Result<Unfinished> {
        let unfinished = Unfinished::without_name(&self.folder)
            .or_else(|_| Unfinished::with_name(&self.folder))?;
        if let Some(mode) = self.mode {
            unfinished.file.set_permissions(Permissions::from_mode(mode))?;
        }
        Ok(unfinished)
    }

    fn replace(&self, unfinished: Unfinished) -> io::Result<()> {
        // Some file systems report only here that they are full.
        unfinished.file.sync_data()?;
        unfinished.into_name(&self.folder)?.persist(&self.path).map_err(|error| error.error)
    }
}

/// A temporary file in the folder of the output. If it is not finished, it is removed.
struct Unfinished {
    file: File,
    name: Option<TempPath>,
}

impl Unfinished {
    /// Creates a file without a name. If the process is killed, the kernel removes the file. Some file systems
    /// do not support this.
    fn without_name(folder: &Path) -> io::Result<Self> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(FRESH_MODE);
        let file = File::from(rustix::fs::open(folder, flags, mode)?);
        // Without /proc the file cannot get a name later.
        fs::metadata(descriptor_path(&file))?;
        Ok(Self { file, name: None })
    }

    fn with_name(folder: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(FRESH_MODE);
        let (file, name) = names().make_in(folder, |path| options.open(path))?.into_parts();
        Ok(Self { file, name: Some(name) })
    }

    /// Gives the file a name, so that it can be moved to its path.
    fn into_name(self, folder: &Path) -> io::Result<TempPath> {
        let Self { file, name } = self;
        if let Some(name) = name {
            return Ok(name);
        }
        let link = |path: &Path| {
            let file = descriptor_path(&file);
            Ok(rustix::fs::linkat(CWD, file, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
        };
        Ok(names().make_in(folder, link)?.into_temp_path())
    }
}

fn names() -> tempfile::Builder<'static, 'static> {
    let mut names = tempfile::Builder::new();
    names.prefix(PREFIX);
    names
}

/// Returns whether the files of this folder are in the host's memory (tmpfs or ramfs).
fn is_in_memory(folder: &Path) -> bool {
    /// From `linux/magic.h`; the manual page statfs(2) lists all of them.
    const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];
    rustix::fs::statfs(folder).is_ok_and(|system| IN_MEMORY.contains(&(system.f_type as u64)))
}

fn descriptor_path(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Returns the target of a chain of symbolic links. The target need not exist.
fn end_of_links(named: &Path) -> PathBuf {
    let mut path = named.to_owned();
    for _ in 0..MAX_LINKS {
        let Ok(link) = fs::read_link(&path) else { break };
        path = folder_of(&path).join(link);
    }
    path
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn refused(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, why)
}

fn write_error(path: &Path, source: io::Error) -> Error {
    Error::Write { path: path.to_owned(), source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::{FileTypeExt, symlink};

    const CREATE: [fn(&Path) -> io::Result<Unfinished>; 2] =
        [Unfinished::without_name, Unfinished::with_name];

    fn write(path: &Path, text: &str) -> Result<(), Error> {
        let target = OutputFile::find(path)?;
        let bytes = text.len() as u64;
        target
            .write(bytes, |mut file| file.write_all(text.as_bytes()).map_err(|e| target.failed(e)))
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_failed_write_keeps_the_existing_file_and_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for (before, left) in [(None, &[][..]), (Some("old content"), &["file"])] {
            if let Some(before) = before {
                fs::write(&path, before).unwrap();
            }
            for create in CREATE {
                let target = OutputFile::find(&path).unwrap();
                let unfinished = create(dir.path()).unwrap();
                let failed: Result<(), Error> = target.finish(unfinished, |mut file| {
                    file.write_all(b"half").unwrap();
                    Err(Error::Cancelled)
                });
                assert!(matches!(failed, Err(Error::Cancelled)));
                assert_eq!(fs::read_to_string(&path).ok().as_deref(), before);
                assert_eq!(names(dir.path()), left);
            }
        }
    }

    #[test]
    fn a_file_appears_only_when_complete_with_either_kind_of_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for create in CREATE {
            for before in [false, true] {
                let target = OutputFile::find(&path).unwrap();
                let unfinished = create(dir.path()).unwrap();
                let written = target.finish(unfinished, |mut file| {
                    file.write_all(b"whole").unwrap();
                    assert_eq!(path.exists(), before);
                    Ok(5)
                });
                assert_eq!(written.unwrap(), 5);
                assert_eq!(fs::read(&path).unwrap(), b"whole");
                assert_eq!(names(dir.path()), ["file"]);
            }
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_replaced_file_keeps_its_mode_and_a_new_file_has_the_default_mode() {
        let dir = tempfile::tempdir().unwrap();
        let (path, fresh) = (dir.path().join("file"), dir.path().join("fresh"));
        File::create(&fresh).unwrap();
        for create in CREATE {
            OutputFile::find(&path)
                .unwrap()
                .finish(create(dir.path()).unwrap(), |_| Ok(()))
                .unwrap();
            assert_eq!(mode(&path), mode(&fresh));
            fs::remove_file(&path).unwrap();
        }
        fs::write(&path, "old content").unwrap();
        for before in [0o640, 0o604] {
            fs::set_permissions(&path, Permissions::from_mode(before)).unwrap();
            write(&path, "new").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"new");
            assert_eq!(mode(&path), before);
        }
    }

    #[test]
    fn a_symbolic_link_is_kept_and_its_target_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("folder");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("old"), "old content").unwrap();
        for file in ["old", "new"] {
            let (first, second) = (dir.path().join(file), folder.join(format!("to-{file}")));
            symlink(Path::new("folder").join(format!("to-{file}")), &first).unwrap();
            symlink(file, &second).unwrap();
            write(&first, "through links").unwrap();
            assert!(first.is_symlink() && second.is_symlink());
            assert!(!folder.join(file).is_symlink());
            assert_eq!(fs::read(folder.join(file)).unwrap(), b"through links");
        }
    }

    #[test]
    fn a_path_that_is_not_a_regular_file_is_refused_and_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let (pipe, link) = (dir.path().join("pipe"), dir.path().join("link"));
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        symlink("pipe", &link).unwrap();
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for path in [&pipe, &link, &socket, dir.path(), Path::new("/dev/null")] {
            let error = OutputFile::find(path).unwrap_err();
            assert!(matches!(&error, Error::Write { path: named, .. } if named == path));
            assert!(error.to_string().contains("not a regular file"), "{error}");
        }
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
        assert_eq!(names(dir.path()), ["link", "pipe", "socket"]);
    }

    #[test]
    fn a_path_where_no_file_can_exist_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        // In /proc, not even root can create a file.
        for name in
            ["folder/file", "new/", "new/.", "new/..", "file/", "file/new", "/proc/phi3-loader"]
        {
            let path = dir.path().join(name);
            assert!(matches!(OutputFile::find(&path), Err(Error::Write { .. })), "{name}");
        }
        assert_eq!(names(dir.path()), ["file"]);
    }
}
