//! What a call did when.

use crate::bridge::ffi;

/// Who was busy in a [`Span`], and with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SpanKind {
    /// A reader waits until the staging ring has room for its chunk.
    Wait,
    /// A reader reads its share of a chunk, and digests it where that is asked for.
    Read,
    /// A reader queues the copies and conversions of a chunk; on the host device, does them.
    Queue,
    /// The device takes a chunk, from when it is done with the one before.
    Copy,
    /// The device converts the chunk and digests it, where there is such work.
    Work,
}

impl SpanKind {
    const ALL: [SpanKind; 5] = [Self::Wait, Self::Read, Self::Queue, Self::Copy, Self::Work];
}

/// One step of one chunk.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Span {
    /// The reader, from 0; 0 for what the device does.
    pub reader: u32,
    /// The lane of a [`Queue`](SpanKind::Queue), [`Copy`](SpanKind::Copy) or
    /// [`Work`](SpanKind::Work); `None` of other steps.
    pub lane: Option<u32>,
    /// What was done.
    pub kind: SpanKind,
    /// The chunk, in the order in which chunks are read.
    pub chunk: u64,
    /// Seconds since the first read.
    pub start: f64,
    /// Seconds since the first read.
    pub end: f64,
}

/// Stands for no lane on the C++ side.
const NO_LANE: u32 = u32::MAX;

impl Span {
    /// `None` for a kind that this side does not know.
    pub(crate) fn from_ffi(span: &ffi::TimelineSpan) -> Option<Self> {
        let kind = *SpanKind::ALL.get(usize::try_from(span.kind).ok()?)?;
        Some(Self {
            reader: span.reader,
            lane: (span.lane != NO_LANE).then_some(span.lane),
            kind,
            chunk: span.chunk,
            start: span.start,
            end: span.end,
        })
    }
}
