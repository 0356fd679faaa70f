//! `load --dump`: the weights on the device as a safetensors file.

use crate::cancel::CancelToken;
use crate::error::Error;
use crate::model::LoadedModel;
use model_phi3::{PlannedSlot, SlotFormat, Storage};
use safetensors::{Dtype, SafeTensorError, View};
use std::borrow::Cow;
use std::cell::RefCell;
use std::path::Path;

/// Reads every slot back from the device and writes it under its name. Holds one slot in host memory
/// at a time, and looks at the token before each. What stood at the path is replaced by a whole dump
/// and stays where none can be written.
pub(super) fn write(model: &LoadedModel, path: &Path, token: &CancelToken) -> Result<(), Error> {
    // `View` cannot report a failed read; it waits here.
    let failed_read = RefCell::new(None);
    let slots = model
        .plan()
        .slots()
        .iter()
        .map(|slot| (slot.slot.to_string(), SlotView::new(model, slot, token, &failed_read)));
    let written = safetensors::serialize_to_file(slots, None, path);
    let failed_read = failed_read.take();
    if failed_read.is_some() && written.is_ok() {
        // It lacks what could not be read. Where this fails too, the first error says more.
        let _ = std::fs::remove_file(path);
    }
    match (failed_read, written) {
        (Some(error), _) => Err(error),
        (None, Ok(())) => Ok(()),
        (None, Err(error)) => Err(Error::Write {
            path: path.to_owned(),
            source: match error {
                SafeTensorError::IoError(error) => error,
                other => std::io::Error::other(other),
            },
        }),
    }
}

struct SlotView<'a> {
    model: &'a LoadedModel,
    slot: &'a PlannedSlot,
    token: &'a CancelToken,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: usize,
    failed_read: &'a RefCell<Option<Error>>,
}

impl<'a> SlotView<'a> {
    fn new(
        model: &'a LoadedModel,
        slot: &'a PlannedSlot,
        token: &'a CancelToken,
        failed_read: &'a RefCell<Option<Error>>,
    ) -> Self {
        let bytes = to_usize(slot.dest.end - slot.dest.start);
        let stored = (Dtype::U8, vec![bytes]);
        let shaped = |dtype| (dtype, slot.shape.iter().map(|&dim| to_usize(dim)).collect());
        let (dtype, shape) = match (model.plan().storage(), slot.format) {
            (Storage::F16, SlotFormat::F16) => shaped(Dtype::F16),
            (Storage::F16, SlotFormat::F32) => shaped(Dtype::F32),
            _ => stored,
        };
        Self { model, slot, token, dtype, shape, bytes, failed_read }
    }
}

impl View for SlotView<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self.token.check().and_then(|()| self.model.read_slot(self.slot.slot)) {
            Ok(bytes) => Cow::Owned(bytes.unwrap_or_default()),
            Err(error) => {
                self.failed_read.borrow_mut().get_or_insert(error);
                Cow::Borrowed(&[])
            }
        }
    }

    fn data_len(&self) -> usize {
        self.bytes
    }
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
