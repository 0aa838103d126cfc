//! The bank account: money of one currency, never overdrawn.
//!
//! An account is opened once, with or without money on it, and closed once, when it is empty.
//! Between the two, money comes and goes. Amounts are whole smallest units ([`Money`]), and both an
//! amount and a balance stay within [`LIMIT_MINOR`], so that no sum ever overflows.
//!
//! Money that was sent to another account, or to pay for an order, is in flight until it has arrived
//! or is back. The account that it has left remembers it: it cannot close meanwhile, and keeps the
//! room for it below the limit, so that a refund is never refused.
//!
//! *Not* here: the course of a transfer or a fulfilment, which is a saga's, and the form of requests,
//! which the contract's rules check before a command comes here.

use daybook_contract::bank::v1::account::{Command, Event, Upcast};
use daybook_contract::bank::v1::{
    AccountClosed, AccountOpened, AccountRejection as Reason, AccountState, AccountStatus,
    CloseAccountRequest, DepositRequest, MoneyDeposited, MoneyDepositedV1, MoneyDepositedV2,
    MoneyWithdrawn, MovementMethod, OpenAccountRequest, PaymentRefunded, PaymentSent,
    PaymentSettled, ReceiveTransferRequest, RefundPaymentRequest, RefundTransferRequest,
    SendPaymentRequest, SendTransferRequest, SettlePaymentRequest, SettleTransferRequest,
    TransferInFlight, TransferReceived, TransferRefunded, TransferSent, TransferSettled,
    WithdrawRequest,
};
use daybook_contract::daybook::v1 as wire;
use daybook_kernel::{Aggregate, Context, Currency, Money, Rejection, RejectionKind, is_awaited};

use crate::fulfilment::Fulfilment;
use crate::transfer::Transfer;

/// The most smallest units of one amount, and of a balance: 10^15, ten trillion dollars. It is far
/// from the limits of 64 bits, and JSON numbers up to 2^53 carry it exactly.
pub const LIMIT_MINOR: i64 = 1_000_000_000_000_000;

/// The most transfers and payments from one account that are in flight at once: they are part of
/// its state.
pub const MAX_TRANSFERS_IN_FLIGHT: usize = 10_000;

/// The aggregate `bank.account`.
#[derive(Debug)]
pub struct Account;

// ---- State ------------------------------------------------------------------------------------

fn currency(state: &AccountState) -> Currency {
    // Only an account that does not exist has none.
    Currency::new(&state.currency_code).unwrap_or(Currency::USD)
}

fn balance(state: &AccountState) -> Money {
    Money::new(state.balance_minor, currency(state))
}

/// What has been sent and may come back.
fn in_flight(state: &AccountState) -> Money {
    let minor = state.transfers_in_flight.iter().map(|transfer| transfer.amount_minor);
    Money::new(minor.fold(0, i64::saturating_add), currency(state))
}

/// What money in flight is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose<'a> {
    /// The transfer with this id.
    Transfer(&'a str),
    /// The order with this id.
    Order(&'a str),
}

impl<'a> Purpose<'a> {
    fn of(sent: &'a TransferInFlight) -> Self {
        match sent.order_id.as_str() {
            "" => Self::Transfer(&sent.transfer_id),
            order_id => Self::Order(order_id),
        }
    }

    fn in_flight(self) -> AccountRejection {
        match self {
            Self::Transfer(id) => AccountRejection::TransferInFlight { transfer_id: id.to_owned() },
            Self::Order(id) => AccountRejection::PaymentInFlight { order_id: id.to_owned() },
        }
    }

    fn not_in_flight(self) -> AccountRejection {
        match self {
            Self::Transfer(id) => {
                AccountRejection::TransferNotInFlight { transfer_id: id.to_owned() }
            }
            Self::Order(id) => AccountRejection::PaymentNotInFlight { order_id: id.to_owned() },
        }
    }
}

fn sent<'a>(state: &'a AccountState, purpose: Purpose<'_>) -> Option<&'a TransferInFlight> {
    state.transfers_in_flight.iter().find(|sent| Purpose::of(sent) == purpose)
}

fn take_off(state: &mut AccountState, sent: TransferInFlight) {
    state.balance_minor = state.balance_minor.saturating_sub(sent.amount_minor);
    state.transfers_in_flight.push(sent);
}

fn land(state: &mut AccountState, purpose: Purpose<'_>) {
    state.transfers_in_flight.retain(|sent| Purpose::of(sent) != purpose);
}

/// The smallest units of an amount in an event. It was checked before it was recorded; an amount
/// that is none counts nothing, since a fact cannot be refused.
fn minor(amount: Option<&wire::Money>) -> i64 {
    amount.and_then(|amount| Money::try_from(amount).ok()).map_or(0, Money::minor)
}

// ---- Rejections, in order of precedence -------------------------------------------------------

/// The rules that an account keeps. When several do not hold, the first is given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountRejection {
    /// There is no such account.
    #[error("there is no account {account_id}")]
    AccountNotFound {
        /// The id that was asked for.
        account_id: String,
    },
    /// There is an account with this id already, open or closed.
    #[error("there is an account {account_id} already")]
    AccountAlreadyOpen {
        /// The id that is taken.
        account_id: String,
    },
    /// The account is closed for good.
    #[error("account {account_id} is closed")]
    AccountClosed {
        /// The id of the account.
        account_id: String,
    },
    /// The amount is not in the currency of the account.
    #[error("the amount is in {amount:?}, the account in {account}")]
    WrongCurrency {
        /// The currency of the account.
        account: Currency,
        /// The currency of the amount, as it was sent.
        amount: String,
    },
    /// The amount is zero or negative; for a new account, the initial balance is negative.
    #[error("the amount {amount} is not positive")]
    AmountNotPositive {
        /// The amount.
        amount: String,
    },
    /// The amount, or the balance with it, is above the limit.
    #[error("the amount, or the balance with it, is above the limit of {limit}")]
    AmountTooLarge {
        /// The limit.
        limit: Money,
    },
    /// There is less on the account than is asked for.
    #[error("the balance is {balance}, less than the {requested} asked for")]
    InsufficientFunds {
        /// What is on the account.
        balance: Money,
        /// What was asked for.
        requested: Money,
    },
    /// There is still money on the account that should be closed.
    #[error("there is still {balance} on the account")]
    BalanceNotZero {
        /// What is on the account.
        balance: Money,
    },
    /// A transfer from the account is still in flight.
    #[error("transfer {transfer_id} from the account is in flight")]
    TransferInFlight {
        /// The transfer, or the first of several.
        transfer_id: String,
    },
    /// The transfer is not at this step.
    #[error("transfer {transfer_id} is not at this step")]
    TransferNotInFlight {
        /// The transfer that was named.
        transfer_id: String,
    },
    /// The account has as many transfers and payments in flight as it may have.
    #[error("{limit} transfers and payments from the account are in flight, which is the limit")]
    TooManyTransfers {
        /// The limit.
        limit: usize,
    },
    /// The money for an order is still in flight.
    #[error("the money for order {order_id} is in flight from the account")]
    PaymentInFlight {
        /// The order, or the first of several.
        order_id: String,
    },
    /// The fulfilment of the order is not at this step.
    #[error("the fulfilment of order {order_id} is not at this step")]
    PaymentNotInFlight {
        /// The order that was named.
        order_id: String,
    },
}

