//! A keeper as a process, and what it does as such.

use super::{attaches, load, publishes, resident, small_model};
use crate::program::{Ran, program, run};
use crate::shown::{HIDDEN, shows_itself};
use keeper::{Connection, Found, Store};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use tempfile::TempDir;

/// A keeper that listens in a folder of its own. Ends with the test.
pub(crate) struct KeeperProcess {
    pub(crate) process: Child,
    pub(crate) folder: TempDir,
    log: Receiver<String>,
}

impl KeeperProcess {
    pub(crate) fn start(more: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), more)
    }

    /// Returns when the keeper listens.
    pub(crate) fn start_in(folder: TempDir, more: &[&str]) -> Self {
        let mut hold = program(["hold", "--socket"]);
        hold.arg(socket_in(folder.path())).args(more);
        let mut process = hold.stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let (send, log) = channel();
        // The keeper must never wait for a reader of its log.
        std::thread::spawn(move || {
            lines.map_while(Result::ok).try_for_each(|line| send.send(line))
        });
        let keeper = Self { process, folder, log };
        keeper.logs("listening at ");
        keeper
    }

    pub(crate) fn socket(&self) -> PathBuf {
        socket_in(self.folder.path())
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::open(&self.socket()).unwrap()
    }

    /// Waits until the keeper logs this text.
    #[track_caller]
    pub(crate) fn logs(&self, text: &str) {
        assert!(self.log.iter().any(|line| line.contains(text)), "the keeper has ended");
    }

    pub(crate) fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Ends the keeper in the hard way. Returns its folder.
    pub(crate) fn kill(mut self) -> TempDir {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap())
    }
}

impl Drop for KeeperProcess {
    fn drop(&mut self) {
        // Both fail if the process has already ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The keeper makes the folder of its socket.
fn socket_in(folder: &Path) -> PathBuf {
    folder.join("phi3-loader/keeper.sock")
}

#[test]
fn a_signal_ends_a_keeper_in_order() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut keeper = KeeperProcess::start(&[]);
        publishes(&small_model(), &keeper.socket(), &[]);
        keeper.send(signal);
        assert_eq!(keeper.process.wait().unwrap().code(), Some(0));
        assert!(!keeper.socket().exists(), "the file of the socket is left");
    }
}

#[test]
fn only_the_user_can_reach_the_socket() {
    let keeper = KeeperProcess::start(&[]);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&keeper.socket()), 0o600);
    assert_eq!(mode(keeper.socket().parent().unwrap()), 0o700);
}

/// Checks that no keeper starts at this path.
#[track_caller]
fn is_refused(socket: &Path, reason: &str) {
    let ran = Ran::of(program(["hold", "--socket"]).arg(socket));
    assert_eq!(ran.code(), 7, "{}", ran.stderr());
    assert!(ran.stderr().contains("error[KEEPER_SOCKET]: "), "{}", ran.stderr());
    assert!(ran.stderr().contains(reason), "{}", ran.stderr());
}

#[test]
fn a_keeper_starts_only_at_a_safe_path_of_its_own() {
    let keeper = KeeperProcess::start(&[]);
    is_refused(&keeper.socket(), "another keeper listens there");
    let open = keeper.folder.path().join("open");
    std::fs::DirBuilder::new().mode(0o700).create(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
    is_refused(&open.join("keeper.sock"), "others can write to its folder");
    let absent = keeper.folder.path().join("absent");
    let reason = format!("the folder {} does not exist", absent.display());
    is_refused(&absent.join("deeper/keeper.sock"), &reason);
    let file = keeper.folder.path().join("file");
    std::fs::write(&file, "content").unwrap();
    is_refused(&file, "no socket");
    assert_eq!(std::fs::read(&file).unwrap(), b"content");
}

#[test]
fn a_new_keeper_replaces_the_socket_of_one_that_was_killed() {
    let keeper = KeeperProcess::start(&[]);
    let model = small_model();
    publishes(&model, &keeper.socket(), &[]);
    let keeper = KeeperProcess::start_in(keeper.kill(), &[]);
    // The memory was freed with the only process that had its descriptors.
    publishes(&model, &keeper.socket(), &[]);
    attaches(&model, &keeper.socket(), &[]);
}

#[test]
fn a_keeper_uses_little_memory_and_no_gpu() {
    let keeper = KeeperProcess::start(&[]);
    publishes(&small_model(), &keeper.socket(), &[]);
    let of_process = |file: &str| {
        std::fs::read_to_string(format!("/proc/{}/{file}", keeper.process.id())).unwrap()
    };
    assert!(!of_process("maps").contains("libcuda"), "the driver is loaded");
    let status = of_process("status");
    let private = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let kibibytes: u64 = private.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    assert!(kibibytes < 8 << 10, "{kibibytes} KiB");
}

#[test]
fn unused_weights_expire() {
    let keeper = KeeperProcess::start(&["--expire=0"]);
    publishes(&small_model(), &keeper.socket(), &[]);
    keeper.logs("entry expired");
    assert_eq!(keeper.connect().list().unwrap(), []);
}

#[test]
fn weights_in_use_do_not_expire() {
    let keeper = KeeperProcess::start(&["--expire=0"]);
    let mut user = keeper.connect();
    // The claim makes the load wait until this connection has the entry, too.
    let donor = KeeperProcess::start(&[]);
    let key = publishes(&small_model(), &donor.socket(), &[]).parse().unwrap();
    let entry = donor.connect().fetch(&key).unwrap().unwrap();
    assert!(matches!(user.find(&key, &mut || true), Ok(Found::Claimed)));
    user.publish(&entry).unwrap();
    attaches(&small_model(), &keeper.socket(), &[]);
    let listed = keeper.connect().list().unwrap();
    assert!(listed[0].users >= 1 && listed[0].unused_seconds.is_none(), "{listed:?}");
    drop(user);
    keeper.logs("entry expired");
}

#[test]
fn hostile_clients_do_not_stop_a_keeper() {
    let keeper = KeeperProcess::start(&[]);
    for message in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", &[0xff; 4096], &[0x9f; 100]] {
        let socket = seqpacket(&keeper.socket());
        // The keeper may already have ended the connection.
        let _ = rustix::net::send(&socket, message, rustix::net::SendFlags::NOSIGNAL);
    }
    let idle: Vec<_> = (0..500).map(|_| seqpacket(&keeper.socket())).collect();
    drop(idle);
    // A connection above the limit is refused, and there is room again when the keeper has seen that the others ended.
    while Connection::open(&keeper.socket()).is_err() {}
    publishes(&small_model(), &keeper.socket(), &[]);
    attaches(&small_model(), &keeper.socket(), &[]);
}

