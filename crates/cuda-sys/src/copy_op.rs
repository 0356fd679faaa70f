//! The engine's operations.
//!
//! The types here match those of `cuda/include/transfer/copy_op.hpp` field by field. Both languages use the
//! same memory, and both assert its layout.

use std::fmt;
use std::mem::{align_of, offset_of, size_of};
use std::num::NonZeroU32;

/// The conversion of an operation's bytes during the transfer.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(u32)]
pub enum Conversion {
    /// Copies the bytes unchanged.
    Copy = 0,
    /// Decodes blocks of this ggml type (ggml's number) to IEEE half, little-endian.
    ToF16 {
        /// One of [`decoders`](crate::decoders).
        ggml_type: u32,
    } = 1,
    /// The same for a type with [`has_tensor_scale`](crate::Decoder::has_tensor_scale). Each decoded value
    /// is multiplied by the scale in `f32`, and the product is rounded to half.
    ScaledToF16 {
        /// One of [`decoders`](crate::decoders).
        ggml_type: u32,
        /// The factor.
        scale: f32,
    } = 2,
}

/// A format of floats at the destination.
// An `Option` of it has a defined layout, with 0 for `None`. An `Option` of an enum has none.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct FloatFormat(NonZeroU32);

impl FloatFormat {
    /// IEEE half precision.
    pub const F16: Self = Self(NonZeroU32::new(1).unwrap());
    /// The upper half of IEEE single precision.
    pub const BF16: Self = Self(NonZeroU32::new(2).unwrap());
    /// IEEE single precision.
    pub const F32: Self = Self(NonZeroU32::new(3).unwrap());
    /// IEEE double precision.
    pub const F64: Self = Self(NonZeroU32::new(4).unwrap());
}

impl fmt::Debug for FloatFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::F32 => "F32",
            _ => "F64",
        })
    }
}

/// One byte range to move. Ranges of different operations must not overlap at the destination.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct CopyOp {
    /// Index into the sources of the call.
    pub source: u32,
    /// Index into the destinations of the call; 0 if there is only one.
    pub lane: u32,
    /// Bytes from the start of that source.
    pub source_offset: u64,
    /// Bytes to read; whole blocks if the operation converts.
    pub source_bytes: u64,
    /// Bytes from the start of the lane's destination; a multiple of 16.
    pub dest_offset: u64,
    /// Bytes to write.
    pub dest_bytes: u64,
    /// The conversion during the transfer.
    pub conversion: Conversion,
    /// Progress unit, from 0. Units finish in order.
    pub unit: u32,
    /// The format of the floats at the destination. Their infinities and NaNs are counted. `None` if the
    /// destination holds no floats, or nothing is to be counted.
    pub floats: Option<FloatFormat>,
}

impl CopyOp {
    /// Moves `bytes` bytes of the first source to the first lane as they are, in the first unit.
    #[must_use]
    pub const fn copy(source_offset: u64, bytes: u64, dest_offset: u64) -> Self {
        Self {
            source: 0,
            lane: 0,
            source_offset,
            source_bytes: bytes,
            dest_offset,
            dest_bytes: bytes,
            conversion: Conversion::Copy,
            unit: 0,
            floats: None,
        }
    }
}

const _: () = {
    assert!(size_of::<CopyOp>() == 64 && align_of::<CopyOp>() == 8);
    assert!(offset_of!(CopyOp, source) == 0);
    assert!(offset_of!(CopyOp, lane) == 4);
    assert!(offset_of!(CopyOp, source_offset) == 8);
    assert!(offset_of!(CopyOp, source_bytes) == 16);
    assert!(offset_of!(CopyOp, dest_offset) == 24);
    assert!(offset_of!(CopyOp, dest_bytes) == 32);
    assert!(offset_of!(CopyOp, conversion) == 40);
    assert!(offset_of!(CopyOp, unit) == 52);
    assert!(offset_of!(CopyOp, floats) == 56);
    // The tag comes first, then the fields of a variant in their order: `repr(u32)` guarantees that.
    assert!(size_of::<Conversion>() == 12 && align_of::<Conversion>() == 4);
    assert!(size_of::<Option<FloatFormat>>() == 4);
};

// SAFETY: transfer::CopyOp has the same fields in the same order, with the sizes and offsets that
// are asserted above and in its header; both are plain data that may be moved. Every value of the
// Rust type is one of the C++ type: the fields of a `Conversion` that C++ reads are those that its
// kind has.
unsafe impl cxx::ExternType for CopyOp {
    type Id = cxx::type_id!("phi3::transfer::CopyOp");
    type Kind = cxx::kind::Trivial;
}