impl AccountRejection {
    /// The same rule in the contract.
    fn in_contract(&self) -> Reason {
        match self {
            Self::AccountNotFound { .. } => Reason::AccountNotFound,
            Self::AccountAlreadyOpen { .. } => Reason::AccountAlreadyOpen,
            Self::AccountClosed { .. } => Reason::AccountClosed,
            Self::WrongCurrency { .. } => Reason::WrongCurrency,
            Self::AmountNotPositive { .. } => Reason::AmountNotPositive,
            Self::AmountTooLarge { .. } => Reason::AmountTooLarge,
            Self::InsufficientFunds { .. } => Reason::InsufficientFunds,
            Self::BalanceNotZero { .. } => Reason::BalanceNotZero,
            Self::TransferInFlight { .. } => Reason::TransferInFlight,
            Self::TransferNotInFlight { .. } => Reason::TransferNotInFlight,
            Self::TooManyTransfers { .. } => Reason::TooManyTransfers,
            Self::PaymentInFlight { .. } => Reason::PaymentInFlight,
            Self::PaymentNotInFlight { .. } => Reason::PaymentNotInFlight,
        }
    }
}

impl Rejection for AccountRejection {
    fn reason(&self) -> &'static str {
        self.in_contract().as_str_name().trim_start_matches("ACCOUNT_REJECTION_")
    }

    fn kind(&self) -> RejectionKind {
        match self {
            Self::AccountNotFound { .. } => RejectionKind::NotFound,
            Self::AccountAlreadyOpen { .. } => RejectionKind::AlreadyExists,
            _ => RejectionKind::FailedPrecondition,
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::AccountNotFound { account_id }
            | Self::AccountAlreadyOpen { account_id }
            | Self::AccountClosed { account_id } => vec![("account_id", account_id.clone())],
            Self::WrongCurrency { account, amount } => {
                vec![("account_currency", account.to_string()), ("currency", amount.clone())]
            }
            Self::AmountNotPositive { amount } => vec![("amount", amount.clone())],
            Self::AmountTooLarge { limit } => vec![("limit", limit.to_string())],
            Self::InsufficientFunds { balance, requested } => {
                vec![("balance", balance.to_string()), ("requested", requested.to_string())]
            }
            Self::BalanceNotZero { balance } => vec![("balance", balance.to_string())],
            Self::TransferInFlight { transfer_id } | Self::TransferNotInFlight { transfer_id } => {
                vec![("transfer_id", transfer_id.clone())]
            }
            Self::TooManyTransfers { limit } => vec![("limit", limit.to_string())],
            Self::PaymentInFlight { order_id } | Self::PaymentNotInFlight { order_id } => {
                vec![("order_id", order_id.clone())]
            }
        }
    }
}

// ---- Decide -----------------------------------------------------------------------------------

impl Aggregate for Account {
    type Command = Command;
    type Event = Event;
    type State = AccountState;
    type Rejection = AccountRejection;

