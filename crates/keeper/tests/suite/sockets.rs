//! The socket of a keeper in the file system.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;

use keeper::{Connection, Keeper, KeeperOptions};
use rustix::fs::Mode;
use rustix::net::SocketAddrUnix;

use crate::fixtures::{OTHER_USER, Running, code, is_root, raw_socket, until};

fn bind(path: &Path) -> Result<Keeper, keeper::Error> {
    Keeper::bind(path, KeeperOptions::new())
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Checks that a keeper cannot listen there, and why.
#[track_caller]
fn refuses(path: &Path, why: &str) {
    let refused = bind(path).unwrap_err();
    assert_eq!(refused.code(), "KEEPER_SOCKET");
    assert!(refused.to_string().contains(why), "{refused}");
}

#[test]
fn only_the_user_can_reach_the_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/keeper.sock");
    let keeper = bind(&path).unwrap();
    assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o600));
    drop(keeper);
    assert!(!path.exists());
}

#[test]
fn a_folder_that_others_can_change_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keeper.sock");
    for mode in [0o770, 0o707, 0o1777] {
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
        refuses(&path, "others can write to its folder");
    }
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    bind(&path).unwrap();

    if is_root() {
        chown(folder.path(), Some(OTHER_USER), None).unwrap();
        refuses(&path, "its folder belongs to user 65534");
    }
}

#[test]
fn paths_that_cannot_be_sockets_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let missing = format!("the folder {} does not exist", path("no").display());
    refuses(&path("no/such/keeper.sock"), &missing);
    refuses(&path(&"k".repeat(120)), "too long");
    refuses(Path::new("/"), "it is no file in a folder");
    fs::write(path("file"), "").unwrap();
    refuses(&path("file"), "a file that is no socket");
    refuses(&path("file/keeper.sock"), "its folder");
    assert!(path("file").exists());
}

#[test]
fn binding_never_waits() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
    refuses(&pipe.join("keeper.sock"), "its folder: Not a directory");

    let path = folder.path().join("keeper.sock");
    let locked = fs::File::open(folder.path()).unwrap();
    locked.lock().unwrap();
    refuses(&path, "another process has locked its folder");
    locked.unlock().unwrap();
    bind(&path).unwrap();
}

#[test]
fn a_socket_that_is_in_use_is_refused_and_an_old_one_replaced() {
    let keeper = Running::new();
    refuses(keeper.path(), "another keeper listens there");
    keeper.connect();

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keeper.sock");
    let of_another_program = UnixListener::bind(&path).unwrap();
    refuses(&path, "another program's socket");
    drop(of_another_program);
    until(|| bind(&path).is_ok());
    let stale = raw_socket();
    rustix::net::bind(&stale, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    drop(stale);
    bind(&path).unwrap();
}

#[test]
fn a_file_that_has_replaced_the_socket_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keeper.sock");
    let keeper = bind(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "another's").unwrap();
    drop(keeper);
    assert_eq!(fs::read_to_string(&path).unwrap(), "another's");
}

#[test]
fn only_listening_sockets_of_the_right_type_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let stream = UnixListener::bind(folder.path().join("stream")).unwrap();
    let file = fs::File::open("/dev/null").unwrap();
    for (socket, expected) in [
        (stream.try_clone().unwrap().into(), "KEEPER_PROTOCOL"),
        (raw_socket(), "KEEPER_PROTOCOL"),
        (file.into(), "KEEPER_IO"),
    ] {
        assert_eq!(code(Keeper::from_listener(socket, KeeperOptions::new())), expected);
    }
    // Clients notice when a stream listens at the path.
    let error = Connection::open(&folder.path().join("stream")).unwrap_err();
    assert_eq!(error.code(), "KEEPER_UNREACHABLE");
    assert!(error.to_string().ends_with("this is no socket of a keeper"), "{error}");
}
