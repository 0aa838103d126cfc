//! The order: what a customer wants, at the prices of the moment, from the first item to the parcel.
//!
//! An order goes from open to submitted, paid and shipped; before it is paid it can be cancelled.
//! Every other step is refused with the rule that names where the order is. Its items are all in
//! one currency, and what it comes to is the exact sum, within what an account can hold.
//!
//! *Not* here: stock and the charging of the account, which the fulfilment of an order sees to. Once
//! it has begun, it alone says that the order is paid.

use daybook_contract::catalog::v1::{ProductState, ProductStatus};
use daybook_contract::daybook::v1 as wire;
use daybook_contract::orders::v1::order::{Command, Event, Upcast};
use daybook_contract::orders::v1::{
    AddItemRequest, CancelOrderRequest, CreateOrderRequest, FulfilmentStatus, ItemAdded,
    ItemRemoved, OrderCancelled, OrderCreated, OrderItem, OrderPaid, OrderRejection as Reason,
    OrderShipped, OrderState, OrderStatus, OrderSubmitted, PayOrderRequest, RemoveItemRequest,
    ShipOrderRequest, SubmitOrderRequest,
};
use daybook_contract::users::v1::{UserState, UserStatus};
use daybook_kernel::{
    Aggregate, Context, Currency, Money, Rejection, RejectionKind, Timestamp, is_awaited,
};

use crate::fulfilment::Fulfilment;

/// The most items of an order, so that one event can carry all of them.
pub const LIMIT_ITEMS: usize = 100;

/// The most that an order may come to, in smallest units: what an account can hold.
pub const LIMIT_MINOR: i64 = crate::account::LIMIT_MINOR;

/// How long the fulfilment of an order may take when it is not said: long enough for a broker or
/// a process to be mended, short enough for a customer to wait.
pub const FULFIL_WITHIN_SECONDS: u32 = 15 * 60;

/// The aggregate `orders.order`.
#[derive(Debug)]
pub struct Order;

// ---- State ------------------------------------------------------------------------------------

/// The price of a piece. It was checked before it was recorded; one that is none counts nothing,
/// since a fact cannot be refused.
fn unit_price(item: &OrderItem) -> Money {
    let price = item.unit_price.as_ref().and_then(|price| Money::try_from(price).ok());
    price.unwrap_or(Money::zero(Currency::USD))
}

/// What some pieces come to, in smallest units.
fn price_of(unit_price: Money, quantity: u64) -> i128 {
    i128::from(unit_price.minor()) * i128::from(quantity)
}

/// What an order comes to; nothing when there is nothing in it, which has no currency.
pub(crate) fn total(state: &OrderState) -> Option<Money> {
    let currency = unit_price(state.items.first()?).currency();
    let sum: i128 = state.items.iter().map(|item| price_of(unit_price(item), item.quantity)).sum();
    // Every item was refused that would have brought the sum above the limit.
    Some(Money::new(i64::try_from(sum).unwrap_or(i64::MAX), currency))
}

// ---- Rejections, in order of precedence -------------------------------------------------------

