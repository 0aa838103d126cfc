//! `daybook events`: the event log.

use std::io::Read;

use clap::{Args, Subcommand};
use daybook_client::{Daybook, StoredEvent, Update};
use daybook_contract::daybook::v1::{
    AppendRequest, CommandContext, Direction, EventFilter, NewEvent, RawPayload, ReadAllRequest,
    ReadStreamRequest, new_event,
};
use futures::{Stream, TryStreamExt};

use crate::account::show_receipt;
use crate::exit::Exit;
use crate::flags::{CommandFlags, Globals};
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::{json, time};

/// `daybook events`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  daybook events tail\n  \
                        daybook events read bank.account-ada\n  daybook events show 17")]
pub struct EventsArgs {
    #[command(subcommand)]
    command: EventsCommand,
    /// Flags of all client commands.
    #[command(flatten)]
    pub globals: Globals,
}

#[derive(Debug, Subcommand)]
enum EventsCommand {
    /// Show the last events, and then new ones as they are recorded
    #[command(after_help = "Example:\n  daybook events tail\n  \
                            daybook events tail --last 100 --name MoneyDeposited --no-follow")]
    Tail {
        /// How many of the last events to begin with
        #[arg(long, short = 'n', value_name = "NUMBER", default_value_t = 10)]
        last: u64,
        /// Stop at the end of the log
        #[arg(long)]
        no_follow: bool,
        #[command(flatten)]
        filter: Filter,
    },
    /// Show one event whole
    #[command(after_help = "Example:\n  daybook events show 17\n  \
                            daybook events show 01890a5d-ac96-774b-bcce-b302099a8057 -o json")]
    Show {
        /// The position of the event, or its id
        event: String,
    },
    /// Read a stream in order of version, or the whole log in order of position
    #[command(after_help = "Example:\n  daybook events read bank.account-ada\n  \
                            daybook events read --from 1000 --limit 50 -o json")]
    Read {
        /// The stream, such as bank.account-ada; all when not given
        stream: Option<String>,
        /// The version in the stream, or the position in the log, to begin with
        #[arg(long, value_name = "NUMBER", default_value_t = 0)]
        from: u64,
        /// The most events to show; all when not given
        #[arg(long, value_name = "NUMBER", default_value_t = 0)]
        limit: u64,
        /// From the newest to the oldest
        #[arg(long)]
        backward: bool,
        #[command(flatten)]
        filter: Filter,
    },
    /// Append an event to a stream that no aggregate owns
    #[command(after_help = "Example:\n  daybook events append notes-today NoteTaken \
                            '{\"text\": \"buy milk\"}'\n  \
                            daybook events append scans-7 PageScanned - --content-type image/png < page.png")]
    Append {
        /// The stream: <category>-<id>
        stream: String,
        /// The name of the event, in the past tense
        name: String,
        /// The event itself; - reads it from standard input
        data: String,
        /// The version of its schema
        #[arg(long, value_name = "VERSION", default_value_t = 1)]
        event_version: u32,
        /// The media type of the event
        #[arg(long, value_name = "TYPE", default_value = "application/json")]
        content_type: String,
        #[command(flatten)]
        flags: CommandFlags,
    },
}

#[derive(Debug, Args)]
struct Filter {
    /// Only events of this aggregate, such as bank.account; may be repeated
    #[arg(long, value_name = "TYPE")]
    aggregate: Vec<String>,
    /// Only events with this name, such as MoneyDeposited; may be repeated
    #[arg(long, value_name = "NAME")]
    name: Vec<String>,
}

impl Filter {
    fn into_message(self) -> Option<EventFilter> {
        let some = !self.aggregate.is_empty() || !self.name.is_empty();
        some.then_some(EventFilter { aggregate_types: self.aggregate, event_names: self.name })
    }
}

pub(crate) async fn run(args: EventsArgs) -> Result<(), Problem> {
    let client = args.globals.client()?;
    let format = args.globals.output;
    match args.command {
        EventsCommand::Tail { last, no_follow, filter } => {
            tail(&client, last, !no_follow, filter.into_message(), format).await
        }
        EventsCommand::Show { event } => show(&client, &event, format).await,
        EventsCommand::Read { stream, from, limit, backward, filter } => {
            let direction = if backward { Direction::Backward } else { Direction::Forward };
            let direction = direction.into();
            let filter = filter.into_message();
            let Some(stream) = stream else {
                let request = ReadAllRequest { from_position: from, direction, limit, filter };
                return print_all(client.events().read_all(request), format).await;
            };
            if filter.is_some() {
                return Err(Problem::new(Exit::Usage, "a single stream cannot be filtered")
                    .why("--aggregate and --name are for reading the whole log")
                    .next(format!("daybook events read {stream}")));
            }
            let request = ReadStreamRequest { stream, from_version: from, direction, limit };
            print_all(client.events().read_stream(request), format).await
        }
        EventsCommand::Append { stream, name, data, event_version, content_type, flags } => {
            let data = payload(data, &content_type)?;
            let request_id = flags.request_id().to_string();
            let raw = new_event::Payload::Raw(RawPayload { content_type, data: data.into() });
            let event = NewEvent { event_name: name, event_version, payload: Some(raw) };
            let request = AppendRequest {
                context: Some(CommandContext {
                    request_id: request_id.clone(),
                    expected_version: flags.expected_version,
                    ..Default::default()
                }),
                stream: stream.clone(),
                events: vec![event],
            };
            let receipt = client.events().append_request(request).await;
            let receipt = receipt
                .map_err(|error| Problem::from(error).about(&stream).repeat_with(&request_id))?;
            show_receipt(&receipt, format)
        }
    }
}

