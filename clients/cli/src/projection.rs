//! `daybook projection`: how the read side is doing, and steering it.

use clap::{Args, Subcommand};
use daybook_client::{Projections, StoredEvent};
use daybook_contract::daybook::v1::{
    ListProjectionsResponse, ListQuarantinedEventsRequest, ListQuarantinedEventsResponse,
    ProjectionStatus, QuarantinedEvent, RebuildStage, RebuildStatus,
};
use futures::TryStreamExt;
use indicatif::{ProgressBar, ProgressStyle};

use crate::account::word;
use crate::exit::Exit;
use crate::flags::Globals;
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::{json, time};

/// `daybook projection`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  daybook projection list\n  \
                        daybook projection rebuild account_balance")]
pub struct ProjectionArgs {
    #[command(subcommand)]
    command: ProjectionCommand,
    /// Flags of all client commands.
    #[command(flatten)]
    pub globals: Globals,
}

#[derive(Debug, Subcommand)]
enum ProjectionCommand {
    /// List the projections with their lag and state
    #[command(after_help = "Example:\n  daybook projection list")]
    List,
    /// Show one projection
    #[command(after_help = "Example:\n  daybook projection show account_balance")]
    Show {
        /// The projection
        name: String,
    },
    /// Build a projection anew from the log; the old one serves until the new one takes over
    #[command(after_help = "Example:\n  daybook projection rebuild account_balance")]
    Rebuild {
        /// The projection
        name: String,
        /// Do not wait for the end
        #[arg(long)]
        no_wait: bool,
    },
    /// Stop a projection from applying events; it goes on serving what it has
    #[command(after_help = "Example:\n  daybook projection pause daily_summary")]
    Pause {
        /// The projection
        name: String,
    },
    /// Let a paused projection go on
    #[command(after_help = "Example:\n  daybook projection resume daily_summary")]
    Resume {
        /// The projection
        name: String,
    },
    /// List the events that a projection could not apply
    #[command(after_help = "Example:\n  daybook projection quarantine account_balance")]
    Quarantine {
        /// The projection
        name: String,
        /// The most to show at once, up to 500
        #[arg(long, value_name = "NUMBER", default_value_t = 100,
              value_parser = clap::value_parser!(i32).range(1..=500))]
        page_size: i32,
        /// Go on where the page before ended
        #[arg(long, value_name = "TOKEN", default_value = "", hide_default_value = true)]
        page_token: String,
    },
    /// Apply the quarantined events of a stream again
    #[command(after_help = "Example:\n  daybook projection retry account_balance bank.account-ada")]
    Retry {
        /// The projection
        name: String,
        /// The stream
        stream: String,
    },
    /// Give up one quarantined event; the later events of its stream are then applied
    #[command(after_help = "Example:\n  daybook projection skip account_balance 3")]
    Skip {
        /// The projection
        name: String,
        /// The number of the event in the quarantine
        id: u64,
    },
}

pub(crate) async fn run(args: ProjectionArgs) -> Result<(), Problem> {
    let projections = args.globals.client()?.projections();
    let format = args.globals.output;
    match args.command {
        ProjectionCommand::List => list(&projections, format).await,
        ProjectionCommand::Show { name } => {
            show(&projections.get(&name).await.map_err(about(&name))?, format)
        }
        ProjectionCommand::Rebuild { name, no_wait } => {
            let begun = projections.rebuild(&name).await.map_err(about(&name))?;
            if no_wait {
                return show_rebuild(&name, &begun, format);
            }
            let ended = watch(&projections, &name, begun).await.map_err(about(&name))?;
            show_rebuild(&name, &ended, format)
        }
        ProjectionCommand::Pause { name } => {
            show(&projections.pause(&name).await.map_err(about(&name))?, format)
        }
        ProjectionCommand::Resume { name } => {
            show(&projections.resume(&name).await.map_err(about(&name))?, format)
        }
        ProjectionCommand::Quarantine { name, page_size, page_token } => {
            let request =
                ListQuarantinedEventsRequest { name: name.clone(), page_size, page_token };
            let answer = projections.quarantine(request).await.map_err(about(&name))?;
            show_quarantine(&name, &answer, format)
        }
        ProjectionCommand::Retry { name, stream } => {
            let answer = projections.retry(&name, stream).await.map_err(about(&name))?;
            if format == Format::Json {
                let message = "daybook.v1.RetryQuarantinedStreamResponse";
                return Ok(output::document(&json::of(message, &answer)?)?);
            }
            show_counts(answer.applied_events, answer.remaining_events)
        }
        ProjectionCommand::Skip { name, id } => {
            let answer = projections.skip(&name, id).await.map_err(about(&name))?;
            if format == Format::Json {
                let message = "daybook.v1.SkipQuarantinedEventResponse";
                return Ok(output::document(&json::of(message, &answer)?)?);
            }
            show_counts(answer.applied_events, answer.remaining_events)
        }
    }
}

/// Names the projection in the advice.
fn about(name: &str) -> impl Fn(daybook_client::Error) -> Problem {
    move |error| Problem::from(error).about(name)
}

async fn list(projections: &Projections, format: Format) -> Result<(), Problem> {
    let projections = projections.list().await?;
    if format == Format::Json {
        let answer = ListProjectionsResponse { projections };
        let value = json::of("daybook.v1.ListProjectionsResponse", &answer)?;
        return Ok(output::document(&value)?);
    }
    let row = |status: &ProjectionStatus| {
        vec![
            status.name.clone(),
            state(status),
            status.position.to_string(),
            status.lag_events.to_string(),
            lag(status),
            status.quarantined_events.to_string(),
            status.source.clone(),
            status.problem.clone(),
        ]
    };
    let header =
        ["projection", "state", "position", "behind", "lag", "quarantined", "source", "problem"];
    Ok(output::table(&header, &[2, 3, 4, 5], projections.iter().map(row).collect())?)
}

