//! The query side over sources in memory.

mod bank;
mod catalog;
mod fakes;
mod inventory;
mod naive;
mod orders;
mod quarantine;
#[path = "../../../../tests/crash/random.rs"]
mod random;
mod rebuild;
mod rest;
mod restored;
mod runtime;
mod service;
mod sums;
mod transfers;
mod users;