/// The event to append, from the command line or standard input.
fn payload(data: String, content_type: &str) -> Result<Vec<u8>, Problem> {
    let data = if data == "-" { read_stdin()? } else { data.into_bytes() };
    let is_json = content_type == "application/json";
    match serde_json::from_slice::<serde_json::Value>(&data) {
        Err(error) if is_json => Err(Problem::invalid("the event is not JSON")
            .why(error.to_string())
            .next("give JSON, or say what it is with --content-type text/plain")),
        _ => Ok(data),
    }
}

/// All of standard input.
pub(crate) fn read_stdin() -> Result<Vec<u8>, Problem> {
    let mut data = Vec::new();
    std::io::stdin().lock().read_to_end(&mut data).map_err(|error| {
        Problem::new(Exit::Unexpected, format!("standard input cannot be read: {error}"))
    })?;
    Ok(data)
}

/// Shows the last events and follows the log from there, without a gap: both meet at the end of
/// the log as it was at the start.
async fn tail(
    client: &Daybook,
    last: u64,
    follow: bool,
    filter: Option<EventFilter>,
    format: Format,
) -> Result<(), Problem> {
    let log = client.events();
    let head = log.info().await?.head_position;
    if head > 0 && last > 0 {
        let request = ReadAllRequest {
            from_position: head,
            direction: Direction::Backward.into(),
            limit: last,
            filter: filter.clone(),
        };
        let mut events: Vec<StoredEvent> = log.read_all(request).try_collect().await?;
        events.reverse();
        for event in &events {
            print_line(event, format)?;
        }
    }
    if !follow {
        return Ok(());
    }
    let mut updates = std::pin::pin!(log.subscribe(head, filter));
    while let Some(update) = updates.try_next().await? {
        if let Update::Event(event) = update {
            print_line(&event, format)?;
        }
    }
    Ok(())
}

async fn print_all(
    events: impl Stream<Item = Result<StoredEvent, daybook_client::Error>>,
    format: Format,
) -> Result<(), Problem> {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.try_next().await? {
        print_line(&event, format)?;
    }
    Ok(())
}

/// An event on one line. The columns have fixed widths: a stream has no end to wait for.
pub(crate) fn print_line(event: &StoredEvent, format: Format) -> Result<(), Problem> {
    if format == Format::Json {
        return Ok(output::stream_document(&json::event(event)?)?);
    }
    let line = format!(
        "{:>8}  {}  {}  v{}  {}  {}",
        event.position,
        time::show(event.recorded_time.as_ref()),
        event.stream(),
        event.version,
        event.event_name,
        json::summary(event),
    );
    Ok(output::line(&output::printable(line.trim_end()))?)
}

async fn show(client: &Daybook, event: &str, format: Format) -> Result<(), Problem> {
    let log = client.events();
    let event = match event.parse() {
        Ok(position) => log.get_at(position).await?,
        Err(_) => log.get_by_id(event).await?,
    };
    if format == Format::Json {
        return Ok(output::document(&json::event(&event)?)?);
    }
    let metadata = event.metadata.clone().unwrap_or_default();
    let whole = json::event(&event)?;
    let fact = whole.get("event").or(whole.get("raw")).map(|fact| format!("{fact:#}"));
    Ok(output::fields(&[
        ("position", event.position.to_string()),
        ("stream", event.stream()),
        ("version", event.version.to_string()),
        ("event", format!("{} (schema version {})", event.event_name, event.event_version)),
        ("event id", event.event_id.clone()),
        ("recorded", time::show(event.recorded_time.as_ref())),
        ("actor", metadata.actor),
        ("request id", metadata.request_id),
        ("correlation id", metadata.correlation_id),
        ("causation id", metadata.causation_id),
        ("summary", json::summary(&event)),
        ("fact", fact.unwrap_or_default()),
    ])?)
}