fn show(status: &ProjectionStatus, format: Format) -> Result<(), Problem> {
    if format == Format::Json {
        return Ok(output::document(&json::of("daybook.v1.ProjectionStatus", status)?)?);
    }
    let rebuild = status.rebuild.as_ref().map(|rebuild| {
        format!("{}, {} of {}", stage(rebuild), rebuild.position, rebuild.target_position)
    });
    Ok(output::fields(&[
        ("projection", status.name.clone()),
        ("version", status.version.to_string()),
        ("state", state(status)),
        ("position", format!("{} of {}", status.position, status.head_position)),
        ("behind", format!("{} events, {}", status.lag_events, lag(status))),
        ("last event", time::show(status.last_event_time.as_ref())),
        ("quarantined", status.quarantined_events.to_string()),
        ("source", status.source.clone()),
        ("problem", status.problem.clone()),
        ("last rebuild", rebuild.unwrap_or_default()),
    ])?)
}

/// Follows a rebuild to its end, with a progress bar on standard error.
async fn watch(
    projections: &Projections,
    name: &str,
    begun: RebuildStatus,
) -> Result<RebuildStatus, daybook_client::Error> {
    let bar = ProgressBar::new(begun.target_position.max(1));
    let template = "{msg:>10} {wide_bar} {pos}/{len} events {eta}";
    bar.set_style(ProgressStyle::with_template(template).expect("the template is well-formed"));
    let mut last = begun;
    let mut steps = std::pin::pin!(projections.watch_rebuild(name));
    while let Some(step) = steps.try_next().await? {
        bar.set_length(step.target_position.max(1));
        bar.set_position(step.position);
        bar.set_message(stage(&step));
        last = step;
    }
    bar.finish_and_clear();
    Ok(last)
}

fn show_rebuild(name: &str, status: &RebuildStatus, format: Format) -> Result<(), Problem> {
    if format == Format::Json {
        output::document(&json::of("daybook.v1.RebuildStatus", status)?)?;
    } else {
        let report = status.report.clone();
        let count = |count: fn(&daybook_contract::daybook::v1::RebuildReport) -> u64| {
            report.as_ref().map(|report| count(report).to_string()).unwrap_or_default()
        };
        let not_compared = report.as_ref().is_some_and(|report| !report.compared);
        let comparison =
            if not_compared { "none: the old rows were of another version" } else { "" };
        output::fields(&[
            ("projection", name.to_owned()),
            ("stage", stage(status)),
            ("position", format!("{} of {}", status.position, status.target_position)),
            ("started", time::show(status.start_time.as_ref())),
            ("ended", time::show(status.end_time.as_ref())),
            ("comparison", comparison.to_owned()),
            ("unchanged rows", count(|report| report.unchanged_rows)),
            ("added rows", count(|report| report.added_rows)),
            ("removed rows", count(|report| report.removed_rows)),
            ("changed rows", count(|report| report.changed_rows)),
            ("examples", report.as_ref().map(|r| r.examples.join("\n")).unwrap_or_default()),
        ])?;
    }
    if status.stage() == RebuildStage::Failed {
        return Err(Problem::new(Exit::Unexpected, format!("the rebuild of {name} failed"))
            .why(status.problem.clone())
            .why("the old rows go on serving")
            .next(format!("daybook projection show {name}")));
    }
    Ok(())
}

fn show_quarantine(
    name: &str,
    answer: &ListQuarantinedEventsResponse,
    format: Format,
) -> Result<(), Problem> {
    if format == Format::Json {
        let value = json::of("daybook.v1.ListQuarantinedEventsResponse", answer)?;
        return Ok(output::document(&value)?);
    }
    if answer.events.is_empty() {
        return Ok(output::line("nothing is in quarantine")?);
    }
    let row = |event: &QuarantinedEvent| {
        // A record that is no event has none, and its place on the bus instead.
        let event_name = match StoredEvent::decode(event.event.clone()) {
            Ok(fact) if !event.event.is_empty() => fact.event_name.clone(),
            _ => event.source.clone(),
        };
        vec![
            event.quarantine_id.to_string(),
            event.stream.clone(),
            event.version.to_string(),
            event.position.to_string(),
            event_name,
            event.attempts.to_string(),
            time::show(event.quarantine_time.as_ref()),
            event.problem.clone(),
        ]
    };
    let header = ["id", "stream", "version", "position", "event", "tried", "since", "problem"];
    output::table(&header, &[0, 2, 3, 5], answer.events.iter().map(row).collect())?;
    if !answer.next_page_token.is_empty() {
        let token = &answer.next_page_token;
        output::hint(&format!("more: daybook projection quarantine {name} --page-token {token}"));
    }
    output::hint(&format!("next: daybook projection retry {name} STREAM"));
    output::hint(&format!("      daybook projection skip {name} ID"));
    Ok(())
}

fn show_counts(applied: u64, remaining: u64) -> Result<(), Problem> {
    Ok(output::fields(&[
        ("applied", applied.to_string()),
        ("still in quarantine", remaining.to_string()),
    ])?)
}

/// The state as a word.
pub(crate) fn state(status: &ProjectionStatus) -> String {
    word(status.state().as_str_name(), "PROJECTION_STATE_")
}

fn stage(status: &RebuildStatus) -> String {
    word(status.stage().as_str_name(), "REBUILD_STAGE_")
}

fn lag(status: &ProjectionStatus) -> String {
    format!("{:.1} s", status.lag_seconds)
}
