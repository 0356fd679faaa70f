//! Clients that want the same weights at the same time.

use std::sync::mpsc::{Receiver, channel};
use std::thread::{Scope, ScopedJoinHandle};

use keeper::{Connection, Error, Found, Store};

use crate::fixtures::{Running, claim, code, contents, entry, find, key};

/// Looks for an entry on a thread. Returns the thread when the client waits for another one.
fn wait_for<'s>(
    scope: &'s Scope<'s, '_>,
    mut client: Connection,
    name: &'s str,
) -> ScopedJoinHandle<'s, (Connection, Result<Found, Error>)> {
    let (waits, waiting): (_, Receiver<()>) = channel();
    let thread = scope.spawn(move || {
        let found = client.find(&key(name), &mut || {
            // The receiver is gone after the first message.
            let _ = waits.send(());
            true
        });
        (client, found)
    });
    waiting.recv().unwrap();
    thread
}

#[test]
fn all_who_wait_get_the_published_entry() {
    let keeper = Running::new();
    let mut first = keeper.connect();
    claim(&mut first, "a");
    std::thread::scope(|scope| {
        let others = [(); 3].map(|()| wait_for(scope, keeper.connect(), "a"));
        first.publish(&entry("a", b"weights")).unwrap();
        for other in others {
            let (_, found) = other.join().unwrap();
            let Ok(Found::Entry(found)) = found else { panic!("{found:?}") };
            assert_eq!(contents(&found), b"weights");
        }
    });
}

#[test]
fn the_claim_goes_on_when_its_owner_goes_or_gives_up() {
    let keeper = Running::new();
    let mut first = keeper.connect();
    claim(&mut first, "a");
    // Twice is as good as once.
    claim(&mut first, "a");
    std::thread::scope(|scope| {
        let second = wait_for(scope, keeper.connect(), "a");
        let third = wait_for(scope, keeper.connect(), "a");
        drop(first);
        let (mut second, found) = second.join().unwrap();
        assert!(matches!(found, Ok(Found::Claimed)), "{found:?}");
        second.give_up(&key("a")).unwrap();
        let (mut third, found) = third.join().unwrap();
        assert!(matches!(found, Ok(Found::Claimed)), "{found:?}");
        third.give_up(&key("a")).unwrap();
        claim(&mut second, "a");
    });
}

#[test]
fn a_wait_can_be_cancelled_and_the_connection_still_works() {
    let keeper = Running::new();
    let mut first = keeper.connect();
    claim(&mut first, "a");
    let mut second = keeper.connect();
    assert_eq!(code(second.find(&key("a"), &mut || false)), "CANCELLED");
    assert_eq!(second.list().unwrap(), []);
    assert_eq!(code(second.find(&key("a"), &mut || false)), "CANCELLED");
    first.publish(&entry("a", b"weights")).unwrap();
    find(&mut second, "a");
}

#[test]
fn claims_of_other_keys_do_not_wait() {
    let keeper = Running::new();
    let (mut first, mut second) = (keeper.connect(), keeper.connect());
    claim(&mut first, "a");
    claim(&mut second, "b");
    second.publish(&entry("a", b"not claimed by this one")).unwrap();
    find(&mut first, "a");
    first.publish(&entry("a", b"claimed")).unwrap();
    assert_eq!(contents(&find(&mut second, "a")), b"claimed");
}

#[test]
fn giving_up_what_was_never_claimed_changes_nothing() {
    let keeper = Running::new();
    let (mut first, mut second) = (keeper.connect(), keeper.connect());
    claim(&mut first, "a");
    second.give_up(&key("a")).unwrap();
    second.give_up(&key("b")).unwrap();
    assert_eq!(code(second.find(&key("a"), &mut || false)), "CANCELLED");
}
