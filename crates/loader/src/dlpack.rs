//! Weights as tensors of DLPack, the exchange format of PyTorch, NumPy, JAX and CuPy.
//!
//! [`SharedTensor::to_dlpack`] makes a `DLManagedTensorVersioned` without copying the weight. The consumer calls
//! its deleter; until then the model stays in memory. The structs are those of `dlpack.h`, version 1.0
//! (<https://github.com/dmlc/dlpack>). Consumers that only read the older `DLManagedTensor` are not supported.
//!
//! Floats keep their shape. Quantised blocks of native storage are `uint8`, `[rows, bytes of a row]`; the
//! type's block length and bytes are those of [`GgmlType`].
//!
//! Tensors are marked as read-only. PyTorch 2.11 accepts the mark and ignores it: it lets a program write to the
//! weights. Such a write changes the model for everyone, and
//! [`verify_fingerprint`](crate::LoadedModel::verify_fingerprint) then fails.
//!
//! A device number in DLPack is the number of a GPU in the process of the consumer, as is the ordinal of
//! [`DeviceKind::Cuda`]. The weights are complete for every stream, so that a consumer needs no
//! synchronisation.
#![allow(unsafe_code, reason = "the format is a C struct with a deleter")]

use crate::shared_tensor::SharedTensor;
use cuda_sys::DeviceKind;
use gguf_format::GgmlType;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

/// `DLPackVersion`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "dlpack.h documents the fields")]
pub struct DLPackVersion {
    pub major: u32,
    pub minor: u32,
}

/// `DLDevice`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "dlpack.h documents the fields")]
pub struct DLDevice {
    pub device_type: i32,
    pub device_id: i32,
}

/// `DLDataType`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "dlpack.h documents the fields")]
pub struct DLDataType {
    pub code: u8,
    pub bits: u8,
    pub lanes: u16,
}

/// `DLTensor`.
#[repr(C)]
#[derive(Debug)]
#[allow(missing_docs, reason = "dlpack.h documents the fields")]
pub struct DLTensor {
    pub data: *mut c_void,
    pub device: DLDevice,
    pub ndim: i32,
    pub dtype: DLDataType,
    pub shape: *mut i64,
    pub strides: *mut i64,
    pub byte_offset: u64,
}

/// `DLManagedTensorVersioned`.
#[repr(C)]
#[derive(Debug)]
#[allow(missing_docs, reason = "dlpack.h documents the fields")]
pub struct DLManagedTensorVersioned {
    pub version: DLPackVersion,
    pub manager_ctx: *mut c_void,
    pub deleter: Option<unsafe extern "C" fn(*mut DLManagedTensorVersioned)>,
    pub flags: u64,
    pub dl_tensor: DLTensor,
}

/// The number of a GPU is that in this process.
impl From<DeviceKind> for DLDevice {
    fn from(device: DeviceKind) -> Self {
        match device {
            DeviceKind::Host => Self { device_type: CPU, device_id: 0 },
            DeviceKind::Cuda(ordinal) => Self { device_type: CUDA, device_id: ordinal },
        }
    }
}

const VERSION: DLPackVersion = DLPackVersion { major: 1, minor: 0 };

/// `DLPACK_FLAG_BITMASK_READ_ONLY`.
pub const READ_ONLY: u64 = 1;

/// `kDLCPU` and `kDLCUDA`.
const CPU: i32 = 1;
const CUDA: i32 = 2;

/// `kDLUInt`, `kDLFloat` and `kDLBfloat`.
const UINT: u8 = 1;
const FLOAT: u8 = 2;
const BFLOAT: u8 = 4;

/// The memory that `manager_ctx` points to.
struct Context {
    managed: DLManagedTensorVersioned,
    _shape: Vec<i64>,
    _strides: Vec<i64>,
    _tensor: SharedTensor,
}

/// A weight as a `DLManagedTensorVersioned`. Dropping it calls the deleter, as a consumer does.
#[derive(Debug)]
pub struct DlpackTensor(NonNull<DLManagedTensorVersioned>);

// SAFETY: the deleter may run on any thread, because it only drops a `SharedTensor` and two vectors, which are
// `Send`. Until then nothing but `as_ptr` gives access to the struct, through a pointer that is not `Send`.
unsafe impl Send for DlpackTensor {}

