//! `load --timeline`: writes spans in the trace event format, which Perfetto and Chrome can open. `docs/json.md`
//! describes the file.

use super::json;
use cuda_sys::{DeviceKind, Span, SpanKind};
use loader::{Error, OutputFile, TransferFigures};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
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
    Complete { name: String, cat: &'a str, pid: u32, tid: u32, ts: f64, dur: f64, args: Chunk<'a> },
    #[serde(rename = "M")]
    Metadata { name: &'a str, pid: u32, tid: u32, args: Named },
}

#[derive(Serialize)]
struct Chunk<'a> {
    chunk: u64,
    tensors: Vec<&'a str>,
}

#[derive(Serialize)]
struct Named {
    name: String,
}

/// A line of the trace. The format calls it a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Track {
    /// A reader thread.
    Reader(u32),
    /// The decoding of a reader thread, on the host.
    Decoding(u32),
    /// The copies of a lane. If it makes several at the same time, the others are in more tracks.
    Copies { lane: u32, row: usize },
    /// The kernels of a lane.
    Kernels(u32),
}

impl Track {
    fn of(span: &Span, figures: &TransferFigures) -> Self {
        let lane = span.lane.unwrap_or(0);
        match span.kind {
            SpanKind::Copy => Self::Copies { lane, row: 0 },
            SpanKind::Work if device_of(lane, figures) == Some(DeviceKind::Host) => {
                Self::Decoding(span.reader)
            }
            SpanKind::Work => Self::Kernels(lane),
            _ => Self::Reader(span.reader),
        }
    }

    /// Returns the number and the name of its group. The format calls it a process.
    fn group(self) -> (u32, &'static str) {
        match self {
            Self::Reader(_) => (1, "readers"),
            Self::Decoding(_) => (2, "decoding"),
            Self::Copies { .. } => (3, "copies"),
            Self::Kernels(_) => (4, "kernels"),
        }
    }

    fn name(self, figures: &TransferFigures) -> String {
        let device = |lane| device_of(lane, figures).map(|device| device.to_string());
        let device = |lane| device(lane).unwrap_or_default();
        match self {
            Self::Reader(reader) => format!("reader {reader}"),
            Self::Decoding(reader) => format!("decoding by reader {reader}"),
            Self::Copies { lane, row: 0 } => format!("copies to {}", device(lane)),
            Self::Copies { lane, row } => format!("copies to {} ({})", device(lane), row + 1),
            Self::Kernels(lane) => format!("kernels on {}", device(lane)),
        }
    }
}

fn device_of(lane: u32, figures: &TransferFigures) -> Option<DeviceKind> {
    figures.links.get(usize::try_from(lane).ok()?).map(|link| link.device)
}

/// A span on its track.
#[derive(Clone, Debug, PartialEq)]
struct Step<'a> {
    track: Track,
    start: f64,
    end: f64,
    kind: SpanKind,
    chunk: u64,
    tensors: Vec<&'a str>,
}

impl<'a> Step<'a> {
    fn new(span: &Span, figures: &'a TransferFigures) -> Self {
        let operations = figures.timeline_tensors.iter().map(|tensor| &**tensor);
        let [first, count] = [span.first_operation, span.operations].map(|n| n as usize);
        let mut tensors: Vec<_> = operations.skip(first).take(count).collect();
        tensors.dedup();
        Self {
            track: Track::of(span, figures),
            start: span.start,
            end: span.end,
            kind: span.kind,
            chunk: span.chunk,
            tensors,
        }
    }

    /// Returns the kind and the first tensor, such as `read output.weight`, and the number of the other tensors.
    fn name(&self) -> String {
        let kind = self.kind_name();
        match self.tensors[..] {
            [] => kind.to_owned(),
            [tensor] => format!("{kind} {tensor}"),
            [first, ..] => format!("{kind} {first} + {}", self.tensors.len() - 1),
        }
    }

    fn kind_name(&self) -> &'static str {
        match self.kind {
            SpanKind::Wait => "wait",
            SpanKind::Read => "read",
            SpanKind::Copy => "copy",
            SpanKind::Work => "convert",
            _ => "queue",
        }
    }
}

