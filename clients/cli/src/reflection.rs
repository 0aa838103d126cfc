//! What a server offers, by gRPC server reflection v1
//! (<https://github.com/grpc/grpc/blob/master/doc/server-reflection.md>), and calls to it with
//! messages whose types are known only then.

use std::collections::HashMap;
use std::time::Duration;

use daybook_client::{Service, from_status};
use futures::{Stream, stream};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor};
use prost_types::FileDescriptorProto;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Status, Streaming};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::exit::Exit;
use crate::problem::Problem;

/// Large enough for the batches of the event log.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// What a server offers.
pub(crate) struct Reflected {
    /// The server.
    pub service: Service,
    /// The names of its services.
    pub names: Vec<String>,
    /// The types of all of them, so that any message in an `Any` can be shown.
    pub pool: DescriptorPool,
}

impl Reflected {
    /// Asks a server what it offers.
    pub(crate) async fn load(service: &Service, deadline: Duration) -> Result<Self, Problem> {
        match timeout(deadline, Self::ask(service)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Problem::new(
                Exit::Unavailable,
                format!("the {} service at {} does not answer", service.name, service.url),
            )
            .why(format!("DEADLINE_EXCEEDED: nothing within {deadline:?}"))
            .next("daybook doctor")),
        }
    }

    async fn ask(service: &Service) -> Result<Self, Problem> {
        let mut conversation = Conversation::begin(service).await?;
        let names = match conversation.ask(MessageRequest::ListServices(String::new())).await? {
            MessageResponse::ListServicesResponse(list) => {
                list.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
            }
            _ => return Err(no_reflection(service, "it does not list its services")),
        };
        let mut files = Files::default();
        for name in &names {
            // A service without a descriptor cannot be called, but the others can.
            let answer =
                conversation.ask(MessageRequest::FileContainingSymbol(name.clone())).await?;
            files.take(answer)?;
        }
        while let Some(missing) = files.missing() {
            let answer = conversation.ask(MessageRequest::FileByFilename(missing.clone())).await?;
            files.take(answer)?;
            if !files.known.contains_key(&missing) {
                return Err(no_reflection(service, &format!("it does not have {missing}")));
            }
        }
        let pool = files.into_pool().map_err(|problem| no_reflection(service, &problem))?;
        Ok(Self { service: service.clone(), names, pool })
    }

    /// A method of this server.
    pub(crate) fn method(&self, service: &str, method: &str) -> Option<MethodDescriptor> {
        let service = self.pool.get_service_by_name(service)?;
        service.methods().find(|known| known.name() == method)
    }

    /// Makes a call. On the wire all four kinds are alike: some messages there, some back.
    pub(crate) async fn call(
        &self,
        method: &MethodDescriptor,
        requests: Vec<DynamicMessage>,
        actor: Option<&str>,
        deadline: Duration,
    ) -> Result<Streaming<DynamicMessage>, Problem> {
        let failed = |status: &Status| Problem::from(from_status(status, &self.service));
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let path = path.parse().map_err(|_| Problem::invalid(format!("{path} is not a path")))?;
        let mut request = Request::new(stream::iter(requests));
        if !method.is_server_streaming() {
            request.set_timeout(deadline);
        }
        if let Some(actor) = actor {
            let actor = actor.parse().map_err(|_| {
                Problem::invalid(format!("the actor {actor:?} is not visible ASCII"))
            })?;
            request.metadata_mut().insert(daybook_client::ACTOR_HEADER, actor);
        }
        let mut grpc =
            Grpc::new(self.service.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES);
        grpc.ready().await.map_err(|error| failed(&Status::from_error(error.into())))?;
        let codec = DynamicCodec { answer: method.output() };
        let answers = grpc.streaming(request, path, codec).await.map_err(|s| failed(&s))?;
        Ok(answers.into_inner())
    }
}

/// The server cannot be asked what it offers.
fn no_reflection(service: &Service, problem: &str) -> Problem {
    let what =
        format!("the {} service at {} does not say what it offers", service.name, service.url);
    Problem::new(Exit::Unexpected, what)
        .why(format!("server reflection v1: {problem}"))
        .next("daybook doctor")
}

