//! Checks that `docs/errors.md` agrees with the code, and that no published error code is removed.

use loader::{FailureCode, Warning};
use std::fmt::Write;
use std::path::Path;

/// If this environment variable is set, the test writes the document.
const WRITE: &str = "PHI3_LOADER_WRITE_DOCS";

const HEAD: &str = "\
# Errors

<!-- Made from the codes' definitions. `PHI3_LOADER_WRITE_DOCS=1 cargo test -p loader errors_document` writes it. -->

Every failure has a code, which programs may rely on: codes are only ever added, and keep their exit code. The program
prints `error[CODE]: message` and, where there is something to do, `help: cure` to standard error; with `load --json` the
last line on standard output is an event `failed` with `code`, `class`, `retriable`, `message`, `help` and `exit_code`. In
Rust, `loader::Error` has all of them as methods, and `loader::FailureCode` is this document. The message names what it is
about: the file, tensor or key, device or limit, and the numbers. It can have several lines where several tensors are wrong.
The other commands print errors to standard error only, with `--json` as well.

*Retry* says whether the same load can succeed later with nothing else done, in general. The field `retriable` of an error
is more exact: waiting does not help where an `INSUFFICIENT_VRAM` asks for more than the whole device, or than the caller's
own limit. The field `help` can be more exact than *cure* here, too: for a Git LFS pointer, a web page, a part of a split file
or another format in place of a GGUF file it says what to do with that.

Exit code 2 is a wrong command line, and has no code here. A command that is cancelled exits with 130 after Ctrl-C (SIGINT),
and with 143 after SIGTERM. `crates/phi3-loader/tests/program/codes.rs` provokes every code, or
says which tests do.
";

const WARNINGS: &str = "
## Warnings

A file with a warning is valid and is loaded, but its content may be wrong. `inspect`, `plan` and `load` print a line
`warning`, with code and message, and a line `help` in their report on standard output; `load` logs the warning to standard
error as well. With `--json`, `inspect` and `plan` have them in the list `warnings`, and `load` in an event `warning` with
`code`, `message` and `help`, and again in the list `warnings` of its event `finished`. In Rust, `LoadEvent::Warned`,
`Proof::warnings` and `Planned::warnings` have them.

| code | cause | cure |
|---|---|---|
";

fn document() -> String {
    let all = FailureCode::all();
    let mut text = HEAD.to_owned();
    for (title, prefix, where_from) in [
        ("The file", "GGUF_", "`gguf-format` refuses a file that breaks the format's rules."),
        (
            "The model",
            "PHI3_",
            "`model-phi3` refuses a sound file that holds no Phi-3 model it can lay out.",
        ),
        ("The load", "", "`loader` could not carry out the plan."),
    ] {
        write!(
            text,
            "\n## {title}\n\n{where_from}\n\n\
             | code | exit | class | retry | cause | cure |\n|---|---|---|---|---|---|\n"
        )
        .unwrap();
        let of_others = |code: &str| code.starts_with("GGUF_") || code.starts_with("PHI3_");
        for facts in &all {
            if facts.code.starts_with(prefix) && (!prefix.is_empty() || !of_others(facts.code)) {
                let FailureCode { code, exit_code, retriable, cause, cure, .. } = facts;
                let class = facts.class().name();
                let retry = if *retriable { "yes" } else { "no" };
                writeln!(
                    text,
                    "| `{code}` | {exit_code} | `{class}` | {retry} | {cause} | {cure} |"
                )
                .unwrap();
            }
        }
    }
    text.push_str(WARNINGS);
    for (code, cause, cure) in Warning::all() {
        writeln!(text, "| `{code}` | {cause} | {cure} |").unwrap();
    }
    text.push_str(FINDINGS);
    text
}

const FINDINGS: &str = "
## What a load finds in the weights

`inspect` and `plan` read the header only. A `load` reads every weight, and reports two things without refusing the file. Its
report and its log name the tensors; the event `finished` and `LoadStats` have them in lists, which are empty for most models.

| list | a tensor is in it when | what to do |
|---|---|---|
| `all_zero`, with `tensor` and `bytes` | all its bytes in the file are zero | no trained model has such a tensor: the file may be unfinished, so fetch it again |
| `non_finite`, with `tensor`, `infinite`, `nan` and `format` | some of its weights are infinite or NaN in the format that they were loaded as | as for `NON_FINITE_WEIGHTS`, with which `--deny-overflow` refuses the file |

Blocks that native storage keeps are not decoded, so that infinities in their scales are not found.
";

/// Returns the code and exit code of every row.
fn listed(document: &str) -> Vec<(&str, &str)> {
    document
        .lines()
        .take_while(|line| *line != "## Warnings")
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .map(|(code, rest)| (code, rest.split_once(' ').unwrap().0))
        .collect()
}

#[test]
fn the_document_agrees_with_the_codes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors.md");
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let made = document();
    let codes = listed(&made);
    assert_eq!(codes.len(), FailureCode::all().len());
    for published in listed(&committed) {
        assert!(codes.contains(&published), "{published:?} was published and must stay");
    }
    for facts in FailureCode::all() {
        assert!(facts.cause.ends_with('.') && !facts.cure.ends_with('.'), "{}", facts.code);
        let text = [facts.cause, facts.cure].concat();
        assert!(!text.contains(['|', '\n']), "{} breaks the table", facts.code);
    }
    for (code, cause, cure) in Warning::all() {
        assert!(made.contains(&format!("| `{code}` | {cause} | {cure} |\n")));
        assert!(cause.ends_with('.') && !cure.ends_with('.'), "{code}");
    }
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, &made).unwrap();
        return;
    }
    assert!(committed == made, "docs/errors.md is out of date: {WRITE}=1 has this test write it");
}
