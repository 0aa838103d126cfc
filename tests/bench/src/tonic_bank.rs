//! The command service of accounts as tonic serves it: for what Daybook is compared with.

use daybook_contract::MAX_MESSAGE_BYTES;
use daybook_contract::bank::v1::account::Command as Account;
use daybook_contract::bank::v1::command_service_server::{CommandService, CommandServiceServer};
use daybook_contract::bank::v1::transfer::Command as Transfer;
use daybook_contract::bank::v1::{
    CancelTransferRequest, CloseAccountRequest, DepositRequest, OpenAccountRequest,
    ReceiveTransferRequest, RecordTransferStepRequest, RefundPaymentRequest, RefundTransferRequest,
    SendPaymentRequest, SendTransferRequest, SettlePaymentRequest, SettleTransferRequest,
    TransferRequest, WithdrawRequest,
};
use daybook_contract::contract::Dispatch;
use daybook_contract::daybook::v1::CommandReceipt;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

/// The command service of accounts over tonic alone; every command goes to `dispatch`.
pub fn routes(dispatch: impl Dispatch) -> Routes {
    let server = CommandServiceServer::new(Bank(dispatch));
    Routes::new(server.max_decoding_message_size(MAX_MESSAGE_BYTES))
}

struct Bank<D>(D);

macro_rules! dispatch {
    ($($name:ident($request:ty) => $commands:ty;)*) => {
        #[tonic::async_trait]
        impl<D: Dispatch> CommandService for Bank<D> {
            $(async fn $name(
                &self,
                request: Request<$request>,
            ) -> Result<Response<CommandReceipt>, Status> {
                self.0.dispatch(request.map(<$commands>::from)).await.map(Response::new)
            })*
        }
    };
}

dispatch! {
    open_account(OpenAccountRequest) => Account;
    deposit(DepositRequest) => Account;
    withdraw(WithdrawRequest) => Account;
    close_account(CloseAccountRequest) => Account;
    send_transfer(SendTransferRequest) => Account;
    receive_transfer(ReceiveTransferRequest) => Account;
    settle_transfer(SettleTransferRequest) => Account;
    refund_transfer(RefundTransferRequest) => Account;
    send_payment(SendPaymentRequest) => Account;
    settle_payment(SettlePaymentRequest) => Account;
    refund_payment(RefundPaymentRequest) => Account;
    transfer(TransferRequest) => Transfer;
    cancel_transfer(CancelTransferRequest) => Transfer;
    record_transfer_step(RecordTransferStepRequest) => Transfer;
}