/// The rules that an order keeps. When several do not hold, the first is given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderRejection {
    /// There is no such order.
    #[error("there is no order {order_id}")]
    OrderNotFound {
        /// The id that was asked for.
        order_id: String,
    },
    /// There is an order with this id already.
    #[error("there is an order {order_id} already")]
    OrderAlreadyExists {
        /// The id that is taken.
        order_id: String,
    },
    /// The order was cancelled.
    #[error("order {order_id} was cancelled")]
    OrderCancelled {
        /// The order.
        order_id: String,
    },
    /// The order was shipped.
    #[error("order {order_id} was shipped")]
    OrderAlreadyShipped {
        /// The order.
        order_id: String,
    },
    /// The order is paid.
    #[error("order {order_id} is paid")]
    OrderAlreadyPaid {
        /// The order.
        order_id: String,
    },
    /// The order is submitted.
    #[error("order {order_id} is submitted")]
    OrderAlreadySubmitted {
        /// The order.
        order_id: String,
    },
    /// The order is not submitted yet.
    #[error("order {order_id} is not submitted yet")]
    OrderNotSubmitted {
        /// The order.
        order_id: String,
    },
    /// The order is not paid yet.
    #[error("order {order_id} is not paid yet")]
    OrderNotPaid {
        /// The order.
        order_id: String,
    },
    /// There is no such user.
    #[error("there is no user {user_id}")]
    UnknownUser {
        /// The user that was asked for.
        user_id: String,
    },
    /// The user is deactivated.
    #[error("user {user_id} is deactivated")]
    UserDeactivated {
        /// The user.
        user_id: String,
    },
    /// There is no such product in the catalogue.
    #[error("there is no product {product_id} in the catalogue")]
    UnknownProduct {
        /// The product that was asked for.
        product_id: String,
    },
    /// The product is discontinued.
    #[error("product {product_id} is discontinued")]
    ProductDiscontinued {
        /// The product.
        product_id: String,
    },
    /// The price is not in the currency of the order.
    #[error("the price is in {price}, the order in {order}")]
    WrongCurrency {
        /// The currency of the items that are in the order.
        order: Currency,
        /// The currency of the price.
        price: Currency,
    },
    /// The order has as many items as it may have.
    #[error("the order has {limit} items already")]
    TooManyItems {
        /// The limit.
        limit: usize,
    },
    /// The order would come to more than the limit.
    #[error("the order would come to more than {limit}")]
    TotalTooLarge {
        /// The limit.
        limit: Money,
    },
    /// The order has no such line.
    #[error("the order has no line {line_id}")]
    ItemNotInOrder {
        /// The line that was asked for.
        line_id: String,
    },
    /// There is nothing in the order.
    #[error("there is nothing in order {order_id}")]
    OrderEmpty {
        /// The order.
        order_id: String,
    },
    /// The fulfilment of the order has begun.
    #[error("order {order_id} is in fulfilment, which alone says that it is paid")]
    OrderInFulfilment {
        /// The order.
        order_id: String,
    },
}

impl OrderRejection {
    /// The same rule in the contract.
    fn in_contract(&self) -> Reason {
        match self {
            Self::OrderNotFound { .. } => Reason::OrderNotFound,
            Self::OrderAlreadyExists { .. } => Reason::OrderAlreadyExists,
            Self::OrderCancelled { .. } => Reason::OrderCancelled,
            Self::OrderAlreadyShipped { .. } => Reason::OrderAlreadyShipped,
            Self::OrderAlreadyPaid { .. } => Reason::OrderAlreadyPaid,
            Self::OrderAlreadySubmitted { .. } => Reason::OrderAlreadySubmitted,
            Self::OrderNotSubmitted { .. } => Reason::OrderNotSubmitted,
            Self::OrderNotPaid { .. } => Reason::OrderNotPaid,
            Self::UnknownUser { .. } => Reason::UnknownUser,
            Self::UserDeactivated { .. } => Reason::UserDeactivated,
            Self::UnknownProduct { .. } => Reason::UnknownProduct,
            Self::ProductDiscontinued { .. } => Reason::ProductDiscontinued,
            Self::WrongCurrency { .. } => Reason::WrongCurrency,
            Self::TooManyItems { .. } => Reason::TooManyItems,
            Self::TotalTooLarge { .. } => Reason::TotalTooLarge,
            Self::ItemNotInOrder { .. } => Reason::ItemNotInOrder,
            Self::OrderEmpty { .. } => Reason::OrderEmpty,
            Self::OrderInFulfilment { .. } => Reason::OrderInFulfilment,
        }
    }
}

impl Rejection for OrderRejection {
    fn reason(&self) -> &'static str {
        self.in_contract().as_str_name().trim_start_matches("ORDER_REJECTION_")
    }

    fn kind(&self) -> RejectionKind {
        match self {
            Self::OrderNotFound { .. } => RejectionKind::NotFound,
            Self::OrderAlreadyExists { .. } => RejectionKind::AlreadyExists,
            _ => RejectionKind::FailedPrecondition,
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::OrderNotFound { order_id }
            | Self::OrderAlreadyExists { order_id }
            | Self::OrderCancelled { order_id }
            | Self::OrderAlreadyShipped { order_id }
            | Self::OrderAlreadyPaid { order_id }
            | Self::OrderAlreadySubmitted { order_id }
            | Self::OrderNotSubmitted { order_id }
            | Self::OrderNotPaid { order_id }
            | Self::OrderEmpty { order_id }
            | Self::OrderInFulfilment { order_id } => vec![("order_id", order_id.clone())],
            Self::UnknownUser { user_id } | Self::UserDeactivated { user_id } => {
                vec![("user_id", user_id.clone())]
            }
            Self::UnknownProduct { product_id } | Self::ProductDiscontinued { product_id } => {
                vec![("product_id", product_id.clone())]
            }
            Self::WrongCurrency { order, price } => {
                vec![("order_currency", order.to_string()), ("currency", price.to_string())]
            }
            Self::TooManyItems { limit } => vec![("limit", limit.to_string())],
            Self::TotalTooLarge { limit } => vec![("limit", limit.to_string())],
            Self::ItemNotInOrder { line_id } => vec![("line_id", line_id.clone())],
        }
    }
}

