//! What recorded events claim, for whoever checks a log against them.

use std::collections::HashMap;

use daybook_contract::contract::{AggregateState, EventSet};
use daybook_contract::daybook::v1::RecordedEvent;
use daybook_kernel::Aggregate;
use daybook_log::Claim;

use crate::decide;

/// Knows the claims of the events of every aggregate that is registered.
#[derive(Default)]
pub struct Claims {
    of: HashMap<&'static str, fn(&RecordedEvent) -> Vec<Claim>>,
}

impl daybook_kernel::Registry for Claims {
    fn aggregate<A: Aggregate>(&mut self) {
        let claims = |record: &RecordedEvent| {
            decide::event::<A>(record).map(|event| event.claims()).unwrap_or_default()
        };
        self.of.insert(A::State::AGGREGATE, claims);
    }
}

impl Claims {
    /// What a recorded event claims; nothing when it cannot be understood.
    pub fn of(&self, record: &RecordedEvent) -> Vec<Claim> {
        let of = self.of.get(record.aggregate_type.as_str());
        of.map(|claims| claims(record)).unwrap_or_default()
    }
}
