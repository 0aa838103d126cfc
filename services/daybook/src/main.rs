//! The one binary of Daybook.

fn main() {}
