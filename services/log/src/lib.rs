//! The event log: durable, ordered, append-only; it has never heard of an account.
//!
//! [`EventLog`] is the way in. Behind it one [`writer`] decides submissions in order against the
//! latest accepted state of their streams and commits them in groups; the [`storage`] port keeps
//! what is committed, in SQLite ([`sqlite`]).
//!
//! Laws (DESIGN §5): a submission is answered only after its group is durable; positions and
//! versions have no gaps; a request id has one effect, ever; a claim has one holder; a group that
//! fails leaves no trace.

pub mod error;
pub mod event_id;
pub mod limits;
mod log;
pub mod record;
pub mod sqlite;
pub mod storage;
pub mod submission;
pub mod verify;
pub mod writer;

pub use daybook_contract::contract::{Claim, ClaimChange};
pub use error::Error;
pub use log::{Config, EventLog, StreamCache, Submitted};
pub use record::{NewEvent, Payload, Record};
pub use storage::Direction;
pub use submission::{Answer, Decider, Facts, Folder, Receipt, RequestKey, State, Submission};