    fn decide(
        state: &AccountState,
        command: &Command,
        cx: &Context,
    ) -> Result<Vec<Event>, AccountRejection> {
        let event = match command {
            Command::OpenAccount(request) => open(state, request, cx)?,
            Command::Deposit(request) => deposit(state, request, cx)?,
            Command::Withdraw(request) => withdraw(state, request, cx)?,
            Command::CloseAccount(request) => close(state, request, cx)?,
            Command::SendTransfer(request, _) => send(state, request, is_step(command, cx), cx)?,
            Command::ReceiveTransfer(request, _) => {
                receive(state, request, is_step(command, cx), cx)?
            }
            Command::SettleTransfer(request, _) => {
                settle(state, request, is_step(command, cx), cx)?
            }
            Command::RefundTransfer(request, _) => {
                refund(state, request, is_step(command, cx), cx)?
            }
            Command::SendPayment(request, _) => {
                send_payment(state, request, is_step(command, cx), cx)?
            }
            Command::SettlePayment(request, _) => {
                settle_payment(state, request, is_step(command, cx), cx)?
            }
            Command::RefundPayment(request, _) => {
                refund_payment(state, request, is_step(command, cx), cx)?
            }
        };
        Ok(vec![event])
    }

    fn evolve(state: &mut AccountState, event: &Event) {
        match event {
            Event::AccountOpened(event) => {
                state.set_status(AccountStatus::Open);
                state.owner_name.clone_from(&event.owner_name);
                if let Some(balance) = &event.initial_balance {
                    state.currency_code.clone_from(&balance.currency_code);
                }
                state.balance_minor = minor(event.initial_balance.as_ref());
                state.opened_time = event.opened_time;
            }
            Event::MoneyDeposited(event) => {
                let amount = minor(event.amount.as_ref());
                state.balance_minor = state.balance_minor.saturating_add(amount);
            }
            Event::MoneyWithdrawn(event) => {
                let amount = minor(event.amount.as_ref());
                state.balance_minor = state.balance_minor.saturating_sub(amount);
            }
            Event::AccountClosed(event) => {
                state.set_status(AccountStatus::Closed);
                state.closed_time = event.closed_time;
            }
            Event::TransferSent(event) => {
                let sent = TransferInFlight {
                    transfer_id: event.transfer_id.clone(),
                    to_account_id: event.to_account_id.clone(),
                    amount_minor: minor(event.amount.as_ref()),
                    order_id: String::new(),
                };
                take_off(state, sent);
            }
            Event::TransferReceived(event) => {
                let amount = minor(event.amount.as_ref());
                state.balance_minor = state.balance_minor.saturating_add(amount);
            }
            Event::TransferSettled(event) => land(state, Purpose::Transfer(&event.transfer_id)),
            Event::TransferRefunded(event) => {
                let amount = minor(event.amount.as_ref());
                state.balance_minor = state.balance_minor.saturating_add(amount);
                land(state, Purpose::Transfer(&event.transfer_id));
            }
            Event::PaymentSent(event) => {
                let sent = TransferInFlight {
                    order_id: event.order_id.clone(),
                    amount_minor: minor(event.amount.as_ref()),
                    ..Default::default()
                };
                take_off(state, sent);
            }
            Event::PaymentSettled(event) => land(state, Purpose::Order(&event.order_id)),
            Event::PaymentRefunded(event) => {
                let amount = minor(event.amount.as_ref());
                state.balance_minor = state.balance_minor.saturating_add(amount);
                land(state, Purpose::Order(&event.order_id));
            }
        }
    }
}

fn open(
    state: &AccountState,
    request: &OpenAccountRequest,
    cx: &Context,
) -> Result<Event, AccountRejection> {
    if state.status() != AccountStatus::Unspecified {
        return Err(AccountRejection::AccountAlreadyOpen { account_id: cx.aggregate_id.clone() });
    }
    let initial = match &request.initial_balance {
        Some(amount) => {
            let currency = Currency::new(&amount.currency_code).unwrap_or(Currency::USD);
            not_negative(amount, currency)?
        }
        None => Money::zero(Currency::USD),
    };
    Ok(Event::AccountOpened(AccountOpened {
        owner_name: request.owner_name.clone(),
        initial_balance: Some(initial.into()),
        opened_time: Some(cx.now),
    }))
}

fn deposit(
    state: &AccountState,
    request: &DepositRequest,
    cx: &Context,
) -> Result<Event, AccountRejection> {
    must_be_open(state, cx)?;
    let amount = positive(request.amount.as_ref(), currency(state))?;
    must_have_room(state, amount)?;
    Ok(Event::MoneyDeposited(MoneyDeposited {
        amount: Some(amount.into()),
        description: request.description.clone(),
        method: request.method,
    }))
}

fn withdraw(
    state: &AccountState,
    request: &WithdrawRequest,
    cx: &Context,
) -> Result<Event, AccountRejection> {
    must_be_open(state, cx)?;
    let amount = positive(request.amount.as_ref(), currency(state))?;
    let balance = balance(state);
    if amount > balance {
        return Err(AccountRejection::InsufficientFunds { balance, requested: amount });
    }
    Ok(Event::MoneyWithdrawn(MoneyWithdrawn {
        amount: Some(amount.into()),
        description: request.description.clone(),
        method: request.method,
    }))
}

