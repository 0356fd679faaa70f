//! Tests of the man pages.

use crate::program::{program, run};
use std::io::Write;
use std::process::Stdio;
use std::{fs, io, process};

/// Runs a formatter, and returns what it prints; `None` if it is not installed.
fn formatted(formatter: &[&str], page: &str) -> Option<String> {
    let mut child = match process::Command::new(formatter[0])
        .args(&formatter[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    {
        Ok(child) => child,
        Err(error) => {
            let _ = writeln!(io::stderr(), "skipped: {}: {error}", formatter[0]);
            return None;
        }
    };
    child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    Some(String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn the_program_and_every_command_have_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("share/man1");
    let ran = program(["man", "--dir"]).arg(&folder).output().unwrap();
    assert!(ran.status.success());
    let page = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    for (command, name) in [
        (&[][..], "phi3-loader.1"),
        (&["load"], "phi3-loader-load.1"),
        (&["resident", "list"], "phi3-loader-resident-list.1"),
        (&["man"], "phi3-loader-man.1"),
    ] {
        let printed = run([&["man"], command].concat());
        assert_eq!((printed.code(), printed.stdout()), (0, page(name).as_str()));
    }
    assert!(page("phi3-loader-load.1").contains("split\\-mode"));

    for file in fs::read_dir(&folder).unwrap() {
        let page = fs::read_to_string(file.unwrap().path()).unwrap();
        if let Some(problems) = formatted(&["mandoc", "-T", "lint", "-W", "error"], &page) {
            assert_eq!(problems, "");
        }
    }
    if let Some(shown) = formatted(&["mandoc", "-T", "utf8"], &page("phi3-loader-load.1")) {
        assert!(shown.contains("User Commands") && shown.contains("also be specified"), "{shown}");
    }
}

#[test]
fn a_page_of_an_unknown_command_is_refused() {
    for command in [&["lod"][..], &["resident", "lst"], &["help"]] {
        let ran = run([&["man"], command].concat());
        assert_eq!(ran.code(), 2);
        assert!(ran.stderr().contains("there is no command"), "{}", ran.stderr());
    }
}

#[test]
fn pages_are_not_written_where_no_folder_can_be() {
    let ran = run(["man", "--dir", "/proc/at/all"]);
    assert_eq!(ran.code(), 7, "{}", ran.stderr());
}
