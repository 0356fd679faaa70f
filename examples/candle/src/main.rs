//! Makes candle tensors of weights in host memory, and multiplies two of them.
//!
//! usage: cargo run -- MODEL.gguf [TOKEN-ID]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]

mod weights;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use candle_core::{DType, Tensor};
use loader::half::f16;
use loader::{DeviceChoice, LoadOptions, LoadedModel, Loader, Slot, Unobserved};

fn main() -> ExitCode {
    let Err(error) = run() else { return ExitCode::SUCCESS };
    eprintln!("error: {error}");
    if let Some(help) = error.downcast_ref::<loader::Error>().and_then(loader::Error::help) {
        eprintln!("help: {help}");
    }
    ExitCode::FAILURE
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let (path, token) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [path] => (path, 0),
        [path, token] => (path, token.parse().map_err(|error| format!("token {token}: {error}"))?),
        _ => return Err("usage: cargo run -- MODEL.gguf [TOKEN-ID]".into()),
    };
    let model = load(Path::new(path))?;
    if token as u64 >= model.config().vocab {
        return Err(format!("token {token}: the model has {} tokens", model.config().vocab).into());
    }
    let query = query(&model, token)?;
    let difference = largest_excess(&query, &model, token)?;
    println!("token {token}, layer 0: {} products of the embedding and Q", query.len());
    if difference > 0.0 {
        return Err(
            format!("a product differs by {difference:.1e} more than rounding allows").into()
        );
    }
    println!("all are equal to a plain loop, except for rounding");
    Ok(())
}

fn load(path: &Path) -> Result<LoadedModel, loader::Error> {
    Loader::new(LoadOptions::new().device(DeviceChoice::Host)).load(path, &mut Unobserved)
}

/// Multiplies the embedding of a token by Q of layer 0, with candle.
fn query(model: &LoadedModel, token: usize) -> Result<Vec<f32>, Box<dyn Error>> {
    let embedding = weights::tensor(model, Slot::TokenEmbedding)?.get(token)?.unsqueeze(0)?;
    let q = weights::tensor(model, Slot::AttnQ(0))?;
    // The product is computed in f32, which the comparison needs.
    let wide = |tensor: &Tensor| tensor.to_dtype(DType::F32);
    Ok(wide(&embedding)?.matmul(&wide(&q)?.t()?)?.squeeze(0)?.to_vec1()?)
}

/// Computes the same with a loop in f64. Returns the largest difference beyond what rounding explains, 0 if
/// there is none.
fn largest_excess(query: &[f32], model: &LoadedModel, token: usize) -> Result<f64, Box<dyn Error>> {
    let slice = |slot| model.host_slice::<f16>(slot).ok_or_else(|| format!("{slot} is not f16"));
    let hidden = model.config().hidden as usize;
    let embedding = slice(Slot::TokenEmbedding)?;
    let embedding =
        embedding.chunks_exact(hidden).nth(token).ok_or("the model has no such token")?;
    let q = slice(Slot::AttnQ(0))?;
    if q.len() != query.len() * hidden {
        return Err(format!("{} products of {} weights", query.len(), q.len()).into());
    }
    // The error of a sum of n products in f32 is at most about n * EPSILON of the sum of their magnitudes, in
    // any order.
    let rounding = (hidden + 1) as f64 * f64::from(f32::EPSILON);
    let excess = q.chunks_exact(hidden).zip(query).map(|(row, &computed)| {
        let products = row.iter().zip(embedding).map(|(w, x)| w.to_f64() * x.to_f64());
        let sum: f64 = products.clone().sum();
        let magnitude: f64 = products.map(f64::abs).sum();
        let difference = (f64::from(computed) - sum).abs();
        // A NaN must not pass.
        if difference <= rounding * magnitude { 0.0 } else { difference.max(f64::MIN_POSITIVE) }
    });
    Ok(excess.fold(0.0, f64::max))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str) -> LoadedModel {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/models");
        load(&Path::new(folder).join(name)).unwrap()
    }

    #[test]
    fn products_are_those_of_a_plain_loop() {
        for name in ["fused-f16.gguf", "split-q8_0.gguf", "tied-gqa-bf16.gguf"] {
            let model = model(name);
            for token in [0, 7] {
                let mut query = query(&model, token).unwrap();
                assert_eq!(query.len() as u64, model.slot(Slot::AttnQ(0)).unwrap().shape[0]);
                assert_eq!(largest_excess(&query, &model, token).unwrap(), 0.0, "{name}");
                // The comparison finds products of another row.
                query.rotate_left(1);
                assert!(largest_excess(&query, &model, token).unwrap() > 0.0, "{name}");
                query[0] = f32::NAN;
                assert!(largest_excess(&query, &model, token).unwrap() > 0.0, "{name}");
            }
        }
    }

    #[test]
    fn a_token_that_does_not_exist_is_an_error() {
        let model = model("fused-f16.gguf");
        assert!(query(&model, 37).is_err());
        assert!(largest_excess(&[0.0], &model, 37).is_err());
    }
}
