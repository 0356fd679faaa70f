//! Measures the health checks of a resident model.

use super::document::{Health, Spread};
use crate::args::Bench;
use loader::{CancelToken, Error, Loader, Unobserved};
use std::time::Instant;

/// Loads the model and measures the checks.
pub(super) fn measure(arguments: &Bench, token: &CancelToken) -> Result<Health, Error> {
    let mut loader = Loader::new(arguments.choices.options());
    let model = loader.load_cancellable(&arguments.file, &mut Unobserved, token)?;
    let timed = |check: &dyn Fn() -> Result<(), Error>| -> Result<Spread, Error> {
        // The first check loads code and allocates memory, so it is not measured.
        check()?;
        let seconds: Result<Vec<_>, Error> = (0..arguments.repeat)
            .map(|_| {
                token.check()?;
                let start = Instant::now();
                check()?;
                Ok(start.elapsed().as_secs_f64())
            })
            .collect();
        Ok(Spread::of(seconds?))
    };
    Ok(Health {
        residency_seconds: timed(&|| model.verify_residency().map(drop))?,
        fingerprint_seconds: timed(&|| model.fingerprint().map(drop))?,
    })
}
