//! Proposes a placement for devices of which the free memory is known.

use std::ops::Range;

use super::deal::deal;
use super::{MAX_DEVICES, Placement, SplitMode};
use crate::binding::TensorMap;
use crate::config::Phi3Config;
use crate::error::Error;
use crate::placed_plan::{PlacedPart, PlacedPlan};
use crate::plan::{ALIGNMENT, LoadPlan, Storage, Unit, fault, length};

/// A placement for devices of which the free memory is known: see [`Placement::fit`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Proposal {
    /// The placement.
    pub placement: Placement,
    /// For each device of the placement, its position among the devices whose free memory was given. Devices that
    /// would hold nothing are left out.
    pub devices: Vec<usize>,
    /// Bytes that are missing on these devices, summed up. 0 if the model fits.
    pub short_by: u64,
}

impl Proposal {
    /// Returns whether the model fits.
    #[must_use]
    pub const fn fits(&self) -> bool {
        self.short_by == 0
    }

    fn single(device: usize, short_by: u64) -> Self {
        Self { placement: Placement::single(), devices: vec![device], short_by }
    }
}

impl Placement {
    /// Proposes a placement for devices with this number of free bytes each, of which `reserve` bytes stay free on
    /// each device that is used.
    ///
    /// If one device can hold the model, this is the mode `none` on the first such device. Otherwise it is the mode
    /// `layer`: in proportion to the free bytes if the parts fit then, and else with as many layers on each device as
    /// it can hold. If the model does not fit, it is the proposal that comes closest, and
    /// [`short_by`](Proposal::short_by) says how much is missing. Without any device, all bytes of the model are
    /// missing on a device 0.
    ///
    /// Only the first 256 devices are considered. Bytes are those of the arenas; the memory that a context or a
    /// conversion needs is a part of `reserve`.
    ///
    /// # Errors
    ///
    /// Those of [`PlacedPlan::new`].
    pub fn fit(
        config: &Phi3Config,
        tensors: &TensorMap,
        storage: Storage,
        free: &[u64],
        reserve: u64,
    ) -> Result<Proposal, Error> {
        let whole = LoadPlan::new(config, tensors, storage)?;
        let usable: Vec<u64> =
            free.iter().take(MAX_DEVICES).map(|bytes| bytes.saturating_sub(reserve)).collect();
        let short_by = |usable: u64| whole.device_bytes().saturating_sub(usable);
        let single = match usable.iter().position(|usable| short_by(*usable) == 0) {
            Some(device) => return Ok(Proposal::single(device, 0)),
            None => {
                let least_short = usable.iter().enumerate().min_by_key(|(_, u)| short_by(**u));
                least_short.map_or_else(
                    || Proposal::single(0, whole.device_bytes()),
                    |(device, usable)| Proposal::single(device, short_by(*usable)),
                )
            }
        };
        let sizes = Sizes::of(&whole, config.tied_output)?;
        let Some(devices) = sizes.devices(&usable) else { return Ok(single) };
        let budgets: Vec<u64> = sizes.budgets(&usable, &devices);
        let mut best = single;
        for counts in [sizes.in_proportion(&budgets), sizes.greedy(&budgets)] {
            let proposal = propose(&counts, &devices, &usable, |placement| {
                let plan = PlacedPlan::new(config, tensors, storage, placement)?;
                Ok(plan.parts().iter().map(PlacedPart::device_bytes).collect())
            })?;
            if proposal.short_by < best.short_by {
                best = proposal;
            }
            if best.fits() {
                break;
            }
        }
        Ok(best)
    }
}

/// Makes the proposal with this number of layers on each device. `price` returns the size of each part.
fn propose(
    counts: &[u64],
    devices: &Range<usize>,
    usable: &[u64],
    price: impl FnOnce(&Placement) -> Result<Vec<u64>, Error>,
) -> Result<Proposal, Error> {
    let last = devices.len().saturating_sub(1);
    // The first device has the embedding and the last the output. Between them, no layers means nothing.
    let (devices, proportions): (Vec<usize>, Vec<f64>) = devices
        .clone()
        .zip(counts)
        .enumerate()
        .filter(|(i, (_, count))| *i == 0 || *i == last || **count > 0)
        .map(|(_, (device, count))| (device, f64::from(u32::try_from(*count).unwrap_or(u32::MAX))))
        .unzip();
    let placement = Placement::new(SplitMode::Layer, devices.len())
        .and_then(|placement| placement.with_proportions(&proportions))
        .map_err(|error| fault(error.to_string()))?;
    let sizes = price(&placement)?;
    let usable = devices.iter().map(|device| usable.get(*device).copied().unwrap_or(0));
    let short = sizes.iter().zip(usable).map(|(size, usable)| size.saturating_sub(usable));
    let short_by = short.fold(0, u64::saturating_add);
    Ok(Proposal { placement, devices, short_by })
}

