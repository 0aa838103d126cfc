//! A typed client for Daybook.
//!
//! ```no_run
//! use daybook_client::{Daybook, Money};
//!
//! # async fn first_steps() -> Result<(), daybook_client::Error> {
//! let daybook = Daybook::connect("http://127.0.0.1:50051", "http://127.0.0.1:50052")?;
//! let opened = daybook.open_account("Ada Lovelace").await?;
//! let amount = Money { currency_code: "USD".into(), units: 12, nanos: 340_000_000 };
//! let receipt = daybook.deposit(&opened.aggregate_id, amount).description("Salary").await?;
//! // The answer reflects the deposit: the query waits for the projection to get there.
//! let answer = daybook.get_account(&opened.aggregate_id).after(&receipt).await?;
//! println!("{:?}", answer.account);
//! # Ok(())
//! # }
//! ```
//!
//! What it promises:
//!
//! - Every command has a request id, made here (a UUIDv7) when the caller gives none. It is sent
//!   again only when that may help, and always with the same id: it has its effect at most once.
//! - Every call has a deadline, 5 s unless told otherwise, for all of its attempts together; what a
//!   query may wait for a position comes on top.
//! - An error is [`Error`], the one error of the contract, with a reason and values. What the
//!   client finds out itself has the reason [`UNREACHABLE`] or `DEADLINE_EXCEEDED`.
//!
//! It does *not* keep any state about accounts, and it does not check the rules of the domains:
//! those are the server's.

mod call;
mod catalog;
mod client;
mod command;
mod command_stream;
mod event_log;
mod failure;
mod inventory;
mod orders;
mod projections;
mod query;
mod retry;
mod sagas;
mod users;

pub use client::{ACTOR_HEADER, Builder, Daybook, Service};
pub use command::{AnyCommand, Command, CommandRequest};
pub use command_stream::{CommandStream, WINDOW};
pub use daybook_contract::daybook::v1::{CommandReceipt, Money};
pub use daybook_contract::error::Error;
pub use event_log::{EventLog, StoredEvent, Update};
pub use failure::{UNREACHABLE, from_status};
pub use projections::Projections;
pub use query::{LONGEST_WAIT, PagedRequest, Query, QueryRequest};
pub use retry::Policy;
pub use sagas::Sagas;
