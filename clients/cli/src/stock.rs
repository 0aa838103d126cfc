//! `daybook stock`: the inventory.

use clap::{Args, Subcommand, ValueEnum};
use daybook_client::{Daybook, QueryRequest};
use daybook_contract::inventory::v1::watch_low_stock_response::Update;
use daybook_contract::inventory::v1::{
    AdjustStockRequest, GetStockRequest, ListLowStockRequest, ListMovementsRequest,
    LowStockCaughtUp, Movement, MovementKind, ReceiveStockRequest, ReleaseReservationRequest,
    ReserveStockRequest, SetLowStockThresholdRequest, ShipReservationRequest, Stock,
    WatchLowStockResponse,
};
use futures::TryStreamExt;

use crate::account::{show_receipt, word};
use crate::flags::{CommandFlags, Globals, Pages, QueryFlags};
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::{json, time};

/// `daybook stock`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  daybook stock receive teapot 20 --reference \"note 7\"\n  \
                        daybook stock threshold teapot 5\n  \
                        daybook stock reserve teapot 2 --order 17 --line 1\n  \
                        daybook stock show teapot")]
pub struct StockArgs {
    #[command(subcommand)]
    command: StockCommand,
    /// Flags of all client commands.
    #[command(flatten)]
    pub globals: Globals,
}

#[derive(Debug, Subcommand)]
enum StockCommand {
    /// Take goods in; the first goods make the stock of a product
    #[command(after_help = "Example:\n  daybook stock receive teapot 20 --reference \"note 7\"")]
    Receive {
        /// The product
        product: String,
        /// How many pieces
        #[arg(allow_negative_numbers = true)]
        quantity: u64,
        /// Which delivery
        #[arg(long, default_value = "", hide_default_value = true)]
        reference: String,
        #[command(flatten)]
        flags: CommandFlags,
    },
    /// Keep pieces for a line of an order; the same line again is no second reservation
    #[command(after_help = "Example:\n  daybook stock reserve teapot 2 --order 17 --line 1")]
    Reserve {
        /// The product
        product: String,
        /// How many pieces
        #[arg(allow_negative_numbers = true)]
        quantity: u64,
        #[command(flatten)]
        line: Line,
        #[command(flatten)]
        flags: CommandFlags,
    },
    /// Make the pieces that are kept for a line available again
    #[command(after_help = "Example:\n  daybook stock release teapot --order 17 --line 1 \
                            --reason cancelled")]
    Release {
        /// The product
        product: String,
        #[command(flatten)]
        line: Line,
        /// Why
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        #[command(flatten)]
        flags: CommandFlags,
    },
    /// Send out the pieces that are kept for a line
    #[command(after_help = "Example:\n  daybook stock ship teapot --order 17 --line 1")]
    Ship {
        /// The product
        product: String,
        #[command(flatten)]
        line: Line,
        #[command(flatten)]
        flags: CommandFlags,
    },
    /// Correct the number of pieces, up or down
    #[command(after_help = "Example:\n  daybook stock adjust teapot -1 --reason broken")]
    Adjust {
        /// The product
        product: String,
        /// How many more pieces there are; negative when there are fewer
        #[arg(allow_negative_numbers = true)]
        delta: i64,
        /// Why
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        flags: CommandFlags,
    },
    /// Say at how many available pieces the stock is low
    #[command(after_help = "Example:\n  daybook stock threshold teapot 5")]
    Threshold {
        /// The product
        product: String,
        /// The stock is low when no more pieces than this are available; 0 for never
        threshold: u64,
        #[command(flatten)]
        flags: CommandFlags,
    },
    /// Show the stock of one product
    #[command(after_help = "Example:\n  daybook stock show teapot")]
    Show {
        /// The product
        product: String,
        #[command(flatten)]
        flags: QueryFlags,
    },
    /// List the movements of the stock of a product, newest first
    #[command(after_help = "Example:\n  daybook stock movements teapot --kind shipment \
                            --since 2026-11-01")]
    Movements {
        /// The product
        product: String,
        /// Only this kind of movement
        #[arg(long, value_enum)]
        kind: Option<Kind>,
        /// Only from this moment on, such as 2026-11-01 or 2026-11-01T08:00:00Z
        #[arg(long, value_name = "TIME", value_parser = time::parse_moment)]
        since: Option<prost_types::Timestamp>,
        /// Only before this moment
        #[arg(long, value_name = "TIME", value_parser = time::parse_moment)]
        until: Option<prost_types::Timestamp>,
        #[command(flatten)]
        pages: Pages,
        #[command(flatten)]
        flags: QueryFlags,
    },
    /// List the products whose stock is low
    #[command(after_help = "Example:\n  daybook stock low --all")]
    Low {
        #[command(flatten)]
        pages: Pages,
        #[command(flatten)]
        flags: QueryFlags,
    },
    /// Follow the products whose stock is low, live
    #[command(after_help = "Example:\n  daybook stock watch\n  \
                            daybook stock watch -o json | jq .stock.productId")]
    Watch,
}

