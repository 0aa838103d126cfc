//! Many commands in flight on one stream. Not for one command: that is [`crate::Command`].

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use daybook_contract::daybook::v1::{
    CommandReceipt, ExecuteStreamRequest, ExecuteStreamResponse, execute_stream_response,
};
use daybook_contract::error::Error;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::client::Daybook;
use crate::command::AnyCommand;
use crate::failure;

/// The most commands without an answer. Enough to keep the log busy over a slow network; each
/// holds its request until then, because it may have to be sent again.
pub const WINDOW: usize = 1024;

/// The answers to a stream of commands, in their order. Dropping it gives up what is under way;
/// commands that were sent may still have their effect.
#[derive(Debug)]
pub struct CommandStream {
    answers: mpsc::Receiver<Result<CommandReceipt, Error>>,
    worker: JoinHandle<()>,
}

impl Daybook {
    /// Carries out commands as they come, many in flight. The answers come in the order of the
    /// commands, one for each; a refused command does not end the stream. When the connection
    /// breaks, the commands without an answer are sent again with their request ids. When that
    /// fails too, its error is the answer to the first of them and the end of the stream.
    pub fn execute_stream<S>(&self, commands: S) -> CommandStream
    where
        S: Stream + Send + 'static,
        S::Item: Into<AnyCommand>,
    {
        let (answers_in, answers) = mpsc::channel(WINDOW);
        let requests =
            commands.map(|c| ExecuteStreamRequest { command: Some(c.into().into_any()) }).boxed();
        let worker = Worker {
            client: self.clone(),
            commands: Some(requests),
            unanswered: VecDeque::new(),
            answers: answers_in,
            failures: 0,
        };
        CommandStream { answers, worker: tokio::spawn(worker.run()) }
    }
}

impl Stream for CommandStream {
    type Item = Result<CommandReceipt, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.answers.poll_recv(cx)
    }
}

impl Drop for CommandStream {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

/// Sends commands and hands on answers.
struct Worker {
    client: Daybook,
    /// `None` when they have come to an end.
    commands: Option<Pin<Box<dyn Stream<Item = ExecuteStreamRequest> + Send>>>,
    /// Sent and not answered, oldest first.
    unanswered: VecDeque<ExecuteStreamRequest>,
    answers: mpsc::Sender<Result<CommandReceipt, Error>>,
    /// Broken connections since the last answer.
    failures: u32,
}

/// Why a connection is of no more use.
enum End {
    /// All is done, or nobody listens any more.
    Finished,
    /// It broke.
    Broken(Error),
}

impl Worker {
    async fn run(mut self) {
        loop {
            let error = match self.connection().await {
                End::Finished => return,
                End::Broken(error) => error,
            };
            self.failures += 1;
            let retries = &self.client.inner.retries;
            if !error.is_retryable() || self.failures >= retries.max_attempts {
                // Nobody to tell is no reason to go on either.
                let _ = self.answers.send(Err(error)).await;
                return;
            }
            let asked_for = error.details().retry_info().and_then(|info| info.retry_delay);
            sleep(retries.pause(self.failures, asked_for)).await;
        }
    }

    /// Opens one connection and uses it as long as it holds.
    async fn connection(&mut self) -> End {
        let (sender, receiver) = mpsc::channel(WINDOW);
        for request in &self.unanswered {
            sender.try_send(request.clone()).expect("the channel holds a whole window");
        }
        let service = self.client.inner.command.clone();
        let path = "/daybook.v1.CommandService/ExecuteStream";
        let requests = ReceiverStream::new(receiver);
        match self.client.two_streams(&service, path, requests).await {
            Ok(answers) => self.exchange(sender, answers).await,
            Err(error) => End::Broken(error),
        }
    }

    /// Sends commands while there is room, and takes answers.
    async fn exchange(
        &mut self,
        sender: mpsc::Sender<ExecuteStreamRequest>,
        mut answers: Streaming<ExecuteStreamResponse>,
    ) -> End {
        let deadline = self.client.inner.deadline;
        let mut sender = Some(sender).filter(|_| self.commands.is_some());
        let mut last_answer = Instant::now();
        loop {
            if self.commands.is_none() && self.unanswered.is_empty() {
                return End::Finished;
            }
            let room = self.unanswered.len() < WINDOW;
            let waiting = !self.unanswered.is_empty();
            tokio::select! {
                // Answers first: they make room.
                biased;
                answer = answers.message() => {
                    last_answer = Instant::now();
                    match self.answered(answer).await {
                        Ok(true) => {}
                        Ok(false) => return End::Finished,
                        Err(error) => return End::Broken(error),
                    }
                }
                command = next(&mut self.commands), if room => match command {
                    Some(request) => {
                        if !waiting {
                            last_answer = Instant::now();
                        }
                        self.unanswered.push_back(request.clone());
                        // A closed channel shows as an error of the answers at the next turn.
                        if let Some(sender) = &sender {
                            let _ = sender.try_send(request);
                        }
                    }
                    None => {
                        self.commands = None;
                        sender = None;
                    }
                },
                () = sleep_until(last_answer + deadline), if waiting => {
                    return End::Broken(failure::too_late(&self.client.inner.command, deadline));
                }
            }
        }
    }

    /// Hands an answer on. `false` when nobody listens any more.
    async fn answered(
        &mut self,
        answer: Result<Option<ExecuteStreamResponse>, Status>,
    ) -> Result<bool, Error> {
        use execute_stream_response::Outcome;
        let service = &self.client.inner.command;
        let answer = answer.map_err(|status| failure::from_status(&status, service))?;
        let Some(answer) = answer else {
            return Err(failure::unreachable(service, "it ended the stream of commands"));
        };
        let outcome = match answer.outcome {
            Some(Outcome::Receipt(receipt)) => {
                self.client.remember(&receipt);
                Ok(receipt)
            }
            Some(Outcome::Failure(failure)) => Err(Error::from(&Status::from(&failure))),
            None => Err(failure::malformed(service, "an answer without an outcome")),
        };
        self.failures = 0;
        self.unanswered.pop_front();
        Ok(self.answers.send(outcome).await.is_ok())
    }
}

/// The next command; waits forever once they have come to an end.
async fn next(
    commands: &mut Option<Pin<Box<dyn Stream<Item = ExecuteStreamRequest> + Send>>>,
) -> Option<ExecuteStreamRequest> {
    match commands {
        Some(commands) => commands.next().await,
        None => std::future::pending().await,
    }
}