// ---- Decide -----------------------------------------------------------------------------------

impl Aggregate for Order {
    type Command = Command;
    type Event = Event;
    type State = OrderState;
    type Rejection = OrderRejection;

    fn decide(
        state: &OrderState,
        command: &Command,
        cx: &Context,
    ) -> Result<Vec<Event>, OrderRejection> {
        let event = match command {
            Command::CreateOrder(request, reads) => create(state, request, &reads.user, cx)?,
            Command::AddItem(request, reads) => add(state, request, &reads.product, cx)?,
            Command::RemoveItem(request) => remove(state, request, cx)?,
            Command::SubmitOrder(request) => submit(state, request, cx)?,
            Command::PayOrder(request, reads) => {
                let order_id = &cx.aggregate_id;
                let fulfilment = &reads.fulfilment;
                let may_pay = fulfilment.status() == FulfilmentStatus::Unspecified
                    || is_awaited::<Fulfilment>(order_id, fulfilment, command, cx);
                pay(state, request, may_pay, cx)?
            }
            Command::ShipOrder(request) => ship(state, request, cx)?,
            Command::CancelOrder(..) if state.status() == OrderStatus::Cancelled => {
                return Ok(Vec::new());
            }
            Command::CancelOrder(request, _) => cancel(state, request, cx)?,
        };
        Ok(vec![event])
    }

    fn evolve(state: &mut OrderState, event: &Event) {
        match event {
            Event::OrderCreated(event) => {
                state.set_status(OrderStatus::Open);
                state.user_id.clone_from(&event.user_id);
                state.created_time = event.created_time;
            }
            Event::ItemAdded(event) => {
                state.items.extend(event.item.clone());
                state.items_added = state.items_added.saturating_add(1);
            }
            Event::ItemRemoved(event) => state.items.retain(|item| item.line_id != event.line_id),
            Event::OrderSubmitted(event) => {
                state.set_status(OrderStatus::Submitted);
                state.account_id.clone_from(&event.account_id);
                state.fulfil_by_time = event.fulfil_by_time;
            }
            Event::OrderPaid(_) => state.set_status(OrderStatus::Paid),
            Event::OrderShipped(_) => state.set_status(OrderStatus::Shipped),
            Event::OrderCancelled(_) => state.set_status(OrderStatus::Cancelled),
        }
    }
}

fn create(
    state: &OrderState,
    request: &CreateOrderRequest,
    user: &UserState,
    cx: &Context,
) -> Result<Event, OrderRejection> {
    if state.status() != OrderStatus::Unspecified {
        return Err(OrderRejection::OrderAlreadyExists { order_id: cx.aggregate_id.clone() });
    }
    let user_id = request.user_id.clone();
    match user.status() {
        UserStatus::Unspecified => Err(OrderRejection::UnknownUser { user_id }),
        UserStatus::Deactivated => Err(OrderRejection::UserDeactivated { user_id }),
        UserStatus::Active => {
            Ok(Event::OrderCreated(OrderCreated { user_id, created_time: Some(cx.now) }))
        }
    }
}

fn add(
    state: &OrderState,
    request: &AddItemRequest,
    product: &ProductState,
    cx: &Context,
) -> Result<Event, OrderRejection> {
    must_be(&[OrderStatus::Open], state, cx)?;
    let price = price(product, &request.product_id)?;
    must_take(state, price, request.quantity)?;
    Ok(Event::ItemAdded(ItemAdded {
        item: Some(OrderItem {
            line_id: (state.items_added + 1).to_string(),
            product_id: request.product_id.clone(),
            quantity: request.quantity,
            unit_price: Some(price.into()),
        }),
    }))
}

