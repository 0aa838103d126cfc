//! How a call is made: metadata, deadline, attempts. It knows no service in particular.

use std::future::Future;
use std::time::Duration;

use daybook_contract::daybook::v1::ErrorReason;
use daybook_contract::error::{Error, reason_name};
use http::uri::PathAndQuery;
use prost::Message;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::client::Grpc;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::client::{ACTOR_HEADER, Daybook, Service};
use crate::failure;

/// Answers of the event log come in batches of up to 500 events; the default of 4 MiB would be
/// too little for large ones.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Timers fire with this precision.
const TIMER_STEP: Duration = Duration::from_millis(1);

/// What is particular about a call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// How long it may take, all attempts together.
    pub deadline: Duration,
    /// Whether it may be sent again: it has an idempotency key, or it changes nothing.
    pub repeatable: bool,
}

impl Daybook {
    /// The options of a call that may be repeated.
    pub(crate) fn repeatable(&self) -> Options {
        Options { deadline: self.inner.deadline, repeatable: true }
    }

    /// The options of a call that is made once.
    pub(crate) fn once(&self) -> Options {
        Options { deadline: self.inner.deadline, repeatable: false }
    }

    /// Makes a call with one request and one answer.
    pub(crate) async fn unary<Q, A>(
        &self,
        service: &Service,
        path: &'static str,
        request: Q,
        options: Options,
    ) -> Result<A, Error>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        self.attempt(service, options, |left| {
            let request = self.request(request.clone(), Some(left));
            async move {
                let mut grpc = ready(service).await?;
                let codec = ProstCodec::<Q, A>::default();
                let answer = grpc.unary(request, PathAndQuery::from_static(path), codec).await?;
                Ok(answer.into_inner())
            }
        })
        .await
    }

    /// Makes a call with one request and a stream of answers. The deadline is for the beginning
    /// of the stream, not for the whole of it.
    pub(crate) async fn server_stream<Q, A>(
        &self,
        service: &Service,
        path: &'static str,
        request: Q,
        options: Options,
    ) -> Result<Streaming<A>, Error>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        self.attempt(service, options, |_| {
            let request = self.request(request.clone(), None);
            async move {
                let mut grpc = ready(service).await?;
                let codec = ProstCodec::<Q, A>::default();
                let path = PathAndQuery::from_static(path);
                Ok(grpc.server_streaming(request, path, codec).await?.into_inner())
            }
        })
        .await
    }

    /// Makes one attempt at a call with two streams.
    pub(crate) async fn two_streams<Q, A, S>(
        &self,
        service: &Service,
        path: &'static str,
        requests: S,
    ) -> Result<Streaming<A>, Error>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
        S: futures::Stream<Item = Q> + Send + 'static,
    {
        self.attempt_once(service, self.inner.deadline, async {
            let mut grpc = ready(service).await?;
            let codec = ProstCodec::<Q, A>::default();
            let request = self.request(requests, None);
            let path = PathAndQuery::from_static(path);
            Ok(grpc.streaming(request, path, codec).await?.into_inner())
        })
        .await
    }

    /// A request with the metadata of this client, and with the time that is left, so that the
    /// server does not work for a caller who has gone.
    fn request<Q>(&self, message: Q, left: Option<Duration>) -> Request<Q> {
        let mut request = Request::new(message);
        if let Some(actor) = &self.inner.actor {
            request.metadata_mut().insert(ACTOR_HEADER, actor.clone());
        }
        if let Some(left) = left {
            request.set_timeout(left);
        }
        request
    }

    /// Makes attempts until one succeeds, or fails for good, or nothing is left to try with.
    async fn attempt<A, F>(
        &self,
        service: &Service,
        options: Options,
        mut make: impl FnMut(Duration) -> F,
    ) -> Result<A, Error>
    where
        F: Future<Output = Result<A, Status>>,
    {
        let end = Instant::now() + options.deadline;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let left = end.saturating_duration_since(Instant::now());
            let error = match timeout_at(end, make(left)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => failure::from_status(&status, service),
                Err(_) => return Err(failure::too_late(service, options.deadline)),
            };
            // The transport also keeps the time that is left, and may be the first to notice.
            if error.reason() == failure::UNREACHABLE && Instant::now() + TIMER_STEP >= end {
                return Err(failure::too_late(service, options.deadline));
            }
            let may_help = options.repeatable && error.is_retryable() && !waited_enough(&error);
            if !may_help || attempts >= self.inner.retries.max_attempts {
                return Err(error);
            }
            let asked_for = error.details().retry_info().and_then(|info| info.retry_delay);
            let pause = self.inner.retries.pause(attempts, asked_for);
            if Instant::now() + pause >= end {
                return Err(error);
            }
            sleep(pause).await;
        }
    }

    /// Makes one attempt.
    async fn attempt_once<A>(
        &self,
        service: &Service,
        deadline: Duration,
        attempt: impl Future<Output = Result<A, Status>>,
    ) -> Result<A, Error> {
        match timeout_at(Instant::now() + deadline, attempt).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(status)) => Err(failure::from_status(&status, service)),
            Err(_) => Err(failure::too_late(service, deadline)),
        }
    }
}

/// Whether the caller has said how long to wait for this, and that time is over.
fn waited_enough(error: &Error) -> bool {
    error.reason() == reason_name(ErrorReason::ProjectionLagging)
}

/// A connection that takes a request.
async fn ready(service: &Service) -> Result<Grpc<tonic::transport::Channel>, Status> {
    let mut grpc = Grpc::new(service.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES);
    grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
    Ok(grpc)
}
