//! Serves the command RPCs of all domains: from the body of an HTTP/2 request to a [`Dispatch`],
//! and from its receipt to a body, in the framing of gRPC
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).
//!
//! A command is one message with one answer, and there are many of them: what a server for any
//! kind of RPC, as tonic generates it, does beyond that is a ninth of the work of one. All other
//! RPCs are served by tonic (ADR 16).

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use daybook_contract::MAX_MESSAGE_BYTES;
use daybook_contract::contract::{Dispatch, Method};
use daybook_contract::daybook::v1::{CommandReceipt, ErrorReason};
use daybook_contract::error::Error;
use futures::future::{BoxFuture, FutureExt};
use http::{HeaderMap, HeaderValue, header};
use http_body::{Body as _, Frame};
use prost::Message;
use tonic::body::Body;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Status};
use tower::Service;

#[cfg(test)]
mod tests;

/// What stands before a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// The command services of all domains, and other services.
#[derive(Debug, Clone)]
pub struct CommandServices<D, S> {
    dispatch: D,
    others: S,
}

impl<D: Dispatch, S> CommandServices<D, S> {
    /// Hands every command to `dispatch`, and every other request to `others`.
    pub fn new(dispatch: D, others: S) -> Self {
        Self { dispatch, others }
    }
}

impl<D, S> Service<http::Request<Body>> for CommandServices<D, S>
where
    D: Dispatch,
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.others.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = Method::at(request.uri().path()).filter(|method| method.aggregate.is_some());
        let Some(method) = method else { return self.others.call(request).boxed() };
        let dispatch = self.dispatch.clone();
        async move {
            let receipt = carry_out(&dispatch, method, request).await;
            Ok(receipt.map_or_else(Status::into_http, |receipt| answer(&receipt)))
        }
        .boxed()
    }
}

/// Carries out the command in a request.
async fn carry_out(
    dispatch: &impl Dispatch,
    method: &Method,
    request: http::Request<Body>,
) -> Result<CommandReceipt, Status> {
    let (parts, body) = request.into_parts();
    let message = read(body).await?;
    let metadata = MetadataMap::from_headers(parts.headers);
    let request = Request::from_parts(metadata, parts.extensions, message);
    daybook_contract::dispatch(dispatch, method, request).await
}

/// Reads the one message of a request, to the end of its body.
async fn read(mut body: Body) -> Result<Bytes, Status> {
    // Nearly always all of it comes in one frame.
    let mut first = Bytes::new();
    // Everything, when there is more than one.
    let mut all = BytesMut::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|_| Status::cancelled("the request broke off"))?;
        let Ok(data) = frame.into_data() else { continue };
        if data.is_empty() {
            continue;
        }
        if first.is_empty() {
            first = data;
            check(&first)?;
        } else {
            if all.is_empty() {
                all.extend_from_slice(&first);
            }
            all.extend_from_slice(&data);
            check(&all)?;
        }
    }
    let mut read = if all.is_empty() { first } else { all.freeze() };
    match length(&read) {
        None if read.is_empty() => Err(malformed("the request has no message")),
        None => Err(malformed("the request ends in the prefix of its message")),
        Some(length) if read.len() < PREFIX_BYTES + length => {
            Err(malformed("the request ends within its message"))
        }
        Some(_) => Ok(read.split_off(PREFIX_BYTES)),
    }
}

/// Refuses what has been read so far of a body, if nothing that may follow can make it right.
fn check(read: &[u8]) -> Result<(), Status> {
    match read.first() {
        None | Some(0) => {}
        Some(1) => return Err(compressed()),
        Some(_) => {
            return Err(malformed("the request does not begin with the prefix of a message"));
        }
    }
    let (actual, limit) = (length(read).unwrap_or_default(), MAX_MESSAGE_BYTES);
    if actual > limit {
        let message = format!("the message has {actual} bytes; the limit is {limit} bytes");
        let error = Error::new(ErrorReason::LimitExceeded, message).with("what", "message");
        return Err(error.with("actual", actual).with("limit", limit).into());
    }
    if read.len() > PREFIX_BYTES + actual {
        return Err(malformed("a command is one message, not several"));
    }
    Ok(())
}

/// The length of a message by its prefix, once that is there.
fn length(read: &[u8]) -> Option<usize> {
    let [_, length @ ..] = read.first_chunk::<PREFIX_BYTES>()?;
    usize::try_from(u32::from_be_bytes(*length)).ok()
}

fn malformed(message: &str) -> Status {
    Error::new(ErrorReason::InvalidRequest, message).into()
}

fn compressed() -> Status {
    let message = "the message is compressed; send it without compression";
    let mut status = Status::from(Error::new(ErrorReason::NotSupported, message));
    let accepted = MetadataValue::from_static("identity");
    status.metadata_mut().insert("grpc-accept-encoding", accepted);
    status
}

fn answer(receipt: &CommandReceipt) -> http::Response<Body> {
    let length = receipt.encoded_len();
    let mut message = BytesMut::with_capacity(PREFIX_BYTES + length);
    message.put_u8(0);
    message.put_u32(u32::try_from(length).expect("a receipt is small"));
    receipt.encode_raw(&mut message);
    let mut answer = http::Response::new(Body::new(Answer::Message(message.freeze())));
    let content_type = HeaderValue::from_static("application/grpc");
    answer.headers_mut().insert(header::CONTENT_TYPE, content_type);
    answer
}

/// The body of an answer: what is still to be sent of it.
enum Answer {
    Message(Bytes),
    Trailers,
    Nothing,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let answer = self.get_mut();
        Poll::Ready(match std::mem::replace(answer, Self::Nothing) {
            Self::Message(message) => {
                *answer = Self::Trailers;
                Some(Ok(Frame::data(message)))
            }
            Self::Trailers => {
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
                Some(Ok(Frame::trailers(trailers)))
            }
            Self::Nothing => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Nothing)
    }
}
