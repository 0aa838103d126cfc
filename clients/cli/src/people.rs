//! The people of the demo and their money: the same seed gives the same people, doing the same.

use std::collections::HashSet;

use daybook_contract::bank::v1::MovementMethod;

/// A small generator of pseudo-random numbers, SplitMix64 (Steele, Lea and Flood, 2014): a demo
/// needs no more, and it gives the same numbers on every machine.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from `low` to `high`, both inclusive.
    pub(crate) fn between(&mut self, low: i64, high: i64) -> i64 {
        low + (self.next() % (high - low + 1) as u64) as i64
    }

    /// Whether something happens that happens once in `times`.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.next().is_multiple_of(times)
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[(self.next() % from.len() as u64) as usize]
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, (self.next() % (last as u64 + 1)) as usize);
        }
    }
}

/// A customer.
#[derive(Debug, Clone)]
pub(crate) struct Customer {
    pub account_id: String,
    pub name: String,
    pub currency: &'static str,
    /// Monthly, in the smallest unit.
    pub salary_minor: i64,
    pub rent_minor: i64,
    /// What they should have, if the bank books right.
    pub balance_minor: i64,
}

/// What a customer does with money. Amounts are in the smallest unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Deed {
    pub customer: usize,
    pub incoming: bool,
    pub amount_minor: i64,
    pub description: String,
    pub method: MovementMethod,
    /// Whether there is enough money for it.
    pub covered: bool,
}

/// The months that are played.
pub(crate) const MONTHS: [&str; 6] = ["January", "February", "March", "April", "May", "June"];

/// Given names and family names from many places.
const GIVEN: [&str; 40] = [
    "Ada", "Amara", "Anders", "Aisha", "Ben", "Carla", "Chen", "Dana", "Diego", "Elif", "Emma",
    "Farid", "Fatou", "Grace", "Hana", "Hugo", "Ines", "Ivan", "Jonas", "Julia", "Kofi", "Lars",
    "Leila", "Lucia", "Marek", "Maria", "Mei", "Nadia", "Noah", "Olga", "Omar", "Priya", "Rosa",
    "Samir", "Sofia", "Tomas", "Uma", "Viktor", "Yuki", "Zoe",
];
const FAMILY: [&str; 40] = [
    "Abebe",
    "Almeida",
    "Andersson",
    "Bauer",
    "Berg",
    "Castillo",
    "Cohen",
    "Costa",
    "Dubois",
    "Eriksen",
    "Fischer",
    "Garcia",
    "Haddad",
    "Hansen",
    "Ito",
    "Ivanova",
    "Jensen",
    "Kaya",
    "Khan",
    "Kim",
    "Kowalski",
    "Kumar",
    "Larsen",
    "Lindqvist",
    "Lopez",
    "Mensah",
    "Moreau",
    "Nakamura",
    "Novak",
    "Nowak",
    "Okafor",
    "Osei",
    "Papadopoulos",
    "Patel",
    "Popescu",
    "Rossi",
    "Silva",
    "Sato",
    "Weber",
    "Wong",
];

/// What people spend on: description, least and most in the smallest unit, how it is paid.
const SPENDING: [(&str, i64, i64, MovementMethod); 14] = [
    ("Groceries", 800, 14_000, MovementMethod::Card),
    ("Groceries", 500, 9_000, MovementMethod::Card),
    ("Bakery", 250, 1_800, MovementMethod::Cash),
    ("Restaurant", 1_500, 12_000, MovementMethod::Card),
    ("Coffee", 280, 950, MovementMethod::Card),
    ("Train ticket", 1_200, 15_000, MovementMethod::Card),
    ("Fuel", 3_000, 9_500, MovementMethod::Card),
    ("Pharmacy", 400, 6_000, MovementMethod::Card),
    ("Electricity", 4_000, 16_000, MovementMethod::Transfer),
    ("Phone", 1_500, 6_000, MovementMethod::Transfer),
    ("Online shop", 1_000, 22_000, MovementMethod::Card),
    ("Books", 900, 5_500, MovementMethod::Card),
    ("Dentist", 6_000, 40_000, MovementMethod::Transfer),
    ("Gym", 2_500, 6_500, MovementMethod::Transfer),
];

/// What people get beside their salary.
const INCOME: [(&str, i64, i64, MovementMethod); 4] = [
    ("Birthday present", 2_000, 15_000, MovementMethod::Cheque),
    ("Flea market", 1_000, 9_000, MovementMethod::Cash),
    ("Tax refund", 8_000, 60_000, MovementMethod::Transfer),
    ("Refund of online shop", 1_000, 12_000, MovementMethod::Card),
];

/// How many of the new accounts are in which currency, out of ten.
const CURRENCIES: [&str; 10] =
    ["USD", "USD", "USD", "USD", "USD", "USD", "USD", "EUR", "EUR", "GBP"];

