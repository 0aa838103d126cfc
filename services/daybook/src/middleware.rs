//! What every gRPC request passes, in this order: request id, trace, metrics, authorization, load
//! shedding, deadline. One tower layer; each step is a function of its own.
//!
//! The fields of a request are checked further in, where the message is decoded.

use std::convert::Infallible;
use std::sync::{Arc, LazyLock, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use daybook_contract::contract::Method;
use daybook_contract::daybook::v1::ErrorReason;
use daybook_contract::error::Error;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response};
use metrics::{Counter, Histogram};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{Instrument, debug_span, warn};
use uuid::Uuid;

/// The header with the id of a request, in both directions.
const REQUEST_ID: &str = "x-request-id";

/// The longest request id that is taken over from a caller.
const MAX_REQUEST_ID: usize = 64;

/// The name of every method outside the contract, in metrics.
const OTHER: &str = "other";

/// When to try again after an overload.
const RETRY_OVERLOAD: Duration = Duration::from_millis(50);

/// Decides who may call what.
pub trait Authorizer: Send + Sync + 'static {
    /// Whether the caller with these headers may call a method. `None` for a method outside the
    /// contract: health and reflection.
    fn authorize(&self, method: Option<&Method>, headers: &HeaderMap) -> Result<(), Error>;
}

/// Lets everybody do everything: for a server that listens on loopback only.
pub struct AllowAll;

impl Authorizer for AllowAll {
    fn authorize(&self, _: Option<&Method>, _: &HeaderMap) -> Result<(), Error> {
        Ok(())
    }
}

/// The layer.
#[derive(Clone)]
pub struct Middleware {
    authorizer: Arc<dyn Authorizer>,
    room: Arc<Semaphore>,
    max_requests: usize,
    timeout: Duration,
}

impl Middleware {
    /// A layer that lets `max_requests` in at once and ends unary ones after `timeout`.
    pub fn new(authorizer: Arc<dyn Authorizer>, max_requests: usize, timeout: Duration) -> Self {
        Self { authorizer, room: Arc::new(Semaphore::new(max_requests)), max_requests, timeout }
    }

    fn admit(
        &self,
        method: Option<&Method>,
        headers: &HeaderMap,
    ) -> Result<OwnedSemaphorePermit, Error> {
        self.authorizer.authorize(method, headers)?;
        self.room.clone().try_acquire_owned().map_err(|_| {
            let message =
                format!("{} requests are under way, which is the limit", self.max_requests);
            Error::new(ErrorReason::Overloaded, message).with_retry_after(RETRY_OVERLOAD)
        })
    }

    /// How long the request may take; `None` for streams, which the caller ends.
    fn deadline(&self, method: Option<&Method>, headers: &HeaderMap) -> Option<Duration> {
        let asked =
            headers.get("grpc-timeout").and_then(|value| grpc_timeout(value.to_str().ok()?));
        match method {
            Some(method) if !method.client_streaming && !method.server_streaming => {
                Some(asked.map_or(self.timeout, |asked| asked.min(self.timeout)))
            }
            _ => asked,
        }
    }
}

impl<S> Layer<S> for Middleware {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Guarded { inner, middleware: self.clone() }
    }
}

/// A service behind the layer.
#[derive(Clone)]
pub struct Guarded<S> {
    inner: S,
    middleware: Middleware,
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let clone = self.inner.clone();
        // The one that is ready answers this request; the clone gets ready for the next.
        let inner = std::mem::replace(&mut self.inner, clone);
        let middleware = self.middleware.clone();
        Box::pin(handle(inner, middleware, request))
    }
}

async fn handle<S>(
    mut inner: S,
    middleware: Middleware,
    request: Request<Body>,
) -> Result<Response<Body>, Infallible>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let started = Instant::now();
    let mut request_id = request_id(request.headers());
    let at = Method::index_of(request.uri().path());
    let method = at.map(|at| &daybook_contract::METHODS[at]);
    let name = method.map_or(OTHER, |method| method.path);
    let span = debug_span!("request", method = name, request_id = ?request_id);
    let answer = async {
        let permit = match middleware.admit(method, request.headers()) {
            Ok(permit) => permit,
            Err(error) => return Ok(Status::from(error).into_http()),
        };
        let deadline = middleware.deadline(method, request.headers());
        let answer = match deadline {
            None => inner.call(request).await,
            Some(deadline) => match tokio::time::timeout(deadline, inner.call(request)).await {
                Ok(answer) => answer,
                Err(_) => Ok(Status::from(too_late(method, deadline)).into_http()),
            },
        };
        drop(permit);
        answer
    };
    let mut response = with_reason(name, answer.instrument(span).await?);
    observe(at, &response, started.elapsed());
    // It never comes again: in the table of known headers it would only push others out
    // (RFC 7541, section 7.1.3).
    request_id.set_sensitive(true);
    response.headers_mut().insert(REQUEST_ID, request_id);
    Ok(response)
}

