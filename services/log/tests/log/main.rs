//! The laws of the log (DESIGN §5), over SQLite and over storages with faults.

mod fixture;
mod storage_contract;
mod writer_laws;
