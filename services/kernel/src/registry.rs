//! Registration: how the rest of Daybook learns which aggregates there are, without naming any.

use crate::{Aggregate, Saga};

/// Takes aggregates up, one at a time: a command bus, the query side, a tool that lists them.
///
/// Law: each aggregate is registered once, in the order of the registration lines; whether two
/// with the same name are an error is for the registry to say.
pub trait Registry {
    /// Takes up one aggregate.
    fn aggregate<A: Aggregate>(&mut self);
}

/// Takes sagas up, one at a time: the saga runtime, and the command bus, which has them as
/// aggregates already.
pub trait SagaRegistry {
    /// Takes up one saga. It is an aggregate as well, and registered as one, too.
    fn saga<S: Saga>(&mut self);
}