/// So many customers, each with an account id of their own.
pub(crate) fn customers(dice: &mut Dice, number: usize) -> Vec<Customer> {
    let mut taken = HashSet::new();
    let mut customers = Vec::with_capacity(number);
    while customers.len() < number {
        let (given, family) = (dice.pick(&GIVEN), dice.pick(&FAMILY));
        let account_id = format!("{given}-{family}-{:05}", dice.next() % 100_000).to_lowercase();
        if !taken.insert(account_id.clone()) {
            continue;
        }
        let salary_minor = dice.between(180, 620) * 1_000;
        customers.push(Customer {
            account_id,
            name: format!("{given} {family}"),
            currency: dice.pick::<&'static str>(&CURRENCIES),
            salary_minor,
            rent_minor: salary_minor * dice.between(25, 40) / 100 / 100 * 100,
            balance_minor: dice.between(0, 40) * 2_500,
        });
    }
    customers
}

/// What the customers do in a month: salaries come first, then rents and everything else in any
/// order, `number` deeds in all.
pub(crate) fn month(
    dice: &mut Dice,
    customers: &mut [Customer],
    name: &str,
    number: usize,
) -> Vec<Deed> {
    let mut everyone: Vec<usize> = (0..customers.len()).collect();
    dice.shuffle(&mut everyone);
    let paid = everyone.len().min(number);
    let mut deeds: Vec<Deed> =
        everyone[..paid].iter().map(|who| salary(customers, *who, name)).collect();
    let renting = everyone.len().min(number - paid);
    let mut rest: Vec<(usize, bool)> = everyone[..renting].iter().map(|who| (*who, true)).collect();
    rest.extend((paid + renting..number).map(|_| (*dice.pick(&everyone), false)));
    dice.shuffle(&mut rest);
    for (who, is_rent) in rest {
        let deed = if is_rent { rent(customers, who, name) } else { other(dice, customers, who) };
        deeds.push(deed);
    }
    deeds
}

fn salary(customers: &mut [Customer], customer: usize, month: &str) -> Deed {
    let amount_minor = customers[customer].salary_minor;
    customers[customer].balance_minor += amount_minor;
    Deed {
        customer,
        incoming: true,
        amount_minor,
        description: format!("Salary {month}"),
        method: MovementMethod::Transfer,
        covered: true,
    }
}

fn rent(customers: &mut [Customer], customer: usize, month: &str) -> Deed {
    let amount_minor = customers[customer].rent_minor;
    let method = MovementMethod::Transfer;
    spend(&mut customers[customer], customer, amount_minor, format!("Rent {month}"), method)
}

/// Anything else. Now and then somebody asks for more than they have, and the bank refuses.
fn other(dice: &mut Dice, customers: &mut [Customer], customer: usize) -> Deed {
    let who = &mut customers[customer];
    if dice.once_in(12) {
        let (description, low, high, method) = *dice.pick(&INCOME);
        let amount_minor = dice.between(low, high);
        who.balance_minor += amount_minor;
        let description = description.to_owned();
        return Deed { customer, incoming: true, amount_minor, description, method, covered: true };
    }
    if dice.once_in(150) {
        let amount_minor = who.balance_minor + dice.between(1, 500) * 100;
        let description = "Used car".to_owned();
        return spend(who, customer, amount_minor, description, MovementMethod::Cheque);
    }
    if dice.once_in(6) {
        let amount_minor = dice.between(1, 10) * 2_000;
        return spend(who, customer, amount_minor, "ATM".to_owned(), MovementMethod::Cash);
    }
    let (description, low, high, method) = *dice.pick(&SPENDING);
    let amount_minor = dice.between(low, high);
    spend(who, customer, amount_minor, description.to_owned(), method)
}

fn spend(
    who: &mut Customer,
    customer: usize,
    amount_minor: i64,
    description: String,
    method: MovementMethod,
) -> Deed {
    let covered = amount_minor <= who.balance_minor;
    if covered {
        who.balance_minor -= amount_minor;
    }
    Deed { customer, incoming: false, amount_minor, description, method, covered }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn half_a_year(seed: u64) -> (Vec<Customer>, Vec<Deed>) {
        let mut dice = Dice::new(seed);
        let mut people = customers(&mut dice, 50);
        let deeds =
            MONTHS.iter().flat_map(|name| month(&mut dice, &mut people, name, 400)).collect();
        (people, deeds)
    }

    #[test]
    fn the_same_seed_gives_the_same_people_doing_the_same() {
        let ids = |people: &[Customer]| -> Vec<_> {
            people.iter().map(|customer| customer.account_id.clone()).collect()
        };
        let (people, deeds) = half_a_year(7);
        let (same_people, same_deeds) = half_a_year(7);
        assert_eq!(ids(&people), ids(&same_people));
        assert_eq!(deeds, same_deeds);
        assert_ne!(ids(&people), ids(&half_a_year(8).0));
    }

    #[test]
    fn nobody_has_less_than_nothing_and_few_ask_for_too_much() {
        let (people, deeds) = half_a_year(7);
        assert_eq!(deeds.len(), 2400);
        assert!(people.iter().all(|customer| customer.balance_minor >= 0));
        assert!(deeds.iter().all(|deed| deed.amount_minor > 0));
        let refused = deeds.iter().filter(|deed| !deed.covered).count();
        assert!(refused > 0 && refused < deeds.len() / 5, "{refused}");
    }

    #[test]
    fn a_month_with_fewer_deeds_than_customers_still_has_that_many() {
        let mut dice = Dice::new(1);
        let mut people = customers(&mut dice, 10);
        for number in [0, 3, 10, 15, 20, 21] {
            assert_eq!(month(&mut dice, &mut people, "May", number).len(), number);
        }
    }
}
