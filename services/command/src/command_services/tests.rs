//! Every command RPC reaches whoever carries commands out, in whatever frames it comes, and what
//! is no message of it is refused.

use std::collections::VecDeque;

use daybook_contract::METHODS;
use daybook_contract::bank::v1::command_service_client::CommandServiceClient;
use daybook_contract::bank::v1::query_service_client::QueryServiceClient;
use daybook_contract::bank::v1::{CloseAccountRequest, DepositRequest, GetAccountRequest};
use daybook_contract::contract::CommandSet;
use daybook_contract::daybook::v1::CommandContext;
use tokio::runtime::Builder;
use tonic::Code;
use tonic::service::Routes;

use super::*;

const DEPOSIT: &str = "/bank.v1.CommandService/Deposit";

/// Answers with what it was given.
#[derive(Clone)]
struct Echo;

impl Dispatch for Echo {
    async fn dispatch<C: CommandSet>(&self, request: Request<C>) -> Result<CommandReceipt, Status> {
        let actor = request.metadata().get("x-actor").map(|actor| actor.to_str().unwrap().into());
        let mut command = request.into_inner();
        let context = command.take_context().unwrap_or_default();
        let event_ids = [command.method(), command.type_name(), &context.request_id];
        let mut event_ids: Vec<_> = event_ids.map(str::to_owned).into();
        event_ids.extend(actor);
        let aggregate_id = format!("{}-{}", C::AGGREGATE, command.key());
        Ok(CommandReceipt { aggregate_id, event_ids, ..Default::default() })
    }
}

fn server() -> CommandServices<Echo, Routes> {
    CommandServices::new(Echo, Routes::default().prepare())
}

/// A client that calls the server without a network.
fn client() -> CommandServiceClient<CommandServices<Echo, Routes>> {
    CommandServiceClient::new(server())
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    Builder::new_current_thread().build().unwrap().block_on(future)
}

/// The frames of a body, and then how it ends; `None` when it stays open.
struct Frames {
    left: VecDeque<Frame<Bytes>>,
    end: Option<Result<(), Status>>,
}

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match (self.left.pop_front(), &self.end) {
            (Some(frame), _) => Poll::Ready(Some(Ok(frame))),
            (None, Some(Ok(()))) => Poll::Ready(None),
            (None, Some(Err(status))) => Poll::Ready(Some(Err(status.clone()))),
            (None, None) => Poll::Pending,
        }
    }
}

/// A message as gRPC frames it.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0][..], &length, message].concat()
}

/// Sends a body, and tells how it is answered. It is answered at once, whatever may follow.
#[track_caller]
fn send(path: &str, frames: Vec<Frame<Bytes>>, end: Option<Result<(), Status>>) -> Answered {
    let body = Body::new(Frames { left: frames.into(), end });
    let request = http::Request::post(path).body(body).unwrap();
    let answer = server().call(request).now_or_never().expect("it is answered at once").unwrap();
    assert_eq!(
        (answer.status(), &answer.headers()["content-type"]),
        (http::StatusCode::OK, &HeaderValue::from_static("application/grpc"))
    );
    if let Some(status) = Status::from_header_map(answer.headers()) {
        return Err(status);
    }
    let mut body = answer.into_body();
    let mut next = || {
        let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).now_or_never();
        frame.expect("it is there").map(Result::unwrap)
    };
    let data = next().unwrap().into_data().unwrap();
    let trailers = next().unwrap().into_trailers().unwrap();
    assert_eq!(Status::from_header_map(&trailers).unwrap().code(), Code::Ok);
    assert!(next().is_none());
    assert_eq!((data[0], length(&data)), (0, Some(data.len() - PREFIX_BYTES)));
    Ok(CommandReceipt::decode(&data[PREFIX_BYTES..]).unwrap())
}

type Answered = Result<CommandReceipt, Status>;

/// Sends a whole body in one frame.
#[track_caller]
fn send_whole(path: &str, body: Vec<u8>) -> Answered {
    send(path, vec![Frame::data(body.into())], Some(Ok(())))
}

/// Sends the beginning of a body that does not end.
#[track_caller]
fn send_beginning(body: Vec<u8>) -> Answered {
    send(DEPOSIT, vec![Frame::data(body.into())], None)
}

#[track_caller]
fn refused(answer: Answered, code: Code, reason: &str, text: &str) -> Error {
    let status = answer.unwrap_err();
    let error = Error::from(&status);
    assert_eq!((status.code(), error.reason()), (code, reason), "{status}");
    assert!(status.message().contains(text), "{status}");
    error
}

#[track_caller]
fn malformed_request(answer: Answered, text: &str) {
    refused(answer, Code::InvalidArgument, "INVALID_REQUEST", text);
}

#[test]
fn every_command_reaches_the_dispatcher_by_its_path() {
    let mut commands = 0;
    for method in METHODS {
        let Some(aggregate) = method.aggregate else { continue };
        let receipt = send_whole(method.path, framed(&[])).unwrap();
        assert_eq!(receipt.aggregate_id, format!("{aggregate}-"));
        assert_eq!(receipt.event_ids, [method.path, method.input, ""]);
        commands += 1;
    }
    assert!(commands > 10);
}

