//! The division of a model: the part of every weight that a device holds.

use std::ops::Range;
use std::sync::Arc;

use super::deal::{deal, deal_to_all, ranges};
use super::{MAX_DEVICES, Placement, SplitMode};
use crate::binding::TensorMap;
use crate::config::Phi3Config;
use crate::error::Error;
use crate::plan::{Storage, fault};
use crate::slot::{Matrix, Slot};

/// Columns are cut at multiples of this number in both storages. A block of any type has 1 element or a multiple of
/// 32, and 32 halves are 64 bytes.
const COLUMN_STEP: u64 = 32;

/// The part of one weight: a rectangle of its elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) rows: Range<u64>,
    pub(crate) cols: Range<u64>,
}

/// The part of every weight that each device holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Division {
    /// All devices hold everything.
    Whole { heads: Range<u32>, kv_heads: Range<u32> },
    /// Each device holds consecutive layers.
    Layers {
        /// The layers of each device.
        layers: Vec<Range<u32>>,
        /// The device with the last norm and the output.
        output: usize,
        heads: Range<u32>,
        kv_heads: Range<u32>,
    },
    /// Each device holds a part of every matrix.
    Tensors { head_dim: u64, shares: Vec<Share> },
}

/// The part of all matrices that one device holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Share {
    heads: Range<u32>,
    kv_heads: Range<u32>,
    ffn: Range<u64>,
    vocab: Range<u64>,
}

impl Division {
    pub(crate) fn new(
        config: &Phi3Config,
        tensors: &TensorMap,
        storage: Storage,
        placement: &Placement,
    ) -> Result<Self, Error> {
        let (heads, kv_heads) = (0..config.heads, 0..config.kv_heads);
        Ok(match placement.mode() {
            SplitMode::None | SplitMode::Replicate => Self::Whole { heads, kv_heads },
            SplitMode::Layer => {
                let (layers, output) = layers(config.layers, placement);
                Self::Layers { layers, output, heads, kv_heads }
            }
            SplitMode::Tensor => Self::Tensors {
                head_dim: config.head_dim.into(),
                shares: Units::new(config, tensors, storage)?.shares(placement)?,
            },
        })
    }

    /// Returns the part of a weight of `rows` rows and `cols` columns that the device holds; `None` if it holds
    /// nothing of it.
    pub(crate) fn part(&self, device: usize, slot: Slot, rows: u64, cols: u64) -> Option<Part> {
        let whole = Part { rows: 0..rows, cols: 0..cols };
        match self {
            Self::Whole { .. } => Some(whole),
            Self::Layers { layers, output, .. } => {
                let layers = layers.get(device)?;
                is_held(slot, device, layers, *output).then_some(whole)
            }
            Self::Tensors { head_dim, shares } => {
                let share = shares.get(device)?;
                Some(share.part(slot, *head_dim, whole))
            }
        }
    }

    /// Returns the query heads and the key-value heads that the device has of each layer that it holds.
    pub(crate) fn heads(&self, device: usize) -> Option<(Range<u32>, Range<u32>)> {
        match self {
            Self::Whole { heads, kv_heads } | Self::Layers { heads, kv_heads, .. } => {
                Some((heads.clone(), kv_heads.clone()))
            }
            Self::Tensors { shares, .. } => {
                let share = shares.get(device)?;
                Some((share.heads.clone(), share.kv_heads.clone()))
            }
        }
    }
}

/// Returns the layers of each device, and the device of the output.
fn layers(layers: u32, placement: &Placement) -> (Vec<Range<u32>>, usize) {
    let devices = placement.devices();
    let last = devices.saturating_sub(1);
    let (mut shares, output) = match placement.offloaded_layers() {
        None => (deal(layers.into(), &placement.weights(devices), |_| 0), last),
        Some(offloaded) => {
            let offloaded = offloaded.min(layers);
            let mut shares = vec![u64::from(layers.saturating_sub(offloaded))];
            shares.extend(deal(offloaded.into(), &placement.weights(last), |_| 0));
            (shares, if offloaded == 0 { 0 } else { last })
        }
    };
    shares.truncate(devices);
    let narrow = |layer| u32::try_from(layer).unwrap_or(layers);
    let of_devices = ranges(&shares, 1, layers.into());
    (of_devices.into_iter().map(|r| narrow(r.start)..narrow(r.end)).collect(), output)
}

