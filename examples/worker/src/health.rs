//! Checks of a loaded model: where its weights are, and whether their bytes have changed.

use crate::status::{Phase, Shared};
use loader::{Error, LoadedModel, Rehash};
use serde::Serialize;
use std::sync::{Arc, Mutex};

/// The bytes that one check compares at most.
const REHASH_BUDGET_BYTES: u64 = 256 << 20;

/// A loaded model, and the position of the rolling comparison.
pub(crate) struct Resident {
    model: Arc<LoadedModel>,
    rehash: Mutex<Rehash>,
}

/// The result of a successful check.
#[derive(Serialize)]
pub(crate) struct Health {
    device: String,
    vram_bytes: u64,
    pointers_checked: u32,
    rehash: RehashTotals,
}

/// The totals of all checks since the load.
#[derive(Clone, Copy, Default, Serialize)]
pub(crate) struct RehashTotals {
    pub(crate) bytes: u64,
    pub(crate) rounds: u64,
}

impl Resident {
    /// Takes the fingerprint of the weights. Blocks.
    pub(crate) fn new(model: Arc<LoadedModel>) -> Result<Self, Error> {
        let rehash = Mutex::new(Rehash::new(model.fingerprint()?));
        Ok(Self { model, rehash })
    }

    pub(crate) fn model(&self) -> Arc<LoadedModel> {
        Arc::clone(&self.model)
    }

    /// Checks the place of all weights and the next part of their bytes, and publishes the result. Blocks.
    pub(crate) fn check(&self, status: &Shared) -> Result<Health, Error> {
        let mut rehash = self.rehash.lock().expect("no check has panicked");
        let checked = self
            .model
            .verify_residency()
            .and_then(|residency| Ok((residency, rehash.step(&self.model, REHASH_BUDGET_BYTES)?)));
        let mut totals = RehashTotals::default();
        status.send_modify(|status| match &checked {
            Ok((_, step)) => {
                status.rehash.bytes += step.bytes;
                status.rehash.rounds = rehash.rounds();
                totals = status.rehash;
            }
            Err(error) => status.phase = Phase::Failed(error.clone()),
        });
        checked.map(|(residency, _)| Health {
            device: self.model.device().to_string(),
            vram_bytes: residency.vram_bytes,
            pointers_checked: residency.pointers_checked,
            rehash: totals,
        })
    }
}
