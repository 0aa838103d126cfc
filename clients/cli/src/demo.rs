//! `daybook demo`: fills the bank and the shop with believable customers, months of movements and
//! the orders of a day, through the public API like anybody else. Some of the orders are shipped
//! when the sagas have had them paid.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use clap::Args;
use daybook_client::{CommandReceipt, Daybook, Error, LONGEST_WAIT};
use daybook_contract::orders::v1::{OrderStatus, ShipOrderRequest};
use futures::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use serde_json::json;
use tokio::time::sleep;

use crate::exit::Exit;
use crate::flags::Globals;
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::script::{Kind, Script, Step, script};

/// `daybook demo`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  daybook demo\n  \
                        daybook demo --customers 1000 --movements 50000 --seed 2\n\n\
                        The same numbers make the same requests with the same request ids: a \
                        second run has no second effect. Another --seed makes other people, \
                        who shop from the same catalogue.")]
pub struct DemoArgs {
    /// How many customers to make
    #[arg(long, value_name = "NUMBER", default_value_t = 300,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    customers: u32,
    /// How many movements they make, over six months
    #[arg(long, value_name = "NUMBER", default_value_t = 12_000,
          value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    movements: u32,
    /// Which people, and which movements
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Flags of all client commands.
    #[command(flatten)]
    pub globals: Globals,
}

/// How what was accepted is shown: kind, name in JSON, name in a table.
const SHOWN: [(Kind, &str, &str); 11] = [
    (Kind::Registration, "usersRegistered", "users registered"),
    (Kind::Login, "logins", "logins"),
    (Kind::Opening, "accountsOpened", "accounts opened"),
    (Kind::Deposit, "deposits", "deposits"),
    (Kind::Withdrawal, "withdrawals", "withdrawals"),
    (Kind::Closing, "accountsClosed", "accounts closed"),
    (Kind::Transfer, "transfers", "transfers"),
    (Kind::Product, "products", "products"),
    (Kind::Delivery, "deliveries", "deliveries"),
    (Kind::Submission, "ordersSubmitted", "orders submitted"),
    (Kind::Cancellation, "ordersCancelled", "orders cancelled"),
];

/// How long the orders may take to be paid before the demo ends without them.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often it is asked whether an order is paid.
const INTERVAL: Duration = Duration::from_millis(50);

/// One paid order in so many is shipped.
const SHIPPED: usize = 2;

/// What came of it.
#[derive(Debug, Default)]
struct Totals {
    accepted: BTreeMap<Kind, u64>,
    refused: u64,
    replayed: u64,
    position: u64,
    orders_paid: u64,
    orders_shipped: u64,
}

pub(crate) async fn run(args: DemoArgs) -> Result<(), Problem> {
    let client = args.globals.client()?;
    let Script { people, steps, parcels } = script(args.customers, args.movements, args.seed);
    let start = Instant::now();
    let mut totals = play(&client, steps).await?;
    let seconds = start.elapsed().as_secs_f64();
    // Somebody with everything, if there is.
    let shopper = parcels.last().and_then(|parcel| parcel.order_id.strip_prefix("order-"));
    let anybody = people.last().map_or("", |customer| customer.account_id.as_str());
    let someone = shopper.unwrap_or(anybody).to_owned();
    ship(&client, parcels, &mut totals).await?;
    show(&totals, &someone, seconds, args.globals.output)
}

