//! `daybook order`: the orders.

use clap::{Args, Subcommand, ValueEnum};
use daybook_client::{Daybook, QueryRequest, StoredEvent};
use daybook_contract::daybook::v1::recorded_event::Payload;
use daybook_contract::orders::v1::{
    AddItemRequest, CancelOrderRequest, CreateOrderRequest, DailyStatistics,
    GetDailyStatisticsRequest, GetOrderRequest, ListOrdersByProductRequest, ListOrdersRequest,
    Order, OrderCancelled, OrderItem, OrderStatus, PayOrderRequest, ProductOrder,
    RemoveItemRequest, ShipOrderRequest, SubmitOrderRequest,
};
use jiff::civil::Date;
use prost::Message;

use crate::account::{show_receipt, word};
use crate::events::print_line;
use crate::exit::Exit;
use crate::flags::{CommandFlags, Globals, Pages, QueryFlags};
use crate::follow::{Follower, Subject};
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::{json, money, time};

/// `daybook order`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  daybook order create ada --id 17\n  \
                        daybook order add 17 teapot 2\n  \
                        daybook order submit 17 adas-account\n  \
                        daybook order show 17")]
pub struct OrderArgs {
    #[command(subcommand)]
    command: OrderCommand,
    /// Flags of all client commands.
    #[command(flatten)]
    pub globals: Globals,
}

