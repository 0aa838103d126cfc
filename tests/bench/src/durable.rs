//! The server that does nothing ([`crate::noop`]), which first makes the content of each command
//! durable and then answers.
//!
//! It takes what has come meanwhile together, as daybook does, and waits for the disk once. It
//! checks nothing, decides nothing and remembers nothing (or, of each account, how many commands it
//! had), and it writes less. What is between it and the no-op server is what durability costs; what
//! is between it and daybook is what daybook adds. It runs as a process of its own
//! (`daybook-bench durable-server DIR MEDIUM [BROKERS TOPIC]`).

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::pin::Pin;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use daybook_contract::contract::{CommandSet, Dispatch};
use daybook_contract::daybook::v1::command_service_server::{CommandService, CommandServiceServer};
use daybook_contract::daybook::v1::execute_stream_response::Outcome;
use daybook_contract::daybook::v1::{
    CommandReceipt, ExecuteRequest, ExecuteStreamRequest, ExecuteStreamResponse,
};
use futures::{Stream, StreamExt};
use prost::Message;
use rusqlite::Connection;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status, Streaming};

use crate::bank::WINDOW;
use crate::kafka::Sink;
use crate::{noop, tonic_bank};

/// The most commands that are made durable together, as in daybook.
const MAX_GROUP: usize = 1024;

/// How long records that the producer does not take yet wait when no command comes.
const LEFT: Duration = Duration::from_millis(1);

/// The file is written from its beginning again when it has this many bytes, so that its size does
/// not change and the disk has less to do.
const FILE_BYTES: u64 = 64 << 20;

/// What makes commands durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MediumKind {
    /// Bytes in a file, and fdatasync.
    File,
    /// A row each in SQLite, with a WAL and synchronous=FULL.
    Sqlite,
    /// The same, and in memory how many commands each account had.
    Accounts,
}

/// Serves the ceiling with data in a directory; what is durable also goes to Kafka if there is a
/// sink.
pub async fn serve(directory: &Path, kind: MediumKind, mut sink: Option<Sink>) -> Result<()> {
    let mut medium = Medium::open(directory, kind)?;
    let (queue, waiting) = mpsc::channel();
    thread::spawn(move || {
        let mut are_left = false;
        loop {
            let first = if are_left {
                waiting.recv_timeout(LEFT)
            } else {
                waiting.recv().map_err(Into::into)
            };
            let first = match first {
                Ok(first) => first,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    are_left = sink.as_mut().is_some_and(|sink| sink.send([]));
                    continue;
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            };
            let rest = waiting.try_iter().take(MAX_GROUP - 1);
            let group: Vec<Waiting> = std::iter::once(first).chain(rest).collect();
            if let Err(error) = medium.write(&group) {
                // Who waits is told by the end of its channel.
                eprintln!("the group is not durable: {error:#}");
                continue;
            }
            let contents: Vec<_> = group
                .into_iter()
                .map(|Waiting { content, durable }| {
                    let _ = durable.send(());
                    content
                })
                .collect();
            are_left = sink.as_mut().is_some_and(|sink| sink.send(contents));
        }
    });
    let durable = Durable { queue };
    let routes =
        tonic_bank::routes(durable.clone()).add_service(CommandServiceServer::new(durable));
    noop::serve_routes(routes).await
}

/// A command on its way to the disk.
struct Waiting {
    content: Vec<u8>,
    durable: oneshot::Sender<()>,
}

/// A command of an account, whichever it is.
#[derive(Message)]
struct OfAccount {
    #[prost(string, tag = "2")]
    account_id: String,
}

enum Medium {
    File {
        file: File,
        at: u64,
    },
    Sqlite(Connection),
    /// With the number of commands by account.
    Accounts(Connection, HashMap<String, u64>),
}

