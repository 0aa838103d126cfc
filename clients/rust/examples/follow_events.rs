//! Follows the event log: everything there is, then what comes. Ends with Ctrl-C, or after as
//! many events as the second argument says.
//!
//! ```sh
//! cargo run -p daybook-client --example follow_events
//! cargo run -p daybook-client --example follow_events -- http://127.0.0.1:50051 10
//! ```

use daybook_client::{Daybook, Error, Update};
use futures::{StreamExt, TryStreamExt};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let command_url = args.next().unwrap_or_else(|| "http://127.0.0.1:50051".to_owned());
    let most = args.next().and_then(|text| text.parse().ok()).unwrap_or(usize::MAX);
    run(&command_url, most, |line| println!("{line}")).await
}

/// Hands a line for each event to `show`, from the first on.
pub async fn run(command_url: &str, most: usize, show: impl Fn(String)) -> Result<(), Error> {
    let daybook = Daybook::builder().command_url(command_url).build()?;
    let updates = daybook.events().subscribe(0, None);
    let events = updates.try_filter_map(async |update| match update {
        Update::Event(event) => Ok(Some(event)),
        Update::CaughtUp(_) | Update::Checkpoint(_) => Ok(None),
    });
    let mut events = std::pin::pin!(events.take(most));
    while let Some(event) = events.try_next().await? {
        let stream = event.stream();
        show(format!("{} {stream} v{} {}", event.position, event.version, event.event_name));
    }
    Ok(())
}