fn close(
    state: &AccountState,
    request: &CloseAccountRequest,
    cx: &Context,
) -> Result<Event, AccountRejection> {
    must_be_open(state, cx)?;
    let balance = balance(state);
    if !balance.is_zero() {
        return Err(AccountRejection::BalanceNotZero { balance });
    }
    if let Some(sent) = state.transfers_in_flight.first() {
        return Err(Purpose::of(sent).in_flight());
    }
    Ok(Event::AccountClosed(AccountClosed {
        reason: request.reason.clone(),
        closed_time: Some(cx.now),
    }))
}

/// Whether an account can pay this much now; what a transfer asks before it starts.
pub(crate) fn can_pay(
    state: &AccountState,
    amount: Option<&wire::Money>,
    account_id: &str,
) -> Result<(), AccountRejection> {
    open_and_rich_enough(state, amount, account_id).map(|_| ())
}

/// What is to leave the account.
fn open_and_rich_enough(
    state: &AccountState,
    amount: Option<&wire::Money>,
    account_id: &str,
) -> Result<Money, AccountRejection> {
    open_with_id(state, account_id)?;
    let amount = positive(amount, currency(state))?;
    let balance = balance(state);
    if amount > balance {
        return Err(AccountRejection::InsufficientFunds { balance, requested: amount });
    }
    Ok(amount)
}

/// Whether a command is the step that its saga waits for. One that is not would make money, or lose
/// it.
fn is_step(command: &Command, cx: &Context) -> bool {
    let of_transfer = |id: &str, state| is_awaited::<Transfer>(id, state, command, cx);
    let of_fulfilment = |id: &str, state| is_awaited::<Fulfilment>(id, state, command, cx);
    match command {
        Command::OpenAccount(_)
        | Command::Deposit(_)
        | Command::Withdraw(_)
        | Command::CloseAccount(_) => false,
        Command::SendTransfer(request, reads) => of_transfer(&request.transfer_id, &reads.transfer),
        Command::ReceiveTransfer(request, reads) => {
            of_transfer(&request.transfer_id, &reads.transfer)
        }
        Command::SettleTransfer(request, reads) => {
            of_transfer(&request.transfer_id, &reads.transfer)
        }
        Command::RefundTransfer(request, reads) => {
            of_transfer(&request.transfer_id, &reads.transfer)
        }
        Command::SendPayment(request, reads) => of_fulfilment(&request.order_id, &reads.fulfilment),
        Command::SettlePayment(request, reads) => {
            of_fulfilment(&request.order_id, &reads.fulfilment)
        }
        Command::RefundPayment(request, reads) => {
            of_fulfilment(&request.order_id, &reads.fulfilment)
        }
    }
}

/// What leaves the account, and is in flight then.
fn leaving(
    state: &AccountState,
    purpose: Purpose<'_>,
    amount: Option<&wire::Money>,
    is_step: bool,
    cx: &Context,
) -> Result<wire::Money, AccountRejection> {
    let amount = open_and_rich_enough(state, amount, &cx.aggregate_id)?;
    if sent(state, purpose).is_some() {
        return Err(purpose.in_flight());
    }
    if !is_step {
        return Err(purpose.not_in_flight());
    }
    if state.transfers_in_flight.len() >= MAX_TRANSFERS_IN_FLIGHT {
        return Err(AccountRejection::TooManyTransfers { limit: MAX_TRANSFERS_IN_FLIGHT });
    }
    Ok(amount.into())
}

/// What has left the account, and is in flight no longer: how much, and the account that it was for.
fn landing(
    state: &AccountState,
    purpose: Purpose<'_>,
    is_step: bool,
    cx: &Context,
) -> Result<(wire::Money, String), AccountRejection> {
    must_be_open(state, cx)?;
    let sent = sent(state, purpose).filter(|_| is_step);
    let sent = sent.ok_or_else(|| purpose.not_in_flight())?;
    let amount = Money::new(sent.amount_minor, currency(state));
    Ok((amount.into(), sent.to_account_id.clone()))
}

fn send(
    state: &AccountState,
    request: &SendTransferRequest,
    is_step: bool,
    cx: &Context,
) -> Result<Event, AccountRejection> {
    let purpose = Purpose::Transfer(&request.transfer_id);
    let amount = leaving(state, purpose, request.amount.as_ref(), is_step, cx)?;
    Ok(Event::TransferSent(TransferSent {
        transfer_id: request.transfer_id.clone(),
        to_account_id: request.to_account_id.clone(),
        amount: Some(amount),
        description: request.description.clone(),
    }))
}

fn receive(
    state: &AccountState,
    request: &ReceiveTransferRequest,
    is_step: bool,
    cx: &Context,
) -> Result<Event, AccountRejection> {
    must_be_open(state, cx)?;
    let amount = positive(request.amount.as_ref(), currency(state))?;
    must_have_room(state, amount)?;
    if !is_step {
        return Err(Purpose::Transfer(&request.transfer_id).not_in_flight());
    }
    Ok(Event::TransferReceived(TransferReceived {
        transfer_id: request.transfer_id.clone(),
        from_account_id: request.from_account_id.clone(),
        amount: Some(amount.into()),
        description: request.description.clone(),
    }))
}

