//! The list of block decoders, and decoding without an engine.

use crate::bridge::ffi;
use crate::error::{Error, ErrorCode};

/// A type that the engine can decode to f16.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Decoder {
    /// ggml's number of the type.
    pub ggml_type: u32,
    /// ggml's name of the type, such as `Q4_K`.
    pub name: String,
    /// Values in a block.
    pub block_len: u32,
    /// Bytes in a block.
    pub block_bytes: u32,
    /// Whether each tensor of this type also has one factor for all its values.
    pub has_tensor_scale: bool,
}

/// Every type that [`Conversion::ToF16`](crate::Conversion::ToF16) accepts.
pub fn decoders() -> Vec<Decoder> {
    ffi::decoders()
        .into_iter()
        .map(|info| Decoder {
            ggml_type: info.ggml_type,
            name: info.name,
            block_len: info.block_len,
            block_bytes: info.block_bytes,
            has_tensor_scale: info.has_tensor_scale,
        })
        .collect()
}

/// Which build of the host decoders to use. All give the same bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HostIsa {
    /// The fastest one that this processor supports. The engine uses this one.
    #[default]
    Best,
    /// The one that runs on every processor of the architecture.
    Baseline,
}

/// Decodes whole blocks in host memory to f16, on the calling thread. If the type [has a tensor
/// scale](Decoder::has_tensor_scale), each value is multiplied by `scale` in `f32` before it is rounded.
/// Other types ignore `scale`.
///
/// # Errors
///
/// [`ErrorCode::InvalidArgument`] if there is no decoder for the type, if `blocks` is not a whole number
/// of blocks, or if the length of `halves` is not the number of their values.
pub fn decode_to_f16(
    ggml_type: u32,
    blocks: &[u8],
    halves: &mut [u16],
    scale: f32,
    isa: HostIsa,
) -> Result<(), Error> {
    let decoded = ffi::decode_to_f16(ggml_type, blocks, halves, scale, isa == HostIsa::Baseline);
    decoded.then_some(()).ok_or_else(|| no_blocks(ggml_type, blocks.len(), halves.len()))
}

/// Decodes whole blocks in host memory to f32, on the calling thread. Slower than [`decode_to_f16`]: it uses no vector
/// extensions. It shows which values are infinite or NaN in the file, and not only too large for f16. Values are not
/// multiplied by a [tensor scale](Decoder::has_tensor_scale).
///
/// # Errors
///
/// [`ErrorCode::InvalidArgument`] as from [`decode_to_f16`], and for types of plain numbers.
pub fn decode_to_f32(ggml_type: u32, blocks: &[u8], values: &mut [f32]) -> Result<(), Error> {
    let decoded = ffi::decode_to_f32(ggml_type, blocks, values);
    decoded.then_some(()).ok_or_else(|| no_blocks(ggml_type, blocks.len(), values.len()))
}

fn no_blocks(ggml_type: u32, bytes: usize, values: usize) -> Error {
    let what = format!("{bytes} bytes of ggml type {ggml_type} do not decode to {values} values");
    Error::new(ErrorCode::InvalidArgument, what)
}
