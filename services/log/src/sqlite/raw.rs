//! The rows as they are, for a check of all of them.

use std::ops::RangeInclusive;

use bytes::Bytes;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::disk_runs;
use super::reader::{SqliteReader, read_error};
use super::{signed, unsigned};
use crate::Error;

/// A row of the claims, unchecked.
#[derive(Debug, Clone)]
pub struct RawClaim {
    /// Among what it is unique.
    pub scope: String,
    /// What is unique.
    pub key: String,
    /// The name of the stream that holds it, where there is one with its number.
    pub stream: Option<String>,
}

/// A row of the events, unchecked.
#[derive(Debug, Clone)]
pub struct RawRow {
    /// The position, from the column.
    pub position: u64,
    /// The number of the stream, from the column.
    pub stream_id: i64,
    /// The version, from the column.
    pub version: u64,
    /// The stored hash.
    pub leaf_hash: Vec<u8>,
    /// The encoded RecordedEvent.
    pub record: Bytes,
    /// The name of the stream, from the table of streams.
    pub stream: String,
    /// The id and the fingerprint of the request whose last event this is.
    pub request: Option<Vec<u8>>,
    /// The fingerprint and the position that the table of requests has for this id.
    pub answered: Option<(Vec<u8>, u64)>,
}

/// A row of the table of requests, unchecked, beside the event that it names.
#[derive(Debug, Clone)]
pub struct RawRequest {
    /// The id of the request.
    pub id: Vec<u8>,
    /// The position of its last event.
    pub position: u64,
    /// The encoded RecordedEvent at this position, if there is one.
    pub record: Option<Bytes>,
}

/// How far the indexes follow the log, and what is wrong with them.
#[derive(Debug, Clone)]
pub struct RawIndex {
    /// Every event up to here must be in theirs.
    pub indexed: u64,
    /// The request of every event up to here must be in theirs.
    pub requests_indexed: u64,
    /// What is wrong.
    pub problems: Vec<String>,
}

impl SqliteReader {
    /// What SQLite itself finds wrong with the file; reads all of it.
    pub async fn integrity_problems(&self) -> Result<Vec<String>, Error> {
        let found: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check")
            .fetch_all(&self.pool)
            .await
            .map_err(read_error)?;
        Ok(found.into_iter().filter(|line| line != "ok").collect())
    }

    /// The columns of the events after a position, as they are, for a check of every row.
    pub async fn raw_events(&self, after: u64, limit: usize) -> Result<Vec<RawRow>, Error> {
        sqlx::query(
            "SELECT e.position, e.version, e.leaf_hash, e.record, coalesce(s.name, '') AS name,
                    e.stream_id, e.request, r.fingerprint, coalesce(r.position, 0)
             FROM events e
             LEFT JOIN streams s ON s.id = e.stream_id
             LEFT JOIN requests r ON r.request_id = substr(e.request, 1, 16)
             WHERE e.position > ? ORDER BY e.position LIMIT ?",
        )
        .bind(signed(after))
        .bind(limit as i64)
        .map(|row: SqliteRow| RawRow {
            position: unsigned(row.get(0)),
            version: unsigned(row.get(1)),
            leaf_hash: row.get(2),
            record: row.get::<Vec<u8>, _>(3).into(),
            stream: row.get(4),
            stream_id: row.get(5),
            request: row.get(6),
            answered: row
                .get::<Option<Vec<u8>>, _>(7)
                .map(|fingerprint| (fingerprint, unsigned(row.get(8)))),
        })
        .fetch_all(&self.pool)
        .await
        .map_err(read_error)
    }