/// A line of an order.
#[derive(Debug, Args)]
struct Line {
    /// The order
    #[arg(long = "order", value_name = "ORDER")]
    order_id: String,
    /// The line of the order
    #[arg(long = "line", value_name = "LINE")]
    line_id: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Receipt,
    Reservation,
    Release,
    Shipment,
    Increase,
    Decrease,
}

pub(crate) async fn run(args: StockArgs) -> Result<(), Problem> {
    let client = args.globals.client()?;
    let format = args.globals.output;
    let receipt = match args.command {
        StockCommand::Receive { product, quantity, reference, flags } => {
            let product_id = product.clone();
            let request =
                ReceiveStockRequest { product_id, quantity, reference, ..Default::default() };
            flags.send(&client, request, &product).await?
        }
        StockCommand::Reserve { product, quantity, line, flags } => {
            let Line { order_id, line_id } = line;
            let product_id = product.clone();
            let request =
                ReserveStockRequest { product_id, order_id, line_id, quantity, context: None };
            flags.send(&client, request, &product).await?
        }
        StockCommand::Release { product, line, reason, flags } => {
            let Line { order_id, line_id } = line;
            let product_id = product.clone();
            let request =
                ReleaseReservationRequest { product_id, order_id, line_id, reason, context: None };
            flags.send(&client, request, &product).await?
        }
        StockCommand::Ship { product, line, flags } => {
            let Line { order_id, line_id } = line;
            let product_id = product.clone();
            let request = ShipReservationRequest { product_id, order_id, line_id, context: None };
            flags.send(&client, request, &product).await?
        }
        StockCommand::Adjust { product, delta, reason, flags } => {
            let (product_id, quantity_delta) = (product.clone(), delta);
            let request = AdjustStockRequest { product_id, quantity_delta, reason, context: None };
            flags.send(&client, request, &product).await?
        }
        StockCommand::Threshold { product, threshold, flags } => {
            let product_id = product.clone();
            let request = SetLowStockThresholdRequest { product_id, threshold, context: None };
            flags.send(&client, request, &product).await?
        }
        StockCommand::Show { product, flags } => {
            return show(&client, &product, &flags, format).await;
        }
        StockCommand::Movements { product, kind, since, until, pages, flags } => {
            let request = ListMovementsRequest {
                product_id: product,
                kind: kind.map_or(MovementKind::Unspecified, kind_of).into(),
                start_time: since,
                end_time: until,
                ..Default::default()
            };
            return movements(&client, request, pages, &flags, format).await;
        }
        StockCommand::Low { pages, flags } => return low(&client, pages, &flags, format).await,
        StockCommand::Watch => return watch(&client, format).await,
    };
    show_receipt(&receipt, format)
}

async fn show(
    client: &Daybook,
    product: &str,
    flags: &QueryFlags,
    format: Format,
) -> Result<(), Problem> {
    let query = flags.apply(client, client.get_stock(product)).await;
    let answer = query.await.map_err(|error| Problem::from(error).about(product))?;
    if format == Format::Json {
        return Ok(output::document(&json::of(GetStockRequest::RESPONSE_NAME, &answer)?)?);
    }
    let stock = answer.stock.unwrap_or_default();
    let low = match stock.low {
        true => format!("yes, since {}", time::show(stock.low_since_time.as_ref())),
        false => "no".to_owned(),
    };
    Ok(output::fields(&[
        ("product", stock.product_id.clone()),
        ("on hand", stock.on_hand.to_string()),
        ("reserved", stock.reserved.to_string()),
        ("available", stock.available.to_string()),
        ("low at", threshold(&stock)),
        ("low", low),
        ("version", stock.version.to_string()),
        ("updated", time::show(stock.updated_time.as_ref())),
        ("as of position", answer.position.to_string()),
    ])?)
}

/// The threshold; nothing when there is none.
fn threshold(stock: &Stock) -> String {
    match stock.low_stock_threshold {
        0 => String::new(),
        threshold => threshold.to_string(),
    }
}

