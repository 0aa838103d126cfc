//! The event log: durable, ordered, append-only.
