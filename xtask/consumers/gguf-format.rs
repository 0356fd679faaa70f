//! Prints the tensors of a GGUF file.

use gguf_format::GgufFile;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("a file is required")?;
    let model = GgufFile::open(path)?;
    assert!(!model.metadata().is_empty());
    for tensor in model.tensors() {
        println!("{} {} {:?}", tensor.name(), tensor.shape(), tensor.range());
    }
    Ok(())
}
