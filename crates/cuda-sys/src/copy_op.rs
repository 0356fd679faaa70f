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

/// Some columns of a matrix: a range of bytes in each of its rows.
///
/// The source range of the operation consists of whole rows. The bytes `begin..end` of each row are moved. At the
/// destination, rows lie one after the other. If the operation converts, `begin..end` are whole blocks. Of the decoded
/// elements of each row, the first `skip` are dropped, and the next `keep` are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Columns {
    /// Bytes of a row in the source; 0 if the operation moves its whole source range.
    pub row_bytes: u64,
    /// The first byte of each row that is moved.
    pub begin: u64,
    /// The byte after the last one of each row that is moved.
    pub end: u64,
    /// Decoded elements of each row that are dropped before those that are kept: a multiple of 8. 0 if the operation
    /// does not convert.
    pub skip: u32,
    /// Decoded elements of each row that are kept: all of them, or a multiple of 8. 0 if the operation does not convert.
    pub keep: u32,
}

impl Columns {
    /// The whole source range, not divided into rows.
    pub const ALL: Self = Self { row_bytes: 0, begin: 0, end: 0, skip: 0, keep: 0 };
}

/// One byte range to move, or some columns of it. Ranges of different operations must not overlap at the
/// destination.
///
/// They may overlap in the source. Bytes that several operations need are read once if the operations follow each
/// other and fulfil these conditions:
///
/// - Operations on whole ranges: their blocks have the same size and begin at the same bytes, and the common bytes begin
///   and end on multiples of 16 bytes at each destination.
/// - Operations on columns: they have the same source range and the same `row_bytes`.
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
    /// The columns to move.
    pub columns: Columns,
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
            columns: Columns::ALL,
        }
    }
}

const _: () = {
    assert!(size_of::<CopyOp>() == 96 && align_of::<CopyOp>() == 8);
    assert!(offset_of!(CopyOp, source) == 0);
    assert!(offset_of!(CopyOp, lane) == 4);
    assert!(offset_of!(CopyOp, source_offset) == 8);
    assert!(offset_of!(CopyOp, source_bytes) == 16);
    assert!(offset_of!(CopyOp, dest_offset) == 24);
    assert!(offset_of!(CopyOp, dest_bytes) == 32);
    assert!(offset_of!(CopyOp, conversion) == 40);
    assert!(offset_of!(CopyOp, unit) == 52);
    assert!(offset_of!(CopyOp, floats) == 56);
    assert!(offset_of!(CopyOp, columns) == 64);
    assert!(size_of::<Columns>() == 32 && align_of::<Columns>() == 8);
    assert!(offset_of!(Columns, row_bytes) == 0);
    assert!(offset_of!(Columns, begin) == 8);
    assert!(offset_of!(Columns, end) == 16);
    assert!(offset_of!(Columns, skip) == 24);
    assert!(offset_of!(Columns, keep) == 28);
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
