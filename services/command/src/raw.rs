//! Appending events that no aggregate decides.

use daybook_contract::daybook::v1::Failure;
use daybook_log::{Claim, Decider, Facts, Folder, NewEvent, State};

/// A decision that is taken already.
pub(crate) struct Raw {
    pub events: Vec<NewEvent>,
}

impl Decider for Raw {
    fn folder(&self) -> Option<&'static dyn Folder> {
        None
    }

    fn decide(&mut self, _: Facts<'_>) -> Result<Vec<NewEvent>, Failure> {
        Ok(std::mem::take(&mut self.events))
    }

    fn taken(&self, _: &Claim) -> Failure {
        unreachable!("raw events claim nothing")
    }

    fn evolve(&mut self, _: &mut State) {}
}
