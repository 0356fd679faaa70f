//! Checks of a loaded model: where its weights are, and whether their bytes have changed.

use crate::load::Store;
use crate::status::{Phase, Shared};
use loader::{Error, LoadedModel, Rehash, Residency};
use std::sync::{Arc, Mutex};

/// The largest number of bytes that one check compares.
const REHASH_BUDGET_BYTES: u64 = 256 << 20;

/// A loaded model, and the state of the rolling comparison.
pub(crate) struct Resident {
    pub(crate) model: Arc<LoadedModel>,
    rehash: Mutex<Rehash>,
    /// While it is open, a keeper knows that the weights are in use.
    _store: Option<Store>,
}

impl Resident {
    /// Takes the fingerprint of the weights. Blocks.
    pub(crate) fn new(model: Arc<LoadedModel>, store: Option<Store>) -> Result<Self, Error> {
        let rehash = Mutex::new(Rehash::new(model.fingerprint()?));
        Ok(Self { model, rehash, _store: store })
    }

    /// Checks the place of all weights and the next part of their bytes, and publishes the result. Blocks.
    pub(crate) fn check(&self, status: &Shared) -> Result<Residency, Error> {
        let mut rehash = self.rehash.lock().expect("no check has panicked");
        let checked = self.model.verify_residency().and_then(|residency| {
            let step = rehash.step(&self.model, REHASH_BUDGET_BYTES)?;
            Ok((residency, step))
        });
        status.send_modify(|status| match &checked {
            Ok((_, step)) => {
                status.rehash.bytes += step.bytes;
                status.rehash.rounds = rehash.rounds();
            }
            Err(error) => status.phase = Phase::Failed(error.clone()),
        });
        checked.map(|(residency, _)| residency)
    }
}
