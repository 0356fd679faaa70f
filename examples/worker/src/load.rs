//! The load, on a thread that may block.

use crate::health::Resident;
use crate::status::{Phase, Shared};
use loader::keeper::{self, Connection, systemd};
use loader::{
    CancelToken, DeviceChoice, Error, LoadEvent, LoadOptions, Loader, Mismatch, Observer, Verify,
};
use std::ops::ControlFlow;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A place where weights stay when the worker ends.
pub(crate) type Store = Box<dyn keeper::Store + Send + Sync>;

/// Opens the store behind a socket, or that of systemd for this unit. A worker starts also if there is none.
fn open_store(place: &Path) -> Option<Store> {
    let opened = if place == Path::new("systemd") {
        systemd::Store::from_environment().map(|store| {
            if store.is_none() {
                tracing::warn!(
                    "systemd gives this worker no descriptor store: the weights end with it"
                );
            }
            store.map(|store| Box::new(store.for_one_entry()) as Store)
        })
    } else {
        Connection::open(place).map(|connection| Some(Box::new(connection) as Store))
    };
    opened.unwrap_or_else(|error| {
        tracing::warn!("the weights end with this worker: {error}");
        None
    })
}

/// Loads the model, or attaches to its weights, and publishes every step. Blocks until the load ends.
pub(crate) fn load(
    path: PathBuf,
    device: DeviceChoice,
    resident: Option<PathBuf>,
    cancel: &CancelToken,
    status: &Shared,
) -> Result<Arc<Resident>, Error> {
    // Digests find errors of the load itself. The checks of `Resident` find changes after the load.
    let options = LoadOptions::new().device(device).verify(Verify::Checksum);
    let mut observer = |event: &LoadEvent<'_>| {
        status.send_modify(|status| status.record(event));
        ControlFlow::Continue(())
    };
    let loaded = open_and_load(Loader::new(options), path, resident, &mut observer, cancel);
    status.send_modify(|status| {
        status.phase = match &loaded {
            Ok(resident) => Phase::Ready(Arc::clone(resident)),
            Err(error) => Phase::Failed(error.clone()),
        }
    });
    loaded
}

fn open_and_load(
    mut loader: Loader,
    path: PathBuf,
    resident: Option<PathBuf>,
    observer: &mut dyn Observer,
    cancel: &CancelToken,
) -> Result<Arc<Resident>, Error> {
    let mut store = resident.and_then(|place| open_store(&place));
    let model = match &mut store {
        // A worker must start: if the weights in memory are wrong, it loads the file.
        Some(store) => {
            loader.load_resident(path, &mut **store, Mismatch::Reload, observer, cancel)?
        }
        None => loader.load_cancellable(path, observer, cancel)?,
    };
    Ok(Arc::new(Resident::new(Arc::new(model), store)?))
}

/// Runs work on a thread that may block. Panics if the work panics.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| resume_unwind(error.into_panic()))
}
