//! The publisher of this process, if brokers are configured.

use std::time::Duration;

use daybook_command::PublishingView;
use daybook_log::EventLog;

use crate::config::Config;

/// The publisher, or none.
pub struct Publishing {}

impl Publishing {
    /// Starts it.
    pub fn start(_: &Config, _: &EventLog) -> Self {
        Self {}
    }

    /// Stops it.
    pub async fn stop(&self, _: Duration) {}
}

impl PublishingView for Publishing {
    fn publishing(&self) -> bool {
        false
    }

    fn problem(&self) -> String {
        String::new()
    }
}
