//! The line to the command service: one ExecuteStream for all commands, many of them on their way
//! at once. A command on it costs a fraction of what a call of its own does.
//!
//! When the line breaks, none of the commands on it has an answer, whatever became of them: who
//! sent them has to send them again.
//!
//! Answers come in the order of the commands, so those behind one without an answer wait with it.
//! A line that owes an answer for a while therefore takes no more commands, and another is opened
//! beside it; and a command that got no answer is next sent by a call of its own.

use std::collections::VecDeque;
use std::time::Duration;

use daybook_contract::MAX_MESSAGE_BYTES;
use daybook_contract::actor;
use daybook_contract::daybook::v1::command_service_client::CommandServiceClient;
use daybook_contract::daybook::v1::execute_stream_response::Outcome;
use daybook_contract::daybook::v1::{
    CommandReceipt, ExecuteRequest, ExecuteStreamRequest, ExecuteStreamResponse,
};
use prost::Message;
use prost_types::Any;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// How long a command may be without an answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long a line may owe an answer and still take commands. Within the deadline there are so few
/// lines that they need no limit.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it is looked how long an answer is owed.
const LOOK: Duration = Duration::from_millis(250);

/// The commands on the line at once, or one more: enough for a group of the log.
const WINDOW: usize = 1024;

/// Who sends the commands of sagas.
pub(crate) const ACTOR: &str = "saga";

/// The way onto the line. Clones lead to the same one.
#[derive(Clone)]
pub(crate) struct Line {
    commands: mpsc::Sender<Commands>,
    client: CommandServiceClient<Channel>,
}

type Answer = Result<CommandReceipt, Status>;

/// A command, and who waits for its answer.
struct Command {
    request: ExecuteStreamRequest,
    answer: oneshot::Sender<Answer>,
}

/// One command, or two of which the second is decided right after the first.
type Commands = Vec<Command>;

/// Who waits for an answer, and since when, in the order of their commands.
type Waiting = VecDeque<(Instant, oneshot::Sender<Answer>)>;

impl Line {
    /// A line over a channel. It is opened when there is something to send, and ends when nobody
    /// has a way onto it any more.
    pub fn new(channel: Channel) -> Self {
        let (commands, queue) = mpsc::channel(WINDOW);
        let client = CommandServiceClient::new(channel);
        Worker { client: client.clone(), queue: Some(queue) }.start();
        Self { commands, client }
    }

    /// Sends a command once.
    pub async fn send(&self, command: Any) -> Answer {
        let (command, answered) = on_line(command)?;
        self.commands.send(vec![command]).await.map_err(|_| ended())?;
        answered.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Sends two commands once, of which the second comes to its turn right after the first.
    pub async fn send_both(&self, first: Any, second: Any) -> (Answer, Answer) {
        let (first, second) = match (on_line(first), on_line(second)) {
            (Ok(first), Ok(second)) => (first, second),
            (Err(problem), _) | (_, Err(problem)) => return (Err(problem.clone()), Err(problem)),
        };
        if self.commands.send(vec![first.0, second.0]).await.is_err() {
            return (Err(ended()), Err(ended()));
        }
        let answer = |answered: Result<Answer, _>| answered.unwrap_or_else(|_| Err(ended()));
        (answer(first.1.await), answer(second.1.await))
    }

    /// Sends a command once, beside the line, in the name of an actor; an empty one for nobody's.
    pub async fn call(&self, command: Any, actor: &str) -> Answer {
        let mut request = Request::new(ExecuteRequest { command: Some(command) });
        request.set_timeout(DEADLINE);
        if !actor.is_empty() {
            let actor = MetadataValue::try_from(actor);
            let actor = actor.map_err(|_| Status::invalid_argument("no name of an actor"))?;
            request.metadata_mut().insert(actor::HEADER, actor);
        }
        let mut client = self.client.clone();
        let answered = tokio::time::timeout(DEADLINE, client.execute(request)).await;
        Ok(answered.map_err(|_| overdue())??.into_inner())
    }
}

/// A command for the line, and where its answer comes.
fn on_line(command: Any) -> Result<(Command, oneshot::Receiver<Answer>), Status> {
    let request = ExecuteStreamRequest { command: Some(command) };
    let size = request.encoded_len();
    if size > MAX_MESSAGE_BYTES {
        // The other side would end the line, and with it all others.
        let text = format!("a command of {size} bytes exceeds {MAX_MESSAGE_BYTES} bytes");
        return Err(Status::out_of_range(text));
    }
    let (answer, answered) = oneshot::channel();
    Ok((Command { request, answer }, answered))
}

fn ended() -> Status {
    Status::unavailable("the line to the command service has ended")
}

fn overdue() -> Status {
    Status::deadline_exceeded(format!("there was no answer within {} s", DEADLINE.as_secs()))
}

struct Worker {
    client: CommandServiceClient<Channel>,
    /// The commands to send; `None` when another line takes them.
    queue: Option<mpsc::Receiver<Commands>>,
}

/// The next commands, when this line still takes them.
async fn next(queue: &mut Option<mpsc::Receiver<Commands>>) -> Option<Commands> {
    match queue {
        Some(queue) => queue.recv().await,
        None => std::future::pending().await,
    }
}

impl Worker {
    fn start(self) {
        tokio::spawn(self.run());
    }

