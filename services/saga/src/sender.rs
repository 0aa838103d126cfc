//! Sends commands, and tells a refusal from a failure.

use daybook_contract::daybook::v1::step_answer::Outcome;
use daybook_contract::daybook::v1::{CommandContext, CommandReceipt, ErrorReason, StepRefusal};
use daybook_contract::error::Error;
use prost::Message;
use prost_types::Any;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::line::Line;

/// The longest text of a refusal that is kept, in characters; what a text of the contract may have.
const MAX_TEXT: usize = 1_000;

/// A command on its way: the encoded request without its context, and the context.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    /// The full name of the request.
    pub type_name: String,
    pub request: Vec<u8>,
    pub context: CommandContext,
}

/// Sends commands to the command service.
#[derive(Clone)]
pub(crate) struct Sender {
    line: Line,
}

/// The one field that all command requests have in common.
#[derive(Clone, PartialEq, Message)]
struct ContextOnly {
    #[prost(message, optional, tag = "1")]
    context: Option<CommandContext>,
}

impl Sender {
    /// A sender over a channel to the command service.
    pub fn new(channel: Channel) -> Self {
        Self { line: Line::new(channel) }
    }

    /// Sends a command of a saga once, with all others.
    pub async fn send(&self, command: &Outgoing) -> Result<CommandReceipt, Status> {
        self.line.send(command.to_any()).await
    }

    /// Sends two commands of a saga once, of which the second comes to its turn right after the first.
    pub async fn send_both(
        &self,
        first: &Outgoing,
        second: &Outgoing,
    ) -> (Result<CommandReceipt, Status>, Result<CommandReceipt, Status>) {
        self.line.send_both(first.to_any(), second.to_any()).await
    }

    /// Sends a command once and beside all others, in the name of an actor; an empty one for
    /// nobody's.
    pub async fn call(&self, command: &Outgoing, actor: &str) -> Result<CommandReceipt, Status> {
        self.line.call(command.to_any(), actor).await
    }
}

impl Outgoing {
    fn to_any(&self) -> Any {
        let mut value = self.request.clone();
        let context = Some(self.context.clone());
        value.extend(ContextOnly { context }.encode_to_vec());
        Any { type_url: format!("type.googleapis.com/{}", self.type_name), value }
    }
}

/// The outcome of a command, if it has one: a status that is not a refusal says nothing about the
/// command, which is to be sent again.
pub(crate) fn outcome(answer: Result<CommandReceipt, Status>) -> Result<Outcome, Status> {
    match answer {
        // That it was an earlier answer differs from one attempt to the next; the rest does not.
        Ok(receipt) => Ok(Outcome::Receipt(CommandReceipt { replayed: false, ..receipt })),
        Err(status) => refusal(&status).map(Outcome::Refusal).ok_or(status),
    }
}

/// What a rule has refused. Rules have a few codes, and always a reason of their domain: one of
/// Daybook's own says that the command was not decided. Some of those do not go away, such as a
/// malformed request, or an id that was used for something else. They are faults, and take a person
/// to look; to undo the saga would hide them.
fn refusal(status: &Status) -> Option<StepRefusal> {
    let has_code =
        matches!(status.code(), Code::NotFound | Code::AlreadyExists | Code::FailedPrecondition);
    let error = Error::from(status);
    let own = ErrorReason::from_str_name(&format!("ERROR_REASON_{}", error.reason()));
    let by_a_rule = has_code && !error.reason().is_empty() && own.is_none();
    by_a_rule.then(|| StepRefusal {
        code: status.code().into(),
        reason: error.reason().to_owned(),
        message: error.message().chars().take(MAX_TEXT).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_rule_refuses() {
        let rule = Error::custom(Code::FailedPrecondition, "INSUFFICIENT_FUNDS", "too little");
        let refused = outcome(Err(rule.into())).unwrap();
        let Outcome::Refusal(refusal) = refused else { panic!("{refused:?}") };
        assert_eq!((refusal.code, refusal.reason.as_str()), (9, "INSUFFICIENT_FUNDS"));
        let own = (1..).map_while(|number| ErrorReason::try_from(number).ok());
        assert!(own.clone().count() > 20);
        for reason in own {
            assert!(outcome(Err(Error::new(reason, "not now").into())).is_err(), "{reason:?}");
        }
        assert!(outcome(Err(Status::not_found("said by a proxy"))).is_err());
    }

    #[test]
    fn a_replayed_receipt_is_the_same_answer() {
        let receipt = CommandReceipt { version: 3, replayed: true, ..Default::default() };
        let Outcome::Receipt(kept) = outcome(Ok(receipt)).unwrap() else { panic!("a receipt") };
        assert_eq!(kept, CommandReceipt { version: 3, ..Default::default() });
    }
}
