//! Uses the library as a worker does.

use loader::half::f16;
use loader::{
    CancelToken, DeviceChoice, Error, Fingerprint, Fused, LoadEvent, LoadOptions, Loader, Rehash,
    SharedTensor, Slot, Unobserved,
};
use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("a file is required")?;
    let mut loader = Loader::new(LoadOptions::new().device(DeviceChoice::Host));
    println!("{:?}", loader::cuda_devices());
    loader.prepare()?;
    let fit = loader.fits(&path)?;
    assert!(fit.fits() && fit.after_kv_cache < fit.free, "{fit:?}");
    assert_eq!(loader.plan(&path)?.plan.device_bytes(), fit.required);

    // Events go to another thread.
    let (sender, receiver) = mpsc::channel::<LoadEvent<'static>>();
    let printer =
        std::thread::spawn(move || receiver.into_iter().map(|event| format!("{event:?}")).count());
    let flag = Arc::new(AtomicBool::new(false));
    let token = CancelToken::from(Arc::clone(&flag));
    let mut observer = |event: &LoadEvent<'_>| match sender.send(event.clone().into_owned()) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    };
    let model = Arc::new(loader.load_cancellable(&path, &mut observer, &token)?);
    drop(sender);
    assert!(printer.join().is_ok_and(|events| events > 0));

    // Weights for other code.
    let norm: &[f16] = model.host_slice(Slot::OutputNorm).ok_or("no f16 on the host")?;
    let held: SharedTensor = model.share(Slot::OutputNorm).ok_or("no norm")?;
    assert_eq!(held.host_slice::<f16>(), Some(norm));
    assert!(model.fused(Fused::AttnQkv(0)).is_some());
    let c = model.shared_c_weights().ok_or("several devices share the model")?;
    assert_eq!(c.get().layer_count, model.config().layers);
    let tensor = held.to_dlpack();
    assert!(!tensor.as_ptr().is_null());
    println!("{:?}", model.tokenizer()?.eos_id);

    // Health.
    let fingerprint = model.fingerprint()?;
    model.verify_residency()?;
    model.verify_fingerprint(&fingerprint)?;
    Rehash::new(fingerprint.clone()).step(&model, u64::MAX)?;

    // Everything that a program stores or sends can be serialised.
    fn serialised(_: &impl serde::Serialize) {}
    fn restored<T: serde::de::DeserializeOwned>() {}
    serialised(model.config());
    serialised(model.plan());
    serialised(model.stats());
    serialised(&fingerprint);
    serialised(&fit);
    restored::<Fingerprint>();

    // Open files, cancellation and errors.
    loader.load_file(File::open(&path)?, &mut Unobserved)?;
    loader.load(OwnedFd::from(File::open(&path)?), &mut Unobserved)?;
    flag.store(true, Ordering::Relaxed);
    let error = loader.load_cancellable(&path, &mut Unobserved, &token).map(drop);
    assert!(matches!(&error, Err(Error::Cancelled)), "{error:?}");
    let error = loader.load("absent.gguf", &mut Unobserved).map(drop).err().ok_or("no error")?;
    serialised(&error.clone());
    assert_eq!((error.code(), error.exit_code(), error.retriable()), ("FILE_NOT_FOUND", 7, false));
    println!("{}: {error}; {}", error.class().name(), error.help().unwrap_or("no help"));
    Ok(())
}
