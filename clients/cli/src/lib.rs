//! The client commands of daybook.
