//! Whether the rows of a projection were made from the log that is there now. A log may be replaced
//! by an older copy of itself or by another one; its positions then mean other events.

use std::time::Duration;

use daybook_bus::source::{Error, LogReader};

use super::store::{Anchor, Checkpoint};

/// How long the log may take to answer before it counts as out of reach.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why the rows are not those of the log; `None` when they are, and also when the log cannot be
/// reached: nothing is concluded from that.
pub(crate) async fn other_history(log: &dyn LogReader, reached: &Checkpoint) -> Option<String> {
    match tokio::time::timeout(PATIENCE, compare(log, reached)).await {
        Ok(Ok(problem)) => problem,
        Ok(Err(_)) | Err(_) => None,
    }
}

async fn compare(log: &dyn LogReader, reached: &Checkpoint) -> Result<Option<String>, Error> {
    let Anchor { position, event_id } = &reached.anchor;
    if *position > 0 {
        match log.event_id_at(*position).await? {
            Some(found) if found == *event_id => {}
            Some(_) => {
                return Ok(Some(format!(
                    "the log has another event at position {position}{CAUSE}"
                )));
            }
            None => return Ok(Some(format!("the log has no event at position {position}{CAUSE}"))),
        }
    }
    // A reader of topics comes further than the last event that it was sent.
    if reached.position > *position {
        let head = log.head().await?;
        if head < reached.position {
            let position = reached.position;
            return Ok(Some(format!("the log ends at {head}, before position {position}{CAUSE}")));
        }
    }
    Ok(None)
}

/// What follows from each of the findings.
const CAUSE: &str = ", up to which the rows were made: it is another log, or an older copy";
