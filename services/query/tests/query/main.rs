//! The query side over sources in memory.

mod bank;
mod fakes;
mod naive;
mod quarantine;
mod rebuild;
mod restored;
mod runtime;
mod service;
mod sums;
