//! Plans for unit tests.

use gguf_format::{Gguf, Limits};
use model_phi3::preset::{Blueprint, Layout, Preset, TypeMix};
use model_phi3::{Phi3Config, PlacedPlan, Placement, SplitMode, Storage, TensorMap};

/// Returns the plan of the tiny model for one device, decoded to half precision.
pub(crate) fn tiny() -> PlacedPlan {
    of(Preset::Tiny, &Placement::single())
}

/// Returns the plan of the tiny model for two devices.
pub(crate) fn tiny_on_two(mode: SplitMode) -> PlacedPlan {
    of(Preset::Tiny, &Placement::new(mode, 2).unwrap())
}

/// Returns the plan of Phi-3-mini for one device, decoded to half precision.
pub(crate) fn mini() -> PlacedPlan {
    of(Preset::Mini4k, &Placement::single())
}

fn of(preset: Preset, placement: &Placement) -> PlacedPlan {
    let blueprint = Blueprint::new(preset, Layout::Fused, TypeMix::F16);
    let layout = blueprint.writer().layout().unwrap();
    // If the header ends on the alignment, the parser checks whether another tensor description follows. Eight
    // zero bytes are enough for that check.
    let prefix = [layout.header(), &[0; 8]].concat();
    let gguf = Gguf::parse_header(&prefix, layout.file_len(), &Limits::default()).unwrap();
    let config = Phi3Config::from_gguf(gguf.metadata(), gguf.tensors()).unwrap();
    let tensors = TensorMap::bind(&config, gguf.tensors()).unwrap();
    PlacedPlan::new(&config, &tensors, Storage::F16, placement).unwrap()
}
