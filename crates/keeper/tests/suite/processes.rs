//! Processes that are killed, and processes of other users.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::thread;

use keeper::{Connection, Store};

use crate::child::{Child, Role};
use crate::fixtures::{OTHER_USER, Running, claim, code, contents, entry, find, is_root, key};

#[test]
fn an_entry_stays_when_its_publisher_is_killed() {
    let keeper = Running::new();
    let publisher = Child::start(Role::Publisher, keeper.path());
    let mut client = keeper.connect();
    assert_eq!(client.list().unwrap()[0].users, 1);
    publisher.kill();
    assert_eq!(client.list().unwrap()[0].users, 0);
    assert_eq!(contents(&find(&mut client, "a")), b"published");
}

#[test]
fn a_killed_claimant_leaves_the_claim_to_the_next() {
    let keeper = Running::new();
    let claimant = Child::start(Role::Claimant, keeper.path());
    let mut client = keeper.connect();
    let mut claimant = Some(claimant);
    let found = client.find(&key("a"), &mut || {
        if let Some(claimant) = claimant.take() {
            claimant.kill();
        }
        true
    });
    assert!(matches!(found, Ok(keeper::Found::Claimed)), "{found:?}");
    assert!(claimant.is_none(), "the client did not wait");
}

#[test]
fn a_killed_user_takes_nothing_from_another() {
    let keeper = Running::new();
    let mut client = keeper.connect();
    client.publish(&entry("a", b"shared")).unwrap();
    let users = [(); 2].map(|()| Child::start(Role::User, keeper.path()));
    assert!(users.iter().all(|user| user.report == "shared"));
    assert_eq!(client.list().unwrap()[0].users, 3);
    let [first, second] = users;
    first.kill();
    assert_eq!(client.list().unwrap()[0].users, 2);
    second.stop();
    assert_eq!(contents(&find(&mut client, "a")), b"shared");
}

#[test]
fn a_killed_keeper_takes_no_memory_from_its_users() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keeper.sock");
    let keeper = Child::start(Role::Keeper, &path);
    let mut client = Connection::open(&path).unwrap();
    client.publish(&entry("a", b"weights")).unwrap();
    let used = find(&mut client, "a");
    keeper.kill();
    assert_eq!(code(client.list()), "KEEPER_UNREACHABLE");
    assert_eq!(contents(&used), b"weights");

    // The next keeper replaces the old socket and knows nothing.
    let keeper = Child::start(Role::Keeper, &path);
    let mut client = Connection::open(&path).unwrap();
    claim(&mut client, "a");
    client.publish(&used).unwrap();
    assert_eq!(contents(&find(&mut client, "a")), b"weights");
    keeper.stop();
    assert!(!path.exists(), "the socket's file stays");
}

#[test]
fn two_processes_that_start_together_load_once() {
    let keeper = Running::new();
    let loads: usize = thread::scope(|scope| {
        let worker = || {
            let mut client = keeper.connect();
            match client.find(&key("a"), &mut || true).unwrap() {
                keeper::Found::Entry(found) => {
                    assert_eq!(contents(&found), b"loaded");
                    0
                }
                keeper::Found::Claimed => {
                    client.publish(&entry("a", b"loaded")).unwrap();
                    1
                }
            }
        };
        [(); 8].map(|()| scope.spawn(worker)).into_iter().map(|w| w.join().unwrap()).sum()
    });
    assert_eq!(loads, 1);
}

#[test]
fn other_users_are_refused() {
    if !is_root() {
        return;
    }
    let keeper = Running::new();
    // As if an administrator had opened what the keeper closes.
    let folder = keeper.path().parent().unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(visit(&keeper), "KEEPER_UNREACHABLE", "the socket's mode");
    fs::set_permissions(keeper.path(), fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(visit(&keeper), "KEEPER_REFUSED");
    assert_eq!(keeper.connect().list().unwrap(), []);

    fn visit(keeper: &Running) -> String {
        Child::start_as(Role::Visitor, keeper.path(), OTHER_USER).report.clone()
    }
}

#[test]
fn a_keeper_of_another_user_is_not_trusted() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    chown(folder.path(), Some(OTHER_USER), None).unwrap();
    let path = folder.path().join("keeper.sock");
    let _keeper = Child::start_as(Role::Keeper, &path, OTHER_USER);
    let refused = Connection::open(&path).unwrap_err();
    assert_eq!(refused.code(), "KEEPER_REFUSED");
    assert_eq!(
        refused.to_string(),
        format!("the keeper runs as user {OTHER_USER}; root trusts only a keeper of root")
    );
    // Its own user is served.
    assert_eq!(Child::start_as(Role::Visitor, &path, OTHER_USER).report, "no error");
}
