//! Tests of wrong arguments: messages show them, and escape characters that a terminal interprets.

use crate::program::{Ran, program, run};
use crate::shown::{HIDDEN, shows_itself};
use std::os::unix::process::CommandExt;

const COMMANDS: &[&str] = &[
    "inspect",
    "plan",
    "load",
    "verify",
    "bench",
    "devices",
    "synth",
    "completions",
    "hold",
    "man",
];

/// Returns a complete command line for the command.
fn start(command: &str) -> Vec<&str> {
    match command {
        "devices" | "hold" | "man" => vec![command],
        "completions" => vec![command, "bash"],
        _ => vec![command, "one"],
    }
}

/// Returns the options in the help of a command whose value is not a path.
fn options(command: &str) -> Vec<String> {
    let paths = ["FILE", "PROGRAM", "OUT.", "SOCKET", "FOLDER"];
    let is_path = |value: &str| paths.iter().any(|path| value.contains(path));
    let help = run([command, "--help"]);
    let lines = help.stdout().lines().filter_map(|line| line.trim().split_once(" <"));
    lines
        .filter(|(option, value)| option.contains("--") && !is_path(value))
        .map(|(option, _)| option[option.find("--").unwrap()..].to_owned())
        .collect()
}

/// Returns the environment variables in the help of `load`, which lists all of them but the path of a socket.
fn variables() -> Vec<String> {
    let help = run(["load", "--help"]);
    let variables = help.stdout().split("[env: ").skip(1);
    variables.map(|text| text[..text.find(']').unwrap()].to_owned()).collect()
}

/// Checks that a run fails with a usage error, and that its message has clap's layout and shows the escaped
/// argument.
#[track_caller]
fn is_refused(ran: &Ran) {
    let text = ran.stderr();
    assert_eq!((ran.code(), ran.stdout()), (2, ""), "{text}");
    shows_itself(ran);
    assert!(text.starts_with("error: ") && text.contains("\\u{"), "{text}");
    assert!(text.ends_with("\n\nFor more information, try '--help'.\n"), "{text}");
}

#[test]
fn messages_escape_hidden_characters_of_arguments() {
    let words = [HIDDEN, &format!("--{HIDDEN}"), &format!("--jso{HIDDEN}"), &format!("-q{HIDDEN}")];
    is_refused(&run([HIDDEN]));
    is_refused(&run(["help", HIDDEN]));
    is_refused(&run([format!("inspect{HIDDEN}")]));
    is_refused(&run([format!("--quiet={HIDDEN}")]));
    for command in COMMANDS {
        for word in words {
            is_refused(&run([&start(command)[..], &[word]].concat()));
            is_refused(&run([&start(command)[..], &["--", word]].concat()));
        }
        is_refused(&run([&start(command)[..], &[&format!("--quiet={HIDDEN}")]].concat()));
        for option in options(command) {
            is_refused(&run([&start(command)[..], &[&format!("{option}={HIDDEN}")]].concat()));
            let value = format!("f16\n{HIDDEN}");
            is_refused(&run([&start(command)[..], &[&option, &value]].concat()));
        }
    }
    let numbers =
        ["bench", "load", "plan", "synth", "hold", "verify"].map(|command| options(command).len());
    assert_eq!(numbers, [10, 14, 10, 4, 1, 1], "the help shows every option");
}

#[test]
fn messages_and_help_escape_hidden_characters_of_variables() {
    let variables = variables();
    assert!(variables.len() >= 11, "{variables:?}");
    for variable in variables {
        for command in ["load", "plan", "bench"] {
            let help = Ran::of(program([command, "--help"]).env(&variable, HIDDEN));
            assert_eq!(help.code(), 0);
            shows_itself(&help);
            // This variable accepts every text: all except the false values turn it on.
            if help.stdout().contains(&variable) && variable != "PHI3_LOADER_DENY_OVERFLOW" {
                is_refused(&Ran::of(program([command, "one"]).env(&variable, HIDDEN)));
            }
        }
    }
}

#[test]
fn messages_contain_the_name_of_the_program_and_not_the_name_it_was_started_as() {
    for arguments in [&["load"][..], &[], &["--help"], &["plan", "--help"]] {
        let ran = Ran::of(program(arguments).arg0(HIDDEN));
        shows_itself(&ran);
        let text = [ran.stdout(), ran.stderr()].concat();
        assert!(text.contains("Usage: phi3-loader "), "{text}");
    }
}

#[test]
fn messages_about_printable_arguments_keep_the_tips_of_clap() {
    for (arguments, tip) in [
        (["load", "--dry"], "tip: to pass '--dry' as a value, use '-- --dry'"),
        (["load", "--stor"], "tip: a similar argument exists: '--storage'"),
    ] {
        let ran = run(arguments);
        assert_eq!(ran.code(), 2);
        assert!(ran.stderr().contains(tip), "{}", ran.stderr());
    }
}

#[test]
fn a_negative_number_is_refused_as_a_value_and_not_as_an_option() {
    for command in COMMANDS {
        let takes_number = |option: &String| {
            let names = [
                "--chunk",
                "--read-size",
                "--vram-limit",
                "--reserve",
                "--threads",
                "--depth",
                "--repeat",
                "--context",
                "--batch",
                "--seed",
                "--shapes",
                "--expire",
            ];
            names.contains(&option.as_str())
        };
        for option in options(command).iter().filter(|option| takes_number(option)) {
            for number in ["-5", "-5GiB", "-0.5"] {
                let ran = run([&start(command)[..], &[option, number]].concat());
                assert_eq!(ran.code(), 2, "{}", ran.stderr());
                let start = format!("error: invalid value '{number}' for '{option} <");
                assert!(ran.stderr().starts_with(&start), "{}", ran.stderr());
                assert!(!ran.stderr().contains("tip: "), "{}", ran.stderr());
            }
        }
    }
}

#[test]
fn the_message_for_a_wrong_size_describes_the_accepted_sizes() {
    for option in ["--chunk", "--read-size", "--vram-limit", "--reserve"] {
        for size in ["5x", "0.5", "-5", "lots", "16EiB", "1e30"] {
            let ran = run(["load", "one", option, size]);
            let text = ran.stderr();
            assert!(text.contains("expected a size such as 16777216, 512MiB or 1.5GiB"), "{text}");
            assert!(text.contains("K, M and G are powers of 1000, Ki, Mi and Gi"), "{text}");
        }
    }
}
