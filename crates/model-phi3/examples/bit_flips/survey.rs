//! The effect of one wrong bit in the header of a file. The program and the tests share this module.

use gguf_format::{GgmlType, Gguf};
use model_phi3::{Conversion, LoadPlan, Phi3Config, PlanOp, PlannedSlot, Storage, TensorMap};
use std::ops::Range;

/// The result for a file with a flipped bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The file is refused.
    Refused,
    /// The weights are those of the file without the flip.
    SameWeights,
    /// Only the weights of the last tensor differ, and there is a warning that bytes follow it.
    Warned,
    /// The weights differ without an error or warning.
    OtherWeights,
}

/// One bit of the header, and the result of flipping it.
#[derive(Debug, Clone)]
pub(crate) struct Flip {
    /// Its byte, from the start of the file.
    pub(crate) byte: usize,
    /// Its position in the byte, from the lowest bit.
    pub(crate) bit: u32,
    /// The result.
    pub(crate) outcome: Outcome,
    /// The first weight that differs.
    pub(crate) what: String,
}

/// The source of a weight and its conversion, which determine its values.
#[derive(Debug, Clone, PartialEq)]
struct Origin {
    slot: String,
    tensor: String,
    ggml_type: GgmlType,
    source: Range<u64>,
    conversion: Conversion,
    shape: Vec<u64>,
    /// Position in its tensor.
    offset: u64,
}

impl Origin {
    fn new(slot: &PlannedSlot, op: &PlanOp) -> Self {
        Self {
            slot: slot.slot.to_string(),
            tensor: op.tensor.to_string(),
            ggml_type: slot.source_type,
            source: op.source.range.clone(),
            conversion: op.conversion,
            shape: slot.shape.clone(),
            offset: slot.dest.start - op.dest.start,
        }
    }
}

/// Returns the source of every weight that a load of the file would produce, and whether bytes follow its last
/// tensor.
fn weights(file: &[u8]) -> Result<(Vec<Origin>, bool), model_phi3::Error> {
    let gguf = Gguf::parse(file)?;
    let config = Phi3Config::from_gguf(gguf.metadata(), gguf.tensors())?;
    let map = TensorMap::bind(&config, gguf.tensors())?;
    let plan = LoadPlan::new(&config, &map, Storage::Native)?;
    let origins = plan.slots().iter().map(|slot| Origin::new(slot, &plan.ops()[slot.op])).collect();
    Ok((origins, gguf.trailing_bytes() != 0))
}

/// Flips every bit of the header of a file, one at a time.
pub(crate) fn survey(file: &mut [u8]) -> Result<Vec<Flip>, model_phi3::Error> {
    let (whole, _) = weights(file)?;
    let gguf = Gguf::parse(file)?;
    let header = usize::try_from(gguf.data_offset()).unwrap_or(usize::MAX);
    let last = gguf.tensors().last().map(|tensor| tensor.name().to_owned()).unwrap_or_default();
    let mut flips = Vec::with_capacity(header * 8);
    for byte in 0..header {
        for bit in 0..8 {
            file[byte] ^= 1 << bit;
            let (outcome, what) = match weights(file) {
                Err(error) => (Outcome::Refused, error.code().to_owned()),
                Ok((found, _)) if found == whole => (Outcome::SameWeights, String::new()),
                Ok((found, goes_on)) => {
                    let differs: Vec<_> =
                        found.iter().zip(&whole).filter(|(a, b)| a != b).map(|(a, _)| a).collect();
                    let is_last = found.len() == whole.len()
                        && differs.iter().all(|origin| origin.tensor == last);
                    let what = differs.first().map(|origin| format!("{origin:?}"));
                    let outcome =
                        if is_last && goes_on { Outcome::Warned } else { Outcome::OtherWeights };
                    (outcome, what.unwrap_or_default())
                }
            };
            file[byte] ^= 1 << bit;
            flips.push(Flip { byte, bit, outcome, what });
        }
    }
    Ok(flips)
}