#[test]
fn the_generated_client_and_the_server_agree() {
    let context =
        Some(CommandContext { request_id: "a-request".to_owned(), ..CommandContext::default() });
    let deposit = DepositRequest { context, account_id: "42".to_owned(), ..Default::default() };
    let mut request = Request::new(deposit);
    request.metadata_mut().insert("x-actor", "ada".parse().unwrap());
    let receipt = wait(client().deposit(request)).unwrap().into_inner();
    assert_eq!(receipt.aggregate_id, "bank.account-42");
    assert_eq!(receipt.event_ids, [DEPOSIT, "bank.v1.DepositRequest", "a-request", "ada"]);
    let close = CloseAccountRequest { account_id: "43".to_owned(), ..Default::default() };
    let receipt = wait(client().close_account(close)).unwrap().into_inner();
    assert_eq!(receipt.aggregate_id, "bank.account-43");
    assert_eq!(receipt.event_ids[0], "/bank.v1.CommandService/CloseAccount");
}

#[test]
fn what_is_no_command_goes_to_the_other_services() {
    let answer = wait(QueryServiceClient::new(server()).get_account(GetAccountRequest::default()));
    let nothing = send_whole("/bank.v1.CommandService/Nothing", framed(&[]));
    for status in [answer.unwrap_err(), nothing.unwrap_err()] {
        // As tonic says it, without a reason.
        assert_eq!((status.code(), status.details()), (Code::Unimplemented, &[][..]));
    }
}

#[test]
fn a_message_may_come_in_any_frames() {
    let description = "x".repeat(300);
    let deposit = DepositRequest { account_id: "42".into(), description, ..Default::default() };
    let body = framed(&deposit.encode_to_vec());
    let data = |bytes: &[u8]| Frame::data(Bytes::copy_from_slice(bytes));
    for size in [1, 2, 4, 5, 6, 100, body.len()] {
        let frames = body.chunks(size).map(data).collect();
        let receipt = send(DEPOSIT, frames, Some(Ok(()))).unwrap();
        assert_eq!(receipt.aggregate_id, "bank.account-42", "{size}");
    }
    let frames = vec![data(&[]), data(&body), data(&[]), Frame::trailers(HeaderMap::new())];
    assert!(send(DEPOSIT, frames, Some(Ok(()))).is_ok());
}

#[test]
fn a_body_that_is_not_one_message_is_refused() {
    let whole = framed(&DepositRequest::default().encode_to_vec());
    malformed_request(send(DEPOSIT, vec![], Some(Ok(()))), "has no message");
    malformed_request(send_whole(DEPOSIT, vec![0, 0, 0]), "ends in the prefix");
    malformed_request(send_whole(DEPOSIT, vec![0, 0, 0, 0, 2, 1]), "ends within its message");
    malformed_request(
        send_whole(DEPOSIT, framed(&[0xff; 20])),
        "failed to decode Protobuf message",
    );
    // What cannot become right is not waited for.
    let frames = [&whole, &whole].map(|message| Frame::data(message.clone().into())).into();
    malformed_request(send(DEPOSIT, frames, None), "one message, not several");
    malformed_request(send_beginning([whole.clone(), whole].concat()), "one message, not several");
    malformed_request(send_beginning(vec![0x0a]), "does not begin with the prefix");
}

#[test]
fn a_request_that_breaks_off_is_not_carried_out() {
    let whole = vec![Frame::data(framed(&[]).into())];
    let answer = send(DEPOSIT, whole, Some(Err(Status::internal("a reset"))));
    assert_eq!(answer.unwrap_err().code(), Code::Cancelled);
}

#[test]
fn a_compressed_message_is_refused_and_told_what_is_taken() {
    let answer = send_beginning(vec![1, 0, 0, 0, 1]);
    let accepted = answer.as_ref().unwrap_err().metadata().get("grpc-accept-encoding").cloned();
    assert_eq!(accepted.unwrap(), "identity");
    refused(answer, Code::Unimplemented, "NOT_SUPPORTED", "without compression");
}

#[test]
fn a_message_above_the_limit_is_refused_before_it_has_come() {
    // Text of a field that nobody knows, so that the message has this length.
    let message = |bytes: usize| {
        let mut message = vec![0xfa, 0x7f];
        let text = bytes - 2 - 3;
        prost::encoding::encode_varint(text as u64, &mut message);
        message.resize(message.len() + text, b'x');
        assert_eq!(message.len(), bytes);
        framed(&message)
    };
    assert!(send_whole(DEPOSIT, message(MAX_MESSAGE_BYTES)).is_ok());
    let too_large = |answer, actual: &str| {
        let (code, reason) = (Code::ResourceExhausted, "LIMIT_EXCEEDED");
        let error = refused(answer, code, reason, "the limit is 262144 bytes");
        let limit = MAX_MESSAGE_BYTES.to_string();
        let told = ["what", "actual", "limit"].map(|key| error.metadata()[key].as_str());
        assert_eq!(told, ["message", actual, &limit]);
    };
    too_large(send_whole(DEPOSIT, message(MAX_MESSAGE_BYTES + 1)), "262145");
    too_large(send_beginning(vec![0, 0, 4, 0, 1]), "262145");
    too_large(send_beginning(vec![0, 0xff, 0xff, 0xff, 0xff]), "4294967295");
}
