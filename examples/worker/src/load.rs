//! The load, on a thread that may block.

use crate::health::Resident;
use crate::status::{Phase, Shared};
use loader::{
    CancelToken, DeviceChoice, Error, LoadEvent, LoadOptions, LoadedModel, Loader, Verify,
};
use std::ops::ControlFlow;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::Arc;

/// Loads the model and publishes every step. Blocks until the load ends.
pub(crate) fn load(
    path: PathBuf,
    device: DeviceChoice,
    cancel: &CancelToken,
    status: &Shared,
) -> Result<Arc<LoadedModel>, Error> {
    // The rolling comparison finds changes after the load. `Checksum` finds errors of the load itself.
    let options = LoadOptions::new().device(device).verify(Verify::Checksum);
    let mut observer = |event: &LoadEvent<'_>| {
        status.send_modify(|status| status.record(event));
        ControlFlow::Continue(())
    };
    let loaded =
        Loader::new(options).load_cancellable(path, &mut observer, cancel).and_then(|model| {
            let resident = Resident::new(Arc::new(model))?;
            // Taking the fingerprint cannot be cancelled.
            cancel.check()?;
            Ok(resident)
        });
    let (phase, result) = match loaded {
        Ok(resident) => {
            let model = resident.model();
            (Phase::Ready(Arc::new(resident)), Ok(model))
        }
        Err(error) => (Phase::Failed(error.clone()), Err(error)),
    };
    status.send_modify(|status| status.phase = phase);
    result
}

/// Runs work on a thread that may block. Panics if the work panics.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| resume_unwind(error.into_panic()))
}
