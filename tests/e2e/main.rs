//! The system as its users meet it: processes, real connections, real files, a real broker.

mod bad_input;
mod bank;
mod cli;
mod common;
mod faults;
mod health;
mod idempotency;
mod new_projection;
mod old_events;
mod reading;
mod readme;
mod restored;
mod serving;