async fn movements(
    client: &Daybook,
    request: ListMovementsRequest,
    pages: Pages,
    flags: &QueryFlags,
    format: Format,
) -> Result<(), Problem> {
    let product = request.product_id.clone();
    let answer = flags.fetch(client, request, pages).await;
    let answer = answer.map_err(|problem| problem.about(&product))?;
    if format == Format::Json {
        return Ok(output::document(&json::of(ListMovementsRequest::RESPONSE_NAME, &answer)?)?);
    }
    let row = |movement: &Movement| {
        let line = match movement.order_id.as_str() {
            "" => String::new(),
            order => format!("{order}/{}", movement.line_id),
        };
        vec![
            time::show(movement.recorded_time.as_ref()),
            word(movement.kind().as_str_name(), "MOVEMENT_KIND_"),
            movement.quantity.to_string(),
            movement.on_hand_after.to_string(),
            movement.reserved_after.to_string(),
            line,
            movement.position.to_string(),
            movement.description.clone(),
        ]
    };
    let header =
        ["recorded", "kind", "pieces", "on hand", "reserved", "order", "position", "description"];
    output::table(&header, &[2, 3, 4, 6], answer.movements.iter().map(row).collect())?;
    output::more(&answer.next_page_token);
    Ok(())
}

async fn low(
    client: &Daybook,
    pages: Pages,
    flags: &QueryFlags,
    format: Format,
) -> Result<(), Problem> {
    let answer = flags.fetch(client, ListLowStockRequest::default(), pages).await?;
    if format == Format::Json {
        return Ok(output::document(&json::of(ListLowStockRequest::RESPONSE_NAME, &answer)?)?);
    }
    let row = |stock: &Stock| {
        vec![
            stock.product_id.clone(),
            stock.available.to_string(),
            threshold(stock),
            stock.on_hand.to_string(),
            stock.reserved.to_string(),
            time::show(stock.low_since_time.as_ref()),
        ]
    };
    let header = ["product", "available", "low at", "on hand", "reserved", "since"];
    output::table(&header, &[1, 2, 3, 4], answer.stocks.iter().map(row).collect())?;
    output::more(&answer.next_page_token);
    Ok(())
}

/// Follows until the server stops.
async fn watch(client: &Daybook, format: Format) -> Result<(), Problem> {
    let mut updates = std::pin::pin!(client.watch_low_stock());
    while let Some(update) = updates.try_next().await? {
        if let Some(Update::CaughtUp(LowStockCaughtUp { low_products: 0 })) = &update.update {
            output::hint("no stock is low; what becomes low is shown as it does");
        }
        print_update(&update, format)?;
    }
    output::hint("the server stops: daybook stock watch    (begins again)");
    Ok(())
}

/// An update on one line: a stream has no end to wait for.
fn print_update(update: &WatchLowStockResponse, format: Format) -> Result<(), Problem> {
    if format == Format::Json {
        let value = json::of("inventory.v1.WatchLowStockResponse", update)?;
        return Ok(output::stream_document(&value)?);
    }
    let Some(Update::Stock(stock)) = &update.update else { return Ok(()) };
    let state = if stock.low { "low" } else { "enough" };
    let updated = time::show(stock.updated_time.as_ref());
    let available = stock.available;
    let line = format!("{updated}  {state:<6}  {available:>8} available  {}", stock.product_id);
    Ok(output::line(&line)?)
}

/// What to do when a rule of the stock did not hold.
pub(crate) fn advice(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "STOCK_NOT_FOUND" => "daybook stock receive SUBJECT QUANTITY",
        "INSUFFICIENT_STOCK"
        | "STOCK_IS_RESERVED"
        | "STOCK_WOULD_BE_NEGATIVE"
        | "STOCK_TOO_LARGE"
        | "TOO_MANY_RESERVATIONS" => "daybook stock show SUBJECT",
        "ORDER_IN_FULFILMENT" => "daybook saga show orders.fulfilment-ORDER",
        "RESERVATION_SHIPPED" | "NOT_RESERVED" | "RESERVATION_DIFFERS" => {
            "daybook stock movements SUBJECT"
        }
        _ => return None,
    })
}

fn kind_of(kind: Kind) -> MovementKind {
    match kind {
        Kind::Receipt => MovementKind::Receipt,
        Kind::Reservation => MovementKind::Reservation,
        Kind::Release => MovementKind::Release,
        Kind::Shipment => MovementKind::Shipment,
        Kind::Increase => MovementKind::Increase,
        Kind::Decrease => MovementKind::Decrease,
    }
}