    async fn run(mut self) {
        while self.queue.is_some()
            && let Some(first) = next(&mut self.queue).await
        {
            let mut waiting = Waiting::new();
            let Err(problem) = self.stream(first, &mut waiting).await else { return };
            for (_, answer) in waiting {
                let _ = answer.send(Err(problem.clone()));
            }
            // They would only find out the same, one after the other.
            let queued = |queue: &mut mpsc::Receiver<_>| queue.try_recv().ok();
            while let Some(commands) = self.queue.as_mut().and_then(queued) {
                for Command { answer, .. } in commands {
                    let _ = answer.send(Err(problem.clone()));
                }
            }
        }
    }

    /// Sends commands and hands on their answers, which come in the order of the commands. `Ok`
    /// when there will be no more commands.
    async fn stream(&mut self, first: Commands, waiting: &mut Waiting) -> Result<(), Status> {
        let (requests, outgoing) = mpsc::channel(WINDOW + 1);
        send(first, &requests, waiting)?;
        let mut call = Request::new(ReceiverStream::new(outgoing));
        call.metadata_mut().insert(actor::HEADER, MetadataValue::from_static(ACTOR));
        let opened = tokio::time::timeout(DEADLINE, self.client.execute_stream(call)).await;
        let mut answers = opened.map_err(|_| overdue())??.into_inner();
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                answer = answers.message() => answered(answer?, waiting)?,
                commands = next(&mut self.queue), if waiting.len() < WINDOW => match commands {
                    Some(commands) => send(commands, &requests, waiting)?,
                    None => return Ok(()),
                },
                _ = look.tick() => {
                    let owed = waiting.front().map_or(Duration::ZERO, |(since, _)| since.elapsed());
                    if owed > DEADLINE {
                        return Err(overdue());
                    }
                    if owed > PATIENCE {
                        self.hand_over();
                    }
                }
            }
            if self.queue.is_none() && waiting.is_empty() {
                return Ok(());
            }
        }
    }

    /// Leaves the commands that are still to be sent to another line.
    fn hand_over(&mut self) {
        if let Some(queue) = self.queue.take() {
            Self { client: self.client.clone(), queue: Some(queue) }.start();
        }
    }
}

fn send(
    commands: Commands,
    requests: &mpsc::Sender<ExecuteStreamRequest>,
    waiting: &mut Waiting,
) -> Result<(), Status> {
    let now = Instant::now();
    let (asked, waits): (Vec<_>, Vec<_>) =
        commands.into_iter().map(|command| (command.request, (now, command.answer))).unzip();
    waiting.extend(waits);
    asked.into_iter().try_for_each(|request| requests.try_send(request).map_err(|_| ended()))
}

