//! Commands: typed, or any command as an `Any`.

use std::future::IntoFuture;
use std::time::Duration;

use daybook_contract::bank::v1::{
    CancelTransferRequest, CloseAccountRequest, DepositRequest, MovementMethod, OpenAccountRequest,
    ReceiveTransferRequest, RecordTransferStepRequest, RefundPaymentRequest, RefundTransferRequest,
    SendPaymentRequest, SendTransferRequest, SettlePaymentRequest, SettleTransferRequest,
    TransferRequest, WithdrawRequest,
};
use daybook_contract::daybook::v1::{CommandContext, CommandReceipt, ExecuteRequest, Money};
use daybook_contract::error::Error;
use futures::future::BoxFuture;
use prost::Message;
use prost_types::Any;
use uuid::Uuid;

use crate::call::Options;
use crate::client::Daybook;

/// The request of a command RPC.
pub trait CommandRequest: Message + Default + Clone + 'static {
    /// The path of the RPC, such as `/bank.v1.CommandService/Deposit`.
    const METHOD: &'static str;
    /// The full name of the message, such as `bank.v1.DepositRequest`.
    const TYPE_NAME: &'static str;

    /// The context that goes with it, made when there is none.
    fn context_mut(&mut self) -> &mut CommandContext;
}

/// Says of each request which RPC of its package's CommandService it belongs to.
macro_rules! commands {
    ($package:literal: $($request:ident => $method:literal),+ $(,)?) => {
        $(impl crate::command::CommandRequest for $request {
            const METHOD: &'static str = concat!("/", $package, ".CommandService/", $method);
            const TYPE_NAME: &'static str = concat!($package, ".", stringify!($request));

            fn context_mut(&mut self) -> &mut daybook_contract::daybook::v1::CommandContext {
                self.context.get_or_insert_default()
            }
        })+
    };
}
pub(crate) use commands;

commands!("bank.v1":
    OpenAccountRequest => "OpenAccount",
    DepositRequest => "Deposit",
    WithdrawRequest => "Withdraw",
    CloseAccountRequest => "CloseAccount",
    TransferRequest => "Transfer",
    CancelTransferRequest => "CancelTransfer",
    RecordTransferStepRequest => "RecordTransferStep",
    SendTransferRequest => "SendTransfer",
    ReceiveTransferRequest => "ReceiveTransfer",
    SettleTransferRequest => "SettleTransfer",
    RefundTransferRequest => "RefundTransfer",
    SendPaymentRequest => "SendPayment",
    SettlePaymentRequest => "SettlePayment",
    RefundPaymentRequest => "RefundPayment",
);

/// A command that is sent when it is awaited.
#[derive(Debug, Clone)]
#[must_use = "a command is sent when it is awaited"]
pub struct Command<R> {
    client: Daybook,
    pub(crate) request: R,
    deadline: Option<Duration>,
}

impl Daybook {
    /// Opens an account. The server makes its id unless [`Command::account_id`] gives one.
    pub fn open_account(&self, owner_name: impl Into<String>) -> Command<OpenAccountRequest> {
        let owner_name = owner_name.into();
        self.command(OpenAccountRequest { owner_name, ..Default::default() })
    }

    /// Puts money on an account.
    pub fn deposit(&self, account_id: impl Into<String>, amount: Money) -> Command<DepositRequest> {
        self.command(DepositRequest {
            account_id: account_id.into(),
            amount: Some(amount),
            ..Default::default()
        })
    }

    /// Takes money from an account.
    pub fn withdraw(
        &self,
        account_id: impl Into<String>,
        amount: Money,
    ) -> Command<WithdrawRequest> {
        self.command(WithdrawRequest {
            account_id: account_id.into(),
            amount: Some(amount),
            ..Default::default()
        })
    }

    /// Closes an account for good.
    pub fn close_account(&self, account_id: impl Into<String>) -> Command<CloseAccountRequest> {
        self.command(CloseAccountRequest { account_id: account_id.into(), ..Default::default() })
    }

    /// Starts a transfer from one account to another. The server makes its id unless
    /// [`Command::transfer_id`] gives one.
    pub fn transfer(
        &self,
        from_account_id: impl Into<String>,
        to_account_id: impl Into<String>,
        amount: Money,
    ) -> Command<TransferRequest> {
        self.command(TransferRequest {
            from_account_id: from_account_id.into(),
            to_account_id: to_account_id.into(),
            amount: Some(amount),
            ..Default::default()
        })
    }

    /// Cancels a transfer whose money was not sent on yet.
    pub fn cancel_transfer(
        &self,
        transfer_id: impl Into<String>,
    ) -> Command<CancelTransferRequest> {
        self.command(CancelTransferRequest {
            transfer_id: transfer_id.into(),
            ..Default::default()
        })
    }

    /// Any command of the contract, typed.
    pub fn command<R: CommandRequest>(&self, request: R) -> Command<R> {
        Command { client: self.clone(), request, deadline: None }
    }

    /// Any command of the server, also one that this client does not know the type of.
    pub async fn execute(&self, command: impl Into<AnyCommand>) -> Result<CommandReceipt, Error> {
        let request = ExecuteRequest { command: Some(command.into().into_any()) };
        let path = "/daybook.v1.CommandService/Execute";
        let receipt = self.unary(&self.inner.command, path, request, self.repeatable()).await?;
        self.remember(&receipt);
        Ok(receipt)
    }
}