/// Returns whether a device holds a weight in the mode `layer`.
///
/// Every device that has a layer has the RoPE factors: each layer rotates its queries and keys by them.
fn is_held(slot: Slot, device: usize, layers: &Range<u32>, output: usize) -> bool {
    match slot {
        Slot::Scale(matrix) | Slot::InputScale(matrix) => {
            is_held(matrix.slot(), device, layers, output)
        }
        Slot::TokenEmbedding => device == 0,
        Slot::OutputNorm | Slot::Output => device == output,
        Slot::RopeFactorsLong | Slot::RopeFactorsShort => !layers.is_empty(),
        _ => slot.layer().is_some_and(|layer| layers.contains(&layer)),
    }
}

impl Share {
    fn part(&self, slot: Slot, head_dim: u64, whole: Part) -> Part {
        let elements = |heads: &Range<u32>| {
            let element = |head: u32| u64::from(head).saturating_mul(head_dim);
            element(heads.start)..element(heads.end)
        };
        // Norms, RoPE factors and scales are whole on each device.
        let Some(matrix) = slot.matrix() else { return whole };
        match matrix {
            Matrix::TokenEmbedding | Matrix::Output => Part { rows: self.vocab.clone(), ..whole },
            Matrix::AttnQ(_) => Part { rows: elements(&self.heads), ..whole },
            Matrix::AttnK(_) | Matrix::AttnV(_) => Part { rows: elements(&self.kv_heads), ..whole },
            Matrix::AttnOutput(_) => Part { cols: elements(&self.heads), ..whole },
            Matrix::FfnGate(_) | Matrix::FfnUp(_) => Part { rows: self.ffn.clone(), ..whole },
            Matrix::FfnDown(_) => Part { cols: self.ffn.clone(), ..whole },
        }
    }
}

/// A tensor that limits the number of devices, and the elements that stay together there.
struct Limit {
    tensor: Arc<str>,
    block: u64,
    /// The reason for the block, in words.
    rule: String,
}

/// The units in which the mode `tensor` divides a model. They are the same in all layers, so that a device has the
/// same heads everywhere.
struct Units {
    heads: u32,
    kv_heads: u32,
    /// Query heads of a key-value head.
    group: u32,
    head_dim: u64,
    ffn: u64,
    vocab: u64,
    /// Key-value heads that stay together, because their columns of `attn_output` are whole blocks.
    kv_unit: u64,
    attn_output: Limit,
    ffn_down: Limit,
    keys: Arc<str>,
    embedding: Arc<str>,
}

/// The reason why a number of devices is not possible.
struct Obstacle {
    tensor: Arc<str>,
    block: u64,
    reason: String,
}

impl Units {
    fn new(config: &Phi3Config, tensors: &TensorMap, storage: Storage) -> Result<Self, Error> {
        let (heads, kv_heads) = (config.heads, config.kv_heads);
        let group = heads.checked_div(kv_heads).unwrap_or(0);
        let head_dim = u64::from(config.head_dim);
        if group == 0 || head_dim == 0 || group.checked_mul(kv_heads) != Some(heads) {
            let fault_text = format!("{heads} heads of {head_dim} elements, {kv_heads} key heads");
            return Err(fault(fault_text));
        }
        let attn_output = limit(tensors, storage, |slot| matches!(slot, Slot::AttnOutput(_)))?;
        let ffn_down = limit(tensors, storage, |slot| matches!(slot, Slot::FfnDown(_)))?;
        let group_cols = u64::from(group).saturating_mul(head_dim);
        let common = greatest_common_divisor(group_cols, attn_output.block);
        let kv_unit = attn_output.block.checked_div(common).unwrap_or(1);
        Ok(Self {
            heads,
            kv_heads,
            group,
            head_dim,
            ffn: config.ffn,
            vocab: config.vocab,
            kv_unit: kv_unit.min(kv_heads.into()),
            attn_output,
            ffn_down,
            keys: name_of(tensors, |slot| matches!(slot, Slot::AttnK(_)))?,
            embedding: name_of(tensors, |slot| slot == Slot::TokenEmbedding)?,
        })
    }

