//! The wish of a user: which of several devices holds which part of the model.

mod deal;
mod division;
mod fit;

pub(crate) use division::{Division, Part};
pub use fit::Proposal;

use crate::choice_words;

/// The largest number of devices of a placement. A plan has an arena and operations for each of them.
pub(crate) const MAX_DEVICES: usize = 256;

/// The largest proportion. Free bytes of a device can be a proportion.
const MAX_PROPORTION: f64 = 18_446_744_073_709_551_616.0;

/// The way in which a model is divided among devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SplitMode {
    /// One device holds everything.
    None,
    /// Each device holds consecutive layers. The first device also holds the token embedding, the last device
    /// the last norm and the output.
    Layer,
    /// Each device holds a part of every matrix, and all norms, RoPE factors and scales.
    ///
    /// Q, K, V, gate and up are divided by rows: a device has whole heads, with the key-value heads that they use,
    /// and the same rows of gate and up. The attention output and down are divided by the matching columns, so that
    /// the results of all devices have to be added up. Token embedding and output are divided by rows of the
    /// vocabulary.
    Tensor,
    /// Each device holds everything.
    Replicate,
}

choice_words!(SplitMode: None = "none", Layer = "layer", Tensor = "tensor", Replicate = "replicate");

/// Which of several devices holds which part of a model: plain data, independent of any model.
///
/// Devices are numbered from 0. A placement does not know whether a device is a GPU or host memory.
/// [`PlacedPlan::new`](crate::PlacedPlan::new) applies it to a model.
///
/// ```
/// use model_phi3::{Placement, SplitMode};
///
/// // `--split-mode tensor --tensor-split 3,1`
/// let placement = Placement::new(SplitMode::Tensor, 2)?.with_proportions(&[3.0, 1.0])?;
/// assert_eq!((placement.mode(), placement.devices()), (SplitMode::Tensor, 2));
///
/// // `--n-gpu-layers 20`: device 0 is the host.
/// let placement = Placement::last_layers(20, 2)?;
/// assert_eq!(placement.offloaded_layers(), Some(20));
/// # Ok::<(), model_phi3::InvalidPlacement>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    mode: SplitMode,
    devices: usize,
    /// Empty, or one for each device that layers or units are dealt to.
    proportions: Vec<f64>,
    offloaded_layers: Option<u32>,
}

/// A placement that no model can have. The caller asked for it, so no file is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPlacement {
    /// There are no devices, or more than 256.
    #[error("{devices} devices are not possible: a placement has 1 to {MAX_DEVICES} devices")]
    Devices {
        /// Their number.
        devices: usize,
    },
    /// The mode `none` has several devices.
    #[error("the split mode none has one device, not {devices}: choose layer, tensor or replicate")]
    SeveralDevices {
        /// Their number.
        devices: usize,
    },
    /// The last layers are for other devices than the first, and there is only one device.
    #[error("the last layers need a second device, because device 0 holds the others")]
    OneDevice,
    /// The mode has no proportions.
    #[error("the split mode {mode} has no proportions: only layer and tensor have them")]
    NoProportions {
        /// The mode.
        mode: SplitMode,
    },
    /// There is not one proportion for each device.
    #[error("{found} proportions are given, but {expected} are needed: one for each device{}", if *.without_first { " after device 0" } else { "" })]
    ProportionCount {
        /// Their number.
        found: usize,
        /// The number that is needed.
        expected: usize,
        /// Whether device 0 has no proportion, because its layers follow from those of the others.
        without_first: bool,
    },
    /// A proportion is not a number from 0 to 2^64, or all are 0.
    #[error(
        "the proportions {proportions} are not possible: each is a number from 0 to 2^64, and one at least is not 0"
    )]
    Proportions {
        /// All proportions, as text.
        proportions: String,
    },
    /// A proportion is 0 in the mode `tensor`, in which every device holds a part of every matrix.
    #[error(
        "device {device} has the proportion 0, but in the split mode tensor every device holds a part: leave the device out"
    )]
    ZeroProportion {
        /// The device.
        device: usize,
    },
}