/// Makes steps of one track follow each other, because viewers show only that.
fn separate(steps: &mut [Step<'_>]) {
    // Kernels of a lane run one after the other. A span starts when the bytes are there, so cut off the time in which
    // the kernels of earlier chunks ran.
    let mut ends = HashMap::new();
    steps.sort_by(|left, right| left.end.total_cmp(&right.end));
    for step in steps.iter_mut().filter(|step| matches!(step.track, Track::Kernels(_))) {
        let end = ends.entry(step.track).or_insert(step.start);
        step.start = step.start.max(*end);
        *end = step.end;
    }
    // A GPU receives bytes from the host and from other GPUs at the same time.
    let mut ends: HashMap<Track, f64> = HashMap::new();
    steps.sort_by(|left, right| left.start.total_cmp(&right.start));
    for step in steps {
        while ends.get(&step.track).is_some_and(|end| *end > step.start) {
            let Track::Copies { row, .. } = &mut step.track else { break };
            *row += 1;
        }
        ends.insert(step.track, step.end);
    }
}

/// Approximate bytes of memory and of file space for one event, without the tensors, and for one tensor of it: their
/// values and their text.
const EVENT_BYTES: u64 = 400;
const TENSOR_BYTES: u64 = 50;

pub(super) fn write(figures: &TransferFigures, target: &OutputFile) -> Result<(), Error> {
    let spans = &figures.timeline;
    let sizes = spans.iter().map(|span| EVENT_BYTES + TENSOR_BYTES * u64::from(span.operations));
    let bytes = sizes.sum();
    let mut steps: Vec<_> = spans.iter().map(|span| Step::new(span, figures)).collect();
    separate(&mut steps);
    let tracks: BTreeMap<_, _> = steps.iter().map(|step| (step.track, 0)).collect();
    let tids: BTreeMap<Track, u32> = tracks.into_keys().zip(1..).collect();
    let names = tids.iter().flat_map(|(track, &tid)| {
        let (pid, group) = track.group();
        let named = |name, text| Event::Metadata { name, pid, tid, args: Named { name: text } };
        [named("process_name", group.to_owned()), named("thread_name", track.name(figures))]
    });
    let steps = steps.into_iter().map(|step| Event::Complete {
        name: step.name(),
        cat: step.kind_name(),
        pid: step.track.group().0,
        tid: tids.get(&step.track).copied().unwrap_or_default(),
        ts: step.start * 1e6,
        dur: (step.end - step.start) * 1e6,
        args: Chunk { chunk: step.chunk, tensors: step.tensors },
    });
    let trace = Trace { events: names.chain(steps).collect(), unit: "ms" };
    target.write(bytes, |file| {
        let mut file = BufWriter::new(file);
        let written = json::write(&mut file, &trace).and_then(|()| file.flush());
        written.map_err(|error| target.failed(error))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(track: Track, start: f64, end: f64) -> Step<'static> {
        Step { track, start, end, kind: SpanKind::Copy, chunk: 0, tensors: Vec::new() }
    }

    #[test]
    fn steps_of_one_track_follow_each_other() {
        let copies = |lane, row| Track::Copies { lane, row };
        let mut steps = [
            step(copies(0, 0), 0.0, 2.0),
            step(copies(0, 0), 2.0, 3.0),
            step(copies(0, 0), 1.0, 2.5),
            step(copies(1, 0), 0.5, 1.0),
            step(Track::Kernels(0), 2.0, 5.0),
            step(Track::Kernels(0), 2.5, 6.0),
            step(Track::Kernels(1), 2.5, 4.0),
        ];
        separate(&mut steps);
        steps.sort_by_key(|step| step.track);
        let expected = [
            step(copies(0, 0), 0.0, 2.0),
            step(copies(0, 0), 2.0, 3.0),
            step(copies(0, 1), 1.0, 2.5),
            step(copies(1, 0), 0.5, 1.0),
            step(Track::Kernels(0), 2.0, 5.0),
            step(Track::Kernels(0), 5.0, 6.0),
            step(Track::Kernels(1), 2.5, 4.0),
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn a_step_is_named_after_its_tensors() {
        let named = |tensors: &[&'static str]| {
            Step { tensors: tensors.to_vec(), ..step(Track::Reader(0), 0.0, 0.0) }.name()
        };
        assert_eq!(named(&[]), "copy");
        assert_eq!(named(&["output.weight"]), "copy output.weight");
        assert_eq!(named(&["output.weight", "a", "b"]), "copy output.weight + 2");
    }
}
