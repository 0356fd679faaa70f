//! The events of the load as lines of JSON.

use crate::status::{Phase, Status};
use futures_util::stream::{self, Stream};
use serde_json::{Value, json};
use tokio::sync::watch;

type Line = serde_json::Result<String>;

/// Returns all events from the first one on. The stream ends when the load has ended.
pub(crate) fn lines(status: watch::Receiver<Status>) -> impl Stream<Item = Line> {
    stream::unfold(Some((status, 0)), |state| async {
        let (mut status, seen) = state?;
        let (event, number) = next(&mut status, seen).await?;
        let line = serde_json::to_string(&event).map(|line| line + "\n");
        Some((line, number.map(|number| (status, number))))
    })
}

/// Waits for the event after number `seen`. Returns it and its number, or no number if it is the last event.
async fn next(status: &mut watch::Receiver<Status>, seen: u64) -> Option<(Value, Option<u64>)> {
    let has_event = |status: &Status| {
        status.event_after(seen).is_some() || !matches!(status.phase, Phase::Loading)
    };
    let status = status.wait_for(has_event).await.ok()?;
    if let Some((number, event)) = status.event_after(seen) {
        return Some((json!(*event), Some(number)));
    }
    let Phase::Failed(error) = &status.phase else { return None };
    let mut failed = json!(error);
    failed["event"] = "failed".into();
    Some((failed, None))
}
