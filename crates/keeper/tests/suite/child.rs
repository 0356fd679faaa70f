//! Child processes: this test program itself, in another role.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};

use keeper::{Connection, Keeper, KeeperOptions, Limits, Store, systemd};
use rustix::process::{Resource, Rlimit};

use crate::fixtures::{claim, code, contents, entry, find};

/// The name of the test below.
const TEST: &str = "child::plays_its_role";

/// What a child process does before it waits for its standard input to end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    /// Keeps entries until its standard input ends.
    Keeper,
    /// Does the same with at most 64 descriptors.
    PoorKeeper,
    /// Keeps entries in systemd's store, too.
    MirroredKeeper,
    /// Serves the socket that systemd gave it.
    ActivatedKeeper,
    /// Publishes the entry `a`.
    Publisher,
    /// Claims the key `a`.
    Claimant,
    /// Finds the entry `a`.
    User,
    /// Connects, and reports the error's code.
    Visitor,
    /// Reports the contents of the entry `a` in systemd's store.
    Restarted,
}

const ROLES: [Role; 9] = [
    Role::Keeper,
    Role::PoorKeeper,
    Role::MirroredKeeper,
    Role::ActivatedKeeper,
    Role::Publisher,
    Role::Claimant,
    Role::User,
    Role::Visitor,
    Role::Restarted,
];

const ROLE: &str = "KEEPER_TEST_ROLE";
const SOCKET: &str = "KEEPER_TEST_SOCKET";
const USER: &str = "KEEPER_TEST_USER";
const REPORT: &str = "report: ";

/// A child process. It is killed when this is dropped.
pub(crate) struct Child {
    process: std::process::Child,
    /// The rest of its output, which it can write as long as this is open.
    _output: BufReader<ChildStdout>,
    /// What it reported when it had done its part.
    pub(crate) report: String,
}

impl Child {
    /// Starts a child and waits until it has done its part.
    pub(crate) fn start(role: Role, socket: &Path) -> Self {
        Self::run(&mut command(role, socket))
    }

    /// Starts a child of another user.
    pub(crate) fn start_as(role: Role, socket: &Path, user: u32) -> Self {
        Self::run(command(role, socket).env(USER, user.to_string()))
    }

    pub(crate) fn run(command: &mut Command) -> Self {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut lines = output.by_ref().lines().map(Result::unwrap);
        let report = lines.find_map(|line| line.strip_prefix(REPORT).map(str::to_owned));
        let report = report.unwrap_or_else(|| panic!("no report: {:?}", process.wait()));
        Self { process, _output: output, report }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Returns the number of descriptors that the child has.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.id())).unwrap().count()
    }

    /// Kills the child with SIGKILL and waits for its end.
    pub(crate) fn kill(self) {}

    /// Ends the standard input of the child, and waits for its end.
    pub(crate) fn stop(mut self) {
        drop(self.process.stdin.take());
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It has ended already after `stop`.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns the command of a child.
pub(crate) fn command(role: Role, socket: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(arguments());
    command.env(ROLE, format!("{role:?}")).env(SOCKET, socket);
    // The tests may themselves run as a service of systemd.
    for name in ["LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET"] {
        command.env_remove(name);
    }
    command
}

/// Returns the arguments with which this program plays a role.
pub(crate) fn arguments() -> [&'static OsStr; 4] {
    [TEST, "--exact", "--nocapture", "--test-threads=1"].map(OsStr::new)
}

/// Does nothing, except in a child process.
#[test]
fn plays_its_role() {
    let Ok(name) = std::env::var(ROLE) else { return };
    let role = ROLES.into_iter().find(|role| format!("{role:?}") == name).unwrap();
    let socket = std::env::var_os(SOCKET).unwrap();
    if let Ok(user) = std::env::var(USER) {
        let user = rustix::process::Uid::from_raw(user.parse().unwrap());
        // Of this thread only, which is the one that does everything.
        rustix::thread::set_thread_res_uid(user, user, user).unwrap();
    }
    play(role, Path::new(&socket));
}

fn play(role: Role, socket: &Path) {
    let connect = || Connection::open(socket).unwrap();
    match role {
        Role::Keeper => serve(Keeper::bind(socket, KeeperOptions::new()).unwrap()),
        Role::PoorKeeper => {
            let limit = Rlimit { current: Some(64), maximum: Some(64) };
            rustix::process::setrlimit(Resource::Nofile, limit).unwrap();
            let limits = Limits { connections: 1000, ..Limits::default() };
            serve(Keeper::bind(socket, KeeperOptions::new().limits(limits)).unwrap());
        }
        Role::MirroredKeeper => {
            let store = systemd::Store::from_environment().unwrap().unwrap();
            let mut keeper = Keeper::bind(socket, KeeperOptions::new()).unwrap();
            keeper.mirror(store).unwrap();
            systemd::ready().unwrap();
            serve(keeper);
        }
        Role::ActivatedKeeper => {
            let mut store = systemd::Store::from_environment().unwrap().unwrap();
            let [(name, listener)]: [_; 1] = store.take_sockets().try_into().unwrap();
            assert_eq!(name, "keeper.socket");
            serve(Keeper::from_listener(listener, KeeperOptions::new()).unwrap());
        }
        Role::Publisher => {
            let mut client = connect();
            client.publish(&entry("a", b"published")).unwrap();
            wait("published");
        }
        Role::Claimant => {
            let mut client = connect();
            claim(&mut client, "a");
            wait("claimed");
        }
        Role::User => {
            let mut client = connect();
            let entry = find(&mut client, "a");
            wait(std::str::from_utf8(&contents(&entry)).unwrap());
        }
        Role::Visitor => wait(code(Connection::open(socket))),
        Role::Restarted => match systemd::Store::from_environment() {
            Err(error) => wait(error.code()),
            Ok(None) => wait("no systemd"),
            Ok(Some(mut store)) => {
                let again = systemd::Store::from_environment().unwrap().unwrap();
                assert_eq!(again.keys().count(), 0, "the descriptors were taken");
                let entry = find(&mut store, "a");
                wait(std::str::from_utf8(&contents(&entry)).unwrap());
            }
        },
    }
}

fn serve(mut keeper: Keeper) {
    report("listening");
    keeper.run(std::io::stdin().as_fd()).unwrap();
}

fn wait(text: &str) {
    report(text);
    assert_eq!(std::io::stdin().read(&mut [0]).unwrap(), 0);
}

fn report(text: &str) {
    // The test's name is on the line so far.
    println!("\n{REPORT}{text}");
}
