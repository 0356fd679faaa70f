//! systemd's store, with a manager of the tests in place of systemd.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use keeper::systemd::Store;
use keeper::{Connection, Found, Store as _};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tempfile::TempDir;

use crate::child::{Child, Role, arguments, command};
use crate::fixtures::{
    Watch, claim, code, contents, entry, find, key, manifest, memory, pipe, raw_socket, receive,
    sealed, send, watched_entry,
};

/// Keeps descriptors as systemd does.
struct Manager {
    address: OsString,
    kept: Arc<Mutex<Kept>>,
    thread: Option<JoinHandle<()>>,
    folder: TempDir,
}

#[derive(Default)]
struct Kept {
    store: Vec<(String, OwnedFd)>,
    is_ready: bool,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let address = SocketAddrUnix::new(&path).unwrap();
        Self::listen(path.into(), &address, folder)
    }

    fn listen(name: OsString, address: &SocketAddrUnix, folder: TempDir) -> Self {
        let socket = datagram_socket();
        rustix::net::bind(&socket, address).unwrap();
        let kept = Arc::new(Mutex::new(Kept::default()));
        let for_thread = Arc::clone(&kept);
        let thread = thread::spawn(move || while handle(receive(&socket), &for_thread) {});
        Self { address: name, kept, thread: Some(thread), folder }
    }

    /// Returns the store of a process that starts now.
    fn start(&self) -> Store {
        Store::open(&self.address, self.given()).unwrap()
    }

    /// Returns what a process gets that starts now.
    fn given(&self) -> Vec<(String, OwnedFd)> {
        let kept = self.kept.lock().unwrap();
        let clone = |(name, fd): &(String, OwnedFd)| (name.clone(), fd.try_clone().unwrap());
        kept.store.iter().map(clone).collect()
    }

    fn names(&self) -> Vec<String> {
        // When the manager has closed this, it has handled all earlier messages.
        let (read, write) = pipe();
        self.notify("BARRIER=1", &[&write]);
        drop(write);
        Watch(read).until_freed();
        self.given().into_iter().map(|(name, _)| name).collect()
    }

    fn notify(&self, state: &str, descriptors: &[&OwnedFd]) {
        let socket = datagram_socket();
        let address = match self.address.as_bytes() {
            [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name),
            path => SocketAddrUnix::new(path),
        };
        rustix::net::connect(&socket, &address.unwrap()).unwrap();
        let descriptors: Vec<_> = descriptors.iter().map(|fd| fd.as_fd()).collect();
        send(&socket, state.as_bytes(), &descriptors);
    }

    /// Keeps a descriptor as if a process had stored it.
    fn keep(&self, name: &str, descriptor: OwnedFd) {
        self.kept.lock().unwrap().store.push((name.to_owned(), descriptor));
    }

    /// Starts a process with the descriptors of the store.
    fn start_process(&self, role: Role, socket: &Path) -> Child {
        let given = self.given();
        let own = std::process::id();
        let redirections = given
            .iter()
            .zip(3..)
            .map(|((_, fd), number)| format!("{number}</proc/{own}/fd/{} ", fd.as_raw_fd()));
        let names: Vec<_> = given.iter().map(|(name, _)| name.as_str()).collect();
        let redirections: String = redirections.collect();
        self.start_shell(role, socket, &redirections, &names.join(":"), given.len(), |_| ())
    }

    fn start_shell(
        &self,
        role: Role,
        socket: &Path,
        redirections: &str,
        names: &str,
        count: usize,
        prepare: impl FnOnce(&mut Command),
    ) -> Child {
        let child = command(role, socket);
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("LISTEN_PID=$$ exec \"$0\" \"$@\" {redirections}"));
        shell.arg(child.get_program()).args(arguments());
        shell.envs(child.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell.env("NOTIFY_SOCKET", &self.address);
        shell.env("LISTEN_FDS", count.to_string()).env("LISTEN_FDNAMES", names);
        prepare(&mut shell);
        Child::run(&mut shell)
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.notify("END OF THE TEST", &[]);
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || thread::panicking(), "the manager panicked");
    }
}