fn seqpacket(path: &Path) -> rustix::fd::OwnedFd {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
    let socket = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

/// Checks that a load and a list fail with this code at the socket, before the load opens the file.
#[track_caller]
fn is_not_reached(socket: &Path, code: &str) {
    let ran = load(&small_model(), socket, &["--json"]);
    assert_eq!(ran.code(), 7, "{}", ran.stderr());
    let events = ran.json_lines();
    assert_eq!((events.len(), &events[0]["code"]), (1, &code.into()), "{events:?}");
    let ran = resident(socket, ["list"]);
    assert_eq!((ran.code(), ran.stdout()), (7, ""));
    assert!(ran.stderr().starts_with(&format!("error[{code}]: ")), "{}", ran.stderr());
}

#[test]
fn a_keeper_that_cannot_be_reached_is_an_error_before_the_load() {
    let folder = tempfile::tempdir().unwrap();
    is_not_reached(&folder.path().join("absent.sock"), "KEEPER_UNREACHABLE");
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    is_not_reached(&file, "KEEPER_UNREACHABLE");
    let other = folder.path().join("stream.sock");
    let _listener = UnixListener::bind(&other).unwrap();
    is_not_reached(&other, "KEEPER_UNREACHABLE");
    let other = folder.path().join("datagram.sock");
    let _datagrams = UnixDatagram::bind(&other).unwrap();
    is_not_reached(&other, "KEEPER_UNREACHABLE");
}

#[test]
fn messages_escape_hidden_characters_of_paths_and_keys() {
    let keeper = KeeperProcess::start(&[]);
    let socket = keeper.folder.path().join(HIDDEN);
    let folder = socket.join("keeper.sock");
    std::fs::write(&socket, "").unwrap();
    for ran in [
        load(&small_model(), &socket, &[]),
        load(&small_model(), &socket, &["--json"]),
        resident(&socket, ["list"]),
        resident(&keeper.socket(), ["drop", HIDDEN]),
        resident(&keeper.socket(), ["verify", HIDDEN]),
        Ran::of(program(["hold", "--socket"]).arg(&socket)),
        Ran::of(program(["hold", "--socket"]).arg(&folder)),
    ] {
        assert_eq!(ran.code(), 7, "{}", ran.stderr());
        shows_itself(&ran);
        assert!(ran.stderr().contains("\\u{"), "{}", ran.stderr());
    }
}

#[test]
fn the_socket_can_be_in_the_environment() {
    let keeper = KeeperProcess::start(&[]);
    let key = publishes(&small_model(), &keeper.socket(), &[]);
    let in_variable =
        Ran::of(program(["resident", "list"]).env("PHI3_LOADER_SOCKET", keeper.socket()));
    let mut by_default = program(["resident", "list"]);
    let by_default = Ran::of(by_default.env("XDG_RUNTIME_DIR", keeper.folder.path()));
    for ran in [in_variable, by_default] {
        assert_eq!(ran.code(), 0, "{}", ran.stderr());
        assert!(ran.stdout().starts_with(&key), "{}", ran.stdout());
    }
}

#[test]
fn the_time_until_weights_expire_is_a_whole_number_of_seconds() {
    for value in ["abc", "-5", "10m", "1.5", ""] {
        let ran = run(["hold", &format!("--expire={value}")]);
        assert_eq!(ran.code(), 2, "{value}");
        assert!(
            ran.stderr().contains("a whole number of seconds, such as 600"),
            "{}",
            ran.stderr()
        );
    }
}

#[test]
fn a_command_that_names_no_keeper_is_wrong_use() {
    for arguments in [&["load", "one", "--resident=systemd"][..], &["load", "one", "--resident"]] {
        assert_eq!(run(arguments).code(), 2, "{arguments:?}");
    }
    let ran = run(["load", "one", "--resident=systemd"]);
    assert!(ran.stderr().contains("needs a unit of systemd"), "{}", ran.stderr());
}