/// Bytes that the parts of a model take in an arena.
struct Sizes {
    embedding: u64,
    layers: Vec<u64>,
    /// The last norm and the output, also if the output is the embedding.
    output: u64,
    rope_factors: u64,
}

impl Sizes {
    fn of(whole: &LoadPlan, tied_output: bool) -> Result<Self, Error> {
        let mut sizes = Self {
            embedding: 0,
            layers: vec![0; usize::try_from(whole.layers()).unwrap_or(0)],
            output: 0,
            rope_factors: 0,
        };
        let mut factors = vec![false; whole.ops().len()];
        for planned in whole.slots().iter().filter(|planned| planned.slot.is_rope_factors()) {
            if let Some(is_factors) = factors.get_mut(planned.op) {
                *is_factors = true;
            }
        }
        for (op, is_factors) in whole.ops().iter().zip(factors) {
            let size = match whole.unit(op.unit) {
                Some(Unit::Embedding) if is_factors => Some(&mut sizes.rope_factors),
                Some(Unit::Embedding) => Some(&mut sizes.embedding),
                Some(Unit::Layer(layer)) => {
                    sizes.layers.get_mut(usize::try_from(layer).unwrap_or(usize::MAX))
                }
                Some(Unit::Output) => Some(&mut sizes.output),
                None => None,
            };
            let size = size.ok_or_else(|| fault(format!("{} is in no unit", op.tensor)))?;
            let bytes =
                length(&op.dest).and_then(|bytes| bytes.checked_next_multiple_of(ALIGNMENT));
            *size = size.saturating_add(bytes.unwrap_or(u64::MAX));
        }
        if tied_output {
            sizes.output = sizes.output.saturating_add(sizes.embedding);
        }
        Ok(sizes)
    }

    /// Returns the devices from the first that can hold the embedding to the last that can hold the output; `None`
    /// if these are not two devices.
    fn devices(&self, usable: &[u64]) -> Option<Range<usize>> {
        let first = usable.iter().position(|usable| *usable >= self.embedding)?;
        let last = usable.iter().rposition(|usable| *usable >= self.output)?;
        (first < last).then_some(first..last.saturating_add(1))
    }

    /// Returns the bytes that each of these devices has for layers.
    fn budgets(&self, usable: &[u64], devices: &Range<usize>) -> Vec<u64> {
        let last = devices.end.saturating_sub(1);
        let budget = |(device, usable): (usize, &u64)| {
            let embedding = if device == devices.start { self.embedding } else { 0 };
            let output = if device == last { self.output } else { 0 };
            usable
                .saturating_sub(embedding)
                .saturating_sub(output)
                .saturating_sub(self.rope_factors)
        };
        let of_range = usable.iter().enumerate().filter(|(device, _)| devices.contains(device));
        of_range.map(budget).collect()
    }

    /// Returns layers for each budget, in proportion to it.
    #[allow(clippy::cast_precision_loss, reason = "proportions are approximate")]
    fn in_proportion(&self, budgets: &[u64]) -> Vec<u64> {
        if budgets.iter().all(|budget| *budget == 0) {
            return self.greedy(budgets);
        }
        let weights: Vec<f64> = budgets.iter().map(|budget| *budget as f64).collect();
        deal(self.layers.len() as u64, &weights, |_| 0)
    }

    /// Returns as many layers for each budget as it can hold, and the rest for the last.
    fn greedy(&self, budgets: &[u64]) -> Vec<u64> {
        let mut layers = self.layers.iter().peekable();
        let mut counts: Vec<u64> = budgets
            .iter()
            .map(|budget| {
                let (mut left, mut count) = (*budget, 0_u64);
                while let Some(bytes) = layers.next_if(|bytes| **bytes <= left) {
                    left = left.saturating_sub(*bytes);
                    count = count.saturating_add(1);
                }
                count
            })
            .collect();
        if let Some(last) = counts.last_mut() {
            *last = last.saturating_add(layers.count() as u64);
        }
        counts
    }
}
