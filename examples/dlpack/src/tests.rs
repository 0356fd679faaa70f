//! Calls the C functions as a C program does, and reads DLPack tensors as a consumer does.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};

use loader::dlpack::{DLDataType, DLPackVersion, READ_ONLY};

use super::*;

const F16: DLDataType = DLDataType { code: 2, bits: 16, lanes: 1 };
const F32: DLDataType = DLDataType { code: 2, bits: 32, lanes: 1 };
const U8: DLDataType = DLDataType { code: 1, bits: 8, lanes: 1 };

/// A handle, freed on drop.
struct Handle(*mut Model);

impl Handle {
    fn open(file: &str, storage: &str) -> Self {
        let path = format!("{}/../../testdata/models/{file}", env!("CARGO_MANIFEST_DIR"));
        let handle = try_open(&path, "host", storage);
        assert!(!handle.is_null(), "{}", error());
        Self(handle)
    }

    fn close(&self) {
        // SAFETY: the handle is from `phi3_open` and not yet freed.
        unsafe { phi3_close(self.0) };
    }

    fn references(&self) -> usize {
        // SAFETY: the handle is from `phi3_open` and not yet freed.
        unsafe { phi3_references(self.0) }
    }

    /// Returns the geometry of all slots, by name, with their indices.
    fn slots(&self) -> BTreeMap<String, (usize, SlotInfo)> {
        // SAFETY: the handle is from `phi3_open` and not yet freed.
        let count = unsafe { phi3_slot_count(self.0) };
        (0..count)
            .map(|index| {
                let info = info(self.0, index).unwrap();
                (text_of(info.name), (index, info))
            })
            .collect()
    }

    fn dlpack(&self, index: usize) -> *mut DLManagedTensorVersioned {
        // SAFETY: the handle is from `phi3_open` and not yet freed.
        unsafe { phi3_dlpack(self.0, index) }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle is from `phi3_open`, and this is its last use.
        unsafe { phi3_free(self.0) };
    }
}

fn try_open(path: &str, device: &str, storage: &str) -> *mut Model {
    let [path, device, storage] = [path, device, storage].map(|text| CString::new(text).unwrap());
    // SAFETY: the three texts end with a zero byte.
    unsafe { phi3_open(path.as_ptr(), device.as_ptr(), storage.as_ptr()) }
}

fn info(model: *const Model, index: usize) -> Option<SlotInfo> {
    let mut info = std::mem::MaybeUninit::uninit();
    // SAFETY: tests pass null or an open handle; `info` is a place for the struct.
    let found = unsafe { phi3_slot(model, index, info.as_mut_ptr()) };
    // SAFETY: the function has written the struct if it returns `true`.
    found.then(|| unsafe { info.assume_init() })
}

fn text_of(text: *const c_char) -> String {
    // SAFETY: the functions return texts that end with a zero byte; tests read them before the next call.
    unsafe { CStr::from_ptr(text) }.to_str().unwrap().to_owned()
}

fn error() -> String {
    text_of(phi3_last_error())
}

/// A tensor as a consumer reads it.
#[derive(Debug, PartialEq)]
struct Seen {
    version: DLPackVersion,
    flags: u64,
    device: DLDevice,
    dtype: DLDataType,
    address: u64,
    byte_offset: u64,
    shape: Vec<i64>,
    strides: Vec<i64>,
}

/// Reads a tensor, then calls its deleter.
fn consume(tensor: *mut DLManagedTensorVersioned) -> Seen {
    assert!(!tensor.is_null(), "{}", error());
    // SAFETY: the struct is from `phi3_dlpack`; the deleter below has not freed it yet.
    let managed = unsafe { &*tensor };
    let inner = &managed.dl_tensor;
    let sizes = |first: *const i64| {
        // SAFETY: DLPack defines that shape and strides have `ndim` elements.
        unsafe { std::slice::from_raw_parts(first, inner.ndim as usize) }.to_vec()
    };
    let seen = Seen {
        version: managed.version,
        flags: managed.flags,
        device: inner.device,
        dtype: inner.dtype,
        address: inner.data as u64,
        byte_offset: inner.byte_offset,
        shape: sizes(inner.shape),
        strides: sizes(inner.strides),
    };
    // SAFETY: this is the only call for this tensor, and nothing uses it later.
    unsafe { phi3_delete(tensor) };
    seen
}

