//! The script of the demo: every command that its people send, in order.

use daybook_client::{AnyCommand, Money};
use daybook_contract::bank::v1::{
    CloseAccountRequest, DepositRequest, MovementMethod, OpenAccountRequest, TransferRequest,
    WithdrawRequest,
};
use daybook_contract::catalog::v1::CreateProductRequest;
use daybook_contract::daybook::v1::CommandContext;
use daybook_contract::inventory::v1::{ReceiveStockRequest, SetLowStockThresholdRequest};
use daybook_contract::money::from_minor;
use daybook_contract::orders::v1::{
    AddItemRequest, CancelOrderRequest, CreateOrderRequest, ShipOrderRequest, SubmitOrderRequest,
};
use daybook_contract::users::v1::{RecordActionRequest, RecordLoginRequest, RegisterUserRequest};

use crate::goods::GOODS;
use crate::people::{Customer, Deed, Dice, MONTHS, customers, month};

/// One customer in so many moves away at the end.
const LEAVING: u64 = 40;

/// The currency of the prices; who has another does not shop.
const SHOP_CURRENCY: &str = "USD";

/// The most customers who shop, however many there are: each order stays reserved.
const SHOPPERS: usize = 200;

/// One order in so many is cancelled before it is submitted.
const CANCELLED: usize = 8;

/// What people log in with.
const DEVICES: [&str; 3] = ["Phone", "Laptop", "Tablet"];

/// What people pay each other for.
const REASONS: [&str; 5] =
    ["Dinner on Friday", "Concert tickets", "Share of the rent", "Holiday house", "Thank you!"];

/// The story of a demo.
pub(crate) struct Script {
    /// Who is in it, with the money that they have in the end.
    pub people: Vec<Customer>,
    /// What they send, in order.
    pub steps: Vec<Step>,
    /// How each submitted order is shipped, once it is paid.
    pub parcels: Vec<ShipOrderRequest>,
}

/// What to send, and what should come of it.
pub(crate) struct Step {
    pub command: AnyCommand,
    pub kind: Kind,
    /// Whether it should be accepted.
    pub accepted: bool,
}

/// What a step is counted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Registration,
    Login,
    Opening,
    Deposit,
    Withdrawal,
    Closing,
    Transfer,
    Product,
    Delivery,
    Submission,
    Cancellation,
    /// A smaller step on the way to one of these.
    Other,
}

impl Step {
    fn new(kind: Kind, request: impl Into<AnyCommand>) -> Self {
        Self { command: request.into(), kind, accepted: true }
    }
}

/// Writes the whole story down before it is told. What the sagas do with it, they do meanwhile, so
/// transfers and orders come last and count on no money but what is there already.
pub(crate) fn script(number: u32, movements: u32, seed: u64) -> Script {
    // Other numbers make other people: the same request ids must not come with other content.
    let mut dice = Dice::new(seed);
    let mut dice = Dice::new(dice.next() ^ (u64::from(number) << 32) ^ u64::from(movements));
    let mut people = customers(&mut dice, number as usize);
    let mut steps: Vec<Step> = people.iter().flat_map(|who| join(&mut dice, who)).collect();
    let movements = movements as usize;
    for (index, name) in MONTHS.iter().enumerate() {
        let number = movements * (index + 1) / MONTHS.len() - movements * index / MONTHS.len();
        for deed in month(&mut dice, &mut people, name, number) {
            let who = &people[deed.customer];
            steps.push(movement(&mut dice, who, deed));
        }
    }
    for (customer, who) in people.iter_mut().enumerate() {
        if dice.once_in(LEAVING) {
            leave(&mut dice, who, customer, &mut steps);
        }
    }
    steps.extend(catalogue());
    steps.extend(transfers(&mut dice, &mut people));
    let (visits, parcels) = shopping(&mut dice, &mut people);
    steps.extend(visits);
    Script { people, steps, parcels }
}

fn context(dice: &mut Dice) -> Option<CommandContext> {
    let random = (u128::from(dice.next()) << 64) | u128::from(dice.next());
    let request_id = uuid::Builder::from_random_bytes(random.to_be_bytes()).into_uuid();
    Some(CommandContext { request_id: request_id.to_string(), ..Default::default() })
}

fn amount(minor: i64, currency: &str) -> Option<Money> {
    Some(from_minor(minor, currency).expect("the demo uses currencies of ISO 4217"))
}

/// Becomes a user and opens an account, both with the same id.
fn join(dice: &mut Dice, who: &Customer) -> [Step; 2] {
    let user = RegisterUserRequest {
        context: context(dice),
        user_id: who.account_id.clone(),
        name: who.name.clone(),
        email: format!("{}@example.org", who.account_id.replace('-', ".")),
    };
    let account = OpenAccountRequest {
        context: context(dice),
        account_id: who.account_id.clone(),
        owner_name: who.name.clone(),
        initial_balance: amount(who.balance_minor, who.currency),
    };
    [Step::new(Kind::Registration, user), Step::new(Kind::Opening, account)]
}

