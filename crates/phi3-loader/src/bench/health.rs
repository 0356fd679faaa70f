//! What it costs to look whether a model is still what it was.

use super::document::{Health, Spread};
use crate::args::Bench;
use loader::{CancelToken, Error, Loader, Unobserved};
use std::time::Instant;

/// Of a model that stays loaded meanwhile.
pub(super) fn measure(arguments: &Bench, token: &CancelToken) -> Result<Health, Error> {
    let mut loader = Loader::new(arguments.choices.options());
    let model = loader.load_cancellable(&arguments.file, &mut Unobserved, token)?;
    let timed = |look: &dyn Fn() -> Result<(), Error>| -> Result<Spread, Error> {
        // The first loads code and makes memory.
        look()?;
        let seconds: Result<Vec<_>, Error> = (0..arguments.repeat)
            .map(|_| {
                token.check()?;
                let start = Instant::now();
                look()?;
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