/// Checks the tensor of one slot.
fn check(file: &str, storage: &str, slot: &str, dtype: DLDataType, sizes: [&[i64]; 2]) -> SlotInfo {
    let model = Handle::open(file, storage);
    let (index, info) = model.slots()[slot];
    // SAFETY: the handle is valid.
    let device = unsafe { phi3_device(model.0) };
    assert_eq!(device, DLDevice { device_type: 1, device_id: 0 });
    let expected = Seen {
        version: DLPackVersion { major: 1, minor: 0 },
        flags: READ_ONLY,
        device,
        dtype,
        address: info.address,
        byte_offset: 0,
        shape: sizes[0].to_vec(),
        strides: sizes[1].to_vec(),
    };
    assert_eq!(consume(model.dlpack(index)), expected, "{file} {storage} {slot}");
    let bytes = expected.shape.iter().product::<i64>() as u64 * u64::from(dtype.bits / 8);
    assert_eq!(bytes, info.bytes);
    // The text of the type goes with the handle.
    let expected_type = match dtype {
        F16 => "F16",
        F32 => "F32",
        _ => "Q8_0",
    };
    assert_eq!(text_of(info.ggml_type), expected_type);
    SlotInfo { name: ptr::null(), ggml_type: ptr::null(), ..info }
}

#[test]
fn half_precision_weights_keep_their_shape() {
    let info = check("fused-f16.gguf", "f16", "token_embedding", F16, [&[37, 32], &[32, 1]]);
    assert_eq!((info.shape, info.ndim), ([37, 32], 2));
    assert_eq!((info.block_len, info.block_bytes), (1, 2));
    let info = check("fused-f16.gguf", "f16", "output_norm", F16, [&[32], &[1]]);
    assert_eq!((info.shape, info.ndim), ([32, 0], 1));
    check("split-q8_0.gguf", "f16", "layers.0.ffn_down", F16, [&[64, 96], &[96, 1]]);
}

#[test]
fn native_blocks_are_rows_of_bytes() {
    // A row has 96 elements: three blocks of 34 bytes.
    let sizes: [&[i64]; 2] = [&[64, 102], &[102, 1]];
    let info = check("split-q8_0.gguf", "native", "layers.0.ffn_down", U8, sizes);
    assert_eq!((info.shape, info.ndim), ([64, 96], 2));
    assert_eq!((info.block_len, info.block_bytes), (32, 34));
}

#[test]
fn rope_factors_are_f32() {
    for storage in ["f16", "native"] {
        check("long-context-f16.gguf", storage, "rope_factors_short", F32, [&[3], &[1]]);
        check("long-context-f16.gguf", storage, "rope_factors_long", F32, [&[3], &[1]]);
    }
}

#[test]
fn the_deleter_gives_up_the_reference() {
    let model = Handle::open("fused-f16.gguf", "f16");
    assert_eq!(model.references(), 1);
    let tensors = [0, 0, 1].map(|index| model.dlpack(index));
    assert_eq!(model.references(), 4);
    for tensor in tensors {
        consume(tensor);
    }
    assert_eq!(model.references(), 1);
}

#[test]
fn a_thousand_tensors_leave_no_reference() {
    let model = Handle::open("fused-f16.gguf", "f16");
    let count = model.slots().len();
    for turn in 0..1000 {
        consume(model.dlpack(turn % count));
    }
    assert_eq!(model.references(), 1);
}

#[test]
fn the_last_tensor_frees_the_model() {
    let model = Handle::open("fused-f16.gguf", "f16");
    // SAFETY: the handle is valid.
    let watch = unsafe { &*model.0 }.watch.clone();
    let [first, last] = [0, 1].map(|index| model.dlpack(index) as usize);
    drop(model);
    assert_eq!(watch.strong_count(), 2);
    consume(first as *mut DLManagedTensorVersioned);
    assert!(watch.upgrade().is_some());
    // A consumer may call the deleter on any thread.
    let deleting = move || consume(last as *mut DLManagedTensorVersioned);
    std::thread::spawn(deleting).join().unwrap();
    assert!(watch.upgrade().is_none());
}

#[test]
fn a_closed_model_keeps_its_names_and_gives_no_more_tensors() {
    let model = Handle::open("fused-f16.gguf", "f16");
    let tensor = model.dlpack(0);
    model.close();
    model.close();
    assert_eq!(model.references(), 1);
    assert!(model.dlpack(0).is_null());
    assert_eq!(error(), "the model is closed");
    consume(tensor);
    assert_eq!(model.references(), 0);
    assert!(model.slots().contains_key("layers.0.attn_q"));
}