#[derive(Debug, Subcommand)]
enum OrderCommand {
    /// Begin an order of a user
    #[command(after_help = "Example:\n  daybook order create ada --id 17")]
    Create {
        /// The user whose order it is
        user: String,
        /// The id of the order; made by the server when not given
        #[arg(long, value_name = "ORDER")]
        id: Option<String>,
        #[command(flatten)]
        flags: CommandFlags,
    },
    /// Add pieces of a product, at the price that the catalogue has now
    #[command(after_help = "Example:\n  daybook order add 17 teapot 2")]
    Add {
        /// The order
        order: String,
        /// The product
        product: String,
        /// How many pieces
        #[arg(default_value_t = 1, allow_negative_numbers = true)]
        quantity: u64,
        #[command(flatten)]
        flags: CommandFlags,
    },
    /// Take an item off an open order
    #[command(after_help = "Example:\n  daybook order remove 17 1")]
    Remove {
        /// The order
        order: String,
        /// The line of the item
        line: String,
        #[command(flatten)]
        flags: CommandFlags,
    },
    /// Submit an order, and say which account to charge
    #[command(after_help = "Example:\n  daybook order submit 17 adas-account")]
    Submit {
        /// The order
        order: String,
        /// The account to charge
        account: String,
        /// How long its fulfilment may take before the order is cancelled, such as 10m
        #[arg(long, value_name = "TIME", default_value = "15m",
              value_parser = crate::time::parse_duration)]
        within: std::time::Duration,
        #[command(flatten)]
        flags: CommandFlags,
    },
    /// Say that a submitted order is paid in full
    #[command(after_help = "Example:\n  daybook order pay 17 --payment cash-4711")]
    Pay {
        /// The order
        order: String,
        /// What the payment is known by
        #[arg(long, value_name = "PAYMENT", default_value = "", hide_default_value = true)]
        payment: String,
        #[command(flatten)]
        flags: CommandFlags,
    },
    /// Say that the goods of a paid order left the house
    #[command(after_help = "Example:\n  daybook order ship 17 --tracking 00340434")]
    Ship {
        /// The order
        order: String,
        /// What the carrier knows the parcel by
        #[arg(long, value_name = "PARCEL", default_value = "", hide_default_value = true)]
        tracking: String,
        #[command(flatten)]
        flags: CommandFlags,
    },
    /// Cancel an order that is not paid
    #[command(after_help = "Example:\n  daybook order cancel 17 --reason \"too late\"")]
    Cancel {
        /// The order
        order: String,
        /// Why
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        #[command(flatten)]
        flags: CommandFlags,
    },
    /// Show one order with its items
    #[command(after_help = "Example:\n  daybook order show 17")]
    Show {
        /// The order
        order: String,
        #[command(flatten)]
        flags: QueryFlags,
    },
    /// List orders, newest first
    #[command(after_help = "Example:\n  daybook order list --user ada --status submitted\n  \
                            daybook order list --since 2026-11-01 --all -o json")]
    List {
        /// Only orders of this user
        #[arg(long, value_name = "USER", default_value = "", hide_default_value = true)]
        user: String,
        /// Only orders that have come this far
        #[arg(long, value_enum)]
        status: Option<Status>,
        /// Only created from this moment on, such as 2026-11-01 or 2026-11-01T08:00:00Z
        #[arg(long, value_name = "TIME", value_parser = time::parse_moment)]
        since: Option<prost_types::Timestamp>,
        /// Only created before this moment
        #[arg(long, value_name = "TIME", value_parser = time::parse_moment)]
        until: Option<prost_types::Timestamp>,
        #[command(flatten)]
        pages: Pages,
        #[command(flatten)]
        flags: QueryFlags,
    },
    /// List the items of a product in all orders, newest order first
    #[command(after_help = "Example:\n  daybook order by-product teapot")]
    ByProduct {
        /// The product
        product: String,
        #[command(flatten)]
        pages: Pages,
        #[command(flatten)]
        flags: QueryFlags,
    },
    /// Sum up the orders of each day
    #[command(after_help = "Example:\n  daybook order statistics\n  \
                            daybook order statistics 2026-11-01 2026-11-30 --currency EUR")]
    Statistics {
        /// The first day in UTC; today when not given
        #[arg(value_parser = time::parse_day)]
        first_day: Option<Date>,
        /// The last day; the first when not given
        #[arg(value_parser = time::parse_day)]
        last_day: Option<Date>,
        /// Only this currency
        #[arg(long, default_value = "", hide_default_value = true)]
        currency: String,
        #[command(flatten)]
        flags: QueryFlags,
    },
    /// Follow an order until it is shipped; ends with 3 when it is cancelled
    #[command(after_help = "Example:\n  daybook order watch 17")]
    Watch {
        /// The order
        order: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Status {
    Open,
    Submitted,
    Paid,
    Shipped,
    Cancelled,
}

pub(crate) async fn run(args: OrderArgs) -> Result<(), Problem> {
    let client = args.globals.client()?;
    let format = args.globals.output;
    let receipt = match args.command {
        OrderCommand::Create { user, id, flags } => {
            let order_id = id.clone().unwrap_or_default();
            let request = CreateOrderRequest { order_id, user_id: user, context: None };
            flags.send(&client, request, &id.unwrap_or_default()).await?
        }
        OrderCommand::Add { order, product, quantity, flags } => {
            let (order_id, product_id) = (order.clone(), product);
            let request = AddItemRequest { order_id, product_id, quantity, context: None };
            flags.send(&client, request, &order).await?
        }
        OrderCommand::Remove { order, line, flags } => {
            let (order_id, line_id) = (order.clone(), line);
            let request = RemoveItemRequest { order_id, line_id, context: None };
            flags.send(&client, request, &order).await?
        }
        OrderCommand::Submit { order, account, within, flags } => {
            let request = SubmitOrderRequest {
                order_id: order.clone(),
                account_id: account,
                // What is too long is for the server to refuse.
                fulfil_within_seconds: u32::try_from(within.as_secs()).unwrap_or(u32::MAX).max(1),
                context: None,
            };
            flags.send(&client, request, &order).await?
        }
        OrderCommand::Pay { order, payment, flags } => {
            let (order_id, payment_id) = (order.clone(), payment);
            let request = PayOrderRequest { order_id, payment_id, context: None };
            flags.send(&client, request, &order).await?
        }
        OrderCommand::Ship { order, tracking, flags } => {
            let (order_id, tracking_id) = (order.clone(), tracking);
            let request = ShipOrderRequest { order_id, tracking_id, context: None };
            flags.send(&client, request, &order).await?
        }
        OrderCommand::Cancel { order, reason, flags } => {
            let request = CancelOrderRequest { order_id: order.clone(), reason, context: None };
            flags.send(&client, request, &order).await?
        }
        OrderCommand::Show { order, flags } => return show(&client, &order, &flags, format).await,
        OrderCommand::List { user, status, since, until, pages, flags } => {
            let request = ListOrdersRequest {
                user_id: user,
                status: status.map_or(OrderStatus::Unspecified, status_of).into(),
                start_time: since,
                end_time: until,
                ..Default::default()
            };
            return list(&client, request, pages, &flags, format).await;
        }
        OrderCommand::ByProduct { product, pages, flags } => {
            return by_product(&client, product, pages, &flags, format).await;
        }
        OrderCommand::Statistics { first_day, last_day, currency, flags } => {
            let first = first_day.unwrap_or_else(time::today);
            let last = last_day.unwrap_or(first);
            let query = client.daily_statistics(first.to_string(), last.to_string());
            return statistics(&client, query.currency(currency), &flags, format).await;
        }
        OrderCommand::Watch { order } => return watch(&client, &order, format).await,
    };
    show_receipt(&receipt, format)
}

async fn show(
    client: &Daybook,
    order: &str,
    flags: &QueryFlags,
    format: Format,
) -> Result<(), Problem> {
    let query = flags.apply(client, client.get_order(order)).await;
    let answer = query.await.map_err(|error| Problem::from(error).about(order))?;
    if format == Format::Json {
        return Ok(output::document(&json::of(GetOrderRequest::RESPONSE_NAME, &answer)?)?);
    }
    let order = answer.order.unwrap_or_default();
    output::fields(&[
        ("order", order.order_id.clone()),
        ("user", order.user_id.clone()),
        ("status", status(order.status())),
        ("total", money::show(order.total.as_ref())),
        ("account", order.account_id.clone()),
        ("payment", order.payment_id.clone()),
        ("tracking", order.tracking_id.clone()),
        ("cancelled because", order.cancel_reason.clone()),
        ("version", order.version.to_string()),
        ("created", time::show(order.created_time.as_ref())),
        ("submitted", time::show(order.submitted_time.as_ref())),
        ("paid", time::show(order.paid_time.as_ref())),
        ("shipped", time::show(order.shipped_time.as_ref())),
        ("cancelled", time::show(order.cancelled_time.as_ref())),
        ("as of position", answer.position.to_string()),
    ])?;
    if order.items.is_empty() {
        return Ok(());
    }
    output::line("")?;
    let row = |item: &OrderItem| {
        vec![
            item.line_id.clone(),
            item.product_id.clone(),
            item.quantity.to_string(),
            money::show(item.unit_price.as_ref()),
        ]
    };
    let header = ["line", "product", "pieces", "price"];
    Ok(output::table(&header, &[0, 2, 3], order.items.iter().map(row).collect())?)
}

async fn list(
    client: &Daybook,
    request: ListOrdersRequest,
    pages: Pages,
    flags: &QueryFlags,
    format: Format,
) -> Result<(), Problem> {
    let answer = flags.fetch(client, request, pages).await?;
    if format == Format::Json {
        return Ok(output::document(&json::of(ListOrdersRequest::RESPONSE_NAME, &answer)?)?);
    }
    let row = |order: &Order| {
        vec![
            order.order_id.clone(),
            order.user_id.clone(),
            status(order.status()),
            order.item_count.to_string(),
            money::show(order.total.as_ref()),
            time::show(order.created_time.as_ref()),
        ]
    };
    let header = ["order", "user", "status", "items", "total", "created"];
    output::table(&header, &[3, 4], answer.orders.iter().map(row).collect())?;
    output::more(&answer.next_page_token);
    Ok(())
}

async fn by_product(
    client: &Daybook,
    product_id: String,
    pages: Pages,
    flags: &QueryFlags,
    format: Format,
) -> Result<(), Problem> {
    let request = ListOrdersByProductRequest { product_id, ..Default::default() };
    let answer = flags.fetch(client, request, pages).await?;
    if format == Format::Json {
        let value = json::of(ListOrdersByProductRequest::RESPONSE_NAME, &answer)?;
        return Ok(output::document(&value)?);
    }
    let row = |order: &ProductOrder| {
        let item = order.item.clone().unwrap_or_default();
        vec![
            order.order_id.clone(),
            item.line_id,
            order.user_id.clone(),
            status(order.status()),
            item.quantity.to_string(),
            money::show(item.unit_price.as_ref()),
            time::show(order.created_time.as_ref()),
        ]
    };
    let header = ["order", "line", "user", "status", "pieces", "price", "created"];
    output::table(&header, &[1, 4, 5], answer.orders.iter().map(row).collect())?;
    output::more(&answer.next_page_token);
    Ok(())
}

async fn statistics(
    client: &Daybook,
    query: daybook_client::Query<GetDailyStatisticsRequest>,
    flags: &QueryFlags,
    format: Format,
) -> Result<(), Problem> {
    let answer = flags.apply(client, query).await.await?;
    if format == Format::Json {
        let name = GetDailyStatisticsRequest::RESPONSE_NAME;
        return Ok(output::document(&json::of(name, &answer)?)?);
    }
    let row = |day: &DailyStatistics| {
        vec![
            day.date.clone(),
            day.currency_code.clone(),
            day.orders_submitted.to_string(),
            day.orders_paid.to_string(),
            day.orders_cancelled.to_string(),
            money::show(day.revenue.as_ref()),
            money::show(day.average_basket.as_ref()),
        ]
    };
    let header = ["day", "currency", "submitted", "paid", "cancelled", "revenue", "average basket"];
    Ok(output::table(&header, &[2, 3, 4, 5, 6], answer.days.iter().map(row).collect())?)
}

/// Shows what has happened to an order, and follows it to its end.
async fn watch(client: &Daybook, order: &str, format: Format) -> Result<(), Problem> {
    let stream = format!("orders.order-{order}");
    let look = format!("daybook order show {order}");
    let subject = Subject { kind: "order", name: order, stream: &stream, look };
    let mut events = Follower::begin(client, subject).await?;
    while let Some(event) = events.next().await? {
        print_line(&event, format)?;
        if let Some(end) = end(&event) {
            return end;
        }
    }
    Ok(())
}

/// How an order ended; nothing when more can happen to it after this event.
fn end(event: &StoredEvent) -> Option<Result<(), Problem>> {
    match event.event_name.as_str() {
        "OrderShipped" => Some(Ok(())),
        "OrderCancelled" => {
            let order = &event.aggregate_id;
            let problem = Problem::new(Exit::Refused, format!("order {order} was cancelled"));
            let problem = problem.next(format!("daybook order show {order}"));
            Some(Err(match cancel_reason(event) {
                Some(reason) => problem.why(reason),
                None => problem,
            }))
        }
        _ => None,
    }
}

/// Why an order was cancelled, if anybody said so.
fn cancel_reason(event: &StoredEvent) -> Option<String> {
    let Some(Payload::Event(event)) = &event.payload else { return None };
    let cancelled = OrderCancelled::decode(event.value.as_slice()).ok()?;
    Some(cancelled.reason).filter(|reason| !reason.is_empty())
}

/// What to do when a rule of an order did not hold.
pub(crate) fn advice(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "ORDER_NOT_FOUND" => "daybook order list",
        "ORDER_EMPTY" => "daybook order add SUBJECT PRODUCT",
        "ORDER_NOT_SUBMITTED" => "daybook order submit SUBJECT ACCOUNT",
        "ORDER_NOT_PAID" => "daybook order pay SUBJECT",
        "UNKNOWN_USER" | "USER_DEACTIVATED" => "daybook user list",
        "UNKNOWN_PRODUCT" | "PRODUCT_DISCONTINUED" => "daybook product list --status active",
        "ORDER_IN_FULFILMENT" => "daybook saga show orders.fulfilment-SUBJECT",
        "ORDER_ALREADY_EXISTS"
        | "ORDER_CANCELLED"
        | "ORDER_ALREADY_SHIPPED"
        | "ORDER_ALREADY_PAID"
        | "ORDER_ALREADY_SUBMITTED"
        | "WRONG_CURRENCY"
        | "TOTAL_TOO_LARGE"
        | "TOO_MANY_ITEMS"
        | "ITEM_NOT_IN_ORDER" => "daybook order show SUBJECT",
        _ => return None,
    })
}

fn status(status: OrderStatus) -> String {
    word(status.as_str_name(), "ORDER_STATUS_")
}

fn status_of(status: Status) -> OrderStatus {
    match status {
        Status::Open => OrderStatus::Open,
        Status::Submitted => OrderStatus::Submitted,
        Status::Paid => OrderStatus::Paid,
        Status::Shipped => OrderStatus::Shipped,
        Status::Cancelled => OrderStatus::Cancelled,
    }
}