/// The price of a product that is sold.
fn price(product: &ProductState, product_id: &str) -> Result<Money, OrderRejection> {
    let product_id = product_id.to_owned();
    if product.status() == ProductStatus::Discontinued {
        return Err(OrderRejection::ProductDiscontinued { product_id });
    }
    // A product has a price from the beginning.
    let price = product.price.as_ref().and_then(|price| Money::try_from(price).ok());
    price.ok_or(OrderRejection::UnknownProduct { product_id })
}

/// Whether some more pieces at a price have a place in the order.
fn must_take(state: &OrderState, price: Money, quantity: u64) -> Result<(), OrderRejection> {
    let total = total(state).unwrap_or(Money::zero(price.currency()));
    if total.currency() != price.currency() {
        let (order, price) = (total.currency(), price.currency());
        return Err(OrderRejection::WrongCurrency { order, price });
    }
    if state.items.len() >= LIMIT_ITEMS {
        return Err(OrderRejection::TooManyItems { limit: LIMIT_ITEMS });
    }
    if i128::from(total.minor()) + price_of(price, quantity) > i128::from(LIMIT_MINOR) {
        let limit = Money::new(LIMIT_MINOR, price.currency());
        return Err(OrderRejection::TotalTooLarge { limit });
    }
    Ok(())
}

fn remove(
    state: &OrderState,
    request: &RemoveItemRequest,
    cx: &Context,
) -> Result<Event, OrderRejection> {
    must_be(&[OrderStatus::Open], state, cx)?;
    let line_id = request.line_id.clone();
    if !state.items.iter().any(|item| item.line_id == line_id) {
        return Err(OrderRejection::ItemNotInOrder { line_id });
    }
    Ok(Event::ItemRemoved(ItemRemoved { line_id }))
}

fn submit(
    state: &OrderState,
    request: &SubmitOrderRequest,
    cx: &Context,
) -> Result<Event, OrderRejection> {
    must_be(&[OrderStatus::Open], state, cx)?;
    let total = total(state)
        .ok_or_else(|| OrderRejection::OrderEmpty { order_id: cx.aggregate_id.clone() })?;
    Ok(Event::OrderSubmitted(OrderSubmitted {
        user_id: state.user_id.clone(),
        account_id: request.account_id.clone(),
        items: state.items.clone(),
        total: Some(total.into()),
        submitted_time: Some(cx.now),
        fulfil_by_time: Some(fulfil_by(request, cx.now)),
    }))
}

fn fulfil_by(request: &SubmitOrderRequest, now: Timestamp) -> Timestamp {
    let seconds = match request.fulfil_within_seconds {
        0 => FULFIL_WITHIN_SECONDS,
        seconds => seconds,
    };
    Timestamp { seconds: now.seconds + i64::from(seconds), nanos: now.nanos }
}

fn pay(
    state: &OrderState,
    request: &PayOrderRequest,
    may_pay: bool,
    cx: &Context,
) -> Result<Event, OrderRejection> {
    must_be(&[OrderStatus::Submitted], state, cx)?;
    if !may_pay {
        return Err(OrderRejection::OrderInFulfilment { order_id: cx.aggregate_id.clone() });
    }
    Ok(Event::OrderPaid(OrderPaid {
        amount: total(state).map(wire::Money::from),
        payment_id: request.payment_id.clone(),
        paid_time: Some(cx.now),
    }))
}

fn ship(
    state: &OrderState,
    request: &ShipOrderRequest,
    cx: &Context,
) -> Result<Event, OrderRejection> {
    must_be(&[OrderStatus::Paid], state, cx)?;
    Ok(Event::OrderShipped(OrderShipped {
        tracking_id: request.tracking_id.clone(),
        shipped_time: Some(cx.now),
    }))
}

fn cancel(
    state: &OrderState,
    request: &CancelOrderRequest,
    cx: &Context,
) -> Result<Event, OrderRejection> {
    must_be(&[OrderStatus::Open, OrderStatus::Submitted], state, cx)?;
    Ok(Event::OrderCancelled(OrderCancelled {
        reason: request.reason.clone(),
        cancelled_time: Some(cx.now),
    }))
}

