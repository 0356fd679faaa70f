//! C functions that load a model and hand its weights out as DLPack tensors. `weights.py` calls them.
//!
//! A function that fails returns null or `false`, and [`phi3_last_error`] then returns the reason. No panic
//! leaves a function. Several threads may call all functions at the same time; only [`phi3_free`] must be the
//! last call for its model.

mod capsule;
mod entry;
#[cfg(test)]
mod tests;

use std::ffi::{CStr, CString, c_char};
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use loader::dlpack::{DLDevice, DLManagedTensorVersioned};
use loader::{DeviceKind, Error, LoadOptions, LoadedModel, Loader, Slot, TensorView, Unobserved};

pub use capsule::{PHI3_CAPSULE_NAME, phi3_capsule_destructor, phi3_use_python};
use entry::entry;

/// A handle of a model, made by [`phi3_open`].
#[derive(Debug)]
pub struct Model {
    /// `None` after [`phi3_close`].
    open: Mutex<Option<Arc<LoadedModel>>>,
    /// Counts the references to the model without being one.
    watch: Weak<LoadedModel>,
    device: DeviceKind,
    slots: Vec<NamedSlot>,
}

#[derive(Debug)]
struct NamedSlot {
    slot: Slot,
    name: CString,
    ggml_type: CString,
    view: TensorView,
}

/// A weight's place and geometry. The texts are valid until [`phi3_free`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SlotInfo {
    /// The name, such as `layers.0.attn_q`.
    pub name: *const c_char,
    /// The name of the ggml type of the elements, such as `Q8_0`.
    pub ggml_type: *const c_char,
    /// Address of the first byte on the device.
    pub address: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// `[rows, cols]` or `[n, 0]`, in elements.
    pub shape: [u64; 2],
    /// Number of dimensions, 1 or 2.
    pub ndim: u64,
    /// Number of elements in a block of this type.
    pub block_len: u64,
    /// Number of bytes in a block of this type.
    pub block_bytes: u64,
}

/// Loads a model. `device` is `host`, `auto`, `cuda` or `cuda:N`, `storage` is `f16` or `native`.
///
/// # Safety
///
/// The three arguments are null or texts that end with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn phi3_open(
    path: *const c_char,
    device: *const c_char,
    storage: *const c_char,
) -> *mut Model {
    entry(ptr::null_mut(), || {
        // SAFETY: the caller passes null or a text.
        let path = unsafe { text(path, "path") }?;
        // SAFETY: the same.
        let device = unsafe { text(device, "device") }?;
        // SAFETY: the same.
        let storage = unsafe { text(storage, "storage") }?;
        let model = open(path, device, storage)?;
        Ok(Box::into_raw(Box::new(model)))
    })
}

fn open(path: &str, device: &str, storage: &str) -> Result<Model, String> {
    let device = device.parse().map_err(|error| format!("device: {error}"))?;
    let storage = storage.parse().map_err(|error| format!("storage: {error}"))?;
    let mut loader = Loader::new(LoadOptions::new().device(device).storage(storage));
    let model = loader.load(path, &mut Unobserved).map_err(|error| with_help(&error))?;
    let slots = model.plan().whole().slots().iter().filter_map(|planned| named(&model, planned.slot));
    let slots = slots.collect();
    let device = model.device().single().ok_or("the model is on several devices")?;
    let model = Arc::new(model);
    let watch = Arc::downgrade(&model);
    Ok(Model { open: Mutex::new(Some(model)), watch, device, slots })
}

fn named(model: &LoadedModel, slot: Slot) -> Option<NamedSlot> {
    let view = model.slot(slot)?;
    // Names of slots and types have no zero bytes.
    let name = CString::new(slot.to_string()).ok()?;
    let ggml_type = CString::new(view.format.ggml_type().name()).ok()?;
    Some(NamedSlot { slot, name, ggml_type, view })
}

fn with_help(error: &Error) -> String {
    match error.help() {
        Some(help) => format!("error[{}]: {error}\nhelp: {help}", error.code()),
        None => format!("error[{}]: {error}", error.code()),
    }
}

/// Gives up this handle's reference to the model. Tensors keep the model in memory; the last one frees it.
/// Names and geometry stay valid until [`phi3_free`].
///
/// # Safety
///
/// `model` is null or from [`phi3_open`], and was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn phi3_close(model: *const Model) {
    entry((), || {
        // SAFETY: the caller passes null or a model.
        let model = unsafe { borrowed(model) }?;
        let open = model.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        // If this was the last reference, freeing the weights can take long. The lock is no longer held here.
        drop(open);
        Ok(())
    });
}

/// Closes the model and frees the handle with its texts. Tensors stay valid.
///
/// # Safety
///
/// `model` is null or from [`phi3_open`]. No other call uses it at the same time or later.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn phi3_free(model: *mut Model) {
    entry((), || {
        if !model.is_null() {
            // SAFETY: `phi3_open` made the pointer from a box, and the caller does not use it again.
            drop(unsafe { Box::from_raw(model) });
        }
        Ok(())
    });
}

/// Returns the reason of this thread's last failure. It is valid until this thread's next failure.
#[unsafe(no_mangle)]
pub extern "C" fn phi3_last_error() -> *const c_char {
    entry::last_error()
}