impl Placement {
    /// Makes a placement in equal proportions.
    ///
    /// # Errors
    ///
    /// [`InvalidPlacement`] if there are no devices, more than 256, or several in the mode `none`.
    pub fn new(mode: SplitMode, devices: usize) -> Result<Self, InvalidPlacement> {
        if devices == 0 || devices > MAX_DEVICES {
            return Err(InvalidPlacement::Devices { devices });
        }
        if mode == SplitMode::None && devices > 1 {
            return Err(InvalidPlacement::SeveralDevices { devices });
        }
        Ok(Self { mode, devices, proportions: Vec::new(), offloaded_layers: None })
    }

    /// Makes the placement of a model on one device.
    #[must_use]
    pub const fn single() -> Self {
        Self { mode: SplitMode::None, devices: 1, proportions: Vec::new(), offloaded_layers: None }
    }

    /// Makes a placement in the mode `layer` that puts the last `layers` layers, the last norm and the output on
    /// the devices after device 0. Device 0, usually the host, holds the token embedding and the other layers.
    ///
    /// If the model has fewer layers, device 0 holds only the embedding. If `layers` is 0, device 0 holds
    /// everything.
    ///
    /// # Errors
    ///
    /// [`InvalidPlacement`] if there are fewer than two devices, or more than 256.
    pub fn last_layers(layers: u32, devices: usize) -> Result<Self, InvalidPlacement> {
        let placement = Self::new(SplitMode::Layer, devices)?;
        if devices == 1 {
            return Err(InvalidPlacement::OneDevice);
        }
        Ok(Self { offloaded_layers: Some(layers), ..placement })
    }

    /// Replaces the equal proportions by these: one for each device or, after [`last_layers`](Self::last_layers),
    /// one for each device after device 0. Only their ratio counts.
    ///
    /// In the mode `layer`, whole layers are dealt out. A device of proportion 0 gets none. In the mode `tensor`,
    /// whole key-value heads with their query heads are dealt out first, and then the feed-forward network in such
    /// a way that each device has its proportion of the weights of a layer, as near as units allow. If there are
    /// more devices than key-value heads, each device has equally many heads.
    ///
    /// # Errors
    ///
    /// [`InvalidPlacement`] if their number is wrong, one is negative, larger than 2^64 or not a number, all are
    /// 0, or the mode has no proportions. In the mode `tensor`, none can be 0.
    pub fn with_proportions(self, proportions: &[f64]) -> Result<Self, InvalidPlacement> {
        if !matches!(self.mode, SplitMode::Layer | SplitMode::Tensor) {
            return Err(InvalidPlacement::NoProportions { mode: self.mode });
        }
        let without_first = self.offloaded_layers.is_some();
        let expected = self.devices.saturating_sub(usize::from(without_first));
        if proportions.len() != expected {
            let found = proportions.len();
            return Err(InvalidPlacement::ProportionCount { found, expected, without_first });
        }
        let is_possible = |proportion: &f64| (0.0..=MAX_PROPORTION).contains(proportion);
        let is_zero = |proportion: &f64| *proportion == 0.0;
        if !proportions.iter().all(is_possible) || proportions.iter().all(is_zero) {
            let texts: Vec<_> = proportions.iter().map(text_of).collect();
            return Err(InvalidPlacement::Proportions { proportions: texts.join(",") });
        }
        let zero = proportions.iter().position(is_zero);
        if let (SplitMode::Tensor, Some(device)) = (self.mode, zero) {
            return Err(InvalidPlacement::ZeroProportion { device });
        }
        Ok(Self { proportions: proportions.to_vec(), ..self })
    }

    /// Returns the way in which the model is divided.
    #[must_use]
    pub const fn mode(&self) -> SplitMode {
        self.mode
    }

    /// Returns the number of devices.
    #[must_use]
    pub const fn devices(&self) -> usize {
        self.devices
    }

    /// Returns the proportions; empty if they are equal.
    #[must_use]
    pub fn proportions(&self) -> &[f64] {
        &self.proportions
    }

    /// Returns the number of layers of [`last_layers`](Self::last_layers).
    #[must_use]
    pub const fn offloaded_layers(&self) -> Option<u32> {
        self.offloaded_layers
    }

    /// Returns the proportions of `devices` devices.
    fn weights(&self, devices: usize) -> Vec<f64> {
        if self.proportions.is_empty() { vec![1.0; devices] } else { self.proportions.clone() }
    }
}

/// Writes a number with an exponent if it would have many digits.
fn text_of(proportion: &f64) -> String {
    let text = proportion.to_string();
    if text.len() > 20 { format!("{proportion:e}") } else { text }
}
