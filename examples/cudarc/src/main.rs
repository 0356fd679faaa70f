//! Lends a weight on a GPU to cudarc, and checks that this copies and frees nothing.
//!
//! usage: cargo run -- MODEL.gguf [GPU]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]

mod lent;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream, DevicePtr};
use loader::half::f16;
use loader::{DeviceChoice, LoadOptions, LoadedModel, Loader, Slot, Unobserved};

use lent::Lent;

const SLOT: Slot = Slot::AttnQ(0);

fn main() -> ExitCode {
    let Err(error) = run() else { return ExitCode::SUCCESS };
    eprintln!("error: {error}");
    if let Some(help) = error.downcast_ref::<loader::Error>().and_then(loader::Error::help) {
        eprintln!("help: {help}");
    }
    ExitCode::FAILURE
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let (path, ordinal) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [path] => (path, 0),
        [path, ordinal] => {
            (path, ordinal.parse::<u16>().map_err(|error| format!("GPU {ordinal}: {error}"))?)
        }
        _ => return Err("usage: cargo run -- MODEL.gguf [GPU]".into()),
    };
    // The load comes first: it says what is missing, if there is no driver or GPU. cudarc panics without a
    // driver.
    let device = DeviceChoice::Cuda(ordinal.into());
    let mut loader = Loader::new(LoadOptions::new().device(device));
    let mut load = || loader.load(path, &mut Unobserved).map(Arc::new);
    let model = load()?;
    let other = load()?;

    let context = CudaContext::new(ordinal.into())?;
    // A new stream and the default one: cudarc then orders the uses of a slice with events.
    let stream = context.new_stream()?;
    let lent = lend(&model, &stream)?;
    check("cudarc reads the bytes that the loader reads", reads_the_same(&lent, &model, &stream)?)?;
    let address = lent.device_ptr(&stream).0;
    check("kernels get the address of the weight", address == lent.tensor().address)?;
    let same = reads_the_same(&lent, &model, &context.default_stream())?;
    check("the default stream reads the same", same)?;

    drop(lent);
    check("the model has 1 reference after the drop", Arc::strong_count(&model) == 1)?;
    model.verify_residency()?;
    let same = reads_the_same(&lend(&model, &stream)?, &other, &stream)?;
    check("the weights are the same after the drop", same)?;
    for _ in 0..1000 {
        lend(&model, &stream)?;
    }
    check("a thousand loans leave 1 reference", Arc::strong_count(&model) == 1)?;

    let lent = lend(&model, &stream)?;
    let watch = Arc::downgrade(&model);
    drop(model);
    check("a loan keeps the model", watch.upgrade().is_some())?;
    check("its bytes are still the same", reads_the_same(&lent, &other, &stream)?)?;
    drop(lent);
    check("the last loan frees the model", watch.upgrade().is_none())?;
    other.verify_residency()?;
    // Returns errors that a drop could not return.
    context.check_err()?;
    println!("all checks passed");
    Ok(())
}

fn lend(model: &Arc<LoadedModel>, stream: &Arc<CudaStream>) -> Result<Lent<f16>, Box<dyn Error>> {
    let tensor = model.share(SLOT).ok_or_else(|| format!("the model has no {SLOT}"))?;
    Lent::new(tensor, stream)
}

/// Copies the weight with cudarc, once to the host and once by way of memory that cudarc owns, and compares
/// both with the loader's copy.
fn reads_the_same(
    lent: &Lent<f16>,
    model: &LoadedModel,
    stream: &Arc<CudaStream>,
) -> Result<bool, Box<dyn Error>> {
    let expected = model.read_slot(SLOT)?.ok_or("the model has no such slot")?;
    let direct = stream.clone_dtoh(&**lent)?;
    let owned = stream.clone_dtod(&**lent)?;
    let copied = stream.clone_dtoh(&owned)?;
    stream.synchronize()?;
    let bytes = |elements: &[f16]| -> Vec<u8> {
        elements.iter().flat_map(|element| element.to_le_bytes()).collect()
    };
    Ok(bytes(&direct) == expected && bytes(&copied) == expected)
}

fn check(what: &str, passed: bool) -> Result<(), Box<dyn Error>> {
    if !passed {
        return Err(format!("FAILED {what}").into());
    }
    println!("ok     {what}");
    Ok(())
}
