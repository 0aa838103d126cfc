//! All aggregates in memory, decided one command at a time as the log does it, and a runtime of
//! sagas that does what a crash or a second process can make of it.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};

use daybook_contract::bank::v1::{AccountState, TransferState, account};
use daybook_contract::contract::{AggregateState, CommandSet};
use daybook_contract::daybook::v1::step_answer::Outcome;
use daybook_contract::daybook::v1::{CommandReceipt, SagaStatus, StepAnswer, StepRefusal};
use daybook_contract::inventory::v1::StockState;
use daybook_contract::orders::v1::{FulfilmentState, OrderState, ShipmentState};
use daybook_domain::account::Account;
use daybook_domain::fulfilment::Fulfilment;
use daybook_domain::order::Order;
use daybook_domain::shipment::Shipment;
use daybook_domain::stock::Stock;
use daybook_domain::transfer::Transfer;
use daybook_kernel::spec::context;
use daybook_kernel::{Aggregate, Context, Money, Rejection, Saga, Step, step_id};

/// The states of one kind of aggregate, by id.
type States<S> = BTreeMap<String, S>;

/// Everything there is.
#[derive(Default)]
pub struct World {
    pub accounts: States<AccountState>,
    pub transfers: States<TransferState>,
    pub stocks: States<StockState>,
    pub orders: States<OrderState>,
    pub fulfilments: States<FulfilmentState>,
    pub shipments: States<ShipmentState>,
    /// What was answered to each request: the same request has one effect and one answer.
    answers: BTreeMap<String, Outcome>,
    /// The steps that have no answer yet.
    pub open: Vec<Open>,
    /// The transfers whose money has arrived.
    pub arrived: BTreeSet<String>,
    /// What orders were paid with, in the smallest unit.
    pub settled: i64,
    events: u64,
    /// How many events each saga has recorded.
    versions: BTreeMap<String, u64>,
}

/// A step that is to be carried out.
#[derive(Clone)]
pub struct Open {
    pub stream: String,
    pub version: u64,
    pub step: Step,
}

/// Where the states of an aggregate are, and what its events set off.
pub trait Place: Aggregate {
    fn states(world: &mut World) -> &mut States<Self::State>;

    fn happened(world: &mut World, id: &str, event: &Self::Event) {
        let _ = (world, id, event);
    }
}

macro_rules! places {
    ($($aggregate:ident: $field:ident),+; $($saga:ident: $saga_field:ident),+) => {
        $(impl Place for $aggregate {
            fn states(world: &mut World) -> &mut States<Self::State> { &mut world.$field }
        })+
        $(impl Place for $saga {
            fn states(world: &mut World) -> &mut States<Self::State> { &mut world.$saga_field }

            fn happened(world: &mut World, id: &str, event: &Self::Event) {
                world.react::<$saga>(id, event);
            }
        })+

        impl World {
            fn read(&self, aggregate: &str, id: &str) -> Option<Box<dyn Any>> {
                if aggregate == AccountState::AGGREGATE {
                    return self.accounts.get(id).map(|s| Box::new(s.clone()) as Box<dyn Any>);
                }
                $(if aggregate == <$aggregate as Aggregate>::State::AGGREGATE {
                    return self.$field.get(id).map(|state| Box::new(state.clone()) as Box<dyn Any>);
                })+
                $(if aggregate == <$saga as Aggregate>::State::AGGREGATE {
                    return self.$saga_field.get(id).map(|s| Box::new(s.clone()) as Box<dyn Any>);
                })+
                None
            }

            /// Carries out the command of a step.
            fn execute(&mut self, request_id: &str, step: &Step) -> Outcome {
                if step.aggregate == AccountState::AGGREGATE {
                    return self.send::<Account>(request_id, decoded(step));
                }
                $(if step.aggregate == <$aggregate as Aggregate>::State::AGGREGATE {
                    return self.send::<$aggregate>(request_id, decoded(step));
                })+
                $(if step.aggregate == <$saga as Aggregate>::State::AGGREGATE {
                    return self.send::<$saga>(request_id, decoded(step));
                })+
                panic!("there is no {}", step.aggregate);
            }

            /// Records the answer to a step in the saga's own stream.
            fn record(&mut self, open: &Open, answer: StepAnswer) {
                let (kind, id) = open.stream.split_once('-').expect("a stream");
                let request_id = format!("answer {} {}", open.stream, open.version);
                $(if kind == <$saga as Aggregate>::State::AGGREGATE {
                    self.send::<$saga>(&request_id, $saga::record(id, answer));
                    return;
                })+
                panic!("there is no {kind}");
            }
        }
    };
}