#[test]
fn failures_have_texts() {
    assert!(try_open("no such file.gguf", "host", "f16").is_null());
    assert!(error().starts_with("error["), "{}", error());
    assert!(error().contains("no such file.gguf"), "{}", error());
    assert!(try_open("x", "gpu", "f16").is_null());
    assert_eq!(error(), r#"device: "gpu" is unknown: expected auto, host, cuda or cuda:N"#);
    assert!(try_open("x", "host", "f8").is_null());
    assert_eq!(error(), r#"storage: "f8" is unknown: expected f16 or native"#);
    // SAFETY: null is allowed.
    let opened = unsafe { phi3_open(ptr::null(), c"host".as_ptr(), c"f16".as_ptr()) };
    assert!(opened.is_null());
    assert_eq!(error(), "path is null");
    // SAFETY: the texts end with a zero byte.
    let opened = unsafe { phi3_open(c"\xff".as_ptr(), c"host".as_ptr(), c"f16".as_ptr()) };
    assert!(opened.is_null());
    assert_eq!(error(), "path is not UTF-8");

    let model = Handle::open("fused-f16.gguf", "f16");
    let count = model.slots().len();
    assert!(model.dlpack(count).is_null());
    assert_eq!(error(), format!("slot {count} of {count} does not exist"));
    assert!(info(model.0, count).is_none());
    // SAFETY: null is allowed.
    assert!(!unsafe { phi3_slot(model.0, 0, ptr::null_mut()) });
    assert_eq!(error(), "info is null");
}

#[test]
fn null_is_no_model() {
    assert!(info(ptr::null(), 0).is_none());
    assert_eq!(error(), "the model is null");
    // SAFETY: null is allowed.
    assert!(unsafe { phi3_dlpack(ptr::null(), 0) }.is_null());
    // SAFETY: null is allowed.
    assert_eq!(unsafe { phi3_slot_count(ptr::null()) }, 0);
    // SAFETY: null is allowed.
    assert_eq!(unsafe { phi3_references(ptr::null()) }, 0);
    // SAFETY: null is allowed.
    assert_eq!(unsafe { phi3_device(ptr::null()) }.device_type, 0);
    // SAFETY: null is allowed.
    unsafe { phi3_delete(ptr::null_mut()) };
    // SAFETY: null is allowed.
    unsafe { phi3_close(ptr::null()) };
    // SAFETY: null is allowed.
    unsafe { phi3_free(ptr::null_mut()) };
}

#[test]
fn a_panic_becomes_an_error() {
    assert_eq!(entry(7, || panic!("a test")), 7);
    assert_eq!(error(), "the library panicked: this is a bug");
    assert_eq!(entry(7, || Err("a\0b".to_owned())), 7);
    assert_eq!(error(), "a\\0b");
    let other_thread = std::thread::spawn(error).join().unwrap();
    assert_eq!(other_thread, "");
}

/// A capsule of Python, as far as the two functions see it.
struct Capsule {
    name: &'static CStr,
    pointer: *mut c_void,
}

unsafe extern "C" fn is_valid(capsule: *mut c_void, name: *const c_char) -> c_int {
    // SAFETY: the test passes a `Capsule`.
    let capsule = unsafe { &*capsule.cast::<Capsule>() };
    // SAFETY: the destructor passes a text.
    (unsafe { CStr::from_ptr(name) } == capsule.name).into()
}

unsafe extern "C" fn get_pointer(capsule: *mut c_void, _: *const c_char) -> *mut c_void {
    // SAFETY: the test passes a `Capsule`.
    unsafe { &*capsule.cast::<Capsule>() }.pointer
}

#[test]
fn a_capsule_frees_its_tensor_unless_a_consumer_has_taken_it() {
    // SAFETY: null is allowed.
    assert!(!unsafe { phi3_use_python(None, None) });
    // SAFETY: the functions have the types of Python's, and this process has no Python.
    assert!(unsafe { phi3_use_python(Some(is_valid), Some(get_pointer)) });
    let model = Handle::open("fused-f16.gguf", "f16");
    let tensor = model.dlpack(0);
    let mut capsule = Capsule { name: c"used_dltensor_versioned", pointer: tensor.cast() };
    // SAFETY: the capsule holds a tensor, and has the name that a consumer gives it.
    unsafe { phi3_capsule_destructor((&raw mut capsule).cast()) };
    assert_eq!(model.references(), 2);
    capsule.name = c"dltensor_versioned";
    // SAFETY: the capsule holds a tensor that nothing has deleted.
    unsafe { phi3_capsule_destructor((&raw mut capsule).cast()) };
    assert_eq!(model.references(), 1);
}