/// Hands an answer to who has waited longest.
fn answered(answer: Option<ExecuteStreamResponse>, waiting: &mut Waiting) -> Result<(), Status> {
    let answer = match answer.ok_or_else(ended)?.outcome {
        Some(Outcome::Receipt(receipt)) => Ok(receipt),
        Some(Outcome::Failure(failure)) => Err(Status::from(&failure)),
        // Something that a newer server has to say, and that says nothing of the command.
        None => Err(Status::unknown("the answer to a command says nothing")),
    };
    if let Some((_, waits)) = waiting.pop_front() {
        // Whoever has left will ask again.
        let _ = waits.send(answer);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::io;
    use std::pin::Pin;

    use daybook_contract::daybook::v1::command_service_server::{
        CommandService, CommandServiceServer,
    };
    use daybook_contract::daybook::v1::{ErrorReason, ExecuteRequest, Failure};
    use daybook_contract::error::Error;
    use futures::{Stream, StreamExt};
    use hyper_util::rt::TokioIo;
    use tokio_stream::wrappers::UnboundedReceiverStream;
    use tonic::transport::{Endpoint, Server};
    use tonic::{Code, Response, Streaming};

    use super::*;

    /// Answers with a receipt that names the command, or does what its name asks for.
    struct Scripted;

    type Out = Pin<Box<dyn Stream<Item = Result<ExecuteStreamResponse, Status>> + Send>>;

    #[tonic::async_trait]
    impl CommandService for Scripted {
        async fn execute(
            &self,
            request: Request<ExecuteRequest>,
        ) -> Result<Response<CommandReceipt>, Status> {
            let aggregate_id = actor::of(request.metadata())?;
            Ok(Response::new(CommandReceipt { aggregate_id, ..Default::default() }))
        }

        type ExecuteStreamStream = Out;

        async fn execute_stream(
            &self,
            request: Request<Streaming<ExecuteStreamRequest>>,
        ) -> Result<Response<Out>, Status> {
            assert_eq!(request.metadata().get(actor::HEADER).unwrap(), ACTOR);
            let answers = request.into_inner().filter_map(|request| async {
                let name = request.ok()?.command?.type_url;
                let outcome = match name.as_str() {
                    "break" => return Some(Err(Status::unavailable("broken"))),
                    "silence" => std::future::pending().await,
                    "refuse" => {
                        let error = Error::new(ErrorReason::InvalidRequest, "not so");
                        Outcome::Failure(Failure::from(error))
                    }
                    name => Outcome::Receipt(CommandReceipt {
                        aggregate_id: name.to_owned(),
                        ..Default::default()
                    }),
                };
                Some(Ok(ExecuteStreamResponse { outcome: Some(outcome) }))
            });
            Ok(Response::new(Box::pin(answers)))
        }
    }

    /// A line to a server in memory. The clock of these tests moves only when nobody has anything
    /// to do, so no machine is too slow for them.
    fn line() -> Line {
        let (connections, accepted) = mpsc::unbounded_channel();
        let accepted = UnboundedReceiverStream::new(accepted).map(Ok::<_, io::Error>);
        let service = CommandServiceServer::new(Scripted);
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(accepted));
        let connector = tower::service_fn(move |_| {
            let (near, far) = tokio::io::duplex(MAX_MESSAGE_BYTES);
            let connected = connections.send(far).map(|()| TokioIo::new(near));
            ready(connected.map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused)))
        });
        Line::new(Endpoint::from_static("http://memory").connect_with_connector_lazy(connector))
    }

    fn command(name: &str, bytes: usize) -> Any {
        Any { type_url: name.to_owned(), value: vec![0; bytes] }
    }

    #[tokio::test(start_paused = true)]
    async fn every_command_gets_its_own_answer() {
        let line = line();
        let names: Vec<_> = (0..3 * WINDOW).map(|n| n.to_string()).collect();
        let answers = names.iter().map(|name| line.send(command(name, 1)));
        for (name, answer) in names.iter().zip(futures::future::join_all(answers).await) {
            assert_eq!(answer.unwrap().aggregate_id, *name);
        }
        let refused = line.send(command("refuse", 1)).await.unwrap_err();
        assert_eq!(Error::from(&refused).reason(), "INVALID_REQUEST");
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_commands_each_gets_its_own_answer() {
        let line = line();
        let answers = (0..WINDOW).map(|n| {
            let (first, second) = (format!("{n}"), format!("{n} again"));
            let line = line.clone();
            async move {
                let (a, b) = line.send_both(command(&first, 1), command(&second, 1)).await;
                assert_eq!((a.unwrap().aggregate_id, b.unwrap().aggregate_id), (first, second));
            }
        });
        futures::future::join_all(answers).await;
        let (a, b) = line.send_both(command("refuse", 1), command("next", 1)).await;
        assert_eq!(Error::from(&a.unwrap_err()).reason(), "INVALID_REQUEST");
        assert_eq!(b.unwrap().aggregate_id, "next");
        let (a, b) = line.send_both(command("0", 1), command("large", MAX_MESSAGE_BYTES)).await;
        assert_eq!([a, b].map(|answer| answer.unwrap_err().code()), [Code::OutOfRange; 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_beside_the_line_is_made_in_the_name_of_who_asked() {
        let line = line();
        for name in ["ada", ""] {
            assert_eq!(line.call(command("any", 1), name).await.unwrap().aggregate_id, name);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_without_an_answer_holds_up_those_behind_it_and_nobody_else() {
        let line = line();
        let silent = tokio::spawn({
            let line = line.clone();
            async move {
                tokio::join!(line.send(command("silence", 1)), line.send(command("behind", 1)))
            }
        });
        tokio::time::sleep(2 * PATIENCE).await;
        for n in 0..3 * WINDOW {
            let name = n.to_string();
            assert_eq!(line.send(command(&name, 1)).await.unwrap().aggregate_id, name);
        }
        assert!(!silent.is_finished(), "the others had to wait for the deadline");
        let (silent, behind) = silent.await.unwrap();
        for answer in [silent, behind] {
            assert_eq!(answer.unwrap_err().code(), Code::DeadlineExceeded);
        }
        assert_eq!(line.send(command("after", 1)).await.unwrap().aggregate_id, "after");
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_that_breaks_is_opened_again() {
        let line = line();
        let answers = tokio::join!(
            line.send(command("break", 1)),
            line.send(command("behind", 1)),
            line.send(command("silence", 1))
        );
        for answer in [answers.0, answers.1, answers.2] {
            assert_eq!(answer.unwrap_err().code(), Code::Unavailable);
        }
        assert_eq!(line.send(command("again", 1)).await.unwrap().aggregate_id, "again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_that_is_too_large_does_not_harm_the_others() {
        let line = line();
        let (small, large) = tokio::join!(
            line.send(command("small", 1)),
            line.send(command("large", MAX_MESSAGE_BYTES)),
        );
        assert_eq!(small.unwrap().aggregate_id, "small");
        let problem = large.unwrap_err();
        assert_eq!(problem.code(), Code::OutOfRange);
        assert!(problem.message().contains("262144 bytes"), "{problem}");
    }
}