impl Medium {
    fn open(directory: &Path, kind: MediumKind) -> Result<Self> {
        if kind == MediumKind::File {
            let path = directory.join("durable");
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
            file.write_all(&vec![0; FILE_BYTES as usize])?;
            file.sync_all()?;
            return Ok(Self::File { file, at: 0 });
        }
        let connection = Connection::open(directory.join("durable.db"))?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             PRAGMA wal_autocheckpoint = 4000;
             CREATE TABLE events (position INTEGER PRIMARY KEY, content BLOB NOT NULL);",
        )?;
        Ok(match kind {
            MediumKind::Accounts => Self::Accounts(connection, HashMap::default()),
            MediumKind::File | MediumKind::Sqlite => Self::Sqlite(connection),
        })
    }

    /// Makes a group durable: it is when this returns.
    fn write(&mut self, group: &[Waiting]) -> Result<()> {
        match self {
            Self::File { file, at } => {
                let bytes: Vec<u8> =
                    group.iter().flat_map(|waiting| &waiting.content).copied().collect();
                if *at + bytes.len() as u64 > FILE_BYTES {
                    *at = 0;
                }
                file.seek(SeekFrom::Start(*at))?;
                file.write_all(&bytes)?;
                file.sync_data()?;
                *at += bytes.len() as u64;
            }
            Self::Sqlite(connection) => insert(connection, group)?,
            Self::Accounts(connection, accounts) => {
                for Waiting { content, .. } in group {
                    let OfAccount { account_id } = OfAccount::decode(content.as_slice())?;
                    *accounts.entry(account_id).or_default() += 1;
                }
                insert(connection, group)?;
            }
        }
        Ok(())
    }
}

/// Commits a row for each.
fn insert(connection: &Connection, group: &[Waiting]) -> Result<()> {
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let contents: Vec<_> = group.iter().map(|waiting| &waiting.content).collect();
    let (several, rest) = contents.as_chunks::<8>();
    let insert = "INSERT INTO events (content) VALUES";
    let eight = format!("{insert} (?), (?), (?), (?), (?), (?), (?), (?)");
    let mut eight = connection.prepare_cached(&eight)?;
    several.iter().try_for_each(|eight_of| eight.execute(*eight_of).map(drop))?;
    let mut one = connection.prepare_cached(&format!("{insert} (?)"))?;
    rest.iter().try_for_each(|content| one.execute([content]).map(drop))?;
    connection.prepare_cached("COMMIT")?.execute([])?;
    Ok(())
}

#[derive(Clone)]
struct Durable {
    queue: mpsc::Sender<Waiting>,
}

impl Durable {
    async fn make_durable(&self, content: Vec<u8>) -> Result<CommandReceipt, Status> {
        let (durable, is_durable) = oneshot::channel();
        let ended = |_| Status::internal("it is not durable");
        self.queue
            .send(Waiting { content, durable })
            .map_err(|_| Status::internal("it has ended"))?;
        is_durable.await.map_err(ended)?;
        Ok(noop::receipt())
    }
}

impl Dispatch for Durable {
    async fn dispatch<C: CommandSet>(&self, request: Request<C>) -> Result<CommandReceipt, Status> {
        let mut command = request.into_inner();
        command.take_context();
        self.make_durable(command.content()).await
    }
}

#[tonic::async_trait]
impl CommandService for Durable {
    async fn execute(
        &self,
        request: Request<ExecuteRequest>,
    ) -> Result<Response<CommandReceipt>, Status> {
        let command = request.into_inner().command.unwrap_or_default();
        Ok(Response::new(self.make_durable(command.value).await?))
    }

    type ExecuteStreamStream =
        Pin<Box<dyn Stream<Item = Result<ExecuteStreamResponse, Status>> + Send>>;

    async fn execute_stream(
        &self,
        request: Request<Streaming<ExecuteStreamRequest>>,
    ) -> Result<Response<Self::ExecuteStreamStream>, Status> {
        let durable = self.clone();
        let answers = request.into_inner().map(move |request| {
            let durable = durable.clone();
            async move {
                let command = request?.command.unwrap_or_default();
                let receipt = durable.make_durable(command.value).await?;
                Ok(ExecuteStreamResponse { outcome: Some(Outcome::Receipt(receipt)) })
            }
        });
        Ok(Response::new(Box::pin(answers.buffered(WINDOW))))
    }
}

/// What the arguments of the process say after its directory.
pub fn arguments(more: &[String]) -> Result<(MediumKind, Option<Sink>)> {
    let (kind, sink) = match more {
        [kind] => (kind, None),
        [kind, brokers, topic] => (kind, Some(Sink::open(brokers, topic)?)),
        _ => bail!("this server is started by daybook-bench itself"),
    };
    let kind = MediumKind::from_str(kind, false).map_err(anyhow::Error::msg);
    Ok((kind.context("the medium")?, sink))
}
