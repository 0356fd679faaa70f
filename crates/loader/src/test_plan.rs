//! Plans for unit tests.

use gguf_format::{Gguf, Limits};
use model_phi3::preset::{Blueprint, Layout, Preset, TypeMix};
use model_phi3::{LoadPlan, Phi3Config, Storage, TensorMap};

/// Returns the plan of the tiny model, decoded to half precision.
pub(crate) fn tiny() -> LoadPlan {
    of(Preset::Tiny)
}

/// Returns the plan of Phi-3-mini, decoded to half precision.
pub(crate) fn mini() -> LoadPlan {
    of(Preset::Mini4k)
}

fn of(preset: Preset) -> LoadPlan {
    let blueprint = Blueprint::new(preset, Layout::Fused, TypeMix::F16);
    let layout = blueprint.writer().layout().unwrap();
    // If the header ends on the alignment, the parser checks whether another tensor description follows. Eight
    // zero bytes are enough for that check.
    let prefix = [layout.header(), &[0; 8]].concat();
    let gguf = Gguf::parse_header(&prefix, layout.file_len(), &Limits::default()).unwrap();
    let config = Phi3Config::from_gguf(gguf.metadata(), gguf.tensors()).unwrap();
    let tensors = TensorMap::bind(&config, gguf.tensors()).unwrap();
    LoadPlan::new(&config, &tensors, Storage::F16).unwrap()
}
