//! Measures the same transfer with different engine settings. The defaults are chosen from such runs.

use super::document::{ShapeFigures, Spread, gb_per_s};
use crate::args::Bench;
use cuda_sys::{Device, Engine, EngineConfig, StagingRing};
use loader::measure::Transfer;
use loader::{CancelToken, Error};
use model_phi3::PlacedPlan;

struct Shape {
    engine: Engine,
    seconds: Vec<f64>,
}

/// Measures the settings in turn in one process. Thus other work on the machine affects all of them equally,
/// and the context is created only once. The first turn of each is not counted.
pub(super) fn measure(
    arguments: &Bench,
    device: &Device,
    plan: &PlacedPlan,
    token: &CancelToken,
) -> Result<Vec<ShapeFigures>, Error> {
    if arguments.shapes.is_empty() {
        return Ok(Vec::new());
    }
    let options = arguments.choices.options();
    let mut transfer = Transfer::new(&arguments.file, &options, plan, &[device])?;
    let shapes: Result<Vec<_>, Error> = arguments
        .shapes
        .iter()
        .map(|&config| {
            let engine = Engine::new(device, StagingRing::new(config)?)?;
            Ok(Shape { engine, seconds: Vec::new() })
        })
        .collect();
    let mut shapes = shapes?;
    for turn in 0..=arguments.repeat {
        for shape in &mut shapes {
            let seconds = transfer.run(&mut shape.engine, token)?;
            if turn != 0 {
                shape.seconds.push(seconds);
            }
        }
    }
    Ok(shapes.iter().map(|shape| shape.figures(plan.source_bytes())).collect())
}

impl Shape {
    fn figures(&self, source_bytes: u64) -> ShapeFigures {
        let EngineConfig { readers, depth, chunk_bytes, read_bytes, .. } = self.engine.config();
        let rates = self.seconds.iter().map(|&seconds| gb_per_s(source_bytes as f64, seconds));
        ShapeFigures {
            threads: readers,
            depth,
            chunk_bytes,
            read_bytes,
            seconds: Spread::of(self.seconds.iter().copied()),
            gb_per_s: Spread::of(rates),
        }
    }
}
