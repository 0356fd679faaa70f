//! Prints the memory that a model needs, with this one crate.

use model_phi3::gguf_format::GgufFile;
use model_phi3::{KvDtype, LoadPlan, Storage};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("a file is required")?;
    let gguf = GgufFile::open(path)?;
    let (config, plan) = LoadPlan::from_gguf(gguf.metadata(), gguf.tensors(), Storage::F16)?;
    let cache = config.kv_cache_bytes(4096, 1, KvDtype::F16);
    println!("{} bytes of weights, {cache:?} bytes of cache", plan.device_bytes());
    Ok(())
}
