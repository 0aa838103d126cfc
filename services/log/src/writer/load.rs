//! Bringing into memory what a decision needs.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use futures::future::{BoxFuture, join_all};

use super::streams::{Entry, Folded};
use super::{Name, PANICKED};
use crate::limits::MAX_READ_EVENTS;
use crate::record::stream_name;
use crate::storage::{ClaimKey, Direction, StorageReader, StreamHead};
use crate::{Error, Folder};

/// Streams to load, each with how its state is made.
pub(super) type Cold = HashMap<Name, Option<&'static dyn Folder>>;

/// What has been loaded.
pub(super) enum Loaded {
    Streams(Vec<(Name, Result<Entry, Error>)>),
    Claims(Vec<(ClaimKey, Result<Option<i64>, Error>)>),
}

/// Loads streams.
pub(super) async fn streams(reader: Arc<dyn StorageReader>, cold: Cold) -> Loaded {
    let (names, folders): (Vec<Name>, Vec<_>) = cold.into_iter().unzip();
    let heads = match reader.stream_heads(&names).await {
        Ok(heads) => heads,
        Err(error) => {
            let failed = names.into_iter().map(|name| (name, Err(error.clone())));
            return Loaded::Streams(failed.collect());
        }
    };
    // The pool of readers bounds how many are read at the same time.
    let mut each: Vec<BoxFuture<'static, (Name, Result<Entry, Error>)>> = Vec::new();
    for ((name, folder), head) in names.into_iter().zip(folders).zip(heads) {
        let reader = reader.clone();
        each.push(Box::pin(async move {
            let entry = load_one(reader.as_ref(), &name, head, folder).await;
            (name, entry)
        }));
    }
    Loaded::Streams(join_all(each).await)
}

/// Loads the holders of claims.
pub(super) async fn claims(reader: Arc<dyn StorageReader>, claims: Vec<ClaimKey>) -> Loaded {
    Loaded::Claims(match reader.claim_holders(&claims).await {
        Ok(holders) => claims.into_iter().zip(holders.into_iter().map(Ok)).collect(),
        Err(error) => claims.into_iter().map(|claim| (claim, Err(error.clone()))).collect(),
    })
}

async fn load_one(
    reader: &dyn StorageReader,
    stream: &str,
    head: Option<StreamHead>,
    folder: Option<&'static dyn Folder>,
) -> Result<Entry, Error> {
    let StreamHead { id, version } = head.unwrap_or(StreamHead { id: 0, version: 0 });
    let Some(folder) = folder else { return Ok(Entry { id, version, state: None }) };
    let mut state = folder.empty();
    let mut folded = 0;
    while folded < version {
        let records =
            reader.read_stream(stream, folded + 1, Direction::Forward, MAX_READ_EVENTS).await?;
        if records.is_empty() {
            break;
        }
        for record in records {
            let event = record.decode()?;
            if event.version != folded + 1 || stream_name(&event) != stream {
                return Err(Error::Damaged {
                    position: record.position,
                    stream: stream.to_owned(),
                    problem: format!(
                        "version {} stands where {} belongs",
                        event.version,
                        folded + 1
                    ),
                });
            }
            // As with decisions: a fault in the code of a domain concerns its stream alone.
            let done = catch_unwind(AssertUnwindSafe(|| folder.fold(&mut state, &event)));
            done.unwrap_or_else(|_| Err(PANICKED.to_owned())).map_err(|problem| {
                let (position, stream) = (record.position, stream.to_owned());
                Error::NotUnderstood { position, stream, problem }
            })?;
            folded = event.version;
        }
    }
    if folded != version {
        return Err(Error::Damaged {
            position: 0,
            stream: stream.to_owned(),
            problem: format!("it ends at version {folded}, not {version}"),
        });
    }
    Ok(Entry { id, version, state: Some(Folded { state, folder }) })
}
