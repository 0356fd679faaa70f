//! Replacing a model by another one.

use crate::cancel::CancelToken;
use crate::error::Error;
use crate::event::Observer;
use crate::input::Input;
use crate::loader::Loader;
use crate::model::LoadedModel;

/// What happens to the old weights while the new ones are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Replace {
    /// Their memory is used for the new weights, if it is [`shareable`](crate::LoadOptions::shareable) and no other process
    /// has it. It grows or shrinks as needed. Other memory is freed first. Thus both models need not fit together, and no
    /// memory has to be cleared by the driver, which would slow the load down.
    ReuseMemory,
    /// They stay until the new weights are verified. Both models must fit into the device.
    KeepUntilProven,
}

/// The reason why a model was not replaced.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
#[non_exhaustive]
pub struct ReplaceError {
    /// The reason.
    #[source]
    pub error: Error,
    /// The old model. `None` if its memory was already used for the new one.
    pub model: Option<Box<LoadedModel>>,
}

impl Loader {
    /// Loads a model in place of another one, with [`load_cancellable`](Self::load_cancellable). No kernel may use the
    /// old weights any more.
    ///
    /// The new weights end with the process, also if the old ones were resident: then drop the old model and call
    /// [`load_resident`](Self::load_resident) instead.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load). The old model comes back if its weights are whole: always with
    /// [`Replace::KeepUntilProven`]; otherwise if the file cannot be opened, holds no model that can be loaded, or does not
    /// fit into the device.
    #[allow(clippy::result_large_err, reason = "it is the error of a load, with a pointer")]
    pub fn replace(
        &mut self,
        model: LoadedModel,
        input: impl Into<Input>,
        how: Replace,
        observer: &mut dyn Observer,
        token: &CancelToken,
    ) -> Result<LoadedModel, ReplaceError> {
        let mut old = Some(model);
        let loaded = self.run(&input.into(), observer, token, |loader, load| {
            let shareable = loader.options.shareable;
            match how {
                Replace::ReuseMemory => loader.move_weights(load, shareable, &mut old),
                Replace::KeepUntilProven => loader.move_weights(load, shareable, &mut None),
            }
        });
        loaded.map_err(|error| ReplaceError { error, model: old.map(Box::new) })
    }
}
