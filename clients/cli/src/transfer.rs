//! `daybook transfer`: money from one account to another.

use clap::{Args, Subcommand, ValueEnum};
use daybook_client::{Daybook, LONGEST_WAIT, QueryRequest};
use daybook_contract::bank::v1::{
    BankTransfer, CancelTransferRequest, GetTransferRequest, ListTransfersRequest, TransferRequest,
    TransferStatus,
};
use uuid::Uuid;

use crate::account::{parse_amount, show_receipt, word};
use crate::events::print_line;
use crate::exit::Exit;
use crate::flags::{CommandFlags, Globals, Pages, QueryFlags};
use crate::follow::{Follower, Subject};
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::{json, money, time};

/// `daybook transfer`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  daybook transfer send ada bob 12.34 USD --watch\n  \
                        daybook transfer list --account ada")]
pub struct TransferArgs {
    #[command(subcommand)]
    command: TransferCommand,
    /// Flags of all client commands.
    #[command(flatten)]
    pub globals: Globals,
}

#[derive(Debug, Subcommand)]
enum TransferCommand {
    /// Send money from one account to another
    #[command(after_help = "Example:\n  daybook transfer send ada bob 12.34 USD \
                            --description Rent --watch")]
    Send {
        /// The account that the money leaves
        from: String,
        /// The account that the money is for
        to: String,
        /// How much, such as 12.34
        #[arg(allow_negative_numbers = true)]
        amount: String,
        /// The currency of the accounts, of ISO 4217
        #[arg(default_value = "USD")]
        currency: String,
        /// The id of the transfer; made when not given
        #[arg(long, value_name = "TRANSFER")]
        id: Option<String>,
        /// What it is for
        #[arg(long, short, default_value = "", hide_default_value = true)]
        description: String,
        /// Follow the transfer until it ends; ends with 3 when the money did not arrive
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        flags: CommandFlags,
    },
    /// Show one transfer
    #[command(after_help = "Example:\n  daybook transfer show rent-march")]
    Show {
        /// The transfer
        transfer: String,
        #[command(flatten)]
        flags: QueryFlags,
    },
    /// List transfers, newest first
    #[command(after_help = "Example:\n  daybook transfer list --account ada --status in-flight")]
    List {
        /// Only transfers from or to this account
        #[arg(long, value_name = "ACCOUNT", default_value = "", hide_default_value = true)]
        account: String,
        /// Only transfers with this status
        #[arg(long, value_enum)]
        status: Option<Status>,
        #[command(flatten)]
        pages: Pages,
        #[command(flatten)]
        flags: QueryFlags,
    },
    /// Follow a transfer until it ends; ends with 3 when the money did not arrive
    #[command(after_help = "Example:\n  daybook transfer watch rent-march")]
    Watch {
        /// The transfer
        transfer: String,
    },
    /// Cancel a transfer whose money was not sent on yet
    #[command(after_help = "Example:\n  daybook transfer cancel rent-march --reason mistake")]
    Cancel {
        /// The transfer
        transfer: String,
        /// Why
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        #[command(flatten)]
        flags: CommandFlags,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Status {
    Started,
    InFlight,
    Delivered,
    Completed,
    Returning,
    Returned,
    Failed,
}

pub(crate) async fn run(args: TransferArgs) -> Result<(), Problem> {
    let client = args.globals.client()?;
    let format = args.globals.output;
    match args.command {
        TransferCommand::Send { from, to, amount, currency, id, description, watch, flags } => {
            let transfer_id = id.unwrap_or_else(|| Uuid::now_v7().to_string());
            let request = TransferRequest {
                transfer_id: transfer_id.clone(),
                from_account_id: from.clone(),
                to_account_id: to,
                amount: Some(parse_amount(&amount, &currency)?),
                description,
                context: None,
            };
            let receipt = flags.send(&client, request, &transfer_id).await;
            let receipt = receipt.map_err(|problem| problem.naming("SENDER", &from))?;
            if watch {
                return follow(&client, &transfer_id, format).await;
            }
            show_receipt(&receipt, format)?;
            output::hint(&format!("next: daybook transfer watch {transfer_id}"));
            Ok(())
        }
        TransferCommand::Show { transfer, flags } => show(&client, &transfer, &flags, format).await,
        TransferCommand::List { account, status, pages, flags } => {
            let request = ListTransfersRequest {
                account_id: account,
                status: status.map_or(TransferStatus::Unspecified, status_of).into(),
                ..Default::default()
            };
            list(&client, request, pages, &flags, format).await
        }
        TransferCommand::Watch { transfer } => follow(&client, &transfer, format).await,
        TransferCommand::Cancel { transfer, reason, flags } => {
            let request =
                CancelTransferRequest { transfer_id: transfer.clone(), reason, context: None };
            show_receipt(&flags.send(&client, request, &transfer).await?, format)
        }
    }
}

async fn show(
    client: &Daybook,
    transfer: &str,
    flags: &QueryFlags,
    format: Format,
) -> Result<(), Problem> {
    let answer = flags
        .apply(client, client.get_transfer(transfer))
        .await
        .await
        .map_err(|error| Problem::from(error).about(transfer))?;
    if format == Format::Json {
        return Ok(output::document(&json::of(GetTransferRequest::RESPONSE_NAME, &answer)?)?);
    }
    let transfer = answer.transfer.unwrap_or_default();
    Ok(output::fields(&[
        ("transfer", transfer.transfer_id.clone()),
        ("from", transfer.from_account_id.clone()),
        ("to", transfer.to_account_id.clone()),
        ("amount", money::show(transfer.amount.as_ref())),
        ("description", transfer.description.clone()),
        ("status", status_word(&transfer)),
        ("refused", refusal(&transfer)),
        ("version", transfer.version.to_string()),
        ("started", time::show(transfer.started_time.as_ref())),
        ("ended", time::show(transfer.ended_time.as_ref())),
        ("as of position", answer.position.to_string()),
    ])?)
}

async fn list(
    client: &Daybook,
    request: ListTransfersRequest,
    pages: Pages,
    flags: &QueryFlags,
    format: Format,
) -> Result<(), Problem> {
    let answer = flags.fetch(client, request, pages).await?;
    if format == Format::Json {
        return Ok(output::document(&json::of(ListTransfersRequest::RESPONSE_NAME, &answer)?)?);
    }
    let row = |transfer: &BankTransfer| {
        vec![
            transfer.transfer_id.clone(),
            transfer.from_account_id.clone(),
            transfer.to_account_id.clone(),
            money::show(transfer.amount.as_ref()),
            status_word(transfer),
            refusal(transfer),
            time::show(transfer.started_time.as_ref()),
            time::show(transfer.ended_time.as_ref()),
        ]
    };
    let header = ["transfer", "from", "to", "amount", "status", "refused", "started", "ended"];
    output::table(&header, &[3], answer.transfers.iter().map(row).collect())?;
    output::more(&answer.next_page_token);
    Ok(())
}

/// Shows what has happened to a transfer, and follows it to its end.
async fn follow(client: &Daybook, transfer: &str, format: Format) -> Result<(), Problem> {
    let stream = format!("bank.transfer-{transfer}");
    let look = format!("daybook saga show {stream}");
    let subject = Subject { kind: "transfer", name: transfer, stream: &stream, look };
    let mut events = Follower::begin(client, subject).await?;
    while let Some(event) = events.next().await? {
        print_line(&event, format)?;
        match event.event_name.as_str() {
            "TransferCompleted" => return Ok(()),
            "TransferReturned" | "TransferFailed" => {
                return Err(not_arrived(client, transfer, event.position).await?);
            }
            _ => {}
        }
    }
    Ok(())
}

/// How a transfer ended whose money did not arrive.
async fn not_arrived(
    client: &Daybook,
    transfer_id: &str,
    position: u64,
) -> Result<Problem, Problem> {
    let query = client.get_transfer(transfer_id).min_position(position);
    let answer = query.max_wait(LONGEST_WAIT).await?;
    let transfer = answer.transfer.unwrap_or_default();
    let what = format!("the money of transfer {transfer_id} did not arrive");
    Ok(Problem::new(Exit::Refused, what)
        .why(refusal(&transfer))
        .next(format!("daybook account show {}", transfer.from_account_id)))
}

/// What to do when a rule of a transfer, or of the account that sends it, did not hold.
pub(crate) fn advice(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "TRANSFER_NOT_FOUND" => "daybook transfer list",
        "TRANSFER_ALREADY_STARTED" | "TOO_LATE_TO_CANCEL" => "daybook transfer show SUBJECT",
        "SAME_ACCOUNT" => "choose another account",
        "ACCOUNT_NOT_FOUND" => "daybook account list",
        "ACCOUNT_CLOSED" | "WRONG_CURRENCY" | "INSUFFICIENT_FUNDS" => "daybook account show SENDER",
        "TOO_MANY_TRANSFERS" => "daybook transfer list --account SENDER",
        _ => return None,
    })
}

fn status_word(transfer: &BankTransfer) -> String {
    word(transfer.status().as_str_name(), "TRANSFER_STATUS_")
}

fn refusal(transfer: &BankTransfer) -> String {
    let refusal = transfer.refusal.as_ref();
    refusal.map(|refusal| format!("{}: {}", refusal.reason, refusal.message)).unwrap_or_default()
}

fn status_of(status: Status) -> TransferStatus {
    match status {
        Status::Started => TransferStatus::Started,
        Status::InFlight => TransferStatus::InFlight,
        Status::Delivered => TransferStatus::Delivered,
        Status::Completed => TransferStatus::Completed,
        Status::Returning => TransferStatus::Returning,
        Status::Returned => TransferStatus::Returned,
        Status::Failed => TransferStatus::Failed,
    }
}
