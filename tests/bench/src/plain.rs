//! The plain design: what one would write instead of daybook, with the same promises.
//!
//! tonic and sqlx on SQLite with synchronous=FULL, one transaction for each command: it looks the
//! request id up, reads the version of the stream, and records an event and the request. It decides
//! nothing and keeps no state, which would only cost more. It runs as a process of its own
//! (`daybook-bench plain-server DIR`).

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use daybook_contract::contract::{CommandSet, Dispatch};
use daybook_contract::daybook::v1::CommandReceipt;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::Mutex;
use tonic::{Request, Status};

use crate::{noop, tonic_bank};

/// The tables that the design needs.
const TABLES: &str = "
    CREATE TABLE events (
        position INTEGER PRIMARY KEY,
        stream   TEXT    NOT NULL,
        version  INTEGER NOT NULL,
        type     TEXT    NOT NULL,
        payload  BLOB    NOT NULL,
        UNIQUE (stream, version)
    );
    CREATE TABLE requests (request_id TEXT PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;";

#[derive(Clone)]
struct Plain {
    connection: Arc<Mutex<SqliteConnection>>,
}

/// Serves the plain design on a new database in a directory.
pub async fn serve(directory: &Path) -> Result<()> {
    let mut connection = SqliteConnectOptions::new()
        .filename(directory.join("plain.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .disable_statement_logging()
        .connect()
        .await?;
    sqlx::raw_sql(TABLES).execute(&mut connection).await?;
    let plain = Plain { connection: Arc::new(Mutex::new(connection)) };
    noop::serve_routes(tonic_bank::routes(plain)).await
}

impl Dispatch for Plain {
    async fn dispatch<C: CommandSet>(&self, request: Request<C>) -> Result<CommandReceipt, Status> {
        let mut command = request.into_inner();
        let context = command.take_context().unwrap_or_default();
        let receipt = self.record(&context.request_id, &command).await;
        receipt.map_err(|error| Status::internal(error.to_string()))
    }
}

impl Plain {
    async fn record<C: CommandSet>(
        &self,
        request_id: &str,
        command: &C,
    ) -> Result<CommandReceipt, sqlx::Error> {
        let mut connection = self.connection.lock().await;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        let before: Option<i64> =
            sqlx::query_scalar("SELECT position FROM requests WHERE request_id = ?")
                .bind(request_id)
                .fetch_optional(&mut *transaction)
                .await?;
        let version: Option<i64> =
            sqlx::query_scalar("SELECT max(version) FROM events WHERE stream = ?")
                .bind(command.key())
                .fetch_one(&mut *transaction)
                .await?;
        let version = version.unwrap_or(0) + i64::from(before.is_none());
        let position = match before {
            Some(position) => position,
            None => {
                let position: i64 = sqlx::query_scalar(
                    "INSERT INTO events (stream, version, type, payload) VALUES (?, ?, ?, ?)
                     RETURNING position",
                )
                .bind(command.key())
                .bind(version)
                .bind(command.type_name())
                .bind(command.content())
                .fetch_one(&mut *transaction)
                .await?;
                sqlx::query("INSERT INTO requests (request_id, position) VALUES (?, ?)")
                    .bind(request_id)
                    .bind(position)
                    .execute(&mut *transaction)
                    .await?;
                position
            }
        };
        transaction.commit().await?;
        Ok(CommandReceipt {
            aggregate_id: command.key().to_owned(),
            version: version as u64,
            position: position as u64,
            replayed: before.is_some(),
            ..CommandReceipt::default()
        })
    }
}
