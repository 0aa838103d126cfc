//! Bringing into memory what a decision needs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use daybook_kernel::StreamName;
use foldhash::HashMap;
use futures::future::join_all;

use super::PANICKED;
use super::streams::{Entry, Folded};
use crate::limits::MAX_READ_EVENTS;
use crate::record::stream_name;
use crate::storage::{ClaimKey, Direction, StorageReader, StoredStream};
use crate::{Error, Folder};

/// Streams to load, each with how its state is made.
pub(super) type Cold = HashMap<StreamName, Option<&'static dyn Folder>>;

/// What has been loaded.
pub(super) enum Loaded {
    Streams(Vec<(StreamName, Result<Entry, Error>)>),
    Claims(Vec<(ClaimKey, Result<Option<i64>, Error>)>),
}

/// How many streams are loaded at once by one reader, so that others take a part.
const CHUNK: usize = 64;

/// Loads streams.
pub(super) async fn streams(reader: Arc<dyn StorageReader>, cold: Cold) -> Loaded {
    let cold: Vec<_> = cold.into_iter().collect();
    let chunks = cold.chunks(CHUNK).map(|chunk| load_chunk(reader.as_ref(), chunk));
    Loaded::Streams(join_all(chunks).await.into_iter().flatten().collect())
}

async fn load_chunk(
    reader: &dyn StorageReader,
    chunk: &[(StreamName, Option<&'static dyn Folder>)],
) -> Vec<(StreamName, Result<Entry, Error>)> {
    // Who needs no state needs no events.
    let wanted = chunk
        .iter()
        .map(|(name, folder)| (name.clone().into(), folder.map_or(0, |_| MAX_READ_EVENTS)));
    let found = match reader.load_streams(wanted.collect()).await {
        Ok(found) => found,
        Err(error) => {
            return chunk.iter().map(|(name, _)| (name.clone(), Err(error.clone()))).collect();
        }
    };
    let mut entries = Vec::with_capacity(chunk.len());
    for ((name, folder), stored) in chunk.iter().zip(found) {
        entries.push((name.clone(), load_one(reader, name.as_str(), stored, *folder).await));
    }
    entries
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
    stored: Option<StoredStream>,
    folder: Option<&'static dyn Folder>,
) -> Result<Entry, Error> {
    let unknown = StoredStream { id: 0, version: 0, events: Ok(Vec::new()) };
    let StoredStream { id, version, events } = stored.unwrap_or(unknown);
    let mut records = events?;
    let Some(folder) = folder else { return Ok(Entry { id, version, state: None }) };
    let mut state = folder.empty();
    let mut folded = 0;
    while folded < version {
        if records.is_empty() {
            records =
                reader.read_stream(stream, folded + 1, Direction::Forward, MAX_READ_EVENTS).await?;
        }
        if records.is_empty() {
            break;
        }
        for record in records.drain(..) {
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
