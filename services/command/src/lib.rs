//! The command side: the bus that routes commands to their aggregates, the services over it and
//! over the event log, and the outbox for the publisher. It knows aggregates by their traits
//! alone; which ones there are is registered by the composition root.

mod answers;
mod bus;
mod caller;
mod claims;
mod command_services;
mod decide;
mod errors;
mod event_log_service;
mod execute_service;
mod outbox;
mod raw;
mod streams;

pub use bus::CommandBus;
pub use claims::Claims;
pub use command_services::CommandServices;
pub use errors::from_log;
pub(crate) use errors::stopping;
pub use event_log_service::{EventLogServer, PublishingView};
pub use execute_service::ExecuteServer;
pub use outbox::LogOutbox;