/// Whether the order is where a step begins.
fn must_be(wanted: &[OrderStatus], state: &OrderState, cx: &Context) -> Result<(), OrderRejection> {
    let status = state.status();
    if wanted.contains(&status) {
        return Ok(());
    }
    let order_id = cx.aggregate_id.clone();
    Err(match status {
        OrderStatus::Unspecified => OrderRejection::OrderNotFound { order_id },
        OrderStatus::Cancelled => OrderRejection::OrderCancelled { order_id },
        OrderStatus::Shipped => OrderRejection::OrderAlreadyShipped { order_id },
        OrderStatus::Paid => OrderRejection::OrderAlreadyPaid { order_id },
        OrderStatus::Submitted if wanted.contains(&OrderStatus::Paid) => {
            OrderRejection::OrderNotPaid { order_id }
        }
        OrderStatus::Submitted => OrderRejection::OrderAlreadySubmitted { order_id },
        OrderStatus::Open => OrderRejection::OrderNotSubmitted { order_id },
    })
}

/// No event has an older version yet.
impl Upcast for Order {}

// ---- Specifications ---------------------------------------------------------------------------

#[cfg(test)]
mod specs {
    use daybook_contract::catalog::v1::product::Event as ProductEvent;
    use daybook_contract::catalog::v1::{PriceChanged, ProductCreated, ProductDiscontinued};
    use daybook_contract::users::v1::user::Event as UserEvent;
    use daybook_contract::users::v1::{UserDeactivated, UserRegistered};
    use daybook_kernel::spec::{NOW, Spec, context};

    use super::*;
    use crate::product::Product;
    use crate::user::User;

    fn money(minor: i64, code: &str) -> Money {
        Money::new(minor, Currency::new(code).unwrap())
    }

    fn usd(minor: i64) -> Money {
        Money::new(minor, Currency::USD)
    }

    fn registered() -> UserEvent {
        UserRegistered { registered_time: Some(NOW), ..Default::default() }.into()
    }

    fn deactivated() -> UserEvent {
        UserDeactivated { deactivated_time: Some(NOW), ..Default::default() }.into()
    }

    fn product_created(price: Money) -> ProductEvent {
        ProductCreated { price: Some(price.into()), ..Default::default() }.into()
    }

    fn price_changed(price: Money) -> ProductEvent {
        PriceChanged { price: Some(price.into()), ..Default::default() }.into()
    }

    fn discontinued() -> ProductEvent {
        ProductDiscontinued { discontinued_time: Some(NOW), ..Default::default() }.into()
    }

    fn created() -> Event {
        OrderCreated { user_id: "ada".to_owned(), created_time: Some(NOW) }.into()
    }

    fn item(line: &str, quantity: u64, unit_price: Money) -> OrderItem {
        OrderItem {
            line_id: line.to_owned(),
            product_id: "cup".to_owned(),
            quantity,
            unit_price: Some(unit_price.into()),
        }
    }

    fn added(line: &str, quantity: u64, unit_price: Money) -> Event {
        ItemAdded { item: Some(item(line, quantity, unit_price)) }.into()
    }

    fn removed(line: &str) -> Event {
        ItemRemoved { line_id: line.to_owned() }.into()
    }

    fn submitted(items: impl IntoIterator<Item = OrderItem>, total: Money) -> Event {
        OrderSubmitted {
            user_id: "ada".to_owned(),
            account_id: "account".to_owned(),
            items: items.into_iter().collect(),
            total: Some(total.into()),
            submitted_time: Some(NOW),
            fulfil_by_time: Some(Timestamp { seconds: NOW.seconds + 900, ..NOW }),
        }
        .into()
    }

    fn paid(amount: Money) -> Event {
        let payment_id = "payment".to_owned();
        OrderPaid { amount: Some(amount.into()), payment_id, paid_time: Some(NOW) }.into()
    }

    fn shipped() -> Event {
        OrderShipped { tracking_id: "parcel".to_owned(), shipped_time: Some(NOW) }.into()
    }

    fn cancelled() -> Event {
        OrderCancelled { reason: "too late".to_owned(), cancelled_time: Some(NOW) }.into()
    }

    fn create() -> CreateOrderRequest {
        CreateOrderRequest { user_id: "ada".to_owned(), ..Default::default() }
    }

    fn add(quantity: u64) -> AddItemRequest {
        AddItemRequest { product_id: "cup".to_owned(), quantity, ..Default::default() }
    }

    fn remove(line: &str) -> RemoveItemRequest {
        RemoveItemRequest { line_id: line.to_owned(), ..Default::default() }
    }

    fn submit() -> SubmitOrderRequest {
        SubmitOrderRequest { account_id: "account".to_owned(), ..Default::default() }
    }

