//! The events of the load as lines of JSON.

use crate::status::{Phase, Status};
use futures_util::stream::{self, Stream};
use loader::Error;
use serde::Serialize;
use tokio::sync::watch;

type Line = serde_json::Result<String>;

/// The last line of a load that failed.
#[derive(Serialize)]
#[serde(tag = "event", rename = "failed")]
struct Failed<'a> {
    #[serde(flatten)]
    error: &'a Error,
}

/// Returns all events from the first one on. The stream ends when the load has ended.
pub(crate) fn lines(status: watch::Receiver<Status>) -> impl Stream<Item = Line> {
    stream::unfold(Some((status, 0)), |state| async {
        let (mut status, seen) = state?;
        let (line, number) = next(&mut status, seen).await?;
        Some((line, number.map(|number| (status, number))))
    })
}

/// Waits for the event after number `seen`. Returns its line and its number, or no number after the last line.
async fn next(status: &mut watch::Receiver<Status>, seen: u64) -> Option<(Line, Option<u64>)> {
    let has_line = |status: &Status| {
        status.event_after(seen).is_some() || !matches!(status.phase, Phase::Loading)
    };
    let status = status.wait_for(has_line).await.ok()?;
    match (status.event_after(seen), &status.phase) {
        (Some((number, event)), _) => Some((line(&*event), Some(number))),
        (None, Phase::Failed(error)) => Some((line(&Failed { error }), None)),
        (None, _) => None,
    }
}

fn line(value: &impl Serialize) -> Line {
    Ok(serde_json::to_string(value)? + "\n")
}
