//! The commands `resident list` and `resident drop`.

use super::{KeeperProcess, attaches, load_arguments, publishes, resident, small_model, synthetic};
use crate::program::{Ran, program};
use crate::shown::{HIDDEN, shows_itself};
use std::path::Path;

/// The text about a keeper without entries.
const NONE: &str = "the keeper has no weights\n";

/// Returns the keys that the keeper lists.
#[track_caller]
fn keys(socket: &Path) -> Vec<String> {
    let ran = resident(socket, ["list"]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    if ran.stdout() == NONE {
        return Vec::new();
    }
    let keys = ran.stdout().lines().filter(|line| !line.starts_with(' '));
    keys.map(str::to_owned).collect()
}

#[test]
fn the_list_describes_every_entry() {
    let keeper = KeeperProcess::start(&[]);
    let (file, socket) = (small_model(), keeper.socket());
    assert_eq!(keys(&socket), Vec::<String>::new());
    let key = publishes(&file, &socket, &["--device=host,host"]);
    let mut user = keeper.connect();
    user.fetch(&key.parse().unwrap()).unwrap();
    let text = resident(&socket, ["list"]).stdout().to_owned();
    for line in [
        format!("{key}\n"),
        format!("  file     {}\n", file.display()),
        "  storage  f16, split layer\n".to_owned(),
        "  device   host (host memory): ".to_owned(),
        "  created  20".to_owned(),
        "  in use   by 1 connection\n".to_owned(),
    ] {
        assert!(text.contains(&line), "{line}: {text}");
    }
    let document = resident(&socket, ["list", "--json"]).json_lines().pop().unwrap();
    let entry = &document["entries"][0];
    assert_eq!((&entry["key"], &entry["device"]), (&key.into(), &"host,host".into()));
    assert_eq!(entry["shards"][0], file.to_str().unwrap());
    assert_eq!((&entry["users"], entry["unused_seconds"].as_u64()), (&1.into(), None));
    let parts = entry["parts"].as_array().unwrap();
    let bytes = |part: &serde_json::Value| part["vram_bytes"].as_u64().unwrap();
    assert_eq!(entry["vram_bytes"], parts.iter().map(bytes).sum::<u64>());
    assert!(parts.iter().all(|part| part["descriptors"][0].as_u64() >= Some(bytes(part))));
}

#[test]
fn a_keeper_without_weights_is_reported_as_such() {
    let keeper = KeeperProcess::start(&[]);
    for command in ["list", "verify"] {
        let ran = resident(&keeper.socket(), [command]);
        assert_eq!((ran.code(), ran.stdout()), (0, NONE), "{}", ran.stderr());
    }
    publishes(&small_model(), &keeper.socket(), &[]);
    let text = resident(&keeper.socket(), ["list"]).stdout().to_owned();
    assert!(text.contains("\n  unused   for "), "{text}");
}

#[test]
fn the_list_has_whole_paths_without_hidden_characters() {
    let keeper = KeeperProcess::start(&[]);
    let (folder, name) = (keeper.folder.path(), format!("model{HIDDEN}.gguf"));
    std::fs::copy(small_model(), folder.join(&name)).unwrap();
    let arguments = load_arguments(Path::new(&name), &keeper.socket(), &[]);
    let ran = Ran::of(program(arguments).current_dir(folder));
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    let (list, json) =
        (resident(&keeper.socket(), ["list"]), resident(&keeper.socket(), ["list", "--json"]));
    shows_itself(&list);
    shows_itself(&json);
    let path = &json.json_lines()[0]["entries"][0]["shards"][0];
    assert_eq!(path, folder.join(&name).to_str().unwrap());
}

#[test]
fn an_entry_is_dropped_by_its_key_or_the_start_of_it() {
    let keeper = KeeperProcess::start(&[]);
    let (file, socket) = (synthetic(keeper.folder.path(), 0), keeper.socket());
    let f16 = publishes(&file, &socket, &[]);
    let native = publishes(&file, &socket, &["--storage=native"]);
    let dropped = |key: &str| {
        let ran = resident(&socket, ["drop", key]);
        assert_eq!(ran.code(), 0, "{}", ran.stderr());
        assert!(ran.stdout().starts_with("dropped   "), "{}", ran.stdout());
    };
    dropped(&f16);
    assert_eq!(keys(&socket), std::slice::from_ref(&native));
    dropped(native.split_once('-').unwrap().0);
    assert_eq!(keys(&socket), Vec::<String>::new());
    publishes(&file, &socket, &[]);
}

#[test]
fn a_key_that_names_no_entry_or_several_is_an_error() {
    let keeper = KeeperProcess::start(&[]);
    let (file, socket) = (synthetic(keeper.folder.path(), 0), keeper.socket());
    let f16 = publishes(&file, &socket, &[]);
    publishes(&file, &socket, &["--storage=native"]);
    let start = f16.split_once('-').unwrap().0;
    for command in ["drop", "verify"] {
        for (key, reason) in
            [("absent", "no entry with the key absent"), (start, "2 keys start with")]
        {
            let ran = resident(&socket, [command, key]);
            assert_eq!((ran.code(), ran.stdout()), (7, ""), "{}", ran.stderr());
            assert!(ran.stderr().starts_with("error[RESIDENT_UNKNOWN]: "), "{}", ran.stderr());
            assert!(ran.stderr().contains(reason), "{}", ran.stderr());
        }
    }
    assert_eq!(keys(&socket).len(), 2);
}

/// A script may have an empty variable for a key, and every key starts with that.
#[test]
fn an_empty_key_names_nothing() {
    let keeper = KeeperProcess::start(&[]);
    let key = publishes(&small_model(), &keeper.socket(), &[]);
    for command in ["drop", "verify"] {
        assert_eq!(resident(&keeper.socket(), [command, ""]).code(), 2);
    }
    assert_eq!(keys(&keeper.socket()), [key]);
}

#[test]
fn everything_can_be_dropped() {
    let keeper = KeeperProcess::start(&[]);
    let socket = keeper.socket();
    let key = publishes(&small_model(), &socket, &[]);
    let mut user = keeper.connect();
    let entry = user.fetch(&key.parse().unwrap()).unwrap().unwrap();
    publishes(&small_model(), &socket, &["--device=host,host"]);
    let ran = resident(&socket, ["drop", "--all"]);
    assert_eq!((ran.code(), ran.stdout().lines().count()), (0, 2), "{}", ran.stderr());
    assert!(
        ran.stdout().contains("; the memory is still in use by 1 connection\n"),
        "{}",
        ran.stdout()
    );
    assert_eq!(keys(&socket), Vec::<String>::new());
    // The process that used an entry still has it, and can publish it again.
    keeper::Store::publish(&mut user, &entry).unwrap();
    attaches(&small_model(), &socket, &[]);
}
