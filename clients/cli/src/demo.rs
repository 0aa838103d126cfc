//! `daybook demo`: fills the bank with believable customers and months of movements, through the
//! public API like anybody else.

use std::fmt::Write;
use std::time::Instant;

use clap::Args;
use daybook_client::{AnyCommand, CommandReceipt, Daybook, Error, Money};
use daybook_contract::bank::v1::{
    CloseAccountRequest, DepositRequest, MovementMethod, OpenAccountRequest, WithdrawRequest,
};
use daybook_contract::daybook::v1::CommandContext;
use daybook_contract::money::from_minor;
use futures::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use serde_json::json;

use crate::exit::Exit;
use crate::flags::Globals;
use crate::output::{self, Format};
use crate::people::{Customer, Deed, Dice, MONTHS, customers, month};
use crate::problem::Problem;

/// One customer in so many moves away at the end.
const LEAVING: u64 = 40;

/// `daybook demo`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  daybook demo\n  \
                        daybook demo --customers 1000 --movements 50000 --seed 2\n\n\
                        The same numbers make the same requests with the same request ids: a \
                        second run has no second effect. Another --seed makes other people.")]
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

/// What to send, and what should come of it.
struct Step {
    command: AnyCommand,
    kind: Kind,
    /// Whether the bank should accept it.
    accepted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Open,
    Deposit,
    Withdrawal,
    Close,
}

/// What came of it.
#[derive(Debug, Default)]
struct Totals {
    opened: u64,
    deposits: u64,
    withdrawals: u64,
    refused: u64,
    closed: u64,
    replayed: u64,
    position: u64,
}

pub(crate) async fn run(args: DemoArgs) -> Result<(), Problem> {
    let client = args.globals.client()?;
    let (people, steps) = script(args.customers, args.movements, args.seed);
    let start = Instant::now();
    let totals = play(&client, steps).await?;
    let seconds = start.elapsed().as_secs_f64();
    show(&totals, &people, seconds, args.globals.output)
}

/// Writes the whole story down before it is told.
fn script(number: u32, movements: u32, seed: u64) -> (Vec<Customer>, Vec<Step>) {
    // Other numbers make other people: the same request ids must not come with other content.
    let mut dice = Dice::new(seed);
    let mut dice = Dice::new(dice.next() ^ (u64::from(number) << 32) ^ u64::from(movements));
    let mut people = customers(&mut dice, number as usize);
    let mut steps: Vec<Step> = people.iter().map(|who| open(&mut dice, who)).collect();
    let movements = movements as usize;
    for (index, name) in MONTHS.iter().enumerate() {
        let number = movements * (index + 1) / MONTHS.len() - movements * index / MONTHS.len();
        for deed in month(&mut dice, &mut people, name, number) {
            let who = &people[deed.customer];
            steps.push(movement(&mut dice, who, deed));
        }
    }
    for (customer, who) in people.iter_mut().enumerate() {
        if dice.once_in(LEAVING) {
            leave(&mut dice, who, customer, &mut steps);
        }
    }
    (people, steps)
}

fn context(dice: &mut Dice) -> Option<CommandContext> {
    let random = (u128::from(dice.next()) << 64) | u128::from(dice.next());
    let request_id = uuid::Builder::from_random_bytes(random.to_be_bytes()).into_uuid();
    Some(CommandContext { request_id: request_id.to_string(), ..Default::default() })
}

fn amount(minor: i64, currency: &str) -> Option<Money> {
    Some(from_minor(minor, currency).expect("the demo uses currencies of ISO 4217"))
}

fn open(dice: &mut Dice, who: &Customer) -> Step {
    let request = OpenAccountRequest {
        context: context(dice),
        account_id: who.account_id.clone(),
        owner_name: who.name.clone(),
        initial_balance: amount(who.balance_minor, who.currency),
    };
    Step { command: request.into(), kind: Kind::Open, accepted: true }
}

fn movement(dice: &mut Dice, who: &Customer, deed: Deed) -> Step {
    let context = context(dice);
    let account_id = who.account_id.clone();
    let amount = amount(deed.amount_minor, who.currency);
    let (description, method) = (deed.description, deed.method.into());
    let accepted = deed.covered;
    if deed.incoming {
        let request = DepositRequest { context, account_id, amount, description, method };
        return Step { command: request.into(), kind: Kind::Deposit, accepted };
    }
    let request = WithdrawRequest { context, account_id, amount, description, method };
    Step { command: request.into(), kind: Kind::Withdrawal, accepted }
}

