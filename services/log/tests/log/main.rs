//! The laws of the log (DESIGN §5), over SQLite and over storages with faults.

mod checkpoint;
mod claims;
mod fixture;
mod index;
mod old_stores;
mod overlap;
mod reads;
mod runs;
mod storage_contract;
mod writer_laws;