impl SharedTensor {
    /// Returns this weight as a DLPack tensor, without copying it. See the module [`dlpack`](self).
    pub fn to_dlpack(&self) -> DlpackTensor {
        let (dtype, mut shape) = self.dlpack_elements();
        let mut strides = row_major(&shape);
        let dl_tensor = DLTensor {
            data: std::ptr::with_exposed_provenance_mut(self.address as usize),
            device: self.device().into(),
            ndim: shape.len() as i32,
            dtype,
            // Moving a vector does not move its heap memory.
            shape: shape.as_mut_ptr(),
            strides: strides.as_mut_ptr(),
            byte_offset: 0,
        };
        let managed = DLManagedTensorVersioned {
            version: VERSION,
            manager_ctx: std::ptr::null_mut(),
            deleter: Some(delete),
            flags: READ_ONLY,
            dl_tensor,
        };
        let context = Context { managed, _shape: shape, _strides: strides, _tensor: self.clone() };
        let context = NonNull::from(Box::leak(Box::new(context)));
        // SAFETY: `context` points to the value that was just leaked, and nothing else refers to it.
        let managed = unsafe { &raw mut (*context.as_ptr()).managed };
        // SAFETY: the same.
        unsafe { (*managed).manager_ctx = context.as_ptr().cast() };
        // SAFETY: the address of a field of a value is not null.
        DlpackTensor(unsafe { NonNull::new_unchecked(managed) })
    }

    /// Returns the type of the elements, and the shape in elements.
    fn dlpack_elements(&self) -> (DLDataType, Vec<i64>) {
        // Sizes of loaded weights fit into memory, so they are below 2^63.
        let signed = |sizes: &[u64]| sizes.iter().map(|&size| size as i64).collect();
        let float = |code, bits| (DLDataType { code, bits, lanes: 1 }, signed(&self.shape));
        match self.format.ggml_type() {
            GgmlType::F16 => float(FLOAT, 16),
            GgmlType::BF16 => float(BFLOAT, 16),
            GgmlType::F32 => float(FLOAT, 32),
            GgmlType::F64 => float(FLOAT, 64),
            _ => {
                let sizes = match self.shape[..] {
                    [rows, _] if rows > 0 => vec![rows, self.bytes / rows],
                    _ => vec![self.bytes],
                };
                (DLDataType { code: UINT, bits: 8, lanes: 1 }, signed(&sizes))
            }
        }
    }
}

/// Returns the strides of a row-major tensor, in elements.
fn row_major(shape: &[i64]) -> Vec<i64> {
    let mut strides = vec![1; shape.len()];
    for at in (1..shape.len()).rev() {
        strides[at - 1] = strides[at] * shape[at];
    }
    strides
}

/// The deleter of a tensor. Drops its weight, and with the last one the model.
///
/// # Safety
///
/// `managed` is the pointer of a [`DlpackTensor`]. This is called once for it.
unsafe extern "C" fn delete(managed: *mut DLManagedTensorVersioned) {
    // SAFETY: the caller passes a valid pointer.
    let context = unsafe { (*managed).manager_ctx };
    // SAFETY: `to_dlpack` stored the pointer of a leaked box, and this is called once.
    let context = unsafe { Box::from_raw(context.cast::<Context>()) };
    // A panic must not enter the consumer. DLPack has no way to report it, so it is ignored.
    let _ = catch_unwind(AssertUnwindSafe(move || drop(context)));
}

impl DlpackTensor {
    /// Returns the struct. It is valid as long as `self`.
    pub fn as_ptr(&self) -> *const DLManagedTensorVersioned {
        self.0.as_ptr()
    }

    /// Returns the struct for a consumer, which must call its deleter once. For Python, it becomes a capsule named
    /// `dltensor_versioned`.
    pub fn into_raw(self) -> *mut DLManagedTensorVersioned {
        std::mem::ManuallyDrop::new(self).0.as_ptr()
    }
}

impl Drop for DlpackTensor {
    fn drop(&mut self) {
        // SAFETY: the struct is from `to_dlpack`, and `into_raw` did not hand it out.
        unsafe { delete(self.0.as_ptr()) };
    }
}