    fn pay() -> PayOrderRequest {
        PayOrderRequest { payment_id: "payment".to_owned(), ..Default::default() }
    }

    fn ship() -> ShipOrderRequest {
        ShipOrderRequest { tracking_id: "parcel".to_owned(), ..Default::default() }
    }

    fn cancel() -> CancelOrderRequest {
        CancelOrderRequest { reason: "too late".to_owned(), ..Default::default() }
    }

    fn given(events: impl IntoIterator<Item = Event>) -> Spec<Order> {
        Spec::given(events)
    }

    /// An open order with one item of two cups.
    fn two_cups() -> [Event; 2] {
        [created(), added("1", 2, usd(450))]
    }

    /// The order of two cups, after some more.
    fn two_cups_and(more: impl IntoIterator<Item = Event>) -> Spec<Order> {
        given(two_cups().into_iter().chain(more))
    }

    fn submitted_cups() -> Event {
        submitted([item("1", 2, usd(450))], usd(900))
    }

    // What is accepted.

    #[test]
    fn an_active_user_begins_an_order() {
        given([]).reading::<User>("ada", [registered()]).when(create()).then([created()]);
    }

    #[test]
    fn an_item_has_the_price_of_the_moment() {
        let catalogue = [product_created(usd(450)), price_changed(usd(475))];
        given([created()]).reading::<Product>("cup", catalogue.clone()).when(add(3)).then([added(
            "1",
            3,
            usd(475),
        )]);
        // What is in the order already keeps its price.
        let adding = two_cups_and([]).reading::<Product>("cup", catalogue).when(add(1));
        assert_eq!(total(adding.state()), Some(usd(2 * 450 + 475)));
        adding.then([added("2", 1, usd(475))]);
    }

    #[test]
    fn a_line_is_never_used_again() {
        two_cups_and([removed("1")])
            .reading::<Product>("cup", [product_created(usd(450))])
            .when(add(1))
            .then([added("2", 1, usd(450))]);
    }

    #[test]
    fn an_item_is_taken_off() {
        let removing = two_cups_and([added("2", 1, usd(1))]).when(remove("1"));
        assert_eq!(removing.state().items, [item("2", 1, usd(1))]);
        removing.then([removed("1")]);
    }

    #[test]
    fn an_order_without_items_has_no_currency() {
        two_cups_and([removed("1")])
            .reading::<Product>("cup", [product_created(money(7, "JPY"))])
            .when(add(1))
            .then([added("2", 1, money(7, "JPY"))]);
    }

    #[test]
    fn a_submitted_order_says_all_that_is_needed_to_fulfil_it() {
        let items = [item("1", 2, usd(450)), item("2", 3, usd(1))];
        two_cups_and([added("2", 3, usd(1))]).when(submit()).then([submitted(items, usd(903))]);
    }

    #[test]
    fn an_order_may_come_to_the_limit() {
        given([created(), added("1", 1_000, usd(LIMIT_MINOR / 1_000 - 1))])
            .reading::<Product>("cup", [product_created(usd(1))])
            .when(add(1_000))
            .then([added("2", 1_000, usd(1))]);
    }

    #[test]
    fn an_order_is_paid_and_shipped() {
        two_cups_and([submitted_cups()]).when(pay()).then([paid(usd(900))]);
        two_cups_and([submitted_cups(), paid(usd(900))]).when(ship()).then([shipped()]);
    }

    #[test]
    fn an_order_that_is_not_paid_is_cancelled() {
        given([created()]).when(cancel()).then([cancelled()]);
        two_cups_and([submitted_cups()]).when(cancel()).then([cancelled()]);
    }

    #[test]
    fn a_cancelled_order_need_not_be_cancelled_again() {
        given([created(), cancelled()]).when(cancel()).then_nothing();
    }

    // What is refused.

