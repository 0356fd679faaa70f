//! `cargo xtask bench`: runs the Criterion benchmarks of the workspace, or measures whole loads.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::workspace::{self, cargo};
use crate::{loader_binary, process};

/// The weight types of the synthetic files, if no file is named.
const TYPES: [&str; 2] = ["f16", "q4_k_m"];

/// Runs only bench targets: the harness of unit tests does not know Criterion's arguments.
pub(crate) fn criterion(arguments: &[OsString]) -> Result<()> {
    process::run(cargo(["bench", "--workspace", "--locked", "--bench", "*"]).args(arguments))
}

/// Runs `phi3-loader bench` on the file in the first argument, or on synthetic files, which are kept for
/// the next run. Charts are written to `target/bench/`.
pub(crate) fn loader(arguments: &[OsString]) -> Result<()> {
    let (file, arguments) = split_file(arguments);
    let loader = loader_binary::for_this_machine()?;
    let folder = workspace::target().join("bench");
    fs::create_dir_all(&folder)?;
    let measure = |model: &Path| {
        let name = model.file_stem().unwrap_or(model.as_os_str());
        let chart = folder.join(name).with_extension("svg");
        let mut bench = Command::new(&loader);
        bench.arg("bench").arg(model).args(arguments);
        // If the user names a chart, it is written there.
        if !arguments.iter().any(|argument| starts_with(argument, "--svg")) {
            bench.arg("--svg").arg(&chart);
        }
        process::run(&mut bench)
    };
    if let Some(file) = file {
        return measure(file);
    }
    for kind in TYPES {
        let model = folder.join(format!("phi-3-mini-4k-{kind}.gguf"));
        if !model.exists() {
            let mut synth = Command::new(&loader);
            synth.arg("synth").arg(&model).args(["--preset", "mini-4k", "--type", kind]);
            // Standard output contains only results.
            process::run(process::to_stderr(&mut synth))?;
        }
        measure(&model)?;
    }
    Ok(())
}

/// Returns the file, if the first argument is one, and the options.
fn split_file(arguments: &[OsString]) -> (Option<&Path>, &[OsString]) {
    match arguments {
        [file, options @ ..] if !starts_with(file, "-") => (Some(Path::new(file)), options),
        options => (None, options),
    }
}

fn starts_with(argument: &OsStr, text: &str) -> bool {
    argument.as_encoded_bytes().starts_with(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::split_file;
    use std::ffi::OsString;
    use std::path::Path;

    #[test]
    fn a_file_stands_before_the_options() {
        let arguments = ["big.gguf", "--repeat", "3"].map(OsString::from);
        assert_eq!(split_file(&arguments), (Some(Path::new("big.gguf")), &arguments[1..]));
        assert_eq!(split_file(&arguments[1..]), (None, &arguments[1..]));
        assert_eq!(split_file(&[]), (None, &[][..]));
    }
}