fn settle(
    state: &AccountState,
    request: &SettleTransferRequest,
    is_step: bool,
    cx: &Context,
) -> Result<Event, AccountRejection> {
    let transfer_id = request.transfer_id.clone();
    landing(state, Purpose::Transfer(&transfer_id), is_step, cx)?;
    Ok(Event::TransferSettled(TransferSettled { transfer_id }))
}

fn refund(
    state: &AccountState,
    request: &RefundTransferRequest,
    is_step: bool,
    cx: &Context,
) -> Result<Event, AccountRejection> {
    let transfer_id = request.transfer_id.clone();
    let (amount, to_account_id) = landing(state, Purpose::Transfer(&transfer_id), is_step, cx)?;
    Ok(Event::TransferRefunded(TransferRefunded {
        transfer_id,
        to_account_id,
        amount: Some(amount),
        reason: request.reason.clone(),
    }))
}

fn send_payment(
    state: &AccountState,
    request: &SendPaymentRequest,
    is_step: bool,
    cx: &Context,
) -> Result<Event, AccountRejection> {
    let purpose = Purpose::Order(&request.order_id);
    let amount = leaving(state, purpose, request.amount.as_ref(), is_step, cx)?;
    Ok(Event::PaymentSent(PaymentSent {
        order_id: request.order_id.clone(),
        amount: Some(amount),
        description: request.description.clone(),
    }))
}

fn settle_payment(
    state: &AccountState,
    request: &SettlePaymentRequest,
    is_step: bool,
    cx: &Context,
) -> Result<Event, AccountRejection> {
    let order_id = request.order_id.clone();
    let (amount, _) = landing(state, Purpose::Order(&order_id), is_step, cx)?;
    Ok(Event::PaymentSettled(PaymentSettled { order_id, amount: Some(amount) }))
}

fn refund_payment(
    state: &AccountState,
    request: &RefundPaymentRequest,
    is_step: bool,
    cx: &Context,
) -> Result<Event, AccountRejection> {
    let order_id = request.order_id.clone();
    let (amount, _) = landing(state, Purpose::Order(&order_id), is_step, cx)?;
    let (amount, reason) = (Some(amount), request.reason.clone());
    Ok(Event::PaymentRefunded(PaymentRefunded { order_id, amount, reason }))
}

/// What comes in must fit below the limit together with what may come back.
fn must_have_room(state: &AccountState, amount: Money) -> Result<(), AccountRejection> {
    let held = balance(state).checked_add(in_flight(state));
    let after = held.and_then(|held| held.checked_add(amount));
    match after.is_ok_and(|after| after.minor() <= LIMIT_MINOR) {
        true => Ok(()),
        false => Err(too_large(currency(state))),
    }
}

fn must_be_open(state: &AccountState, cx: &Context) -> Result<(), AccountRejection> {
    open_with_id(state, &cx.aggregate_id)
}

fn open_with_id(state: &AccountState, account_id: &str) -> Result<(), AccountRejection> {
    let account_id = || account_id.to_owned();
    match state.status() {
        AccountStatus::Unspecified => {
            Err(AccountRejection::AccountNotFound { account_id: account_id() })
        }
        AccountStatus::Closed => Err(AccountRejection::AccountClosed { account_id: account_id() }),
        AccountStatus::Open => Ok(()),
    }
}

/// An amount to move: in the currency, more than zero, within the limit.
fn positive(amount: Option<&wire::Money>, currency: Currency) -> Result<Money, AccountRejection> {
    // A missing amount is refused before it comes here; it would be one without a currency.
    let amount = not_negative(&amount.cloned().unwrap_or_default(), currency)?;
    if amount.is_zero() {
        return Err(AccountRejection::AmountNotPositive { amount: amount.to_string() });
    }
    Ok(amount)
}

/// An amount to begin with: in the currency, zero or more, within the limit.
fn not_negative(amount: &wire::Money, currency: Currency) -> Result<Money, AccountRejection> {
    if amount.currency_code != currency.code() {
        let amount = amount.currency_code.clone();
        return Err(AccountRejection::WrongCurrency { account: currency, amount });
    }
    let money = Money::try_from(amount);
    if amount.units < 0 || amount.nanos < 0 {
        // What does not fit into 64 bits is shown in whole units.
        let whole = || format!("{} {currency}", amount.units);
        let amount = money.map_or_else(|_| whole(), |money| money.to_string());
        return Err(AccountRejection::AmountNotPositive { amount });
    }
    // The form was checked before: what is no money now has too many smallest units to count.
    money.ok().filter(|money| money.minor() <= LIMIT_MINOR).ok_or_else(|| too_large(currency))
}

fn too_large(currency: Currency) -> AccountRejection {
    AccountRejection::AmountTooLarge { limit: Money::new(LIMIT_MINOR, currency) }
}

// ---- Old events -------------------------------------------------------------------------------

impl Upcast for Account {
    /// Before there were currencies, every account was in USD.
    fn money_deposited_v1(old: MoneyDepositedV1) -> MoneyDepositedV2 {
        MoneyDepositedV2 {
            amount_minor: old.amount_minor,
            currency_code: Currency::USD.to_string(),
            description: old.description,
        }
    }

