//! Laws of users that hold for any sequence of commands, with the addresses as the log keeps them.

use std::collections::BTreeMap;

use daybook_contract::contract::{Claim, ClaimChange, EventSet};
use daybook_contract::users::v1::user::{Command, Event};
use daybook_contract::users::v1::{
    ChangeEmailRequest, DeactivateUserRequest, RecordActionRequest, RecordLoginRequest,
    RegisterUserRequest, UserState, UserStatus,
};
use daybook_domain::user::User;
use daybook_kernel::Aggregate;
use daybook_kernel::spec::{context, fold};
use proptest::prelude::*;

/// How many users there are.
const USERS: usize = 3;

/// Few addresses in several spellings, so that users meet.
fn email() -> impl Strategy<Value = String> {
    (0..4_usize, any::<bool>()).prop_map(|(number, loud)| {
        let email = ["ada", "bob", "cyd", "äda"][number].to_owned() + "@x.org";
        if loud { email.to_uppercase() } else { email }
    })
}

fn command() -> impl Strategy<Value = Command> {
    let register = email().prop_map(|email| {
        RegisterUserRequest { name: "A".to_owned(), email, ..Default::default() }.into()
    });
    let change =
        email().prop_map(|email| ChangeEmailRequest { email, ..Default::default() }.into());
    prop_oneof![
        4 => register,
        4 => change,
        1 => Just(RecordLoginRequest::default().into()),
        1 => Just(RecordActionRequest::default().into()),
        2 => Just(DeactivateUserRequest::default().into()),
    ]
}

/// The table of the log: who holds which address. `None` when another user holds one.
fn claim(
    holders: &BTreeMap<String, usize>,
    user: usize,
    events: &[Event],
) -> Option<BTreeMap<String, usize>> {
    let mut holders = holders.clone();
    for Claim { key, change, .. } in events.iter().flat_map(EventSet::<User>::claims) {
        let holder = holders.get(&key).copied();
        match change {
            ClaimChange::Take if holder.is_some_and(|holder| holder != user) => return None,
            ClaimChange::Take => drop(holders.insert(key, user)),
            ClaimChange::Free if holder == Some(user) => drop(holders.remove(&key)),
            ClaimChange::Free => {}
        }
    }
    Some(holders)
}

/// The first rule that a command breaks, by the state alone.
fn broken_rule(state: &UserState, command: &Command) -> Option<&'static str> {
    let registers = matches!(command, Command::RegisterUser(_));
    match (state.status(), registers) {
        (UserStatus::Unspecified, true) | (UserStatus::Active, false) => None,
        (UserStatus::Unspecified, false) => Some("USER_NOT_FOUND"),
        (_, true) => Some("USER_ALREADY_REGISTERED"),
        (UserStatus::Deactivated, false) => Some("USER_DEACTIVATED"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_sequence_of_commands_keeps_the_laws(
        commands in proptest::collection::vec((0..USERS, command()), 1..60),
    ) {
        use daybook_kernel::Rejection;
        let cx = context();
        let mut live: [UserState; USERS] = Default::default();
        let mut history: [Vec<Event>; USERS] = Default::default();
        let mut holders = BTreeMap::new();
        for (user, command) in &commands {
            let outcome = User::decide(&live[*user], command, &cx);
            prop_assert_eq!(&User::decide(&live[*user], command, &cx), &outcome);
            let given = outcome.as_ref().err().map(Rejection::reason);
            prop_assert_eq!(given, broken_rule(&live[*user], command), "{:?}", command);
            let events = outcome.unwrap_or_default();
            // Another has the address: nothing is recorded.
            let Some(after) = claim(&holders, *user, &events) else { continue };
            holders = after;
            for event in events {
                User::evolve(&mut live[*user], &event);
                history[*user].push(event);
            }

            // Who is active holds exactly the own address, and nobody else holds any.
            let active = live.iter().enumerate().filter(|(_, s)| s.status() == UserStatus::Active);
            let wanted: BTreeMap<_, _> =
                active.map(|(user, state)| (state.email.to_lowercase(), user)).collect();
            prop_assert_eq!(&holders, &wanted, "{:?}", command);
        }
        for (history, live) in history.iter().zip(&live) {
            prop_assert_eq!(&fold::<User>(history), live);
        }
    }
}
