//! The entry `__metadata__` of a dump. `docs/dump.md` describes it.

use super::{Names, checkpoint_config};
use gguf_format::path_text;
use loader::{Error, LoadedModel};
use model_phi3::Storage;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// The form of a weight that is dumped as bytes.
#[derive(Serialize)]
struct Form<'a> {
    ggml_type: &'a str,
    shape: &'a [u64],
}

/// Returns all entries. Their values are texts, because the format has no others; some are JSON.
pub(super) fn of(
    model: &LoadedModel,
    names: Names,
    source: &Path,
) -> Result<BTreeMap<String, String>, Error> {
    let (config, plan) = (model.config(), model.plan().whole());
    let source = source.file_name().unwrap_or_default();
    let names_word = match names {
        Names::Slots => "slots",
        Names::Hf => "hf",
    };
    let mut notes: BTreeMap<String, String> = [
        // Of PyTorch: transformers refuses files without it.
        ("format", "pt".to_owned()),
        ("program", concat!("phi3-loader ", env!("CARGO_PKG_VERSION")).to_owned()),
        ("source", path_text(Path::new(source)).to_string()),
        ("architecture", config.architecture.to_string()),
        ("storage", plan.storage().to_string()),
        ("names", names_word.to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    notes.extend(config.name.clone().map(|name| ("model".to_owned(), name)));
    if plan.storage() == Storage::Native {
        notes.extend(plan.slots().iter().map(|slot| {
            let ggml_type = slot.format.ggml_type();
            (slot.slot.to_string(), json(&Form { ggml_type: ggml_type.name(), shape: &slot.shape }))
        }));
    }
    if names == Names::Hf {
        notes.insert("config".to_owned(), json(&checkpoint_config::of(model)?));
    }
    Ok(notes)
}

/// Returns the value as JSON. Values here have no maps whose keys are not texts, so this does not fail.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