    /// Before there were methods, nobody recorded one.
    fn money_deposited_v2(old: MoneyDepositedV2) -> MoneyDeposited {
        // A currency that ISO 4217 does not have was never recorded.
        let amount = Currency::new(&old.currency_code)
            .map(|currency| Money::new(old.amount_minor, currency).into())
            .ok();
        MoneyDeposited {
            amount,
            description: old.description,
            method: MovementMethod::Unspecified.into(),
        }
    }
}

// ---- Specifications ---------------------------------------------------------------------------

#[cfg(test)]
mod specs {
    use daybook_contract::contract::EventSet;
    use daybook_kernel::spec::{NOW, Spec, context, fold};
    use prost::Message;

    use super::*;

    fn wire(minor: i64, code: &str) -> wire::Money {
        Money::new(minor, Currency::new(code).unwrap()).into()
    }

    fn usd(minor: i64) -> Money {
        Money::new(minor, Currency::USD)
    }

    fn opened(minor: i64, code: &str) -> Event {
        Event::AccountOpened(AccountOpened {
            owner_name: "Ada".to_owned(),
            initial_balance: Some(wire(minor, code)),
            opened_time: Some(NOW),
        })
    }

    fn deposited(minor: i64, code: &str) -> Event {
        Event::MoneyDeposited(MoneyDeposited {
            amount: Some(wire(minor, code)),
            description: "wages".to_owned(),
            method: MovementMethod::Transfer.into(),
        })
    }

    fn withdrawn(minor: i64, code: &str) -> Event {
        Event::MoneyWithdrawn(MoneyWithdrawn {
            amount: Some(wire(minor, code)),
            description: "rent".to_owned(),
            method: MovementMethod::Cash.into(),
        })
    }

    fn closed() -> Event {
        Event::AccountClosed(AccountClosed { reason: "moved".to_owned(), closed_time: Some(NOW) })
    }

    fn open(initial_balance: Option<wire::Money>) -> OpenAccountRequest {
        let owner_name = "Ada".to_owned();
        OpenAccountRequest { owner_name, initial_balance, ..Default::default() }
    }

    fn deposit(amount: wire::Money) -> DepositRequest {
        DepositRequest {
            amount: Some(amount),
            description: "wages".to_owned(),
            method: MovementMethod::Transfer.into(),
            ..Default::default()
        }
    }

    fn withdraw(amount: wire::Money) -> WithdrawRequest {
        WithdrawRequest {
            amount: Some(amount),
            description: "rent".to_owned(),
            method: MovementMethod::Cash.into(),
            ..Default::default()
        }
    }

    fn close() -> CloseAccountRequest {
        CloseAccountRequest { reason: "moved".to_owned(), ..Default::default() }
    }

    fn given(events: impl IntoIterator<Item = Event>) -> Spec<Account> {
        Spec::given(events)
    }

    fn not_found() -> AccountRejection {
        AccountRejection::AccountNotFound { account_id: context().aggregate_id }
    }

    fn already_open() -> AccountRejection {
        AccountRejection::AccountAlreadyOpen { account_id: context().aggregate_id }
    }

    fn is_closed() -> AccountRejection {
        AccountRejection::AccountClosed { account_id: context().aggregate_id }
    }

    fn wrong_currency(amount: &str) -> AccountRejection {
        let amount = amount.to_owned();
        AccountRejection::WrongCurrency { account: Currency::USD, amount }
    }

    fn not_positive(amount: &str) -> AccountRejection {
        AccountRejection::AmountNotPositive { amount: amount.to_owned() }
    }

    fn above_limit() -> AccountRejection {
        AccountRejection::AmountTooLarge { limit: usd(LIMIT_MINOR) }
    }

    fn insufficient(balance: i64, requested: i64) -> AccountRejection {
        let (balance, requested) = (usd(balance), usd(requested));
        AccountRejection::InsufficientFunds { balance, requested }
    }

    // What is accepted.

    #[test]
    fn an_account_is_opened_with_what_is_paid_in() {
        given([]).when(open(Some(wire(1234, "EUR")))).then([opened(1234, "EUR")]);
        given([]).when(open(Some(wire(0, "JPY")))).then([opened(0, "JPY")]);
        given([]).when(open(Some(wire(LIMIT_MINOR, "USD")))).then([opened(LIMIT_MINOR, "USD")]);
    }

    #[test]
    fn an_account_opened_without_money_is_in_usd() {
        given([]).when(open(None)).then([opened(0, "USD")]);
    }

    #[test]
    fn the_state_shows_who_when_and_what() {
        let opening = given([]).when(open(Some(wire(1234, "EUR"))));
        let expected = AccountState {
            status: AccountStatus::Open.into(),
            owner_name: "Ada".to_owned(),
            currency_code: "EUR".to_owned(),
            balance_minor: 1234,
            opened_time: Some(NOW),
            closed_time: None,
            transfers_in_flight: Vec::new(),
        };
        assert_eq!(opening.state(), &expected);

        let closing = given([opened(0, "EUR")]).when(close());
        let expected = AccountState {
            status: AccountStatus::Closed.into(),
            balance_minor: 0,
            closed_time: Some(NOW),
            ..expected
        };
        assert_eq!(closing.state(), &expected);
    }

    #[test]
    fn money_comes_in() {
        given([opened(0, "KWD")]).when(deposit(wire(1, "KWD"))).then([deposited(1, "KWD")]);
    }

