//! Who calls: what a CommandContext says, and by what a repeated request is known.

use daybook_contract::daybook::v1::{CommandContext, ErrorReason, EventMetadata};
use daybook_contract::error::Error;
use daybook_kernel::StreamName;
use daybook_log::{Decider, RequestKey, Submission};
use sha2::{Digest, Sha256};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

/// The version of the UUIDs that are the request ids of steps; see [`step_id`](daybook_kernel::step_id).
const STEP_ID_VERSION: usize = 8;

/// What a CommandContext says, checked.
pub(crate) struct Caller {
    request_id: String,
    request: Option<RequestKey>,
    context: CommandContext,
}

impl Caller {
    /// Checks a context. `content` is the encoded request without its context.
    pub(crate) fn new(
        mut context: CommandContext,
        type_name: &str,
        content: impl FnOnce() -> Vec<u8>,
    ) -> Result<Self, Error> {
        if !context.branch_id.is_empty() {
            return Err(not_supported("context.branch_id", "branches are"));
        }
        if context.request_id.is_empty() {
            // Nobody can repeat a request whose id only the server knows: nothing to remember.
            return Ok(Self { request_id: Uuid::now_v7().to_string(), request: None, context });
        }
        let id: Uuid = context.request_id.parse().map_err(|_| {
            let message = format!("{:?} is not a UUID", context.request_id);
            Error::new(ErrorReason::InvalidRequest, message.as_str())
                .with_violation("context.request_id", message)
        })?;
        let fingerprint = fingerprint(type_name, &content(), context.expected_version);
        let request = Some(RequestKey { id, fingerprint });
        // There are other ways to write a UUID.
        let mut request_id = std::mem::take(&mut context.request_id);
        request_id.clear();
        request_id.push_str(id.hyphenated().encode_lower(&mut [0; Hyphenated::LENGTH]));
        Ok(Self { request_id, request, context })
    }

    /// The request id.
    pub(crate) fn request_id(&self) -> &str {
        &self.request_id
    }

    /// Whether the stream must have a version.
    pub(crate) fn expects_version(&self) -> bool {
        self.context.expected_version.is_some()
    }

    /// Whether the request id is one of those that are kept for the steps of sagas.
    pub(crate) fn is_step(&self) -> bool {
        self.request.is_some_and(|request| request.id.get_version_num() == STEP_ID_VERSION)
    }

    /// The submission of a decision about a stream.
    pub(crate) fn submission(
        self,
        stream: StreamName,
        actor: String,
        decider: Box<dyn Decider>,
    ) -> Submission {
        Submission {
            stream,
            reads: Vec::new(),
            answer_of: None,
            expected_version: self.context.expected_version,
            request: self.request,
            metadata: EventMetadata {
                actor,
                correlation_id: self.context.correlation_id,
                causation_id: self.context.causation_id,
                request_id: self.request_id,
            },
            decider,
        }
    }
}

/// The answer to a field that is in the contract but not built yet.
fn not_supported(field: &str, what: &str) -> Error {
    let message = format!("{field}: {what} not supported yet; leave the field out");
    Error::new(ErrorReason::NotSupported, message).with("field", field)
}

/// What makes two requests the same: type, content and expected version. Tracing ids do not count.
pub(crate) fn fingerprint(
    type_name: &str,
    content: &[u8],
    expected_version: Option<u64>,
) -> [u8; 16] {
    let mut hash = Sha256::new();
    hash.update(type_name);
    hash.update([0, u8::from(expected_version.is_some())]);
    hash.update(expected_version.unwrap_or_default().to_be_bytes());
    hash.update(content);
    let mut short = [0; 16];
    short.copy_from_slice(&hash.finalize()[..16]);
    short
}
