//! Transfers: money is conserved at every moment, and every transfer ends.

use daybook_contract::bank::v1::{
    CancelTransferRequest, CloseAccountRequest, DepositRequest, OpenAccountRequest,
    TransferRequest, TransferStatus, WithdrawRequest,
};
use daybook_contract::daybook::v1 as wire;
use daybook_contract::daybook::v1::step_answer::Outcome;
use daybook_domain::account::Account;
use daybook_domain::transfer::Transfer;
use daybook_kernel::{Currency, Money, Saga};
use proptest::prelude::*;

use crate::world::{World, has_ended};

const ACCOUNTS: u8 = 5;

/// Something that happens in the world.
#[derive(Debug, Clone)]
enum Action {
    Transfer {
        from: u8,
        to: u8,
        minor: i64,
        euro: bool,
    },
    Cancel {
        transfer: usize,
    },
    Deposit {
        account: u8,
        minor: i64,
    },
    Withdraw {
        account: u8,
        minor: i64,
    },
    Close {
        account: u8,
    },
    /// A process carries out an open step, and may die before it has recorded the answer.
    Step {
        which: usize,
        lost: bool,
    },
    /// A process that was stopped long ago carries out a step that it believes to be open.
    Again {
        which: usize,
    },
}

fn action() -> impl Strategy<Value = Action> {
    // One account more than there is: an unknown one.
    let account = || 0..=ACCOUNTS;
    prop_oneof![
        4 => (account(), account(), 1..120_i64, prop::bool::weighted(0.1))
            .prop_map(|(from, to, minor, euro)| Action::Transfer { from, to, minor, euro }),
        1 => any::<usize>().prop_map(|transfer| Action::Cancel { transfer }),
        1 => (account(), 1..50_i64).prop_map(|(account, minor)| Action::Deposit { account, minor }),
        1 => (account(), 1..90_i64).prop_map(|(account, minor)| Action::Withdraw { account, minor }),
        2 => account().prop_map(|account| Action::Close { account }),
        10 => (any::<usize>(), prop::bool::weighted(0.3))
            .prop_map(|(which, lost)| Action::Step { which, lost }),
        3 => any::<usize>().prop_map(|which| Action::Again { which }),
    ]
}

fn money(minor: i64, code: &str) -> Option<wire::Money> {
    Some(Money::new(minor, Currency::new(code).unwrap()).into())
}

fn name(account: u8) -> String {
    format!("a{account}")
}

/// What is on all accounts and on its way, in cents; euros and dollars alike.
fn total(world: &World) -> i64 {
    let balances: i64 = world.accounts.values().map(|account| account.balance_minor).sum();
    let in_flight: i64 = world
        .accounts
        .values()
        .flat_map(|account| &account.transfers_in_flight)
        // What has arrived is on the other account already; the sender's is told later.
        .filter(|sent| !world.arrived.contains(&sent.transfer_id))
        .map(|sent| sent.amount_minor)
        .sum();
    balances + in_flight
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn money_is_conserved_and_every_transfer_ends(
        actions in proptest::collection::vec(action(), 1..120),
    ) {
        let mut world = World::default();
        for account in 0..ACCOUNTS {
            // One of them is in another currency.
            let initial_balance = money(100, if account == 4 { "EUR" } else { "USD" });
            let request = OpenAccountRequest {
                account_id: name(account),
                initial_balance,
                ..Default::default()
            };
            world.command::<Account>(request);
        }
        let mut expected = total(&world);
        let mut seen = Vec::new();
        let mut transfers = 0;
        for action in actions {
            let accepted = |outcome| matches!(outcome, Outcome::Receipt(_));
            match action {
                Action::Transfer { from, to, minor, euro } => {
                    transfers += 1;
                    world.command::<Transfer>(TransferRequest {
                        transfer_id: format!("t{transfers}"),
                        from_account_id: name(from),
                        to_account_id: name(to),
                        amount: money(minor, if euro { "EUR" } else { "USD" }),
                        ..Default::default()
                    });
                }
                Action::Cancel { transfer } => {
                    let transfer_id = format!("t{}", transfer % (transfers + 1));
                    let request = CancelTransferRequest { transfer_id, ..Default::default() };
                    world.command::<Transfer>(request);
                }
                Action::Deposit { account, minor } => {
                    let (account_id, amount) = (name(account), money(minor, "USD"));
                    let request = DepositRequest { account_id, amount, ..Default::default() };
                    if accepted(world.command::<Account>(request)) {
                        expected += minor;
                    }
                }
                Action::Withdraw { account, minor } => {
                    let (account_id, amount) = (name(account), money(minor, "USD"));
                    let request = WithdrawRequest { account_id, amount, ..Default::default() };
                    if accepted(world.command::<Account>(request)) {
                        expected -= minor;
                    }
                }
                Action::Close { account } => {
                    // Emptied first, so that it is often possible.
                    let account_id = name(account);
                    let minor =
                        world.accounts.get(&account_id).map_or(0, |state| state.balance_minor);
                    if minor > 0 && account < 2 {
                        let amount = money(minor, "USD");
                        let account_id = account_id.clone();
                        let request = WithdrawRequest { account_id, amount, ..Default::default() };
                        if accepted(world.command::<Account>(request)) {
                            expected -= minor;
                        }
                    }
                    world.command::<Account>(CloseAccountRequest { account_id, ..Default::default() });
                }
                Action::Step { which, lost } if !world.open.is_empty() => {
                    let open = world.open[which % world.open.len()].clone();
                    seen.push(open.clone());
                    world.carry_out(&open, lost);
                }
                Action::Again { which } if !seen.is_empty() => {
                    let open = seen[which % seen.len()].clone();
                    world.carry_out(&open, false);
                }
                Action::Step { .. } | Action::Again { .. } => {}
            }
            prop_assert_eq!(total(&world), expected);
        }
        world.settle();
        prop_assert_eq!(total(&world), expected);
        for (id, transfer) in world.transfers.iter().filter(|(_, t)| t.version > 0) {
            prop_assert!(has_ended(Transfer::status(transfer)), "{}: {:?}", id, transfer);
            // A refund is never refused: it fails before money moved, or not at all.
            if transfer.status() == TransferStatus::Failed {
                prop_assert_eq!(transfer.version - u64::from(transfer.cancelled), 2);
            }
        }
        for (id, account) in &world.accounts {
            prop_assert!(account.transfers_in_flight.is_empty(), "{}: {:?}", id, account);
        }
    }
}