    #[test]
    fn the_balance_may_reach_the_limit() {
        given([opened(LIMIT_MINOR - 1, "USD")])
            .when(deposit(wire(1, "USD")))
            .then([deposited(1, "USD")]);
    }

    #[test]
    fn money_goes_out_to_the_last_cent() {
        given([opened(100, "USD"), deposited(50, "USD")])
            .when(withdraw(wire(150, "USD")))
            .then([withdrawn(150, "USD")]);
    }

    #[test]
    fn an_empty_account_is_closed() {
        given([opened(50, "USD"), withdrawn(50, "USD")]).when(close()).then([closed()]);
    }

    // What is refused, in order of precedence.

    #[test]
    fn an_account_that_does_not_exist_is_not_found() {
        given([]).when(deposit(wire(1, "USD"))).then_rejected(not_found());
        given([]).when(withdraw(wire(1, "USD"))).then_rejected(not_found());
        given([]).when(close()).then_rejected(not_found());
    }

    #[test]
    fn an_id_is_used_once_even_after_closing() {
        given([opened(0, "USD")]).when(open(None)).then_rejected(already_open());
        given([opened(0, "USD"), closed()]).when(open(None)).then_rejected(already_open());
    }

    #[test]
    fn a_closed_account_refuses_everything() {
        let gone = || given([opened(0, "USD"), closed()]);
        gone().when(deposit(wire(1, "USD"))).then_rejected(is_closed());
        gone().when(withdraw(wire(1, "USD"))).then_rejected(is_closed());
        gone().when(close()).then_rejected(is_closed());
    }

    #[test]
    fn an_amount_in_another_currency_is_refused() {
        let account = || given([opened(100, "USD")]);
        account().when(deposit(wire(1, "EUR"))).then_rejected(wrong_currency("EUR"));
        account().when(withdraw(wire(1, "EUR"))).then_rejected(wrong_currency("EUR"));
        account().when(DepositRequest::default()).then_rejected(wrong_currency(""));
    }

    #[test]
    fn an_amount_of_nothing_or_less_is_refused() {
        let account = || given([opened(100, "USD")]);
        account().when(deposit(wire(0, "USD"))).then_rejected(not_positive("0.00 USD"));
        account().when(deposit(wire(-1, "USD"))).then_rejected(not_positive("-0.01 USD"));
        account().when(withdraw(wire(0, "USD"))).then_rejected(not_positive("0.00 USD"));
        account().when(withdraw(wire(-1, "USD"))).then_rejected(not_positive("-0.01 USD"));
        given([]).when(open(Some(wire(-1, "USD")))).then_rejected(not_positive("-0.01 USD"));
    }

    #[test]
    fn an_amount_or_balance_above_the_limit_is_refused() {
        let (above, huge) = (wire(LIMIT_MINOR + 1, "USD"), uncountable(i64::MAX));
        for amount in [above, huge] {
            given([]).when(open(Some(amount.clone()))).then_rejected(above_limit());
            given([opened(0, "USD")]).when(deposit(amount.clone())).then_rejected(above_limit());
            given([opened(0, "USD")]).when(withdraw(amount)).then_rejected(above_limit());
        }
        given([opened(LIMIT_MINOR, "USD")])
            .when(deposit(wire(1, "USD")))
            .then_rejected(above_limit());
    }

    #[test]
    fn a_withdrawal_beyond_the_balance_is_refused() {
        given([opened(100, "USD"), withdrawn(1, "USD")])
            .when(withdraw(wire(100, "USD")))
            .then_rejected(insufficient(99, 100));
    }

    #[test]
    fn an_account_with_money_on_it_is_not_closed() {
        given([opened(1, "USD")])
            .when(close())
            .then_rejected(AccountRejection::BalanceNotZero { balance: usd(1) });
    }

    /// Well formed, but with more cents than 64 bits can count.
    fn uncountable(units: i64) -> wire::Money {
        wire::Money { currency_code: "USD".to_owned(), units, nanos: 0 }
    }

    #[test]
    fn of_two_rules_that_do_not_hold_the_earlier_is_given() {
        let account = || given([opened(100, "USD")]);
        let gone = || given([opened(0, "USD"), closed()]);
        let (negative, above) = (wire(-1, "USD"), wire(LIMIT_MINOR + 1, "USD"));

        given([]).when(deposit(negative.clone())).then_rejected(not_found());
        given([]).when(withdraw(above.clone())).then_rejected(not_found());

        account().when(open(Some(negative.clone()))).then_rejected(already_open());
        gone().when(open(Some(above.clone()))).then_rejected(already_open());

        gone().when(deposit(wire(1, "EUR"))).then_rejected(is_closed());
        gone().when(deposit(negative)).then_rejected(is_closed());
        gone().when(withdraw(above.clone())).then_rejected(is_closed());

        let euros = |minor| deposit(wire(minor, "EUR"));
        account().when(euros(-1)).then_rejected(wrong_currency("EUR"));
        account().when(euros(LIMIT_MINOR + 1)).then_rejected(wrong_currency("EUR"));
        account().when(withdraw(wire(101, "EUR"))).then_rejected(wrong_currency("EUR"));

        let least = not_positive("-9223372036854775808 USD");
        account().when(deposit(uncountable(i64::MIN))).then_rejected(least.clone());
        account().when(withdraw(uncountable(i64::MIN))).then_rejected(least.clone());
        given([]).when(open(Some(uncountable(i64::MIN)))).then_rejected(least);

        account().when(withdraw(above)).then_rejected(above_limit());
    }

