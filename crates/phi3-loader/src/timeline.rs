//! `load --timeline`: writes spans in the trace event format, which Perfetto and Chrome can open.

use super::json;
use cuda_sys::{Span, SpanKind};
use loader::{Error, OutputFile};
use serde::Serialize;
use std::io::{BufWriter, Write};

#[derive(Serialize)]
struct Trace<'a> {
    #[serde(rename = "traceEvents")]
    events: Vec<Event<'a>>,
    #[serde(rename = "displayTimeUnit")]
    unit: &'a str,
}

/// Times are in microseconds.
#[derive(Serialize)]
#[serde(tag = "ph")]
enum Event<'a> {
    #[serde(rename = "X")]
    Complete { name: &'a str, pid: u32, tid: u32, ts: f64, dur: f64, args: Chunk },
    #[serde(rename = "M")]
    Metadata { name: &'a str, pid: u32, args: Named<'a> },
}

#[derive(Serialize)]
struct Chunk {
    chunk: u64,
}

#[derive(Serialize)]
struct Named<'a> {
    name: &'a str,
}

/// The groups of tracks. The format calls them processes.
const GROUPS: [&str; 3] = ["readers", "copies", "kernels"];

/// Approximate bytes of memory and of file space for one event: its value and its text.
const EVENT_BYTES: u64 = 300;

/// Returns the name of a span and the number of its group.
fn place(kind: SpanKind) -> (&'static str, u32) {
    match kind {
        SpanKind::Wait => ("wait", 0),
        SpanKind::Read => ("read", 0),
        SpanKind::Copy => ("copy", 1),
        SpanKind::Work => ("convert", 2),
        _ => ("queue", 0),
    }
}

pub(super) fn write(spans: &[Span], target: &OutputFile) -> Result<(), Error> {
    let groups = (0..).zip(GROUPS).map(|(pid, name)| Event::Metadata {
        name: "process_name",
        pid,
        args: Named { name },
    });
    let spans = spans.iter().map(|span| {
        let (name, pid) = place(span.kind);
        Event::Complete {
            name,
            pid,
            // A track for each reader, and one for each device.
            tid: if pid == 0 { span.reader } else { span.lane.unwrap_or(0) },
            ts: span.start * 1e6,
            dur: (span.end - span.start) * 1e6,
            args: Chunk { chunk: span.chunk },
        }
    });
    let bytes = spans.len() as u64 * EVENT_BYTES;
    let trace = Trace { events: groups.chain(spans).collect(), unit: "ms" };
    target.write(bytes, |file| {
        let mut file = BufWriter::new(file);
        let written = json::write(&mut file, &trace).and_then(|()| file.flush());
        written.map_err(|error| target.failed(error))
    })
}
