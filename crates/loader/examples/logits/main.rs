//! Computes the logits of the last position of a prompt from the weights of a loaded model.
//!
//! usage: cargo run -p loader --example logits -- print MODEL TOKEN-ID...
//!        cargo run -p loader --example logits -- compare REFERENCE.json MODEL...
//!
//! `print` writes the logits as a JSON array. `compare` fails if a model differs from its reference logits, or
//! has none in the file.
#![allow(clippy::print_stdout, reason = "a command line program")]

mod forward;
mod reference;
mod rotation;
mod values;

use loader::Storage;
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["print", model, ref ids @ ..] if !ids.is_empty() => print(Path::new(model), ids),
        ["compare", reference, ref models @ ..] => compare(Path::new(reference), models),
        _ => {
            Err("usage: logits print MODEL TOKEN-ID... | logits compare REFERENCE.json MODEL..."
                .into())
        }
    }
}

fn print(model: &Path, ids: &[&str]) -> Result<(), Box<dyn Error>> {
    let ids: Vec<u32> = ids.iter().map(|id| id.parse()).collect::<Result<_, _>>()?;
    let model = values::load(model, Storage::F16)?;
    let logits = forward::last_logits(model.config(), &values::values(&model)?, &ids);
    println!("{}", serde_json::to_string(&logits)?);
    Ok(())
}

fn compare(reference: &Path, models: &[&str]) -> Result<(), Box<dyn Error>> {
    let references = reference::read(reference)?;
    let mut all_equal = true;
    for model in models.iter().map(Path::new) {
        let name = model.file_name().unwrap_or_default().to_string_lossy();
        let reference = references.get(&*name).ok_or_else(|| format!("{name} has no reference"))?;
        for (storage, difference) in reference.compare(model)? {
            println!("{name}, {storage}: the logits differ by {difference:.1e}");
            all_equal &= difference <= reference::TOLERANCE;
        }
    }
    if all_equal {
        Ok(())
    } else {
        Err(format!("a difference exceeds {:.0e}", reference::TOLERANCE).into())
    }
}
