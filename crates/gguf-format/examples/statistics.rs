//! Prints a digest and statistics of the data of every tensor, without copying the data:
//! `cargo run --release --example statistics -- MODEL.gguf`.
//!
//! An example of [`GgufFile::map`]: a tool that reads all data of a model once, and whose user ensures
//! that the files do not change while it runs. Without an argument, it writes a small model into a
//! folder of its own and reads that.

use std::error::Error;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use gguf_format::write::GgufWriter;
use gguf_format::{GgmlType, GgufFile, Limits, escape};

fn main() -> ExitCode {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let done = match std::env::args_os().nth(1) {
        Some(path) => print(Path::new(&path), &mut out),
        None => print_own_model(&mut out),
    };
    match done.and_then(|()| Ok(out.flush()?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints one line for each tensor. The files of the model must not change while this runs.
fn print(path: &Path, out: &mut dyn io::Write) -> Result<(), Box<dyn Error>> {
    // SAFETY: the user of this program keeps the files of the model unchanged while it runs, as its
    // documentation requires. Its own model is in a folder that no other program uses.
    let model = unsafe { GgufFile::map(path, &Limits::default())? };
    for tensor in model.tensors() {
        let data = model.data(tensor).ok_or("the data of a tensor is not mapped")?;
        let (name, ggml_type) = (escape(tensor.name()), tensor.ggml_type());
        let (digest, bytes) = (digest(data), data.len());
        write!(out, "{digest:016x} {bytes:>12} {ggml_type:<8} {name}")?;
        if let Some(Range { least, greatest, mean }) = range(ggml_type, data) {
            write!(out, " from {least} to {greatest}, mean {mean}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn print_own_model(out: &mut dyn io::Write) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, own_model()?)?;
    print(&path, out)
}

/// Returns a norm of the numbers 0 to 31, and a matrix of bytes that are all 1.
fn own_model() -> Result<Vec<u8>, Box<dyn Error>> {
    let mut writer = GgufWriter::new();
    writer.tensor("output_norm.weight", &[32], GgmlType::F32);
    writer.tensor("output.weight", &[32, 4], GgmlType::Q8_0);
    let numbers: Vec<u8> = (0..32_u8).flat_map(|n| f32::from(n).to_le_bytes()).collect();
    Ok(writer.to_bytes(|tensor, data| match tensor {
        0 => data.copy_from_slice(&numbers),
        _ => data.fill(1),
    })?)
}

/// Returns the 64-bit FNV-1a digest.
fn digest(data: &[u8]) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    data.iter().fold(BASIS, |digest, &byte| (digest ^ u64::from(byte)).wrapping_mul(PRIME))
}

struct Range {
    least: f32,
    greatest: f32,
    mean: f64,
}

/// Returns the range of `f32` values. `None` for other types, and for a tensor without elements.
fn range(ggml_type: GgmlType, data: &[u8]) -> Option<Range> {
    let (numbers, _) = data.as_chunks();
    if ggml_type != GgmlType::F32 || numbers.is_empty() {
        return None;
    }
    // The data of a file need not be aligned for `f32`.
    let values = numbers.iter().map(|bytes| f32::from_le_bytes(*bytes));
    Some(Range {
        least: values.clone().fold(f32::INFINITY, f32::min),
        greatest: values.clone().fold(f32::NEG_INFINITY, f32::max),
        mean: values.map(f64::from).sum::<f64>() / numbers.len() as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gguf_format::ByteSource as _;

    #[test]
    fn the_output_has_the_expected_lines() {
        let mut out = Vec::new();
        print_own_model(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].ends_with("128 F32      output_norm.weight from 0 to 31, mean 15.5"));
        assert!(lines[1].ends_with("136 Q8_0     output.weight"), "{text}");
    }

    #[test]
    fn mapped_data_is_the_data_that_reads_return() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, own_model().unwrap()).unwrap();
        let mut out = Vec::new();
        print(&path, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let model = GgufFile::open(&path).unwrap();
        for (tensor, line) in model.tensors().iter().zip(text.lines()) {
            let mut data = vec![0; tensor.byte_len() as usize];
            model.shards()[0].source().read_exact_at(&mut data, tensor.range().start).unwrap();
            assert!(line.starts_with(&format!("{:016x} ", digest(&data))), "{line}");
        }
    }

    #[test]
    fn the_digest_is_fnv_1a() {
        // Test vectors from the authors of FNV.
        assert_eq!(digest(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(digest(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
