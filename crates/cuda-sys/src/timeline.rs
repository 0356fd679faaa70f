//! The times of the steps of a call.

use crate::bridge::ffi;

/// The kind of work in a [`Span`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SpanKind {
    /// A reader waits until the staging ring has room for its chunk.
    Wait,
    /// A reader reads its share of a chunk. If digests are requested, it also digests the bytes.
    Read,
    /// A reader queues the copies and conversions of a chunk.
    Queue,
    /// The device copies a chunk. The span starts when the device has finished the chunk before.
    Copy,
    /// The device converts the chunk and digests it, if the chunk needs that. On the host device, a reader does that
    /// for each chunk. There, it also copies the bytes that are not converted, and counts infinities and NaNs.
    Work,
}

impl SpanKind {
    const ALL: [SpanKind; 5] = [Self::Wait, Self::Read, Self::Queue, Self::Copy, Self::Work];
}

/// A step in the processing of one chunk.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Span {
    /// The number of the reader, from 0; 0 for work of a GPU.
    pub reader: u32,
    /// The lane of a [`Queue`](SpanKind::Queue), [`Copy`](SpanKind::Copy) or
    /// [`Work`](SpanKind::Work); `None` for other steps.
    pub lane: Option<u32>,
    /// The kind of work.
    pub kind: SpanKind,
    /// The number of the chunk, in reading order.
    pub chunk: u64,
    /// The start, in seconds since the first read.
    pub start: f64,
    /// The end, in seconds since the first read.
    pub end: f64,
    /// The first of the operations that need bytes of the chunk: its position in the request.
    pub first_operation: u32,
    /// The number of these operations, which follow each other; 0 if the step is of no chunk.
    pub operations: u32,
}

/// The C++ value for no lane.
const NO_LANE: u32 = u32::MAX;

impl Span {
    /// `None` if this side does not know the kind.
    pub(crate) fn from_ffi(span: &ffi::TimelineSpan) -> Option<Self> {
        let kind = *SpanKind::ALL.get(usize::try_from(span.kind).ok()?)?;
        Some(Self {
            reader: span.reader,
            lane: (span.lane != NO_LANE).then_some(span.lane),
            kind,
            chunk: span.chunk,
            start: span.start,
            end: span.end,
            first_operation: span.first_op,
            operations: span.op_count,
        })
    }
}
