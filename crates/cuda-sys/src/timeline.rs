//! What a call did when.

use crate::bridge::ffi;

/// Who was busy in a [`Span`], and with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SpanKind {
    /// A reader waits for an earlier chunk to land.
    Wait,
    /// A reader reads a chunk, and digests it where that is asked for.
    Read,
    /// A reader queues copies and conversions; on the host device, does them.
    Queue,
    /// The device takes a chunk, from when its queue is free for it.
    Copy,
    /// The device converts the chunk and digests it.
    Work,
}

impl SpanKind {
    const ALL: [SpanKind; 5] = [Self::Wait, Self::Read, Self::Queue, Self::Copy, Self::Work];
}

/// One step of one chunk.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Span {
    /// The reader, and its queue to the device, from 0.
    pub lane: u32,
    /// What was done.
    pub kind: SpanKind,
    /// The chunk, in the order in which chunks are read.
    pub chunk: u64,
    /// Seconds since the first read.
    pub start: f64,
    /// Seconds since the first read.
    pub end: f64,
}

impl Span {
    /// `None` for a kind that this side does not know.
    pub(crate) fn from_ffi(span: &ffi::TimelineSpan) -> Option<Self> {
        let kind = *SpanKind::ALL.get(usize::try_from(span.kind).ok()?)?;
        Some(Self { lane: span.lane, kind, chunk: span.chunk, start: span.start, end: span.end })
    }
}
