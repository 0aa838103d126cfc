//! Follows the products whose stock is low. Nothing is remembered of a watcher but the position up
//! to which it has been told: what changed after it is read whenever rows may have changed.

use std::collections::VecDeque;

use daybook_contract::daybook::v1::ReadContext;
use daybook_contract::error::Error;
use daybook_contract::inventory::v1::watch_low_stock_response::Update;
use daybook_contract::inventory::v1::{LowStockCaughtUp, WatchLowStockResponse};
use futures::{FutureExt, Stream, stream};
use rusqlite::Connection;
use tokio::sync::watch;
use tonic::Status;

use super::{select_low, stock};
use crate::projections::stock_levels::LevelRow;
use crate::runtime::Handle;
use crate::runtime::handle::{Progress, not_serving};
use crate::runtime::row::rows;
use crate::runtime::store;

/// How many rows are read at once. A watcher that is slow holds no more than these, beside what was
/// low at the beginning.
const CHUNK: u32 = 500;

/// The rows that changed for watchers after a position, in the order of the changes.
pub(super) const SELECT_NEWS: &str = "SELECT * FROM levels INDEXED BY levels_by_alert
    WHERE low_position > ?1 ORDER BY low_position LIMIT ?2";

/// What is low now, and then the changes. It ends without an error when the service stops.
pub(super) async fn low_stock(
    levels: Handle,
    read: Option<ReadContext>,
    stopping: watch::Receiver<bool>,
) -> Result<impl Stream<Item = Result<WatchLowStockResponse, Status>> + Send, Error> {
    let progress = levels.follow();
    let (ready, told) = beginning(&levels, read.as_ref()).await?;
    let watcher = Watcher { levels, progress, told, ready };
    let updates = stream::unfold(Some(watcher), |watcher| async {
        let mut watcher = watcher?;
        match watcher.next().await {
            Ok(update) => Some((Ok(update), Some(watcher))),
            Err(error) => Some((Err(error.into()), None)),
        }
    });
    let mut stopping = stopping;
    let stopped = async move {
        let _ = stopping.wait_for(|stop| *stop).await;
    };
    Ok(futures::StreamExt::take_until(updates, stopped.boxed()))
}

struct Watcher {
    levels: Handle,
    progress: watch::Receiver<Progress>,
    /// Everything up to this position has been told, or waits in `ready`.
    told: u64,
    ready: VecDeque<WatchLowStockResponse>,
}

impl Watcher {
    async fn next(&mut self) -> Result<WatchLowStockResponse, Error> {
        loop {
            if let Some(update) = self.ready.pop_front() {
                return Ok(update);
            }
            // What changes after this is seen at the next turn.
            let seen = self.progress.borrow_and_update().changes;
            self.read_news().await?;
            if self.ready.is_empty() {
                let _follows = self.levels.shared.rest.follow();
                let changed = self.progress.wait_for(|progress| progress.changes != seen).await;
                changed.map_err(|_| not_serving())?;
            }
        }
    }

    async fn read_news(&mut self) -> Result<(), Error> {
        let after = store::to_i64(self.told);
        let (rows, position) =
            self.levels.read(None, move |connection| select_news(connection, after)).await?;
        // A page that is full has more behind it: go on after its last row.
        self.told = match rows.last().filter(|_| rows.len() == CHUNK as usize) {
            Some(last) => store::from_i64(last.low_position),
            None => position,
        };
        self.ready.extend(rows.into_iter().map(|row| update(row, position)));
        Ok(())
    }
}

/// Everything that is low now, and the position of that.
async fn beginning(
    levels: &Handle,
    read: Option<&ReadContext>,
) -> Result<(VecDeque<WatchLowStockResponse>, u64), Error> {
    let (rows, position) = levels.read(read, select_all_low).await?;
    let low_products = rows.len() as u64;
    let mut ready: VecDeque<_> = rows.into_iter().map(|row| update(row, position)).collect();
    let caught_up = Update::CaughtUp(LowStockCaughtUp { low_products });
    ready.push_back(WatchLowStockResponse { update: Some(caught_up), position });
    Ok((ready, position))
}

fn update(row: LevelRow, position: u64) -> WatchLowStockResponse {
    WatchLowStockResponse { update: Some(Update::Stock(stock(row))), position }
}

fn select_all_low(connection: &Connection) -> rusqlite::Result<Vec<LevelRow>> {
    let mut all: Vec<LevelRow> = Vec::new();
    loop {
        let after = all.last().map_or("", |row| &row.product_id);
        let rows = select_low(connection, after, CHUNK)?;
        let more = rows.len() == CHUNK as usize;
        all.extend(rows);
        if !more {
            return Ok(all);
        }
    }
}

fn select_news(connection: &Connection, after: i64) -> rusqlite::Result<Vec<LevelRow>> {
    rows(connection, SELECT_NEWS, &[&after, &CHUNK])
}
