//! What is left after a power cut, a dead broker, a stopped process, and a record that nobody
//! understands.