/// Sends every step and counts what comes of it.
async fn play(client: &Daybook, steps: Vec<Step>) -> Result<Totals, Problem> {
    let bar = progress(steps.len(), "{wide_bar} {pos}/{len} commands {rate} {eta}");
    let expected: Vec<(Kind, bool)> = steps.iter().map(|step| (step.kind, step.accepted)).collect();
    let commands = stream::iter(steps.into_iter().map(|step| step.command));
    let mut answers = client.execute_stream(commands);
    let mut totals = Totals::default();
    for (kind, accepted) in expected {
        let answer = answers.next().await.ok_or_else(|| {
            Problem::new(Exit::Unexpected, "the server stopped answering").next("daybook doctor")
        })?;
        count(&mut totals, kind, accepted, answer).inspect_err(|_| bar.abandon())?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(totals)
}

fn progress(length: usize, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("the template is well-formed");
    let style = style.with_key("rate", |state: &ProgressState, to: &mut dyn Write| {
        // A bar that cannot be drawn is no reason to stop.
        let _ = write!(to, "{:.0}/s", state.per_sec());
    });
    ProgressBar::new(length as u64).with_style(style)
}

/// Waits until the sagas have had the orders paid, and ships some. Orders that nobody carries out,
/// as without a saga process, are left as they are.
async fn ship(
    client: &Daybook,
    parcels: Vec<ShipOrderRequest>,
    totals: &mut Totals,
) -> Result<(), Problem> {
    let bar = progress(parcels.len(), "{wide_bar} {pos}/{len} orders paid");
    let patient_until = Instant::now() + PATIENCE;
    for (number, parcel) in parcels.into_iter().enumerate() {
        let status = loop {
            let query = client.get_order(&parcel.order_id).min_position(totals.position);
            let status = query.max_wait(LONGEST_WAIT).await?.order.unwrap_or_default().status();
            if status != OrderStatus::Submitted || Instant::now() > patient_until {
                break status;
            }
            sleep(INTERVAL).await;
        };
        bar.inc(1);
        if !matches!(status, OrderStatus::Paid | OrderStatus::Shipped) {
            continue;
        }
        totals.orders_paid += 1;
        if number % SHIPPED == 0 {
            client.command(parcel).await?;
            totals.orders_shipped += 1;
        }
    }
    bar.finish_and_clear();
    Ok(())
}

fn count(
    totals: &mut Totals,
    kind: Kind,
    accepted: bool,
    answer: Result<CommandReceipt, Error>,
) -> Result<(), Problem> {
    let receipt = match answer {
        Ok(receipt) => receipt,
        Err(error) if error.reason() == "INSUFFICIENT_FUNDS" && !accepted => {
            totals.refused += 1;
            return Ok(());
        }
        Err(error) => {
            return Err(
                Problem::from(error).next("repeat the same demo: it goes on where it stopped")
            );
        }
    };
    totals.position = totals.position.max(receipt.position);
    totals.replayed += u64::from(receipt.replayed);
    *totals.accepted.entry(kind).or_default() += 1;
    Ok(())
}

fn show(totals: &Totals, someone: &str, seconds: f64, format: Format) -> Result<(), Problem> {
    let of = |kind| totals.accepted.get(&kind).copied().unwrap_or_default();
    if format == Format::Json {
        let mut document = json!({
            "refused": totals.refused,
            "replayed": totals.replayed,
            "position": totals.position,
            "seconds": seconds,
            "account": someone,
            "ordersPaid": totals.orders_paid,
            "ordersShipped": totals.orders_shipped,
        });
        for (kind, name, _) in SHOWN {
            document[name] = of(kind).into();
        }
        return Ok(output::document(&document)?);
    }
    let commands = totals.accepted.values().sum::<u64>() + totals.refused;
    let rate = commands as f64 / seconds.max(0.001);
    let again = match totals.replayed {
        0 => String::new(),
        replayed => format!("{replayed} had been made before; they had no second effect"),
    };
    let mut fields: Vec<_> =
        SHOWN.iter().map(|(kind, _, name)| (*name, of(*kind).to_string())).collect();
    let unpaid = of(Kind::Submission) - totals.orders_paid;
    let waiting = match unpaid {
        0 => String::new(),
        _ => format!("{unpaid} orders; see daybook saga list --open"),
    };
    fields.extend([
        ("orders paid", totals.orders_paid.to_string()),
        ("orders shipped", totals.orders_shipped.to_string()),
        ("not paid", waiting),
        ("refused", format!("{} withdrawals beyond the balance", totals.refused)),
        ("took", format!("{seconds:.1} s, {rate:.0} commands a second, each on the disk")),
        ("made before", again),
    ]);
    output::fields(&fields)?;
    for line in [
        "",
        "Try next:",
        &format!("  daybook account show {someone}"),
        &format!("  daybook account history {someone}"),
        "  daybook account list --owner A",
        "  daybook account totals",
        "  daybook transfer list",
        &format!("  daybook user activity {someone}"),
        &format!("  daybook order list --user {someone}"),
        "  daybook order statistics",
        "  daybook product search tea",
        "  daybook product list",
        "  daybook stock low",
        "  daybook saga list",
        &format!("  daybook events read bank.account-{someone}"),
        "  daybook events tail",
        "  daybook projection list",
    ] {
        output::line(line)?;
    }
    Ok(())
}