fn request_id(headers: &HeaderMap) -> HeaderValue {
    match headers.get(REQUEST_ID) {
        Some(id) if (1..=MAX_REQUEST_ID).contains(&id.len()) => id.clone(),
        _ => {
            let id = Uuid::now_v7().hyphenated();
            HeaderValue::from_str(id.encode_lower(&mut Uuid::encode_buffer()))
                .unwrap_or_else(|_| HeaderValue::from_static("unknown"))
        }
    }
}

/// What is in the path of a method that changes nothing: its service, or the verb of its name.
const READS: [&str; 4] = [".QueryService/", "/Get", "/List", "/Read"];

fn too_late(method: Option<&Method>, deadline: Duration) -> Error {
    let reads = method.is_some_and(|method| READS.iter().any(|of| method.path.contains(of)));
    let remedy = match reads {
        true => "ask again",
        false => "whether there was an effect is not known: send it again with the same request id",
    };
    let message = format!("the deadline of {} ms passed; {remedy}", deadline.as_millis());
    Error::new(ErrorReason::DeadlineExceeded, message)
}

/// Gives a reason to what the transport refuses by itself: a message that is too large or none of
/// the contract, and a method that does not exist. Health and reflection keep to their own ways.
fn with_reason(method: &'static str, response: Response<Body>) -> Response<Body> {
    let Some(status) = Status::from_header_map(response.headers()) else { return response };
    if !status.details().is_empty() {
        return response;
    }
    let reason = match status.code() {
        Code::OutOfRange => ErrorReason::LimitExceeded,
        Code::Internal if method != OTHER && is_undecodable(status.message()) => {
            ErrorReason::InvalidRequest
        }
        Code::Unimplemented => ErrorReason::NotSupported,
        _ => return response,
    };
    let message = match (reason, status.message()) {
        (ErrorReason::NotSupported, "") => "this server has no such method",
        (_, message) => message,
    };
    Status::from(Error::new(reason, message)).into_http()
}

/// How tonic reports a body that is not the message; it has no code of its own.
fn is_undecodable(message: &str) -> bool {
    message.starts_with("failed to decode Protobuf message")
}

/// Counts and times a request. The code of an answer without an early status stands in its
/// trailers; up to there it is a success.
fn observe(method: Option<usize>, response: &Response<Body>, took: Duration) {
    let name = method.map_or(OTHER, |at| daybook_contract::METHODS[at].path);
    let code = Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code());
    if matches!(code, Code::Internal | Code::Unknown | Code::DataLoss) {
        warn!(method = name, ?code, "a request failed");
    }
    let recorders = recorders(method);
    let count =
        || metrics::counter!("daybook_requests_total", "method" => name, "code" => code_name(code));
    recorders.answers[code as usize].get_or_init(count).increment(1);
    let seconds = || metrics::histogram!("daybook_request_seconds", "method" => name);
    recorders.seconds.get_or_init(seconds).record(took.as_secs_f64());
}

/// The metrics of a method, looked up once: by name that costs as much as much else of a request.
#[derive(Default)]
struct Recorders {
    /// By code.
    answers: [OnceLock<Counter>; CODES],
    seconds: OnceLock<Histogram>,
}

/// The codes of gRPC are the numbers below this.
const CODES: usize = Code::Unauthenticated as usize + 1;

fn recorders(method: Option<usize>) -> &'static Recorders {
    /// One for each method, and the last for all that are not of the contract.
    static ALL: LazyLock<Vec<Recorders>> = LazyLock::new(|| {
        (0..=daybook_contract::METHODS.len()).map(|_| Recorders::default()).collect()
    });
    &ALL[method.unwrap_or(daybook_contract::METHODS.len())]
}

/// The name of a code, as google.rpc.Code has it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Reads the header `grpc-timeout`: at most 8 digits and a unit.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changes_something_is_to_be_sent_again_with_its_request_id() {
        let said = |path| {
            let method = Method::at(path).expect(path);
            too_late(Some(method), Duration::from_secs(1)).message().contains("same request id")
        };
        assert!(said("/bank.v1.CommandService/Deposit"));
        assert!(said("/daybook.v1.SagaService/CompensateSaga"));
        assert!(!said("/daybook.v1.SagaService/ListSagas"));
        assert!(!said("/daybook.v1.EventLogService/ReadStream"));
        assert!(!said("/catalog.v1.QueryService/SearchProducts"));
    }

    #[test]
    fn the_grpc_timeout_header_is_read_in_all_its_units() {
        assert_eq!(grpc_timeout("5S"), Some(Duration::from_secs(5)));
        assert_eq!(grpc_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(grpc_timeout("2H"), Some(Duration::from_secs(7200)));
        for wrong in ["", "S", "5", "-1S", "123456789S", "5x", "é"] {
            assert_eq!(grpc_timeout(wrong), None, "{wrong:?}");
        }
    }
}
