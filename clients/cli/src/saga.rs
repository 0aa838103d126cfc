//! `daybook saga list`, `show`, `watch`, `retry`, `compensate`: the sagas of a saga process.

use clap::{Subcommand, ValueEnum};
use daybook_client::{Daybook, LONGEST_WAIT, QueryRequest};
use daybook_contract::daybook::v1::step_answer::Outcome;
use daybook_contract::daybook::v1::{
    GetSagaRequest, GetSagaResponse, ListSagasRequest, ListSagasResponse, RetrySagaResponse, Saga,
    SagaStatus, SagaStep,
};

use crate::account::{show_receipt, word};
use crate::events::print_line;
use crate::exit::Exit;
use crate::flags::{Globals, Pages, QueryFlags};
use crate::follow::{Follower, Subject};
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::{json, time};

/// A command about sagas, and the flags of all client commands.
#[derive(Debug)]
pub struct SagaClientArgs {
    /// The command.
    pub command: SagaCommand,
    /// Flags of all client commands.
    pub globals: Globals,
}

/// What can be done about sagas.
#[derive(Debug, Subcommand)]
pub enum SagaCommand {
    /// List sagas, newest first
    #[command(after_help = "Example:\n  daybook saga list --open\n  \
                            daybook saga list --kind bank.transfer --status failed")]
    List {
        /// Only this kind, such as bank.transfer
        #[arg(long, default_value = "", hide_default_value = true)]
        kind: String,
        /// Only sagas with this status
        #[arg(long, value_enum)]
        status: Option<SagaState>,
        /// Only sagas that have not ended
        #[arg(long)]
        open: bool,
        /// Which part of the list.
        #[command(flatten)]
        pages: Pages,
        /// Flags of all queries.
        #[command(flatten)]
        flags: QueryFlags,
    },
    /// Show one saga with every step, command and answer
    #[command(after_help = "Example:\n  daybook saga show bank.transfer-rent-march")]
    Show {
        /// The stream of the saga
        stream: String,
        /// Flags of all queries.
        #[command(flatten)]
        flags: QueryFlags,
    },
    /// Follow a saga until it ends; ends with 3 when it did not complete
    #[command(after_help = "Example:\n  daybook saga watch bank.transfer-rent-march")]
    Watch {
        /// The stream of the saga
        stream: String,
    },
    /// Try the waiting steps of a saga at once
    #[command(after_help = "Example:\n  daybook saga retry bank.transfer-rent-march")]
    Retry {
        /// The stream of the saga
        stream: String,
    },
    /// Give a saga up: what was done is undone
    #[command(after_help = "Example:\n  daybook saga compensate bank.transfer-rent-march \
                            --reason mistake")]
    Compensate {
        /// The stream of the saga
        stream: String,
        /// Why
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
}

/// Where a saga stands.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum SagaState {
    /// On its way
    Running,
    /// Being undone
    Compensating,
    /// At its end
    Completed,
    /// Undone
    Compensated,
    /// Ended before anything was done, or impossible to undo
    Failed,
}

pub(crate) async fn run(args: SagaClientArgs) -> Result<(), Problem> {
    let client = args.globals.client()?;
    let sagas = client.sagas();
    let format = args.globals.output;
    match args.command {
        SagaCommand::List { kind, status, open, pages, flags } => {
            let status = status.map_or(SagaStatus::Unspecified, status_of).into();
            let request = ListSagasRequest { kind, status, open, ..Default::default() };
            list(&flags.fetch(&client, request, pages).await?, format)
        }
        SagaCommand::Show { stream, flags } => {
            let query = client.query(GetSagaRequest { stream, ..Default::default() });
            show(&flags.apply(&client, query).await.await?, format)
        }
        SagaCommand::Watch { stream } => watch(&client, &stream, format).await,
        SagaCommand::Retry { stream } => {
            let steps = sagas.retry(&stream).await?;
            if format == Format::Json {
                let answer = RetrySagaResponse { steps };
                let value = json::of("daybook.v1.RetrySagaResponse", &answer)?;
                return Ok(output::document(&value)?);
            }
            Ok(output::line(&format!("{steps} steps have no answer yet and are tried now"))?)
        }
        SagaCommand::Compensate { stream, reason } => {
            show_receipt(&sagas.compensate(&stream, reason).await?, format)
        }
    }
}

/// A saga as it is at this position at least.
async fn get(client: &Daybook, stream: &str, position: u64) -> Result<Saga, Problem> {
    let query = client.query(GetSagaRequest { stream: stream.to_owned(), ..Default::default() });
    let answer = query.min_position(position).max_wait(LONGEST_WAIT).await?;
    Ok(answer.saga.unwrap_or_default())
}

