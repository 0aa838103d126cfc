//! The bus against a real broker.

mod fixture;
mod log_source;
mod publishing;
mod reading;
