//! The load, on a thread that may block.

use crate::health::Resident;
use crate::status::{Phase, Shared};
use loader::{CancelToken, DeviceChoice, Error, LoadEvent, LoadOptions, Loader, Verify};
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
) -> Result<Arc<Resident>, Error> {
    // Digests find errors of the load itself. The checks of `Resident` find changes after the load.
    let options = LoadOptions::new().device(device).verify(Verify::Checksum);
    let mut observer = |event: &LoadEvent<'_>| {
        status.send_modify(|status| status.record(event));
        ControlFlow::Continue(())
    };
    let loaded = Loader::new(options)
        .load_cancellable(path, &mut observer, cancel)
        .and_then(|model| Ok(Arc::new(Resident::new(Arc::new(model))?)));
    status.send_modify(|status| {
        status.phase = match &loaded {
            Ok(resident) => Phase::Ready(Arc::clone(resident)),
            Err(error) => Phase::Failed(error.clone()),
        }
    });
    loaded
}

/// Runs work on a thread that may block. Panics if the work panics.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| resume_unwind(error.into_panic()))
}
