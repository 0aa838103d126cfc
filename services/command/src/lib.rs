//! The command side: bus, commands, event log service.
