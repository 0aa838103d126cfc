//! A typed client for Daybook.