/// Handles a message. Returns whether to go on.
fn handle((message, descriptors): (Vec<u8>, Vec<OwnedFd>), kept: &Mutex<Kept>) -> bool {
    let message = String::from_utf8(message).unwrap();
    let mut kept = kept.lock().unwrap();
    match message.lines().collect::<Vec<_>>()[..] {
        ["FDSTORE=1", name, "FDPOLL=0"] => {
            let name = name.strip_prefix("FDNAME=").unwrap();
            assert!(name.len() < 256 && !name.contains(':'), "systemd refuses {name}");
            let [descriptor]: [_; 1] = descriptors.try_into().unwrap();
            kept.store.push((name.to_owned(), descriptor));
        }
        ["FDSTOREREMOVE=1", name] => {
            let name = name.strip_prefix("FDNAME=").unwrap();
            kept.store.retain(|(kept, _)| kept != name);
        }
        ["READY=1"] => kept.is_ready = true,
        ["BARRIER=1"] => assert_eq!(descriptors.len(), 1),
        ["END OF THE TEST"] => return false,
        _ => panic!("{message:?} is not a message to systemd"),
    }
    true
}

fn datagram_socket() -> OwnedFd {
    let (unix, datagram) = (AddressFamily::UNIX, SocketType::DGRAM);
    rustix::net::socket_with(unix, datagram, SocketFlags::CLOEXEC, None).unwrap()
}

#[test]
fn an_entry_is_given_back_after_a_restart() {
    let manager = Manager::new();
    let mut store = manager.start();
    claim(&mut store, "a-1");
    store.publish(&entry("a-1", b"weights")).unwrap();
    assert_eq!(contents(&find(&mut store, "a-1")), b"weights");
    drop(store);
    assert_eq!(manager.names(), ["phi3-a-1-0", "phi3-a-1-1", "phi3-a-1-manifest"]);

    let mut store = manager.start();
    assert_eq!(store.keys().collect::<Vec<_>>(), [&key("a-1")]);
    for _ in 0..2 {
        let found = find(&mut store, "a-1");
        assert_eq!((contents(&found), found.manifest), (b"weights".to_vec(), manifest("a-1", 2)));
    }
}

#[test]
fn an_entry_is_replaced_and_removed_as_a_whole() {
    let manager = Manager::new();
    let mut store = manager.start();
    let (old, watch) = watched_entry("a");
    store.publish(&old).unwrap();
    store.publish(&entry("a", b"new")).unwrap();
    drop(old);
    watch.until_freed();
    store.publish(&entry("b", b"other")).unwrap();
    assert_eq!(contents(&find(&mut manager.start(), "a")), b"new");
    assert!(manager.start().remove(&key("a")).unwrap());
    assert_eq!(manager.names(), ["phi3-b-0", "phi3-b-1", "phi3-b-manifest"]);
    assert!(!manager.start().remove(&key("a")).unwrap());
}

#[test]
fn what_is_left_of_an_incomplete_entry_is_removed() {
    let sealed_manifest = || sealed(&manifest("a", 2).encode().unwrap());
    let all = || {
        [
            ("phi3-a-0", memory(b"")),
            ("phi3-a-1", memory(b"")),
            ("phi3-a-manifest", sealed_manifest()),
        ]
    };
    let extra = [
        ("phi3-a-2", memory(b"")),
        ("phi3-a-0", memory(b"")),
        ("phi3-a-manifest", sealed_manifest()),
        ("phi3-a-manifest", memory(b"")),
    ];
    let missing = (0..3).map(|missing| {
        let rest = all().into_iter().enumerate().filter(move |(index, _)| *index != missing);
        rest.map(|(_, named)| named).collect::<Vec<_>>()
    });
    let too_many = extra.into_iter().map(|extra| all().into_iter().chain([extra]).collect());
    let wrong_key = vec![
        ("phi3-b-0", memory(b"")),
        ("phi3-b-1", memory(b"")),
        ("phi3-b-manifest", sealed_manifest()),
    ];
    for stored in missing.chain(too_many).chain([wrong_key]) {
        let manager = Manager::new();
        for (name, descriptor) in stored {
            manager.keep(name, descriptor);
        }
        // Not of this crate.
        for name in ["phi3-", "phi3-a", "phi3-a-01", "phi3-a-x", "phi3-a b-0", "state"] {
            manager.keep(name, memory(b""));
        }
        let store = manager.start();
        assert_eq!(store.keys().count(), 0);
        let left = ["phi3-", "phi3-a", "phi3-a-01", "phi3-a-x", "phi3-a b-0", "state"];
        assert_eq!(manager.names(), left);
    }
}

#[test]
fn the_socket_may_have_a_name_outside_of_the_file_system() {
    let folder = tempfile::tempdir().unwrap();
    let name = format!("keeper test {}", std::process::id());
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap();
    let manager = Manager::listen(format!("@{name}").into(), &address, folder);
    manager.start().publish(&entry("a", b"weights")).unwrap();
    assert_eq!(contents(&find(&mut manager.start(), "a")), b"weights");
}