    /// Returns the share of each device.
    fn shares(&self, placement: &Placement) -> Result<Vec<Share>, Error> {
        let devices = placement.devices();
        if let Some(obstacle) = self.obstacle(devices) {
            let possible = (1..=MAX_DEVICES).filter(|devices| self.obstacle(*devices).is_none());
            return Err(Error::Placement {
                tensor: obstacle.tensor.to_string().into(),
                devices,
                block: obstacle.block,
                reason: obstacle.reason.into(),
                possible: possible.collect(),
            });
        }
        let weights = placement.weights(devices);
        let (heads, kv_heads) = self.heads(devices, &weights);
        let fewest_heads =
            |device: usize| heads.get(device).map_or(0, |heads| u64::from(length(heads)));
        let balancing = self.ffn_weights(&weights, &heads, &kv_heads);
        let ffn = deal_to_all(self.ffn_units(), &balancing, fewest_heads);
        let ffn = ranges(&ffn, self.ffn_down.block, self.ffn);
        let vocab = ranges(&deal_to_all(self.vocab, &weights, |_| 0), 1, self.vocab);
        let parts = heads.into_iter().zip(kv_heads).zip(ffn.into_iter().zip(vocab));
        Ok(parts
            .map(|((heads, kv_heads), (ffn, vocab))| Share { heads, kv_heads, ffn, vocab })
            .collect())
    }

    /// Returns the query heads and the key-value heads of each device.
    fn heads(&self, devices: usize, weights: &[f64]) -> (Vec<Range<u32>>, Vec<Range<u32>>) {
        if let Some((repeats, heads)) = self.repeated(devices) {
            // Each device has an equal part of one group. The proportions do not matter here.
            let device = |device: u32| {
                let kv_head = device.checked_div(repeats).unwrap_or(0);
                let first = device.saturating_mul(heads);
                (first..first.saturating_add(heads), kv_head..kv_head.saturating_add(1))
            };
            return (0_u32..).take(devices).map(device).unzip();
        }
        let shares = deal_to_all(self.kv_units(), weights, |_| 0);
        let narrow = |head: u64| u32::try_from(head).unwrap_or(self.kv_heads);
        ranges(&shares, self.kv_unit, self.kv_heads.into())
            .into_iter()
            .map(|range| narrow(range.start)..narrow(range.end))
            .map(|kv| {
                let head = |kv: u32| kv.saturating_mul(self.group);
                (head(kv.start)..head(kv.end), kv)
            })
            .unzip()
    }

    /// Returns the proportions of the feed-forward network: the device's proportion of all weights of a layer, less
    /// the weights of its heads. Thus a device with fewer heads gets more of the network.
    #[allow(clippy::cast_precision_loss, reason = "proportions are approximate")]
    fn ffn_weights(
        &self,
        weights: &[f64],
        heads: &[Range<u32>],
        kv_heads: &[Range<u32>],
    ) -> Vec<f64> {
        // Rows and columns of `hidden` elements: Q and the output, K and V.
        let of_heads: Vec<f64> = heads
            .iter()
            .zip(kv_heads)
            .map(|(heads, kv)| 2.0 * f64::from(length(heads).saturating_add(length(kv))))
            .map(|heads| heads * self.head_dim as f64)
            .collect();
        // Gate, up and down.
        let layer = 3.0 * self.ffn as f64 + of_heads.iter().sum::<f64>();
        let total: f64 = weights.iter().sum();
        let shares = weights.iter().zip(of_heads);
        let left: Vec<f64> =
            shares.map(|(weight, heads)| (layer * weight / total - heads).max(0.0)).collect();
        if left.iter().all(|left| *left == 0.0) { weights.to_vec() } else { left }
    }

    /// Returns how often each key-value head is repeated and the query heads of each device, if there are more
    /// devices than key-value heads and these can be repeated.
    fn repeated(&self, devices: usize) -> Option<(u32, u32)> {
        let devices = u32::try_from(devices).ok().filter(|devices| *devices > self.kv_heads)?;
        let repeats = devices.checked_div(self.kv_heads)?;
        let heads = self.group.checked_div(repeats)?;
        let divides = repeats.checked_mul(self.kv_heads) == Some(devices)
            && repeats.checked_mul(heads) == Some(self.group);
        divides.then_some((repeats, heads))
    }

