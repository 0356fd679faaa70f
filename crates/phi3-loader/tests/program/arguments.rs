//! Tests of wrong arguments: messages show them, and escape characters that a terminal interprets.

use crate::common::model_path;
use crate::program::{Ran, program, run};
use crate::shown::{HIDDEN, shows_itself};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
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

/// Returns the options in the help of a command whose value is not a path, a pattern or a name, which can be any text.
fn options(command: &str) -> Vec<String> {
    let paths = ["FILE", "PROGRAM", "OUT.", "SOCKET", "FOLDER", "GLOB", "NAME"];
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
        // `inspect` takes any number of files.
        let takes_word = *command == "inspect";
        for word in words {
            if !takes_word || word.starts_with('-') {
                is_refused(&run([&start(command)[..], &[word]].concat()));
            }
            if !takes_word {
                is_refused(&run([&start(command)[..], &["--", word]].concat()));
            }
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
    assert_eq!(numbers, [12, 16, 11, 5, 2, 2], "the help shows every option");
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
            if help.stdout().contains(&variable) {
                is_refused(&Ran::of(program([command, "one"]).env(&variable, HIDDEN)));
            }
        }
    }
}

#[test]
fn a_wrong_value_of_a_variable_is_named_as_the_variable() {
    for variable in variables() {
        let option = variable["PHI3_LOADER_".len()..].to_lowercase().replace('_', "-");
        let load = |more: &[&str], value: &[u8]| {
            let mut command = program([&["load", "--threads=1", "one"], more].concat());
            // Another variable is wrong as well, but an option of the command line comes before it.
            command.env("PHI3_LOADER_THREADS", "?").env(&variable, OsStr::from_bytes(value));
            let ran = Ran::of(&mut command);
            (ran.code(), ran.stderr().to_owned())
        };
        let in_argument = load(&[&format!("--{option}=?")], b"?");
        let has_no_value = variable == "PHI3_LOADER_DENY_OVERFLOW";
        // The command line has an accepted number of threads.
        if variable == "PHI3_LOADER_THREADS" || has_no_value {
            assert!(!in_argument.1.contains("PHI3_LOADER"), "{}", in_argument.1);
        } else {
            let start = format!("error: invalid value '?' for '--{option} <");
            assert!(in_argument.0 == 2 && in_argument.1.starts_with(&start), "{}", in_argument.1);
        }
        if variable == "PHI3_LOADER_THREADS" {
            continue;
        }
        let in_variable = load(&[], b"?");
        let place = if has_no_value { ")'" } else { " <" };
        let start = format!("error: invalid value '?' for '{variable} (--{option}{place}");
        assert!(in_variable.0 == 2 && in_variable.1.starts_with(&start), "{}", in_variable.1);
        let no_text = load(&[], b"\xff");
        let start = format!("error: the value of {variable} is not valid UTF-8\n");
        assert!(no_text.0 == 2 && no_text.1.starts_with(&start), "{}", no_text.1);
        let other = load(&["--bogus"], b"?");
        assert!(other.1.starts_with("error: unexpected argument '--bogus'"), "{}", other.1);
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
fn the_message_for_a_wrong_value_describes_the_accepted_values() {
    let long = "a".repeat(108);
    for (command, option, value, expected) in [
        ("load", "--resident", &*long, "expected a path of at most 107 bytes"),
        ("hold", "--socket", &long, "expected a path of at most 107 bytes"),
        ("load", "--threads", "0", "expected a whole number from 1 to 256"),
        ("load", "--depth", "many", "expected a whole number from 1 to 1024"),
        ("load", "--n-gpu-layers", "1.5", "expected a whole number from 0 to 4294967295"),
        ("load", "--tensor-split", "3,x", "expected a number for each device, such as 3,1"),
        ("load", "--device", "host, 0", "expected host, cuda:N, cuda:all or the number of a GPU"),
        ("load", "--via", "gpu", "expected host, cuda:N, cuda:all or the number of a GPU"),
        ("plan", "--memory", "24GB,x", "expected a size such as 16777216, 512MiB or 1.5GiB"),
        ("plan", "--context", "4k", "expected a whole number from 1 to 4294967295"),
        ("plan", "--batch", "", "expected a whole number from 1 to 4294967295"),
        ("bench", "--repeat", "1001", "expected a whole number from 1 to 1000"),
        ("bench", "--shapes", "1:2", "expected THREADS:DEPTH:CHUNK:READ, such as 12:4:8MiB:256KiB"),
        ("synth", "--seed", "-1", "expected a whole number from 0 to 18446744073709551615"),
        ("hold", "--expire", "1h", "expected a whole number of seconds, such as 600"),
        ("verify", "--sha256", "abc", "expected 64 hexadecimal digits"),
    ] {
        let ran = run([&start(command)[..], &[option, value]].concat());
        assert_eq!((ran.code(), ran.stdout()), (2, ""), "{}", ran.stderr());
        assert!(ran.stderr().starts_with("error: invalid value '"), "{}", ran.stderr());
        assert!(ran.stderr().contains(expected), "{}", ran.stderr());
    }
}

#[test]
fn a_number_as_a_device_is_a_gpu() {
    let model = model_path("fused-f16.gguf");
    let model = model.to_str().unwrap();
    let plan = run(["plan", model, "--device=0,host,1", "--json"]);
    let parts = plan.json_lines()[0]["parts"].clone();
    let devices: Vec<_> = parts.as_array().unwrap().iter().map(|part| &part["device"]).collect();
    assert_eq!(devices, ["cuda:0", "host", "cuda:1"]);
    // No machine has this GPU.
    for command in ["load", "bench"] {
        let by_variable = Ran::of(program([command, model]).env("PHI3_LOADER_DEVICE", "65535"));
        for ran in [run([command, model, "--device=65535"]), by_variable] {
            assert_eq!(ran.code(), 5, "{}", ran.stderr());
            assert!(ran.stderr().contains("CUDA device 65535 "), "{}", ran.stderr());
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