/// Returns DLPack's numbers of the model's device, zeros if `model` is null.
///
/// # Safety
///
/// As for [`phi3_close`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn phi3_device(model: *const Model) -> DLDevice {
    entry(DLDevice { device_type: 0, device_id: 0 }, || {
        // SAFETY: the caller passes null or a model.
        let model = unsafe { borrowed(model) }?;
        Ok(match model.device {
            DeviceKind::Host => DLDevice { device_type: 1, device_id: 0 },
            DeviceKind::Cuda(ordinal) => DLDevice { device_type: 2, device_id: ordinal },
        })
    })
}

/// Returns the number of slots, 0 if `model` is null.
///
/// # Safety
///
/// As for [`phi3_close`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn phi3_slot_count(model: *const Model) -> usize {
    entry(0, || {
        // SAFETY: the caller passes null or a model.
        let model = unsafe { borrowed(model) }?;
        Ok(model.slots.len())
    })
}

/// Writes name and geometry of a slot to `info`.
///
/// # Safety
///
/// As for [`phi3_close`]. `info` is null or a place for a [`SlotInfo`] that nothing else uses during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn phi3_slot(model: *const Model, index: usize, info: *mut SlotInfo) -> bool {
    entry(false, || {
        // SAFETY: the caller passes null or a model.
        let found = slot(unsafe { borrowed(model) }?, index)?;
        if info.is_null() {
            return Err("info is null".to_owned());
        }
        // SAFETY: it is not null, so it is a place for the struct, which may be uninitialised.
        unsafe { info.write(found.info()) };
        Ok(true)
    })
}

/// Returns the number of references to the model: 1 for the open handle, and 1 for each tensor. 0 means that
/// the model was freed.
///
/// # Safety
///
/// As for [`phi3_close`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn phi3_references(model: *const Model) -> usize {
    entry(0, || {
        // SAFETY: the caller passes null or a model.
        let model = unsafe { borrowed(model) }?;
        Ok(model.watch.strong_count())
    })
}

/// Returns a slot as a DLPack tensor. Its deleter must be called once. Works only before [`phi3_close`].
///
/// # Safety
///
/// As for [`phi3_close`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn phi3_dlpack(
    model: *const Model,
    index: usize,
) -> *mut DLManagedTensorVersioned {
    entry(ptr::null_mut(), || {
        // SAFETY: the caller passes null or a model.
        let model = unsafe { borrowed(model) }?;
        let found = slot(model, index)?;
        let open = model.open.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = open.as_ref().ok_or("the model is closed")?;
        let tensor = loaded.share(found.slot).ok_or("the model has no such slot")?;
        Ok(tensor.to_dlpack().into_raw())
    })
}

/// Calls the deleter of a tensor, for a caller that has no consumer for it.
///
/// # Safety
///
/// `tensor` is null or from [`phi3_dlpack`], and nothing has called its deleter.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn phi3_delete(tensor: *mut DLManagedTensorVersioned) {
    entry((), || {
        if tensor.is_null() {
            return Ok(());
        }
        // SAFETY: it is not null, so it is a struct that was not freed.
        if let Some(deleter) = unsafe { (*tensor).deleter } {
            // SAFETY: this is the only call for this struct.
            unsafe { deleter(tensor) };
        }
        Ok(())
    });
}

fn slot(model: &Model, index: usize) -> Result<&NamedSlot, String> {
    let count = model.slots.len();
    model.slots.get(index).ok_or_else(|| format!("slot {index} of {count} does not exist"))
}

impl NamedSlot {
    fn info(&self) -> SlotInfo {
        let (view, ggml_type) = (&self.view, self.view.format.ggml_type());
        let size = |at: usize| view.shape.get(at).copied().unwrap_or(0);
        SlotInfo {
            name: self.name.as_ptr(),
            ggml_type: self.ggml_type.as_ptr(),
            address: view.address,
            bytes: view.bytes,
            shape: [size(0), size(1)],
            ndim: view.shape.len() as u64,
            block_len: ggml_type.block_len(),
            block_bytes: ggml_type.block_bytes(),
        }
    }
}

/// Returns the model behind a pointer.
///
/// # Safety
///
/// As for [`phi3_close`], and the pointer stays valid for `'m`.
unsafe fn borrowed<'m>(model: *const Model) -> Result<&'m Model, String> {
    // SAFETY: the pointer is null or from `Box::into_raw`, and the box was not freed. Only shared references to
    // a model exist until `phi3_free`.
    unsafe { model.as_ref() }.ok_or_else(|| "the model is null".to_owned())
}

/// Returns an argument as text.
///
/// # Safety
///
/// `argument` is null or a text that ends with a zero byte, and it stays valid for `'a`.
unsafe fn text<'a>(argument: *const c_char, name: &str) -> Result<&'a str, String> {
    if argument.is_null() {
        return Err(format!("{name} is null"));
    }
    // SAFETY: it is not null, so it is a text with a zero byte at the end.
    let text = unsafe { CStr::from_ptr(argument) };
    text.to_str().map_err(|_| format!("{name} is not UTF-8"))
}