/// Questions and answers over one stream, in turn.
struct Conversation {
    service: Service,
    questions: mpsc::Sender<ServerReflectionRequest>,
    answers: Streaming<ServerReflectionResponse>,
}

impl Conversation {
    async fn begin(service: &Service) -> Result<Self, Problem> {
        let (questions, receiver) = mpsc::channel(1);
        let mut client = ServerReflectionClient::new(service.channel.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES);
        let answers = client
            .server_reflection_info(received(receiver))
            .await
            .map_err(|status| Problem::from(from_status(&status, service)))?
            .into_inner();
        Ok(Self { service: service.clone(), questions, answers })
    }

    async fn ask(&mut self, question: MessageRequest) -> Result<MessageResponse, Problem> {
        let question =
            ServerReflectionRequest { host: String::new(), message_request: Some(question) };
        // A closed channel shows in the answer.
        let _ = self.questions.send(question).await;
        let answer = self.answers.message().await;
        let answer = answer.map_err(|status| Problem::from(from_status(&status, &self.service)))?;
        answer
            .and_then(|answer| answer.message_response)
            .ok_or_else(|| no_reflection(&self.service, "it stopped answering"))
    }
}

/// The messages of a channel.
fn received<T>(receiver: mpsc::Receiver<T>) -> impl Stream<Item = T> {
    stream::unfold(receiver, |mut receiver| async move {
        let message = receiver.recv().await?;
        Some((message, receiver))
    })
}

/// Files of descriptors, by name. The bytes are kept as they came: they have custom options.
#[derive(Default)]
struct Files {
    known: HashMap<String, (Vec<u8>, Vec<String>)>,
}

impl Files {
    fn take(&mut self, answer: MessageResponse) -> Result<(), Problem> {
        let MessageResponse::FileDescriptorResponse(files) = answer else { return Ok(()) };
        for bytes in files.file_descriptor_proto {
            let file = FileDescriptorProto::decode(bytes.as_slice()).map_err(|error| {
                Problem::new(Exit::Unexpected, format!("a descriptor is malformed: {error}"))
            })?;
            self.known.insert(file.name().to_owned(), (bytes, file.dependency));
        }
        Ok(())
    }

    /// A file that another one needs and that is not known yet.
    fn missing(&self) -> Option<String> {
        let mut needed = self.known.values().flat_map(|(_, needs)| needs);
        needed.find(|name| !self.known.contains_key(*name)).cloned()
    }

    /// A pool of all files; each is added after those that it needs.
    fn into_pool(mut self) -> Result<DescriptorPool, String> {
        let mut pool = DescriptorPool::new();
        while !self.known.is_empty() {
            let ready = self.known.iter().find(|(_, (_, needs))| {
                needs.iter().all(|needed| pool.get_file_by_name(needed).is_some())
            });
            let name = ready.map(|(name, _)| name.clone()).ok_or("its files need one another")?;
            let (bytes, _) = self.known.remove(&name).expect("it was found just now");
            pool.decode_file_descriptor_proto(bytes.as_slice())
                .map_err(|error| format!("{name} is malformed: {error}"))?;
        }
        Ok(pool)
    }
}

/// Encodes and decodes messages by their descriptors.
struct DynamicCodec {
    answer: MessageDescriptor,
}

impl Codec for DynamicCodec {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = DynamicEncoder;
    type Decoder = DynamicDecoder;

    fn encoder(&mut self) -> DynamicEncoder {
        DynamicEncoder
    }

    fn decoder(&mut self) -> DynamicDecoder {
        DynamicDecoder(self.answer.clone())
    }
}

struct DynamicEncoder;

impl Encoder for DynamicEncoder {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, message: DynamicMessage, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.encode(to).map_err(|error| Status::internal(error.to_string()))
    }
}

struct DynamicDecoder(MessageDescriptor);

impl Decoder for DynamicDecoder {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        DynamicMessage::decode(self.0.clone(), from)
            .map(Some)
            .map_err(|error| Status::internal(format!("the answer is malformed: {error}")))
    }
}