    /// Every state and every command: what is not a step of the state machine is refused with the
    /// rule that names where the order is.
    #[test]
    fn every_other_step_is_refused() {
        let order_id = || context().aggregate_id;
        let not_found = || Err(OrderRejection::OrderNotFound { order_id: order_id() });
        let exists = || Err(OrderRejection::OrderAlreadyExists { order_id: order_id() });
        let is_cancelled = || Err(OrderRejection::OrderCancelled { order_id: order_id() });
        let is_shipped = || Err(OrderRejection::OrderAlreadyShipped { order_id: order_id() });
        let is_paid = || Err(OrderRejection::OrderAlreadyPaid { order_id: order_id() });
        let is_submitted = || Err(OrderRejection::OrderAlreadySubmitted { order_id: order_id() });
        let not_submitted = || Err(OrderRejection::OrderNotSubmitted { order_id: order_id() });
        let not_paid = || Err(OrderRejection::OrderNotPaid { order_id: order_id() });

        let histories = [
            vec![],
            vec![],
            vec![submitted_cups()],
            vec![submitted_cups(), paid(usd(900))],
            vec![submitted_cups(), paid(usd(900)), shipped()],
            vec![cancelled()],
        ];
        type Outcome = Result<Vec<Event>, OrderRejection>;
        // In the order of the commands below, for none, open, submitted, paid, shipped, cancelled.
        let table: [[Outcome; 6]; 7] = [
            [Ok(vec![created()]), exists(), exists(), exists(), exists(), exists()],
            [
                not_found(),
                Ok(vec![added("2", 1, usd(450))]),
                is_submitted(),
                is_paid(),
                is_shipped(),
                is_cancelled(),
            ],
            [
                not_found(),
                Ok(vec![removed("1")]),
                is_submitted(),
                is_paid(),
                is_shipped(),
                is_cancelled(),
            ],
            [
                not_found(),
                Ok(vec![submitted_cups()]),
                is_submitted(),
                is_paid(),
                is_shipped(),
                is_cancelled(),
            ],
            [
                not_found(),
                not_submitted(),
                Ok(vec![paid(usd(900))]),
                is_paid(),
                is_shipped(),
                is_cancelled(),
            ],
            [
                not_found(),
                not_submitted(),
                not_paid(),
                Ok(vec![shipped()]),
                is_shipped(),
                is_cancelled(),
            ],
            [
                not_found(),
                Ok(vec![cancelled()]),
                Ok(vec![cancelled()]),
                is_paid(),
                is_shipped(),
                Ok(vec![]),
            ],
        ];
        for (place, (history, exists)) in
            histories.into_iter().zip([false, true, true, true, true, true]).enumerate()
        {
            let order = || {
                let begun = if exists { two_cups().to_vec() } else { vec![] };
                given(begun.into_iter().chain(history.clone()))
            };
            let outcomes = [
                order().reading::<User>("ada", [registered()]).when(create()),
                order().reading::<Product>("cup", [product_created(usd(450))]).when(add(1)),
                order().when(remove("1")),
                order().when(submit()),
                order().when(pay()),
                order().when(ship()),
                order().when(cancel()),
            ];
            for (outcome, row) in outcomes.into_iter().zip(&table) {
                match row[place].clone() {
                    Ok(events) => outcome.then(events),
                    Err(rejection) => outcome.then_rejected(rejection),
                }
            }
        }
    }

    #[test]
    fn only_a_registered_and_active_user_orders() {
        let user_id = || "ada".to_owned();
        given([]).when(create()).then_rejected(OrderRejection::UnknownUser { user_id: user_id() });
        given([])
            .reading::<User>("ada", [registered(), deactivated()])
            .when(create())
            .then_rejected(OrderRejection::UserDeactivated { user_id: user_id() });
    }

    #[test]
    fn only_a_product_that_is_sold_is_ordered() {
        let product_id = || "cup".to_owned();
        given([created()])
            .when(add(1))
            .then_rejected(OrderRejection::UnknownProduct { product_id: product_id() });
        given([created()])
            .reading::<Product>("cup", [product_created(usd(450)), discontinued()])
            .when(add(1))
            .then_rejected(OrderRejection::ProductDiscontinued { product_id: product_id() });
    }

    #[test]
    fn two_currencies_do_not_mix_in_an_order() {
        let (order, price) = (Currency::USD, Currency::new("JPY").unwrap());
        two_cups_and([])
            .reading::<Product>("cup", [product_created(money(7, "JPY"))])
            .when(add(1))
            .then_rejected(OrderRejection::WrongCurrency { order, price });
    }

    #[test]
    fn an_order_has_no_more_items_than_the_limit() {
        let items = (1..=LIMIT_ITEMS).map(|line| added(&line.to_string(), 1, usd(1)));
        given([created()].into_iter().chain(items))
            .reading::<Product>("cup", [product_created(usd(1))])
            .when(add(1))
            .then_rejected(OrderRejection::TooManyItems { limit: LIMIT_ITEMS });
    }

