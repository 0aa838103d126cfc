//! What is left after a power cut, a failing disk, a dead broker, a stopped process, and a record
//! that nobody understands.

#[path = "../e2e/common.rs"]
#[allow(dead_code, reason = "each of the two suites uses its part of it")]
mod common;
mod fsync;
mod fulfilment;
mod gate;
mod kill_command;
mod kill_query;
mod ledger;
mod load;
mod outage;
mod poison;
mod random;
mod sagas;
mod stopped;
