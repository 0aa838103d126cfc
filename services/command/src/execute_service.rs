//! daybook.v1.CommandService: any command of any domain.

use std::pin::Pin;

use daybook_contract::actor;
use daybook_contract::daybook::v1::execute_stream_response::Outcome;
use daybook_contract::daybook::v1::{
    CommandReceipt, ExecuteRequest, ExecuteStreamRequest, ExecuteStreamResponse, Failure,
    command_service_server,
};
use daybook_contract::error::Error;
use daybook_log::Submitted;
use futures::{Stream, StreamExt, stream};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::answers::to_receipt;
use crate::streams::OpenStreams;
use crate::{CommandBus, from_log};

/// The commands of one stream that may be under way: enough to fill two groups.
const MAX_IN_FLIGHT: usize = 2048;

/// The streams of commands that may be open: together they may have more under way than the queue
/// of the log holds, and then wait for it.
const MAX_STREAMS: usize = 256;

/// The answer to a command of a stream.
enum Answer {
    /// It was refused before it reached the log.
    Refused(Status),
    /// The log works on it.
    Submitted(Submitted),
}

impl Answer {
    async fn response(self) -> ExecuteStreamResponse {
        let refused = match self {
            Self::Refused(status) => status,
            Self::Submitted(submitted) => match submitted.await {
                Ok(receipt) => {
                    let outcome = Some(Outcome::Receipt(to_receipt(receipt)));
                    return ExecuteStreamResponse { outcome };
                }
                Err(error) => from_log(error),
            },
        };
        let failure = Failure::from(Error::from(&refused));
        ExecuteStreamResponse { outcome: Some(Outcome::Failure(failure)) }
    }
}

/// The service over a bus.
pub struct ExecuteServer {
    bus: CommandBus,
    closing: watch::Receiver<bool>,
    open_streams: OpenStreams,
}

impl ExecuteServer {
    /// The service over a bus. Streams of commands end when `closing` becomes true: what was taken
    /// is answered, no more is taken.
    pub fn new(bus: CommandBus, closing: watch::Receiver<bool>) -> Self {
        Self { bus, closing, open_streams: OpenStreams::new(MAX_STREAMS) }
    }
}

#[tonic::async_trait]
impl command_service_server::CommandService for ExecuteServer {
    async fn execute(
        &self,
        request: Request<ExecuteRequest>,
    ) -> Result<Response<CommandReceipt>, Status> {
        let actor = actor::of(request.metadata())?;
        let submission = self.bus.submission(request.into_inner().command, &actor)?;
        let receipt = self.bus.log().submit(submission).await.map_err(from_log)?;
        Ok(Response::new(to_receipt(receipt)))
    }

    type ExecuteStreamStream =
        Pin<Box<dyn Stream<Item = Result<ExecuteStreamResponse, Status>> + Send>>;

    async fn execute_stream(
        &self,
        request: Request<Streaming<ExecuteStreamRequest>>,
    ) -> Result<Response<Self::ExecuteStreamStream>, Status> {
        let actor = actor::of(request.metadata())?;
        let permit = self.open_streams.open()?;
        let (answers, waiting) = mpsc::channel(MAX_IN_FLIGHT);
        let (mut closing, mut closed) = (self.closing.clone(), self.closing.clone());
        let bus = self.bus.clone();
        tokio::spawn(async move {
            let _permit = permit;
            tokio::select! {
                () = feed(bus, actor, request.into_inner(), answers) => {}
                _ = closing.wait_for(|closing| *closing) => {}
            }
        });
        // The log works on all of them at once; only the answers wait for their turn.
        let answers = ReceiverStream::new(waiting).then(Answer::response).map(Ok);
        // A stream that the server ends says so; one that the caller ended just ends.
        let end = stream::once(async move {
            let stopping = *closed.borrow_and_update();
            stopping.then(|| Err(crate::stopping()))
        });
        Ok(Response::new(Box::pin(answers.chain(end.filter_map(std::future::ready)))))
    }
}

/// Submits the commands of a stream in order, until it or the caller ends.
async fn feed(
    bus: CommandBus,
    actor: String,
    mut commands: Streaming<ExecuteStreamRequest>,
    answers: mpsc::Sender<Answer>,
) {
    // The room for the answer is taken first: a caller that does not read its answers is not
    // allowed to fill the queue of the log.
    while let Ok(room) = answers.reserve().await {
        let Ok(Some(request)) = commands.message().await else { return };
        room.send(submit(&bus, &actor, request).await);
    }
}

async fn submit(bus: &CommandBus, actor: &str, request: ExecuteStreamRequest) -> Answer {
    let submission = match bus.submission(request.command, actor) {
        Ok(submission) => submission,
        Err(error) => return Answer::Refused(error.into()),
    };
    match bus.log().enqueue(submission).await {
        Ok(submitted) => Answer::Submitted(submitted),
        Err(error) => Answer::Refused(from_log(error)),
    }
}