fn movement(dice: &mut Dice, who: &Customer, deed: Deed) -> Step {
    let context = context(dice);
    let account_id = who.account_id.clone();
    let amount = amount(deed.amount_minor, who.currency);
    let (description, method) = (deed.description, deed.method.into());
    let accepted = deed.covered;
    if deed.incoming {
        let request = DepositRequest { context, account_id, amount, description, method };
        return Step { command: request.into(), kind: Kind::Deposit, accepted };
    }
    let request = WithdrawRequest { context, account_id, amount, description, method };
    Step { command: request.into(), kind: Kind::Withdrawal, accepted }
}

/// Takes everything and closes the account.
fn leave(dice: &mut Dice, who: &mut Customer, customer: usize, steps: &mut Vec<Step>) {
    if who.balance_minor > 0 {
        let deed = Deed {
            customer,
            incoming: false,
            amount_minor: std::mem::take(&mut who.balance_minor),
            description: "Balance to another bank".to_owned(),
            method: MovementMethod::Transfer,
            covered: true,
        };
        steps.push(movement(dice, who, deed));
    }
    let request = CloseAccountRequest {
        context: context(dice),
        account_id: who.account_id.clone(),
        reason: "Moved away".to_owned(),
    };
    steps.push(Step::new(Kind::Closing, request));
}

/// Fills the catalogue. It is the same in every demo, and so are its request ids: demos with
/// other numbers share one shop.
fn catalogue() -> impl Iterator<Item = Step> {
    let mut dice = Dice::new(0);
    GOODS.iter().map(move |good| {
        let request = CreateProductRequest {
            context: context(&mut dice),
            product_id: good.product_id(),
            name: good.name.to_owned(),
            description: good.description.to_owned(),
            price: amount(good.price_minor, SHOP_CURRENCY),
        };
        Step::new(Kind::Product, request)
    })
}

/// Who has money in the currency of the shop, in any order; nobody who left has any.
fn solvent(dice: &mut Dice, people: &[Customer]) -> Vec<usize> {
    let has_money = |who: &Customer| who.currency == SHOP_CURRENCY && who.balance_minor > 0;
    let mut solvent: Vec<usize> =
        (0..people.len()).filter(|who| has_money(&people[*who])).collect();
    dice.shuffle(&mut solvent);
    solvent
}

/// One in three pays the next a part of what there is.
fn transfers(dice: &mut Dice, people: &mut [Customer]) -> Vec<Step> {
    let mut steps = Vec::new();
    for pair in solvent(dice, people).chunks_exact(3) {
        let to_account_id = people[pair[1]].account_id.clone();
        let who = &mut people[pair[0]];
        let amount_minor = dice.between(1, 20_000).min(who.balance_minor);
        who.balance_minor -= amount_minor;
        let request = TransferRequest {
            context: context(dice),
            transfer_id: format!("transfer-{}", who.account_id),
            from_account_id: who.account_id.clone(),
            to_account_id,
            amount: amount(amount_minor, who.currency),
            description: (*dice.pick(&REASONS)).to_owned(),
        };
        steps.push(Step::new(Kind::Transfer, request));
    }
    steps
}

/// Customers order what they can pay for, after as much of it has been delivered.
fn shopping(dice: &mut Dice, people: &mut [Customer]) -> (Vec<Step>, Vec<ShipOrderRequest>) {
    let mut pieces: Vec<u64> = GOODS.iter().map(|good| good.left).collect();
    let (mut visits, mut parcels) = (Vec::new(), Vec::new());
    for (number, who) in solvent(dice, people).into_iter().take(SHOPPERS).enumerate() {
        let cancelled = number % CANCELLED == CANCELLED - 1;
        let order = visit(dice, &mut people[who], cancelled, &mut pieces, &mut visits);
        parcels.extend(order.map(|order_id| ShipOrderRequest {
            context: context(dice),
            tracking_id: format!("parcel-of-{order_id}"),
            order_id,
        }));
    }
    let mut steps = Vec::new();
    for (good, quantity) in GOODS.iter().zip(pieces) {
        let product_id = good.product_id();
        let delivery = ReceiveStockRequest {
            context: context(dice),
            product_id: product_id.clone(),
            quantity,
            reference: "Delivery of the demo".to_owned(),
        };
        steps.push(Step::new(Kind::Delivery, delivery));
        let (context, threshold) = (context(dice), good.threshold);
        let low = SetLowStockThresholdRequest { context, product_id, threshold };
        steps.push(Step::new(Kind::Other, low));
    }
    steps.extend(visits);
    (steps, parcels)
}