impl<R: CommandRequest> Command<R> {
    /// The idempotency key, a UUID. The same key and the same content have one effect, however
    /// often they are sent. A UUIDv7 is made when none is given.
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.request.context_mut().request_id = id.into();
        self
    }

    /// The version that the stream must have; 0 when it must not exist yet.
    pub fn expected_version(mut self, version: u64) -> Self {
        self.request.context_mut().expected_version = Some(version);
        self
    }

    /// What the command belongs to.
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.request.context_mut().correlation_id = id.into();
        self
    }

    /// What caused the command.
    pub fn causation_id(mut self, id: impl Into<String>) -> Self {
        self.request.context_mut().causation_id = id.into();
        self
    }

    /// How long this command may take, all attempts together.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The request as it stands, without sending it.
    pub fn into_request(self) -> R {
        self.request
    }

    async fn send(mut self) -> Result<CommandReceipt, Error> {
        let context = self.request.context_mut();
        if context.request_id.is_empty() {
            context.request_id = Uuid::now_v7().to_string();
        }
        let options = Options {
            deadline: self.deadline.unwrap_or(self.client.inner.deadline),
            repeatable: true,
        };
        let service = &self.client.inner.command;
        let receipt = self.client.unary(service, R::METHOD, self.request, options).await?;
        self.client.remember(&receipt);
        Ok(receipt)
    }
}

impl<R: CommandRequest> IntoFuture for Command<R> {
    type Output = Result<CommandReceipt, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

impl Command<OpenAccountRequest> {
    /// The id of the new account.
    pub fn account_id(mut self, id: impl Into<String>) -> Self {
        self.request.account_id = id.into();
        self
    }

    /// What is paid in at once; its currency is the account's.
    pub fn initial_balance(mut self, amount: Money) -> Self {
        self.request.initial_balance = Some(amount);
        self
    }
}

impl Command<DepositRequest> {
    /// What it is for.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.request.description = text.into();
        self
    }

    /// How it comes.
    pub fn method(mut self, method: MovementMethod) -> Self {
        self.request.method = method.into();
        self
    }
}

impl Command<WithdrawRequest> {
    /// What it is for.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.request.description = text.into();
        self
    }

    /// How it goes.
    pub fn method(mut self, method: MovementMethod) -> Self {
        self.request.method = method.into();
        self
    }
}

impl Command<TransferRequest> {
    /// The id of the new transfer.
    pub fn transfer_id(mut self, id: impl Into<String>) -> Self {
        self.request.transfer_id = id.into();
        self
    }

    /// What it is for.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.request.description = text.into();
        self
    }
}

impl Command<CancelTransferRequest> {
    /// Why.
    pub fn reason(mut self, text: impl Into<String>) -> Self {
        self.request.reason = text.into();
        self
    }
}

impl Command<CloseAccountRequest> {
    /// Why.
    pub fn reason(mut self, text: impl Into<String>) -> Self {
        self.request.reason = text.into();
        self
    }
}

/// A command of any domain, packed. It always has a request id.
#[derive(Debug, Clone, PartialEq)]
pub struct AnyCommand(Any);

impl AnyCommand {
    /// The packed request.
    pub fn into_any(self) -> Any {
        self.0
    }
}

impl<R: CommandRequest> From<R> for AnyCommand {
    fn from(request: R) -> Self {
        let type_url = format!("type.googleapis.com/{}", R::TYPE_NAME);
        Self::from(Any { type_url, value: request.encode_to_vec() })
    }
}

impl<R: CommandRequest> From<Command<R>> for AnyCommand {
    fn from(command: Command<R>) -> Self {
        Self::from(command.request)
    }
}

/// The one field that all command requests have in common.
#[derive(Clone, PartialEq, Message)]
struct ContextOnly {
    #[prost(message, optional, tag = "1")]
    context: Option<CommandContext>,
}

impl From<Any> for AnyCommand {
    /// Gives the command a request id when it has none. The type need not be known: the context is
    /// field 1 of every command, and protobuf merges a second occurrence into the first.
    fn from(mut any: Any) -> Self {
        let has_id = ContextOnly::decode(any.value.as_slice())
            .ok()
            .and_then(|only| only.context)
            .is_some_and(|context| !context.request_id.is_empty());
        if !has_id {
            let request_id = Uuid::now_v7().to_string();
            let context = Some(CommandContext { request_id, ..Default::default() });
            any.value.extend(ContextOnly { context }.encode_to_vec());
        }
        Self(any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_command_gets_a_request_id_and_keeps_the_rest_of_its_context() {
        let mut request = CloseAccountRequest { account_id: "ada".into(), ..Default::default() };
        request.context_mut().correlation_id = "ticket-7".into();
        let any = AnyCommand::from(request).into_any();
        assert_eq!(any.type_url, "type.googleapis.com/bank.v1.CloseAccountRequest");
        let sent = CloseAccountRequest::decode(any.value.as_slice()).unwrap();
        let context = sent.context.unwrap();
        assert_eq!(sent.account_id, "ada");
        assert_eq!(context.correlation_id, "ticket-7");
        assert_eq!(Uuid::parse_str(&context.request_id).unwrap().get_version_num(), 7);
    }

    #[test]
    fn a_packed_command_keeps_the_request_id_that_it_has() {
        let mut request = DepositRequest::default();
        request.context_mut().request_id = "the-id".into();
        let packed = request.encode_to_vec();
        assert_eq!(AnyCommand::from(request).into_any().value, packed);
    }
}
