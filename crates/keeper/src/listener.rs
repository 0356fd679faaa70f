//! The socket of a keeper in the file system.

use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use crate::Error;

/// A listening socket. The file that it made is removed with it.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: OwnedFd,
    /// The file of the socket, with the numbers of its file system and of itself.
    file: Option<(PathBuf, u64, u64)>,
}

impl Listener {
    /// Listens at `path`. Only the user of this process and root can connect.
    pub(crate) fn bind(path: &Path) -> Result<Self, Error> {
        let fail = |problem: String| Error::Socket { path: path.to_owned(), problem };
        let refused = |what: &str, error: std::io::Error| fail(format!("{what}: {error}"));
        // The file is removed later, when the working directory may be another one.
        let path = std::path::absolute(path).map_err(|error| refused("the path", error))?;
        let folder = path.parent().ok_or_else(|| fail("it is no file in a folder".to_owned()))?;
        let folder = open_folder(folder).map_err(fail)?;
        // Of two keepers that start at the same time, the second would take the first one's new file for an old one. Any
        // process that can open the folder can lock it, so this does not wait.
        rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
            let what = match error {
                Errno::AGAIN => "another process has locked its folder",
                _ => "its folder cannot be locked",
            };
            refused(what, error.into())
        })?;
        let bound = Self::replace(path);
        // A process that another thread has just started may have the folder open, too.
        let _ = rustix::fs::flock(&folder, FlockOperation::Unlock);
        bound
    }

    /// Listens at a path in a locked folder.
    fn replace(path: PathBuf) -> Result<Self, Error> {
        let fail = |problem: String| Error::Socket { path: path.clone(), problem };
        let refused = |what: &str, error: std::io::Error| fail(format!("{what}: {error}"));
        remove_stale(&path).map_err(fail)?;

        let listen = || -> rustix::io::Result<OwnedFd> {
            let socket = new_socket(SocketFlags::NONBLOCK)?;
            // On Linux, the file that `bind` makes has the mode of the socket.
            rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
            rustix::net::bind(&socket, &SocketAddrUnix::new(&path)?)?;
            rustix::net::listen(&socket, BACKLOG)?;
            Ok(socket)
        };
        let socket = listen().map_err(|error| refused("the socket", error.into()))?;
        let file = fs::symlink_metadata(&path).map_err(|error| refused("the socket", error))?;
        Ok(Self { socket, file: Some((path, file.dev(), file.ino())) })
    }

    /// Takes a socket that already listens.
    pub(crate) fn from_socket(socket: OwnedFd) -> Result<Self, Error> {
        let is_right = || -> rustix::io::Result<bool> {
            Ok(sockopt::socket_domain(&socket)? == AddressFamily::UNIX
                && sockopt::socket_type(&socket)? == SocketType::SEQPACKET
                && sockopt::socket_acceptconn(&socket)?)
        };
        if !is_right().map_err(Error::io("use the given descriptor as a socket"))? {
            return Err(Error::protocol(
                "the given socket does not listen for Unix connections of type SOCK_SEQPACKET \
                 (in a unit of systemd: `ListenSequentialPacket=` with a path)",
            ));
        }
        rustix::io::ioctl_fionbio(&socket, true).map_err(Error::io("use the given socket"))?;
        Ok(Self { socket, file: None })
    }

    /// Takes the next connection. Does not wait.
    pub(crate) fn accept(&self) -> Result<OwnedFd, Errno> {
        rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Some((path, device, inode)) = &self.file else { return };
        let is_ours = |file: fs::Metadata| (file.dev(), file.ino()) == (*device, *inode);
        if fs::symlink_metadata(path).is_ok_and(is_ours)
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!(path = %path.display(), %error, "the socket's file stays");
        }
    }
}

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

pub(crate) fn new_socket(flags: SocketFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// Opens the folder of a socket, and makes it if it is missing, but not the folders above it. Refuses one in which
/// other users can replace files.
fn open_folder(folder: &Path) -> Result<File, String> {
    let refused = |error| format!("its folder: {error}");
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let above = folder.parent().unwrap_or(folder);
            return Err(format!("the folder {} does not exist", above.display()));
        }
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(refused(error)),
        _ => {}
    }
    // Opening something else might wait.
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(folder, flags, Mode::empty());
    let opened = File::from(opened.map_err(|error| refused(error.into()))?);
    let status = opened.metadata().map_err(refused)?;
    if ![0, rustix::process::geteuid().as_raw()].contains(&status.uid()) {
        return Err(format!("its folder belongs to user {}", status.uid()));
    }
    if status.mode() & 0o022 != 0 {
        let mode = status.mode() & 0o7777;
        return Err(format!(
            "others can write to its folder (mode {mode:o}); use one with mode 700"
        ));
    }
    Ok(opened)
}

/// Removes the file of a keeper that no longer runs.
fn remove_stale(path: &Path) -> Result<(), String> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.to_string()),
        Ok(status) if !status.file_type().is_socket() => {
            return Err("there is a file that is no socket".to_owned());
        }
        Ok(_) => {}
    }
    let connect = || {
        let socket = new_socket(SocketFlags::NONBLOCK)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
    };
    match connect() {
        Err(Errno::CONNREFUSED) => fs::remove_file(path).map_err(|error| error.to_string()),
        Ok(()) | Err(Errno::AGAIN) => Err("another keeper listens there".to_owned()),
        Err(Errno::PROTOTYPE) => Err("another program's socket is there".to_owned()),
        Err(error) => Err(std::io::Error::from(error).to_string()),
    }
}
