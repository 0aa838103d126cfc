//! `daybook account`: the bank.

use clap::{Args, Subcommand, ValueEnum};
use daybook_client::{CommandReceipt, Daybook, QueryRequest};
use daybook_contract::bank::v1::{
    Account, AccountStatus, CloseAccountRequest, DepositRequest, GetAccountRequest,
    GetDailySummaryRequest, GetYearlyTotalsRequest, ListAccountsRequest, ListTransactionsRequest,
    MovementMethod, MovementSummary, OpenAccountRequest, Transaction, TransactionKind,
    WithdrawRequest,
};
use jiff::civil::Date;

use crate::flags::{CommandFlags, Globals, Pages, QueryFlags};
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::{json, money, time};

/// `daybook account`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  daybook account open \"Ada Lovelace\" 100.00 USD --id ada\n  \
                        daybook account deposit ada 12.34 USD --description Salary\n  \
                        daybook account show ada")]
pub struct AccountArgs {
    #[command(subcommand)]
    command: AccountCommand,
    /// Flags of all client commands.
    #[command(flatten)]
    pub globals: Globals,
}

#[derive(Debug, Subcommand)]
enum AccountCommand {
    /// Open an account
    #[command(after_help = "Example:\n  daybook account open \"Ada Lovelace\"\n  \
                            daybook account open \"Ada Lovelace\" 100.00 EUR --id ada")]
    Open {
        /// Who owns it
        owner: String,
        /// What is paid in at once
        #[arg(allow_negative_numbers = true, default_value = "0")]
        amount: String,
        /// The currency of the account, of ISO 4217
        #[arg(default_value = "USD")]
        currency: String,
        /// The id of the account; made by the server when not given
        #[arg(long, value_name = "ACCOUNT")]
        id: Option<String>,
        #[command(flatten)]
        flags: CommandFlags,
    },
    /// Put money on an account
    #[command(after_help = "Example:\n  daybook account deposit ada 2500 USD \
                            --description \"Salary March\" --method transfer")]
    Deposit(Movement),
    /// Take money from an account; never more than is on it
    #[command(after_help = "Example:\n  daybook account withdraw ada 40.00 USD \
                            --description Groceries --method card")]
    Withdraw(Movement),
    /// Close an account for good; its balance must be zero
    #[command(after_help = "Example:\n  daybook account close ada --reason \"moved away\"")]
    Close {
        /// The account
        account: String,
        /// Why
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        #[command(flatten)]
        flags: CommandFlags,
    },
    /// Show one account with its balance
    #[command(after_help = "Example:\n  daybook account show ada\n  \
                            daybook account show ada --min-position 17 --wait 10s")]
    Show {
        /// The account
        account: String,
        #[command(flatten)]
        flags: QueryFlags,
    },
    /// List accounts, by id
    #[command(after_help = "Example:\n  daybook account list --owner Ada --status open\n  \
                            daybook account list --all -o json")]
    List {
        /// Only accounts whose owner's name begins with this
        #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
        owner: String,
        /// Only accounts with this status
        #[arg(long, value_enum)]
        status: Option<Status>,
        #[command(flatten)]
        pages: Pages,
        #[command(flatten)]
        flags: QueryFlags,
    },
    /// List the movements on an account, newest first
    #[command(after_help = "Example:\n  daybook account history ada --kind withdrawal \
                            --since 2026-11-01")]
    History {
        /// The account
        account: String,
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
    /// Sum up the movements of each day, over all accounts
    #[command(after_help = "Example:\n  daybook account summary\n  \
                            daybook account summary 2026-11-01 2026-11-30 --currency EUR")]
    Summary {
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
    /// Sum up a year, over all accounts
    #[command(after_help = "Example:\n  daybook account totals\n  \
                            daybook account totals 2026 --currency USD")]
    Totals {
        /// The year in UTC; this year when not given
        year: Option<i32>,
        /// Only this currency
        #[arg(long, default_value = "", hide_default_value = true)]
        currency: String,
        #[command(flatten)]
        flags: QueryFlags,
    },
}

#[derive(Debug, Args)]
struct Movement {
    /// The account
    account: String,
    /// How much, such as 12.34
    #[arg(allow_negative_numbers = true)]
    amount: String,
    /// The currency of the account, of ISO 4217
    #[arg(default_value = "USD")]
    currency: String,
    /// What it is for
    #[arg(long, short, default_value = "", hide_default_value = true)]
    description: String,
    /// How the money is moved
    #[arg(long, value_enum)]
    method: Option<Method>,
    #[command(flatten)]
    flags: CommandFlags,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Method {
    Cash,
    Card,
    Transfer,
    Cheque,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Status {
    Open,
    Closed,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Opening,
    Deposit,
    Withdrawal,
    TransferOut,
    TransferIn,
    TransferRefund,
    /// Money left to pay for an order.
    Payment,
    /// Money for an order came back.
    PaymentRefund,
}

pub(crate) async fn run(args: AccountArgs) -> Result<(), Problem> {
    let client = args.globals.client()?;
    let format = args.globals.output;
    match args.command {
        AccountCommand::Open { owner, amount, currency, id, flags } => {
            let request = OpenAccountRequest {
                account_id: id.clone().unwrap_or_default(),
                owner_name: owner,
                initial_balance: Some(parse_amount(&amount, &currency)?),
                context: None,
            };
            let subject = id.unwrap_or_default();
            show_receipt(&flags.send(&client, request, &subject).await?, format)
        }
        AccountCommand::Deposit(movement) => {
            let request = DepositRequest {
                amount: Some(parse_amount(&movement.amount, &movement.currency)?),
                account_id: movement.account.clone(),
                description: movement.description,
                method: method(movement.method).into(),
                context: None,
            };
            show_receipt(&movement.flags.send(&client, request, &movement.account).await?, format)
        }
        AccountCommand::Withdraw(movement) => {
            let request = WithdrawRequest {
                amount: Some(parse_amount(&movement.amount, &movement.currency)?),
                account_id: movement.account.clone(),
                description: movement.description,
                method: method(movement.method).into(),
                context: None,
            };
            show_receipt(&movement.flags.send(&client, request, &movement.account).await?, format)
        }
        AccountCommand::Close { account, reason, flags } => {
            let request =
                CloseAccountRequest { account_id: account.clone(), reason, context: None };
            show_receipt(&flags.send(&client, request, &account).await?, format)
        }
        AccountCommand::Show { account, flags } => show(&client, &account, &flags, format).await,
        AccountCommand::List { owner, status, pages, flags } => {
            let request = ListAccountsRequest {
                owner_prefix: owner,
                status: status.map_or(AccountStatus::Unspecified, status_of).into(),
                ..Default::default()
            };
            list(&client, request, pages, &flags, format).await
        }
        AccountCommand::History { account, kind, since, until, pages, flags } => {
            let request = ListTransactionsRequest {
                account_id: account,
                kind: kind.map_or(TransactionKind::Unspecified, kind_of).into(),
                start_time: since,
                end_time: until,
                ..Default::default()
            };
            history(&client, request, pages, &flags, format).await
        }
        AccountCommand::Summary { first_day, last_day, currency, flags } => {
            let first = first_day.unwrap_or_else(time::today);
            let last = last_day.unwrap_or(first);
            let query =
                client.daily_summary(first.to_string(), last.to_string()).currency(currency);
            let answer = flags.apply(&client, query).await.await?;
            if format == Format::Json {
                let name = GetDailySummaryRequest::RESPONSE_NAME;
                return Ok(output::document(&json::of(name, &answer)?)?);
            }
            let rows = answer.days.into_iter().map(|day| (day.date, day.movements));
            show_sums("day", rows.collect())
        }
        AccountCommand::Totals { year, currency, flags } => {
            let year = year.unwrap_or_else(|| time::today().year().into());
            let answer =
                flags.apply(&client, client.yearly_totals(year).currency(currency)).await.await?;
            if format == Format::Json {
                let name = GetYearlyTotalsRequest::RESPONSE_NAME;
                return Ok(output::document(&json::of(name, &answer)?)?);
            }
            let rows = answer.totals.into_iter().map(|sum| (year.to_string(), Some(sum)));
            show_sums("year", rows.collect())
        }
    }
}

pub(crate) fn parse_amount(amount: &str, currency: &str) -> Result<daybook_client::Money, Problem> {
    money::parse(amount, currency).map_err(|problem| {
        Problem::invalid(problem)
            .why("INVALID_REQUEST, found before anything was sent")
            .next("give an amount and a currency, such as 12.34 USD")
    })
}

/// Shows a receipt, and says so when the command changed nothing.
pub(crate) fn show_receipt(receipt: &CommandReceipt, format: Format) -> Result<(), Problem> {
    if receipt.event_ids.is_empty() {
        output::hint("nothing had to be recorded: it is so already");
    }
    if format == Format::Json {
        let value = json::of("daybook.v1.CommandReceipt", receipt)?;
        return Ok(output::document(&value)?);
    }
    let replayed =
        if receipt.replayed { "the answer of an earlier request with this id" } else { "" };
    Ok(output::fields(&[
        ("id", receipt.aggregate_id.clone()),
        ("version", receipt.version.to_string()),
        ("position", receipt.position.to_string()),
        ("events", receipt.event_ids.join("\n")),
        ("recorded", time::show(receipt.recorded_time.as_ref())),
        ("replayed", replayed.to_owned()),
    ])?)
}

async fn show(
    client: &Daybook,
    account: &str,
    flags: &QueryFlags,
    format: Format,
) -> Result<(), Problem> {
    let answer = flags
        .apply(client, client.get_account(account))
        .await
        .await
        .map_err(|error| Problem::from(error).about(account))?;
    if format == Format::Json {
        return Ok(output::document(&json::of(GetAccountRequest::RESPONSE_NAME, &answer)?)?);
    }
    let account = answer.account.unwrap_or_default();
    Ok(output::fields(&[
        ("account", account.account_id.clone()),
        ("owner", account.owner_name.clone()),
        ("balance", money::show(account.balance.as_ref())),
        ("on its way out", pending(account.pending_out.as_ref())),
        ("on its way in", pending(account.pending_in.as_ref())),
        ("status", word(account.status().as_str_name(), "ACCOUNT_STATUS_")),
        ("version", account.version.to_string()),
        ("opened", time::show(account.opened_time.as_ref())),
        ("closed", time::show(account.closed_time.as_ref())),
        ("updated", time::show(account.updated_time.as_ref())),
        ("as of position", answer.position.to_string()),
    ])?)
}

async fn list(
    client: &Daybook,
    request: ListAccountsRequest,
    pages: Pages,
    flags: &QueryFlags,
    format: Format,
) -> Result<(), Problem> {
    let answer = flags.fetch(client, request, pages).await?;
    if format == Format::Json {
        return Ok(output::document(&json::of(ListAccountsRequest::RESPONSE_NAME, &answer)?)?);
    }
    let row = |account: &Account| {
        vec![
            account.account_id.clone(),
            account.owner_name.clone(),
            money::show(account.balance.as_ref()),
            word(account.status().as_str_name(), "ACCOUNT_STATUS_"),
            account.version.to_string(),
            time::show(account.opened_time.as_ref()),
        ]
    };
    let header = ["account", "owner", "balance", "status", "version", "opened"];
    output::table(&header, &[2, 4], answer.accounts.iter().map(row).collect())?;
    output::more(&answer.next_page_token);
    Ok(())
}

async fn history(
    client: &Daybook,
    request: ListTransactionsRequest,
    pages: Pages,
    flags: &QueryFlags,
    format: Format,
) -> Result<(), Problem> {
    let account = request.account_id.clone();
    let answer = flags.fetch(client, request, pages).await;
    let answer = answer.map_err(|problem| problem.about(&account))?;
    if format == Format::Json {
        return Ok(output::document(&json::of(ListTransactionsRequest::RESPONSE_NAME, &answer)?)?);
    }
    let row = |transaction: &Transaction| {
        vec![
            time::show(transaction.recorded_time.as_ref()),
            word(transaction.kind().as_str_name(), "TRANSACTION_KIND_"),
            money::show(transaction.amount.as_ref()),
            money::show(transaction.balance_after.as_ref()),
            word(transaction.method().as_str_name(), "MOVEMENT_METHOD_"),
            transaction.position.to_string(),
            transaction.description.clone(),
        ]
    };
    let header = ["recorded", "kind", "amount", "balance", "method", "position", "description"];
    output::table(&header, &[2, 3, 5], answer.transactions.iter().map(row).collect())?;
    output::more(&answer.next_page_token);
    Ok(())
}

/// What is on its way; nothing when it is nothing.
fn pending(amount: Option<&daybook_client::Money>) -> String {
    let amount = amount.filter(|amount| amount.units != 0 || amount.nanos != 0);
    money::show(amount)
}

fn show_sums(unit: &str, sums: Vec<(String, Option<MovementSummary>)>) -> Result<(), Problem> {
    let row = |(time, sum): (String, Option<MovementSummary>)| {
        let sum = sum.unwrap_or_default();
        vec![
            time,
            sum.currency_code,
            sum.accounts_opened.to_string(),
            sum.accounts_closed.to_string(),
            sum.deposit_count.to_string(),
            money::show(sum.deposit_total.as_ref()),
            sum.withdrawal_count.to_string(),
            money::show(sum.withdrawal_total.as_ref()),
            sum.transfer_count.to_string(),
            money::show(sum.transfer_total.as_ref()),
        ]
    };
    let header = [
        unit,
        "currency",
        "opened",
        "closed",
        "deposits",
        "total in",
        "withdrawals",
        "total out",
        "transfers",
        "transferred",
    ];
    let rows = sums.into_iter().map(row).collect();
    Ok(output::table(&header, &[2, 3, 4, 5, 6, 7, 8, 9], rows)?)
}

fn method(method: Option<Method>) -> MovementMethod {
    match method {
        None => MovementMethod::Unspecified,
        Some(Method::Cash) => MovementMethod::Cash,
        Some(Method::Card) => MovementMethod::Card,
        Some(Method::Transfer) => MovementMethod::Transfer,
        Some(Method::Cheque) => MovementMethod::Cheque,
    }
}

fn status_of(status: Status) -> AccountStatus {
    match status {
        Status::Open => AccountStatus::Open,
        Status::Closed => AccountStatus::Closed,
    }
}

fn kind_of(kind: Kind) -> TransactionKind {
    match kind {
        Kind::Opening => TransactionKind::Opening,
        Kind::Deposit => TransactionKind::Deposit,
        Kind::Withdrawal => TransactionKind::Withdrawal,
        Kind::TransferOut => TransactionKind::TransferOut,
        Kind::TransferIn => TransactionKind::TransferIn,
        Kind::TransferRefund => TransactionKind::TransferRefund,
        Kind::Payment => TransactionKind::Payment,
        Kind::PaymentRefund => TransactionKind::PaymentRefund,
    }
}

/// The value of an enum as a word: `open` for `ACCOUNT_STATUS_OPEN`; empty when unspecified.
pub(crate) fn word(name: &str, prefix: &str) -> String {
    match name.strip_prefix(prefix).unwrap_or(name) {
        "UNSPECIFIED" => String::new(),
        word => word.to_lowercase().replace('_', " "),
    }
}
