//! The order: what a customer wants, at the prices of the moment, from the first item to the parcel.
//!
//! An order goes from open to submitted, paid and shipped; before it is paid it can be cancelled.
//! Every other step is refused with the rule that names where the order is. Its items are all in
//! one currency, and what it comes to is the exact sum, within what an account can hold.
//!
//! *Not* here: stock and the charging of the account, which the fulfilment of an order sees to.

use daybook_contract::daybook::v1 as wire;
use daybook_contract::orders::v1::order::{Command, Event, Upcast};
use daybook_contract::orders::v1::{
    AddItemRequest, CancelOrderRequest, CreateOrderRequest, ItemAdded, ItemRemoved, OrderCancelled,
    OrderCreated, OrderItem, OrderPaid, OrderRejection as Reason, OrderShipped, OrderState,
    OrderStatus, OrderSubmitted, PayOrderRequest, RemoveItemRequest, ShipOrderRequest,
    SubmitOrderRequest,
};
use daybook_kernel::{Aggregate, Context, Currency, Money, Rejection, RejectionKind};

/// The most items of an order, so that one event can carry all of them.
pub const LIMIT_ITEMS: usize = 100;

/// The most that an order may come to, in smallest units: what an account can hold.
pub const LIMIT_MINOR: i64 = crate::account::LIMIT_MINOR;

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
fn total(state: &OrderState) -> Option<Money> {
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
            | Self::OrderEmpty { order_id } => vec![("order_id", order_id.clone())],
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
            Command::CreateOrder(request) => create(state, request, cx)?,
            Command::AddItem(request) => add(state, request, cx)?,
            Command::RemoveItem(request) => remove(state, request, cx)?,
            Command::SubmitOrder(request) => submit(state, request, cx)?,
            Command::PayOrder(request) => pay(state, request, cx)?,
            Command::ShipOrder(request) => ship(state, request, cx)?,
            Command::CancelOrder(_) if state.status() == OrderStatus::Cancelled => {
                return Ok(Vec::new());
            }
            Command::CancelOrder(request) => cancel(state, request, cx)?,
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
    cx: &Context,
) -> Result<Event, OrderRejection> {
    if state.status() != OrderStatus::Unspecified {
        return Err(OrderRejection::OrderAlreadyExists { order_id: cx.aggregate_id.clone() });
    }
    Ok(Event::OrderCreated(OrderCreated {
        user_id: request.user_id.clone(),
        created_time: Some(cx.now),
    }))
}

fn add(
    state: &OrderState,
    request: &AddItemRequest,
    cx: &Context,
) -> Result<Event, OrderRejection> {
    must_be(&[OrderStatus::Open], state, cx)?;
    let price = catalogue_price(request)?;
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

/// The price of the product now. There is no catalogue yet, so no product is known.
fn catalogue_price(request: &AddItemRequest) -> Result<Money, OrderRejection> {
    Err(OrderRejection::UnknownProduct { product_id: request.product_id.clone() })
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
    }))
}

fn pay(
    state: &OrderState,
    request: &PayOrderRequest,
    cx: &Context,
) -> Result<Event, OrderRejection> {
    must_be(&[OrderStatus::Submitted], state, cx)?;
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
