//! Logits from an independent forward pass, and the comparison with them.

use crate::forward::last_logits;
use crate::values::{load, values};
use loader::Storage;
use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

/// The largest difference that is accepted. References have nine digits.
pub(crate) const TOLERANCE: f64 = 1e-6;

/// A prompt and the logits of its last position.
#[derive(serde::Deserialize)]
pub(crate) struct Reference {
    pub(crate) ids: Vec<u32>,
    /// With weights rounded to half precision.
    last_logits: Vec<f64>,
    /// With weights as in the file.
    native_last_logits: Option<Vec<f64>>,
}

impl Reference {
    /// Loads a model and compares its logits with these. Returns the difference for each storage that this
    /// reference has logits for.
    pub(crate) fn compare(&self, path: &Path) -> Result<Vec<(Storage, f64)>, Box<dyn Error>> {
        let natively = self.native_last_logits.iter().map(|logits| (Storage::Native, logits));
        let references = [(Storage::F16, &self.last_logits)].into_iter().chain(natively);
        let compared = references.map(|(storage, reference)| {
            let model = load(path, storage)?;
            let logits = last_logits(model.config(), &values(&model)?, &self.ids);
            Ok((storage, difference(&logits, reference)))
        });
        compared.collect()
    }
}

/// Reads the references in a `logits.json`, by the file name of their model.
pub(crate) fn read(path: &Path) -> Result<BTreeMap<String, Reference>, Box<dyn Error>> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

/// Returns the norm of the difference divided by the norm of the reference.
pub(crate) fn difference(logits: &[f64], reference: &[f64]) -> f64 {
    assert_eq!(logits.len(), reference.len(), "the numbers of logits differ");
    let squares: f64 = logits.iter().zip(reference).map(|(a, b)| (a - b).powi(2)).sum();
    (squares / reference.iter().map(|x| x.powi(2)).sum::<f64>()).sqrt()
}