/// Takes everything and closes the account.
fn leave(dice: &mut Dice, who: &mut Customer, customer: usize, steps: &mut Vec<Step>) {
    if who.balance_minor > 0 {
        let deed = Deed {
            customer,
            incoming: false,
            amount_minor: std::mem::take(&mut who.balance_minor),
            description: "Balance to another bank".to_owned(),
            method: MovementMethod::Transfer,
            covered: true,
        };
        steps.push(movement(dice, who, deed));
    }
    let request = CloseAccountRequest {
        context: context(dice),
        account_id: who.account_id.clone(),
        reason: "Moved away".to_owned(),
    };
    steps.push(Step { command: request.into(), kind: Kind::Close, accepted: true });
}

/// Sends every step and counts what comes of it.
async fn play(client: &Daybook, steps: Vec<Step>) -> Result<Totals, Problem> {
    let bar = ProgressBar::new(steps.len() as u64);
    let template = "{wide_bar} {pos}/{len} commands {rate} {eta}";
    let style = ProgressStyle::with_template(template).expect("the template is well-formed");
    bar.set_style(style.with_key("rate", |state: &ProgressState, to: &mut dyn Write| {
        // A bar that cannot be drawn is no reason to stop.
        let _ = write!(to, "{:.0}/s", state.per_sec());
    }));
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
    match kind {
        Kind::Open => totals.opened += 1,
        Kind::Deposit => totals.deposits += 1,
        Kind::Withdrawal => totals.withdrawals += 1,
        Kind::Close => totals.closed += 1,
    }
    Ok(())
}

fn show(totals: &Totals, people: &[Customer], seconds: f64, format: Format) -> Result<(), Problem> {
    let commands =
        totals.opened + totals.deposits + totals.withdrawals + totals.refused + totals.closed;
    let someone = people.last().map_or("", |customer| customer.account_id.as_str());
    if format == Format::Json {
        return Ok(output::document(&json!({
            "accountsOpened": totals.opened,
            "deposits": totals.deposits,
            "withdrawals": totals.withdrawals,
            "refused": totals.refused,
            "accountsClosed": totals.closed,
            "replayed": totals.replayed,
            "position": totals.position,
            "seconds": seconds,
            "account": someone,
        }))?);
    }
    let rate = commands as f64 / seconds.max(0.001);
    let again = match totals.replayed {
        0 => String::new(),
        replayed => format!("{replayed} had been made before; they had no second effect"),
    };
    output::fields(&[
        ("accounts opened", totals.opened.to_string()),
        ("deposits", totals.deposits.to_string()),
        ("withdrawals", totals.withdrawals.to_string()),
        ("refused", format!("{} withdrawals beyond the balance", totals.refused)),
        ("accounts closed", totals.closed.to_string()),
        ("took", format!("{seconds:.1} s, {rate:.0} commands a second, each on the disk")),
        ("made before", again),
    ])?;
    let position = totals.position;
    for line in [
        "",
        "Try next:",
        &format!("  daybook account show {someone} --min-position {position}"),
        &format!("  daybook account history {someone}"),
        "  daybook account list --owner Ada",
        "  daybook account totals",
        &format!("  daybook events read bank.account-{someone}"),
        "  daybook events tail",
        "  daybook projection list",
    ] {
        output::line(line)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_numbers_make_the_same_requests_and_other_numbers_share_none() {
        let packed = |number, movements, seed| -> Vec<_> {
            let (_, steps) = script(number, movements, seed);
            steps.into_iter().map(|step| step.command.into_any().value).collect()
        };
        let first = packed(20, 200, 1);
        assert_eq!(first, packed(20, 200, 1));
        for other in [packed(20, 201, 1), packed(21, 200, 1), packed(20, 200, 2)] {
            assert!(first.iter().all(|request| !other.contains(request)));
        }
    }

    #[test]
    fn every_movement_that_was_asked_for_is_in_the_script() {
        let (people, steps) = script(80, 1_003, 3);
        let of = |kind| steps.iter().filter(|step| step.kind == kind).count();
        assert_eq!(people.len(), 80);
        assert_eq!(of(Kind::Open), 80);
        assert!(of(Kind::Close) > 0);
        assert!(of(Kind::Deposit) + of(Kind::Withdrawal) >= 1_003);
    }
}
