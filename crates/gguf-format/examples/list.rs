//! Lists the keys and tensors of a model: `cargo run --example list -- MODEL.gguf`.

use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

use gguf_format::{GgufFile, escape};

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        let _ = writeln!(io::stderr(), "usage: list MODEL.gguf");
        return ExitCode::from(2);
    };
    match list(&path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn list(path: &std::ffi::OsStr) -> Result<(), Box<dyn Error>> {
    let model = match GgufFile::open(path) {
        Ok(model) => model,
        Err(error) => {
            let help = error.help().map_or_else(String::new, |help| format!("\nhelp: {help}"));
            return Err(format!("[{}] {error}{help}", error.code()).into());
        }
    };
    let mut out = io::BufWriter::new(io::stdout().lock());

    let (version, alignment) = (model.version(), model.alignment());
    writeln!(out, "GGUF version {version}, aligned to {alignment} bytes")?;
    for shard in model.shards() {
        let (path, len) = (shard.path().display(), shard.len());
        writeln!(out, "{path}: {len} bytes, data from {}", shard.data_offset())?;
    }

    writeln!(out, "\n{} keys", model.metadata().len())?;
    for (key, value) in model.metadata().iter() {
        writeln!(out, "{key} = {value}")?;
    }

    writeln!(out, "\n{} tensors", model.tensors().len())?;
    for tensor in model.tensors() {
        let (name, shape, range) = (escape(tensor.name()), tensor.shape(), tensor.range());
        let (shard, ggml_type) = (tensor.shard(), tensor.ggml_type());
        writeln!(
            out,
            "{shard} {:>12} {:>12} {ggml_type:<8} {shape} {name}",
            range.start,
            tensor.byte_len()
        )?;
    }
    out.flush()?;
    Ok(())
}
