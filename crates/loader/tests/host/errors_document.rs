//! Checks that `docs/errors.md` agrees with the code, and that no published error code is removed.

use loader::{FailureCode, Warning};
use std::fmt::Write;
use std::path::Path;

/// If this environment variable is set, the test writes the document.
const WRITE: &str = "PHI3_LOADER_WRITE_DOCS";

const HEAD: &str = "\
# Errors

<!-- Made from the codes' definitions. `PHI3_LOADER_WRITE_DOCS=1 cargo test -p loader errors_document` writes it. -->

Every error has a stable code, which programs can rely on: new codes may be added, but existing codes and their exit codes
do not change. The program prints `error[CODE]: message` to standard error and, if there is advice, `help: cure`. With
`load --json`, the last line on standard output is an event `failed` with `code`, `class`, `retriable`, `message`, `help` and
`exit_code`. The other commands print errors only to standard error, even with `--json`. In Rust, `loader::Error` has a method
for each of these fields, and `loader::FailureCode` contains the facts in the tables below. A message names the file, tensor,
key, device or limit, and contains the numbers. If several tensors are wrong, it has several lines.

*Retry* says whether the same load can succeed later without any change by the user. The field `retriable` of an error is more
precise: for example, it is false for an `INSUFFICIENT_VRAM` if the load needs more than the total memory of the device, or
more than the caller's own limit.
The field `help` can also be more precise than *cure*: if the file is a Git LFS pointer, a web page, a part of a file that was
cut into parts, or another format, `help` contains the advice for that case.

Exit code 2 means that the command line is wrong. It has no code in this document. A cancelled command exits with 130 after
Ctrl-C (SIGINT) and with 143 after SIGTERM. `crates/phi3-loader/tests/program/codes.rs` provokes every code, or names the tests
that do.
";

const WARNINGS: &str = "
## Warnings

A file with a warning is valid and can be loaded, but its content may be wrong. `inspect`, `plan` and `load` print a line
`warning`, with code and message, and a line `help` in their report on standard output. `load` also logs the warning to
standard error. With `--json`, `inspect` and `plan` print the warnings in the list `warnings`; `load` prints an event `warning`
with `code`, `message` and `help`, and repeats the warnings in the list `warnings` of its event `finished`. In Rust,
`LoadEvent::Warned`, `Proof::warnings` and `Planned::warnings` contain them.

| code | cause | cure |
|---|---|---|
";

fn document() -> String {
    let all = FailureCode::all();
    let mut text = HEAD.to_owned();
    for (title, prefix, where_from) in [
        (
            "The file",
            "GGUF_",
            "`gguf-format` reports these errors: it cannot read the file, or the file is malformed, unsupported or too large.",
        ),
        (
            "The model",
            "PHI3_",
            "`model-phi3` reports these errors: the file is valid, but contains no Phi-3 model that can be loaded.",
        ),
        ("The load", "", "`loader` reports these errors: the load itself failed."),
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
## Findings in the weights

`inspect` and `plan` read only the header. `load` reads every weight. It reports the following findings, and loads the file
nevertheless. Its report and its log name the tensors. The event `finished` and `LoadStats` contain them in lists, which are
empty for most models.

| list | condition | cure |
|---|---|---|
| `all_zero`, with `tensor` and `bytes` | all bytes of the tensor in the file are zero | no trained model has such a tensor: the file may be incomplete, so fetch it again |
| `non_finite`, with `tensor`, `infinite`, `nan` and `format` | some weights of the tensor are infinite or NaN in the format in which they were loaded | see `NON_FINITE_WEIGHTS`; with `--deny-overflow` the load fails with that error |

Native storage does not decode blocks. Therefore infinite scales in these blocks are not found.
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
