//! The reading half: connections that only read, and what the writer has in memory.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use futures::future::BoxFuture;
use rusqlite::params;
use sqlx::sqlite::{SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, Row};
use uuid::Uuid;

use super::index::Index;
use super::scan::{self, Scans};
use super::{signed, unsigned};
use crate::storage::{
    ClaimKey, Direction, Recall, RequestRow, StorageReader, StoredAnswer, StoredStream,
};
use crate::{Error, Record};

/// The claims that one statement asks for.
const MAX_CLAIMS: usize = 256;

/// The reading half.
#[derive(Clone)]
pub struct SqliteReader {
    pub(super) pool: SqlitePool,
    pub(super) scans: Scans,
    index: Index,
    /// Of the checkpoints, which close it no sooner than the connections are closed here.
    _file: Option<Arc<File>>,
}

impl SqliteReader {
    pub(super) fn new(
        pool: SqlitePool,
        directory: &Path,
        index: Index,
        file: Option<Arc<File>>,
    ) -> Self {
        Self { pool, scans: Scans::new(directory), index, _file: file }
    }

    /// Closes the connections.
    pub async fn close(&self) {
        self.scans.close().await;
        self.pool.close().await;
    }
}

impl StorageReader for SqliteReader {
    fn read_all(
        &self,
        from: u64,
        direction: Direction,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Record>, Error>> {
        let sql = match direction {
            Direction::Forward => {
                "SELECT position, record, leaf_hash FROM events WHERE position >= ?
                 ORDER BY position LIMIT ?"
            }
            Direction::Backward => {
                "SELECT position, record, leaf_hash FROM events WHERE position <= ?
                 ORDER BY position DESC LIMIT ?"
            }
        };
        Box::pin(self.scans.run(move |connection| {
            scan::events(connection, sql, params![signed(from), limit as i64])
        }))
    }

    fn read_stream<'a>(
        &'a self,
        stream: &'a str,
        from: u64,
        direction: Direction,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Record>, Error>> {
        let (index, stream) = (self.index.clone(), stream.to_owned());
        Box::pin(self.scans.run(move |connection| {
            scan::stream(connection, &index, &stream, from, direction, limit)
        }))
    }

    fn load_streams(
        &self,
        streams: Vec<(Arc<str>, usize)>,
    ) -> BoxFuture<'_, Result<Vec<Option<StoredStream>>, Error>> {
        let index = self.index.clone();
        Box::pin(self.scans.run(move |connection| scan::streams(connection, &index, &streams)))
    }

    fn recall(&self, id: &Uuid) -> Recall {
        self.index.recall(id)
    }

    fn find_requests<'a>(
        &'a self,
        ids: &'a [Uuid],
    ) -> BoxFuture<'a, Result<Vec<RequestRow>, Error>> {
        Box::pin(async move {
            let mut found = Vec::new();
            let mut hex = Vec::new();
            for id in ids {
                match self.index.recall(id) {
                    Recall::Stored(row) => found.push(row),
                    Recall::New => {}
                    Recall::Unknown => hex.push(id.simple().to_string()),
                }
            }
            if hex.is_empty() {
                return Ok(found);
            }
            let rows = sqlx::query(
                "SELECT request_id, fingerprint, position, answer FROM requests
                 WHERE request_id IN (SELECT unhex(value) FROM json_each(?))",
            )
            .bind(json_list(hex.iter().map(String::as_str)))
            .fetch_all(&self.pool)
            .await
            .map_err(read_error)?;
            for row in rows {
                found.push(request_row(row)?);
            }
            Ok(found)
        })
    }

    fn claim_holders<'a>(
        &'a self,
        claims: &'a [ClaimKey],
    ) -> BoxFuture<'a, Result<Vec<Option<i64>>, Error>> {
        Box::pin(async move {
            let mut holders = HashMap::new();
            for some in claims.chunks(MAX_CLAIMS) {
                let wanted = vec!["(?, ?)"; some.len()].join(",");
                let sql = format!(
                    "SELECT scope, key, stream_id FROM claims
                     WHERE (scope, key) IN (VALUES {wanted})"
                );
                let query = some.iter().fold(sqlx::query(AssertSqlSafe(sql)), |query, claim| {
                    query.bind(claim.scope).bind(claim.key.as_str())
                });
                for row in query.fetch_all(&self.pool).await.map_err(read_error)? {
                    let name: (String, String) = (row.get(0), row.get(1));
                    holders.insert(name, row.get::<i64, _>(2));
                }
            }
            let holder = |claim: &ClaimKey| {
                holders.get(&(claim.scope.to_owned(), claim.key.clone())).copied()
            };
            Ok(claims.iter().map(holder).collect())
        })
    }

    fn published(&self) -> BoxFuture<'_, Result<u64, Error>> {
        Box::pin(async move {
            let published: i64 = sqlx::query_scalar("SELECT published FROM store")
                .fetch_one(&self.pool)
                .await
                .map_err(read_error)?;
            Ok(unsigned(published))
        })
    }
}

fn request_row(row: SqliteRow) -> Result<RequestRow, Error> {
    let damaged = |what: &str| Error::Read { problem: format!("a request has a damaged {what}") };
    let id: &[u8] = row.get(0);
    let fingerprint: &[u8] = row.get(1);
    let answer = match (row.get::<Option<i64>, _>(2), row.get::<Option<Vec<u8>>, _>(3)) {
        (Some(position), None) => StoredAnswer::Recorded(unsigned(position)),
        (None, Some(answer)) => StoredAnswer::Other(answer.into()),
        _ => return Err(damaged("answer")),
    };
    Ok(RequestRow {
        id: Uuid::from_slice(id).map_err(|_| damaged("id"))?,
        fingerprint: fingerprint.try_into().map_err(|_| damaged("fingerprint"))?,
        answer,
    })
}

/// A JSON array of texts that hold nothing to escape: names of streams, and hexadecimal digits.
fn json_list<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = texts.map(|text| format!("\"{text}\"")).collect();
    format!("[{}]", quoted.join(","))
}

pub(super) fn read_error(error: sqlx::Error) -> Error {
    Error::Read { problem: error.to_string() }
}