impl Place for Account {
    fn states(world: &mut World) -> &mut States<AccountState> {
        &mut world.accounts
    }

    fn happened(world: &mut World, _: &str, event: &account::Event) {
        if let account::Event::TransferReceived(received) = event {
            let is_new = world.arrived.insert(received.transfer_id.clone());
            assert!(is_new, "{} arrived twice", received.transfer_id);
        }
        if let account::Event::PaymentSettled(settled) = event {
            let amount = settled.amount.as_ref().expect("an amount");
            world.settled += Money::try_from(amount).expect("money").minor();
        }
    }
}

places!(
    Stock: stocks, Order: orders;
    Transfer: transfers, Fulfilment: fulfilments, Shipment: shipments
);

fn decoded<C: CommandSet>(step: &Step) -> C {
    let command = C::decode(step.type_name, &step.request);
    command.expect("a command of the aggregate").expect("well formed")
}

impl World {
    /// Sends a command that nobody repeats.
    pub fn command<A: Place>(&mut self, command: impl Into<A::Command>) -> Outcome {
        let request_id = format!("own {}", self.answers.len());
        self.send::<A>(&request_id, command.into())
    }

    /// Sends a command; one with a request id that was answered before gets the same answer.
    pub fn send<A: Place>(&mut self, request_id: &str, mut command: A::Command) -> Outcome {
        if let Some(answer) = self.answers.get(request_id) {
            return answer.clone();
        }
        let states: Vec<_> =
            command.reads().iter().map(|read| self.read(read.aggregate, read.key)).collect();
        for (index, state) in states.iter().enumerate() {
            if let Some(state) = state {
                assert!(command.set_read(index, state.as_ref()));
            }
        }
        let id = command.key().to_owned();
        let command_id = request_id.to_owned();
        let cx = Context { aggregate_id: id.clone(), command_id, ..context() };
        let state = A::states(self).entry(id.clone()).or_default().clone();
        let outcome = match A::decide(&state, &command, &cx) {
            Ok(events) => {
                let mut event_ids = Vec::new();
                for event in &events {
                    A::evolve(A::states(self).entry(id.clone()).or_default(), event);
                    self.events += 1;
                    event_ids.push(format!("event-{}", self.events));
                    A::happened(self, &id, event);
                }
                Outcome::Receipt(CommandReceipt { event_ids, ..Default::default() })
            }
            Err(rejection) => Outcome::Refusal(StepRefusal {
                reason: rejection.reason().to_owned(),
                message: rejection.to_string(),
                ..Default::default()
            }),
        };
        self.answers.insert(request_id.to_owned(), outcome.clone());
        outcome
    }

    /// Notes the steps that follow from an event of a saga, and that the answered one is closed.
    fn react<S: Saga + Place>(&mut self, id: &str, event: &S::Event) {
        let stream = format!("{}-{id}", S::State::AGGREGATE);
        if let Some(answer) = S::answered(event) {
            let before = self.open.len();
            self.open.retain(|open| (&open.stream, open.version) != (&stream, answer.version));
            assert_eq!(self.open.len() + 1, before, "{stream}: an answer that nobody waits for");
        }
        let state = S::states(self)[id].clone();
        let version = self.versions.entry(stream.clone()).or_default();
        *version += 1;
        let version = *version;
        let awaited = S::awaited(id, &state).filter(|awaited| awaited.version == version);
        self.open.extend(awaited.map(|awaited| Open { stream, version, step: awaited.step }));
    }

    /// Carries out an open step and records the answer. `lost` says that the process dies before
    /// the answer is recorded; the step is then open still.
    pub fn carry_out(&mut self, open: &Open, lost: bool) {
        let request_id = step_id(&open.stream, open.version, 0);
        let outcome = Some(self.execute(&request_id, &open.step));
        if !lost {
            let answer = StepAnswer { version: open.version, index: 0, outcome };
            self.record(open, answer);
        }
    }

    /// Carries out open steps until there are none.
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            let Some(open) = self.open.first().cloned() else { return };
            self.carry_out(&open, false);
        }
        panic!("the sagas do not end");
    }
}

/// Whether a saga has ended.
pub fn has_ended(status: SagaStatus) -> bool {
    matches!(status, SagaStatus::Completed | SagaStatus::Compensated | SagaStatus::Failed)
}