    fn kv_units(&self) -> u64 {
        u64::from(self.kv_heads).div_ceil(self.kv_unit.max(1))
    }

    fn ffn_units(&self) -> u64 {
        self.ffn.div_ceil(self.ffn_down.block.max(1))
    }

    /// Returns the reason why the model cannot be divided among this number of devices; `None` if it can.
    fn obstacle(&self, devices: usize) -> Option<Obstacle> {
        let count = devices as u64;
        self.attention_obstacle(devices).or_else(|| {
            if self.ffn_units() < count {
                let Limit { tensor, block, rule } = &self.ffn_down;
                let reason = format!("{rule}, and {} columns are too few", self.ffn);
                return Some(Obstacle { tensor: Arc::clone(tensor), block: *block, reason });
            }
            (self.vocab < count).then(|| Obstacle {
                tensor: Arc::clone(&self.embedding),
                block: 1,
                reason: format!("it has {} rows", self.vocab),
            })
        })
    }

    fn attention_obstacle(&self, devices: usize) -> Option<Obstacle> {
        let Limit { tensor, block, rule } = &self.attn_output;
        let of_columns = |reason| Obstacle { tensor: Arc::clone(tensor), block: *block, reason };
        if devices as u64 <= u64::from(self.kv_heads) {
            let too_few = self.kv_units() < devices as u64;
            return too_few.then(|| {
                of_columns(format!(
                    "{rule}; {} key-value heads, each with {} columns of its query heads, make {} such parts",
                    self.kv_heads,
                    u64::from(self.group).saturating_mul(self.head_dim),
                    self.kv_units()
                ))
            });
        }
        let Some((_, heads)) = self.repeated(devices) else {
            return Some(Obstacle {
                tensor: Arc::clone(&self.keys),
                block: self.head_dim,
                reason: format!(
                    "{} key-value heads for {} query heads can neither be divided nor repeated",
                    self.kv_heads, self.heads
                ),
            });
        };
        let columns = u64::from(heads).saturating_mul(self.head_dim);
        (!columns.is_multiple_of(*block))
            .then(|| of_columns(format!("{rule}, and each device would have {columns} columns")))
    }
}

/// Returns the limit for the columns of all tensors with such a weight: that of the longest blocks.
fn limit(
    tensors: &TensorMap,
    storage: Storage,
    is_cut: impl Fn(Slot) -> bool,
) -> Result<Limit, Error> {
    let has_slot = |slots: &[crate::binding::SlotRows]| slots.iter().any(|part| is_cut(part.slot));
    let mut cut = tensors.tensors().iter().filter(|tensor| has_slot(&tensor.slots));
    let first = cut.next().ok_or_else(|| fault("a weight with columns has no tensor"))?;
    let longest = cut.fold(first, |longest, tensor| {
        let is_longer = tensor.ggml_type.block_len() > longest.ggml_type.block_len();
        if is_longer { tensor } else { longest }
    });
    let (tensor, ggml_type) = (Arc::clone(&longest.name), longest.ggml_type);
    Ok(match storage {
        Storage::Native if ggml_type.block_len() > COLUMN_STEP => {
            let block = ggml_type.block_len();
            let rule = format!("its columns can be cut only between {ggml_type} blocks of {block}");
            Limit { tensor, block, rule }
        }
        Storage::F16 | Storage::Native => {
            let rule = format!("its columns can be cut only at multiples of {COLUMN_STEP}");
            Limit { tensor, block: COLUMN_STEP, rule }
        }
    })
}

fn name_of(tensors: &TensorMap, is_it: impl Fn(Slot) -> bool) -> Result<Arc<str>, Error> {
    tensors
        .tensors()
        .iter()
        .find(|tensor| tensor.slots.iter().any(|part| is_it(part.slot)))
        .map(|tensor| Arc::clone(&tensor.name))
        .ok_or_else(|| fault("a weight has no tensor"))
}

fn length(range: &Range<u32>) -> u32 {
    range.end.saturating_sub(range.start)
}

/// Returns the greatest common divisor; the larger number if one is 0.
fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while let Some(rest) = a.checked_rem(b) {
        (a, b) = (b, rest);
    }
    a
}
