//! The system as its users meet it: processes, real connections, real files, a real broker.

mod bad_input;
mod bank;
mod caching;
mod catalog;
mod cli;
mod cli_shop;
mod common;
mod faults;
mod health;
mod idempotency;
mod inventory;
mod new_projection;
mod old_events;
mod orders;
mod reading;
mod readme;
mod restored;
mod saga_beginnings;
mod sagas;
mod serving;
mod shop;
mod shop_over_kafka;
mod users;