    #[test]
    fn a_total_above_the_limit_is_refused() {
        let too_large = || OrderRejection::TotalTooLarge { limit: usd(LIMIT_MINOR) };
        given([created(), added("1", 1_000, usd(LIMIT_MINOR / 1_000))])
            .reading::<Product>("cup", [product_created(usd(1))])
            .when(add(1))
            .then_rejected(too_large());
        // More than 64 bits hold.
        for (price, quantity) in [(LIMIT_MINOR, u64::MAX), (i64::MAX, u64::MAX), (i64::MAX, 2)] {
            given([created()])
                .reading::<Product>("cup", [product_created(usd(price))])
                .when(add(quantity))
                .then_rejected(too_large());
        }
    }

    #[test]
    fn a_line_that_is_not_there_is_not_taken_off() {
        let gone = |line: &str| OrderRejection::ItemNotInOrder { line_id: line.to_owned() };
        two_cups_and([]).when(remove("2")).then_rejected(gone("2"));
        two_cups_and([removed("1")]).when(remove("1")).then_rejected(gone("1"));
    }

    #[test]
    fn an_order_with_nothing_in_it_is_not_submitted() {
        let empty = || OrderRejection::OrderEmpty { order_id: context().aggregate_id };
        given([created()]).when(submit()).then_rejected(empty());
        two_cups_and([removed("1")]).when(submit()).then_rejected(empty());
    }

    #[test]
    fn of_two_rules_that_do_not_hold_the_earlier_is_given() {
        let order_id = || context().aggregate_id;
        given([created()])
            .when(create())
            .then_rejected(OrderRejection::OrderAlreadyExists { order_id: order_id() });
        two_cups_and([cancelled()])
            .when(add(1))
            .then_rejected(OrderRejection::OrderCancelled { order_id: order_id() });
        let huge = [product_created(money(LIMIT_MINOR + 1, "JPY"))];
        let (order, price) = (Currency::USD, Currency::new("JPY").unwrap());
        two_cups_and([])
            .reading::<Product>("cup", huge)
            .when(add(1))
            .then_rejected(OrderRejection::WrongCurrency { order, price });
    }

    #[test]
    fn the_rejections_are_those_of_the_contract_in_its_order() {
        let order_id = || "o".to_owned();
        let (user_id, product_id) = (|| "u".to_owned(), || "p".to_owned());
        let here = [
            OrderRejection::OrderNotFound { order_id: order_id() },
            OrderRejection::OrderAlreadyExists { order_id: order_id() },
            OrderRejection::OrderCancelled { order_id: order_id() },
            OrderRejection::OrderAlreadyShipped { order_id: order_id() },
            OrderRejection::OrderAlreadyPaid { order_id: order_id() },
            OrderRejection::OrderAlreadySubmitted { order_id: order_id() },
            OrderRejection::OrderNotSubmitted { order_id: order_id() },
            OrderRejection::OrderNotPaid { order_id: order_id() },
            OrderRejection::UnknownUser { user_id: user_id() },
            OrderRejection::UserDeactivated { user_id: user_id() },
            OrderRejection::UnknownProduct { product_id: product_id() },
            OrderRejection::ProductDiscontinued { product_id: product_id() },
            OrderRejection::WrongCurrency { order: Currency::USD, price: Currency::USD },
            OrderRejection::TooManyItems { limit: LIMIT_ITEMS },
            OrderRejection::TotalTooLarge { limit: usd(LIMIT_MINOR) },
            OrderRejection::ItemNotInOrder { line_id: "1".to_owned() },
            OrderRejection::OrderEmpty { order_id: order_id() },
            OrderRejection::OrderInFulfilment { order_id: order_id() },
        ];
        let contract: Vec<_> = (1..).map_while(|number| Reason::try_from(number).ok()).collect();
        assert_eq!(here.each_ref().map(OrderRejection::in_contract).as_slice(), contract);
        for (rejection, in_contract) in here.iter().zip(contract) {
            let prefixed = format!("ORDER_REJECTION_{}", rejection.reason());
            assert_eq!(prefixed, in_contract.as_str_name());
            // People and machines are told the value.
            let values = rejection.metadata();
            assert!(!values.is_empty());
            for (_, value) in values {
                assert!(rejection.to_string().contains(&value), "{rejection}: {value}");
            }
        }
    }
}