fn list(answer: &ListSagasResponse, format: Format) -> Result<(), Problem> {
    if format == Format::Json {
        return Ok(output::document(&json::of(ListSagasRequest::RESPONSE_NAME, answer)?)?);
    }
    let row = |saga: &Saga| {
        vec![
            saga.stream.clone(),
            status_word(saga),
            saga.open_steps.to_string(),
            time::show(saga.started_time.as_ref()),
            time::show(saga.ended_time.as_ref()),
            time::show(saga.deadline.as_ref()),
            refusal(saga),
        ]
    };
    let header = ["saga", "status", "open steps", "started", "ended", "deadline", "refused"];
    output::table(&header, &[2], answer.sagas.iter().map(row).collect())?;
    output::more(&answer.next_page_token);
    Ok(())
}

fn show(answer: &GetSagaResponse, format: Format) -> Result<(), Problem> {
    if format == Format::Json {
        return Ok(output::document(&json::of(GetSagaRequest::RESPONSE_NAME, answer)?)?);
    }
    let saga = answer.saga.clone().unwrap_or_default();
    output::fields(&[
        ("saga", saga.stream.clone()),
        ("status", status_word(&saga)),
        ("version", saga.version.to_string()),
        ("started", time::show(saga.started_time.as_ref())),
        ("ended", time::show(saga.ended_time.as_ref())),
        ("deadline", time::show(saga.deadline.as_ref())),
        ("refused", refusal(&saga)),
        ("as of position", answer.position.to_string()),
    ])?;
    let row = |step: &SagaStep| {
        vec![
            format!("{}.{}", step.version, step.index),
            step.cause_event_name.clone(),
            command_name(step),
            step.target_stream.clone(),
            answer_text(step),
            events(step),
            step.problem.clone(),
        ]
    };
    let header = ["step", "after", "command", "to", "answer", "events", "problem"];
    output::table(&header, &[], answer.steps.iter().map(row).collect())?;
    if !answer.problem.is_empty() {
        output::hint(&format!("steps that have an answer are not shown: {}", answer.problem));
    }
    output::hint(&format!("events: daybook events read {}", saga.stream));
    Ok(())
}

/// Shows what has happened to a saga, and follows it to its end. Its events are read from the log;
/// which of them is the last, the saga service knows.
async fn watch(client: &Daybook, stream: &str, format: Format) -> Result<(), Problem> {
    let head = client.events().info().await.ok().map_or(0, |info| info.head_position);
    let mut saga = get(client, stream, head).await?;
    let look = format!("daybook saga show {stream}");
    let subject = Subject { kind: "saga", name: stream, stream, look };
    let mut events = Follower::begin(client, subject).await?;
    while let Some(event) = events.next().await? {
        print_line(&event, format)?;
        if event.version > saga.version {
            saga = get(client, stream, event.position).await?;
        }
        if event.version < saga.version {
            continue;
        }
        match saga.status() {
            SagaStatus::Completed => return Ok(()),
            SagaStatus::Compensated | SagaStatus::Failed => {
                return Err(Problem::new(Exit::Refused, format!("saga {stream} did not complete"))
                    .why(refusal(&saga))
                    .next(format!("daybook saga show {stream}")));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The name of the command, without its package.
fn command_name(step: &SagaStep) -> String {
    let name = step.command.rsplit('.').next().unwrap_or_default();
    name.trim_end_matches("Request").to_owned()
}

fn answer_text(step: &SagaStep) -> String {
    match step.answer.as_ref().and_then(|answer| answer.outcome.as_ref()) {
        None if step.failed_attempts > 0 => format!("none after {} attempts", step.failed_attempts),
        None => "none yet".to_owned(),
        Some(Outcome::Receipt(receipt)) => format!("accepted at {}", receipt.position),
        Some(Outcome::Refusal(refusal)) => format!("refused: {}", refusal.reason),
    }
}

/// The events that the command has recorded.
fn events(step: &SagaStep) -> String {
    match step.answer.as_ref().and_then(|answer| answer.outcome.as_ref()) {
        Some(Outcome::Receipt(receipt)) => receipt.event_ids.join("\n"),
        _ => String::new(),
    }
}

fn status_word(saga: &Saga) -> String {
    word(saga.status().as_str_name(), "SAGA_STATUS_")
}

fn refusal(saga: &Saga) -> String {
    let refusal = saga.refusal.as_ref();
    refusal.map(|refusal| format!("{}: {}", refusal.reason, refusal.message)).unwrap_or_default()
}

fn status_of(status: SagaState) -> SagaStatus {
    match status {
        SagaState::Running => SagaStatus::Running,
        SagaState::Compensating => SagaStatus::Compensating,
        SagaState::Completed => SagaStatus::Completed,
        SagaState::Compensated => SagaStatus::Compensated,
        SagaState::Failed => SagaStatus::Failed,
    }
}