    #[test]
    fn the_rejections_are_those_of_the_contract_in_its_order() {
        let here = [
            not_found(),
            already_open(),
            is_closed(),
            wrong_currency("EUR"),
            not_positive("0.00 USD"),
            above_limit(),
            insufficient(1, 2),
            AccountRejection::BalanceNotZero { balance: usd(1) },
            AccountRejection::TransferInFlight { transfer_id: "t".to_owned() },
            AccountRejection::TransferNotInFlight { transfer_id: "t".to_owned() },
            AccountRejection::TooManyTransfers { limit: MAX_TRANSFERS_IN_FLIGHT },
            AccountRejection::PaymentInFlight { order_id: "o".to_owned() },
            AccountRejection::PaymentNotInFlight { order_id: "o".to_owned() },
        ];
        let contract: Vec<_> = (1..).map_while(|number| Reason::try_from(number).ok()).collect();
        assert_eq!(here.each_ref().map(AccountRejection::in_contract).as_slice(), contract);
        for (rejection, in_contract) in here.iter().zip(contract) {
            let variant = format!("{in_contract:?}");
            assert!(format!("{rejection:?}").starts_with(&variant), "{rejection:?}");
            let prefixed = format!("ACCOUNT_REJECTION_{}", rejection.reason());
            assert_eq!(prefixed, in_contract.as_str_name());
        }
    }

    #[test]
    fn a_rejection_tells_people_and_machines_the_values() {
        use RejectionKind::{AlreadyExists, FailedPrecondition, NotFound};
        let limit = "10000000000000.00 USD";
        let above = format!("the amount, or the balance with it, is above the limit of {limit}");
        let values: [(_, _, &str, &[_]); 8] = [
            (not_found(), NotFound, "there is no account spec", &[("account_id", "spec")]),
            (
                already_open(),
                AlreadyExists,
                "there is an account spec already",
                &[("account_id", "spec")],
            ),
            (is_closed(), FailedPrecondition, "account spec is closed", &[("account_id", "spec")]),
            (
                wrong_currency("EUR"),
                FailedPrecondition,
                "the amount is in \"EUR\", the account in USD",
                &[("account_currency", "USD"), ("currency", "EUR")],
            ),
            (
                not_positive("0.00 USD"),
                FailedPrecondition,
                "the amount 0.00 USD is not positive",
                &[("amount", "0.00 USD")],
            ),
            (above_limit(), FailedPrecondition, &above, &[("limit", limit)]),
            (
                insufficient(1234, 2000),
                FailedPrecondition,
                "the balance is 12.34 USD, less than the 20.00 USD asked for",
                &[("balance", "12.34 USD"), ("requested", "20.00 USD")],
            ),
            (
                AccountRejection::BalanceNotZero { balance: usd(1) },
                FailedPrecondition,
                "there is still 0.01 USD on the account",
                &[("balance", "0.01 USD")],
            ),
        ];
        for (rejection, kind, text, metadata) in values {
            assert_eq!(rejection.kind(), kind, "{rejection:?}");
            assert_eq!(rejection.to_string(), text);
            let found = rejection.metadata();
            let found: Vec<_> = found.iter().map(|(key, value)| (*key, value.as_str())).collect();
            assert_eq!(found, metadata, "{rejection:?}");
        }
    }

    // Events of earlier versions.

    fn stored<M: Message>(name: &str, version: u32, message: &M) -> Event {
        let bytes = message.encode_to_vec().into();
        <Event as EventSet<Account>>::decode(name, version, bytes).unwrap()
    }

    #[test]
    fn deposits_of_every_version_count() {
        let description = || "wages".to_owned();
        let v1 = MoneyDepositedV1 { amount_minor: 100, description: description() };
        let v2 = MoneyDepositedV2 {
            amount_minor: 20,
            currency_code: "USD".to_owned(),
            description: description(),
        };
        let state = fold::<Account>(&[
            opened(0, "USD"),
            stored("MoneyDeposited", 1, &v1),
            stored("MoneyDeposited", 2, &v2),
            deposited(3, "USD"),
        ]);
        assert_eq!(state.balance_minor, 123);
    }

    #[test]
    fn an_old_deposit_is_brought_up_to_date() {
        let v1 = MoneyDepositedV1 { amount_minor: 1234, description: "wages".to_owned() };
        let v2 = MoneyDepositedV2 {
            amount_minor: 1234,
            currency_code: "KWD".to_owned(),
            description: "wages".to_owned(),
        };
        let current = |code| {
            Event::MoneyDeposited(MoneyDeposited {
                amount: Some(wire(1234, code)),
                description: "wages".to_owned(),
                method: MovementMethod::Unspecified.into(),
            })
        };
        assert_eq!(stored("MoneyDeposited", 1, &v1), current("USD"));
        assert_eq!(stored("MoneyDeposited", 2, &v2), current("KWD"));
    }
}