/// Logs in, looks around, and orders up to three products; `pieces` counts what is needed. Answers
/// with the order, if it is submitted.
fn visit(
    dice: &mut Dice,
    who: &mut Customer,
    cancelled: bool,
    pieces: &mut [u64],
    steps: &mut Vec<Step>,
) -> Option<String> {
    let user_id = who.account_id.clone();
    let session_id = format!("visit-{user_id}");
    let order_id = format!("order-{user_id}");
    let login = RecordLoginRequest {
        context: context(dice),
        user_id: user_id.clone(),
        session_id: session_id.clone(),
        device: (*dice.pick(&DEVICES)).to_owned(),
    };
    let look = RecordActionRequest {
        context: context(dice),
        user_id: user_id.clone(),
        action: "view-product".to_owned(),
        description: dice.pick(&GOODS).name.to_owned(),
        session_id,
    };
    let order = CreateOrderRequest { context: context(dice), order_id: order_id.clone(), user_id };
    steps.push(Step::new(Kind::Login, login));
    steps.push(Step::new(Kind::Other, look));
    steps.push(Step::new(Kind::Other, order));
    let mut empty = true;
    for _ in 0..dice.between(1, 3) {
        let product = dice.between(0, GOODS.len() as i64 - 1) as usize;
        let (good, quantity) = (&GOODS[product], dice.between(1, 3));
        if good.price_minor * quantity > who.balance_minor {
            continue;
        }
        who.balance_minor -= good.price_minor * quantity;
        if !cancelled {
            pieces[product] += quantity as u64;
        }
        let request = AddItemRequest {
            context: context(dice),
            order_id: order_id.clone(),
            product_id: good.product_id(),
            quantity: quantity as u64,
        };
        steps.push(Step::new(Kind::Other, request));
        empty = false;
    }
    if cancelled || empty {
        let reason = "Changed their mind".to_owned();
        let request = CancelOrderRequest { context: context(dice), order_id, reason };
        steps.push(Step::new(Kind::Cancellation, request));
        return None;
    }
    let submission = SubmitOrderRequest {
        context: context(dice),
        order_id: order_id.clone(),
        account_id: who.account_id.clone(),
        ..Default::default()
    };
    steps.push(Step::new(Kind::Submission, submission));
    Some(order_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goods::Good;

    #[test]
    fn the_same_numbers_make_the_same_requests_and_others_share_only_the_catalogue() {
        let packed = |number, movements, seed| -> Vec<_> {
            let steps = script(number, movements, seed).steps;
            let own = steps.into_iter().filter(|step| step.kind != Kind::Product);
            own.map(|step| step.command.into_any().value).collect()
        };
        let first = packed(20, 200, 1);
        assert_eq!(first, packed(20, 200, 1));
        for other in [packed(20, 201, 1), packed(21, 200, 1), packed(20, 200, 2)] {
            assert!(first.iter().all(|request| !other.contains(request)));
        }
    }

    #[test]
    fn every_movement_that_was_asked_for_is_in_the_script() {
        let Script { people, steps, .. } = script(80, 1_003, 3);
        let of = |kind| steps.iter().filter(|step| step.kind == kind).count();
        assert_eq!(people.len(), 80);
        assert_eq!(of(Kind::Opening), 80);
        assert!(of(Kind::Closing) > 0);
        assert!(of(Kind::Deposit) + of(Kind::Withdrawal) >= 1_003);
    }

    #[test]
    fn the_shop_has_orders_of_both_ends_and_goods_that_run_low() {
        let Script { people, steps, parcels } = script(40, 600, 5);
        let of = |kind| steps.iter().filter(|step| step.kind == kind).count();
        assert_eq!(of(Kind::Registration), people.len());
        assert_eq!((of(Kind::Product), of(Kind::Delivery)), (GOODS.len(), GOODS.len()));
        assert!(of(Kind::Submission) > 0 && of(Kind::Cancellation) > 0 && of(Kind::Transfer) > 0);
        assert_eq!(of(Kind::Login), of(Kind::Submission) + of(Kind::Cancellation));
        assert_eq!(parcels.len(), of(Kind::Submission));
        assert!(people.iter().all(|who| who.balance_minor >= 0));
        let low = GOODS.iter().filter(|good| good.left <= good.threshold).count();
        assert!(low > 0 && low < GOODS.len() / 3, "{low}");
        let ids: std::collections::BTreeSet<_> = GOODS.iter().map(Good::product_id).collect();
        assert_eq!(ids.len(), GOODS.len());
    }
}