#[test]
fn without_a_manager_the_store_is_unreachable() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("notify");
    assert_eq!(code(Store::open(nowhere.as_os_str(), vec![])), "KEEPER_UNREACHABLE");
}

#[test]
fn a_process_that_is_started_again_finds_its_entry() {
    let manager = Manager::new();
    manager.start().publish(&entry("a", b"weights")).unwrap();
    let process = manager.start_process(Role::Restarted, manager.folder.path());
    assert_eq!(process.report, "weights");
    process.stop();
}

#[test]
fn an_environment_that_contradicts_itself_is_refused() {
    let manager = Manager::new();
    let folder = manager.folder.path();
    let start = |change: &dyn Fn(&mut Command) -> &mut Command| {
        let change = |shell: &mut Command| {
            change(shell);
        };
        manager.start_shell(Role::Restarted, folder, "3</dev/null", "a", 1, change).report.clone()
    };
    for count in ["x", "-1", "", "70000", "60000"] {
        assert_eq!(start(&|shell| shell.env("LISTEN_FDS", count)), "KEEPER_PROTOCOL", "{count:?}");
    }
    assert_eq!(start(&|shell| shell.env_remove("NOTIFY_SOCKET")), "KEEPER_PROTOCOL");
    assert_eq!(start(&|shell| shell.env("NOTIFY_SOCKET", "/nowhere")), "KEEPER_UNREACHABLE");
    let of_another =
        Child::run(command(Role::Restarted, folder).env("LISTEN_PID", "1").env("LISTEN_FDS", "1"));
    assert_eq!(of_another.report, "no systemd");
}

#[test]
fn a_keeper_that_is_killed_and_started_again_has_its_entries() {
    let manager = Manager::new();
    let path = manager.folder.path().join("keeper.sock");
    let keeper = manager.start_process(Role::MirroredKeeper, &path);
    assert!(manager.names().is_empty());
    assert!(manager.kept.lock().unwrap().is_ready);
    let mut client = Connection::open(&path).unwrap();
    client.publish(&entry("a", b"old")).unwrap();
    client.publish(&entry("a", b"weights")).unwrap();
    client.publish(&entry("b", b"other")).unwrap();
    keeper.kill();

    let keeper = manager.start_process(Role::MirroredKeeper, &path);
    let mut client = Connection::open(&path).unwrap();
    assert_eq!(contents(&find(&mut client, "a")), b"weights");
    assert!(client.remove(&key("b")).unwrap());
    keeper.stop();
    assert_eq!(manager.names(), ["phi3-a-0", "phi3-a-1", "phi3-a-manifest"]);
}

#[test]
fn a_keeper_serves_the_socket_that_systemd_opened() {
    let manager = Manager::new();
    let path = manager.folder.path().join("keeper.sock");
    let listener = raw_socket();
    rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&listener, 8).unwrap();
    // A socket cannot be opened by a path. The shell gets it as its standard error.
    let redirections = "3<&2 2>/dev/null";
    let give = |shell: &mut Command| {
        shell.stderr(Stdio::from(listener));
    };
    let (role, name) = (Role::ActivatedKeeper, "keeper.socket");
    let keeper = manager.start_shell(role, &path, redirections, name, 1, give);
    let mut client = Connection::open(&path).unwrap();
    client.publish(&entry("a", b"weights")).unwrap();
    assert_eq!(contents(&find(&mut client, "a")), b"weights");
    keeper.stop();
    assert!(path.exists(), "the socket is systemd's");
}

#[test]
fn a_unit_with_one_model_keeps_no_other() {
    let manager = Manager::new();
    let mut store = manager.start();
    for name in ["old", "older"] {
        store.publish(&entry(name, b"weights")).unwrap();
    }
    let mut all = manager.start();
    assert!(matches!(all.find(&key("new"), &mut || true), Ok(Found::Claimed)));
    assert_eq!(manager.names().len(), 6, "without the option, entries stay");
    let mut one = manager.start().for_one_entry();
    assert!(matches!(one.find(&key("old"), &mut || true), Ok(Found::Entry(_))));
    assert_eq!(manager.names().len(), 3);
    assert!(matches!(one.find(&key("new"), &mut || true), Ok(Found::Claimed)));
    assert_eq!(manager.names(), [""; 0]);
}
