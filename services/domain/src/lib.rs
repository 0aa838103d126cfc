//! The domains of Daybook, one file an aggregate.