    /// How far the indexes follow the log, and whether they have just what they must up to there.
    pub async fn raw_index(&self) -> Result<RawIndex, Error> {
        // Of one moment: a writer may replace runs meanwhile.
        let (indexed, mut problems) = self
            .scans
            .run(|connection| {
                let moment = connection.unchecked_transaction().map_err(scan_error)?;
                let indexed = moment.query_row("SELECT indexed FROM store", [], |row| row.get(0));
                let indexed = unsigned(indexed.map_err(scan_error)?);
                let problems = disk_runs::problems(&moment, indexed).map_err(scan_error)?;
                moment.commit().map_err(scan_error)?;
                Ok((indexed, problems))
            })
            .await?;
        let mut moment = self.pool.begin().await.map_err(read_error)?;
        let (requests_indexed, newest): (i64, Vec<u8>) =
            sqlx::query_as("SELECT requests_indexed, newest_request FROM store")
                .fetch_one(&mut *moment)
                .await
                .map_err(read_error)?;
        let requests_indexed = unsigned(requests_indexed);
        if requests_indexed < indexed {
            problems.push(format!(
                "store.requests_indexed, {requests_indexed}, is less than store.indexed, {indexed}"
            ));
        }
        let greatest: Option<Vec<u8>> = sqlx::query_scalar(
            "SELECT max(request_id) FROM requests WHERE substr(hex(request_id), 13, 1) = '7'",
        )
        .fetch_one(&mut *moment)
        .await
        .map_err(read_error)?;
        if greatest.is_some_and(|greatest| greatest > newest) {
            let text = "there is a request id greater than store.newest_request: it would be \
                        taken for new";
            problems.push(text.to_owned());
        }
        Ok(RawIndex { indexed, requests_indexed, problems })
    }

    /// The number of the stream and the version that the index has for each of these positions,
    /// which must be indexed; zeros for what it has not. It reads all entries of their runs.
    pub async fn raw_places(
        &self,
        positions: RangeInclusive<u64>,
    ) -> Result<Vec<(i64, u64)>, Error> {
        self.scans
            .run(move |connection| {
                let moment = connection.unchecked_transaction().map_err(scan_error)?;
                let places = disk_runs::by_position(&moment, positions).map_err(scan_error)?;
                moment.commit().map_err(scan_error)?;
                Ok(places)
            })
            .await
    }

    /// The rows of the table of requests after an id that name an event, unless the event names
    /// them, too.
    pub async fn raw_requests(&self, after: &[u8], limit: usize) -> Result<Vec<RawRequest>, Error> {
        sqlx::query(
            "SELECT r.request_id, r.position, e.record
             FROM requests r LEFT JOIN events e ON e.position = r.position
             WHERE r.request_id > ? AND r.position IS NOT NULL
               AND substr(e.request, 1, 16) IS NOT r.request_id
             ORDER BY r.request_id LIMIT ?",
        )
        .bind(after)
        .bind(limit as i64)
        .map(|row: SqliteRow| RawRequest {
            id: row.get(0),
            position: unsigned(row.get(1)),
            record: row.get::<Option<Vec<u8>>, _>(2).map(Bytes::from),
        })
        .fetch_all(&self.pool)
        .await
        .map_err(read_error)
    }

    /// The table of claims as it is, and the position of the last event of the same moment.
    pub async fn raw_claims(&self) -> Result<(u64, Vec<RawClaim>), Error> {
        let mut moment = self.pool.begin().await.map_err(read_error)?;
        let head: i64 = sqlx::query_scalar("SELECT coalesce(max(position), 0) FROM events")
            .fetch_one(&mut *moment)
            .await
            .map_err(read_error)?;
        let claims = sqlx::query(
            "SELECT c.scope, c.key, s.name FROM claims c LEFT JOIN streams s ON s.id = c.stream_id",
        )
        .map(|row: SqliteRow| RawClaim { scope: row.get(0), key: row.get(1), stream: row.get(2) })
        .fetch_all(&mut *moment)
        .await
        .map_err(read_error)?;
        Ok((unsigned(head), claims))
    }
}

fn scan_error(error: rusqlite::Error) -> Error {
    Error::Read { problem: error.to_string() }
}
