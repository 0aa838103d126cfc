//! The product of the catalogue: what it is, what it costs, and whether it is sold.
//!
//! A product is created once and discontinued once. Its price changes within the currency of the
//! first one. Orders read the state of a product when an item is added, and keep that price.
//!
//! *Not* here: how many pieces there are, which is the stock's.

use daybook_contract::catalog::v1::product::{Command, Event, Upcast};
use daybook_contract::catalog::v1::{
    ChangePriceRequest, CreateProductRequest, DescribeProductRequest, PriceChanged, ProductCreated,
    ProductDescribed, ProductDiscontinued, ProductRejection as Reason, ProductState, ProductStatus,
};
use daybook_contract::daybook::v1 as wire;
use daybook_kernel::{Aggregate, Context, Currency, Money, Rejection, RejectionKind};

/// The most smallest units that a piece may cost: 10^12, ten billion dollars. An order of a
/// thousand such pieces is within the limit of an account.
pub const LIMIT_MINOR: i64 = 1_000_000_000_000;

/// The aggregate `catalog.product`.
#[derive(Debug)]
pub struct Product;

// ---- Rejections, in order of precedence -------------------------------------------------------

/// The rules that a product keeps. When several do not hold, the first is given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProductRejection {
    /// There is no such product.
    #[error("there is no product {product_id}")]
    ProductNotFound {
        /// The id that was asked for.
        product_id: String,
    },
    /// There is a product with this id already, sold or not.
    #[error("there is a product {product_id} already")]
    ProductAlreadyExists {
        /// The id that is taken.
        product_id: String,
    },
    /// The product is discontinued for good.
    #[error("product {product_id} is discontinued")]
    ProductDiscontinued {
        /// The id of the product.
        product_id: String,
    },
    /// The price is not in the currency of the product.
    #[error("the price is in {price:?}, the product in {product}")]
    WrongCurrency {
        /// The currency of the product.
        product: String,
        /// The currency of the price, as it was sent.
        price: String,
    },
    /// The price is zero or negative.
    #[error("the price {price} is not positive")]
    PriceNotPositive {
        /// The price.
        price: String,
    },
    /// The price is above the limit.
    #[error("the price is above the limit of {limit}")]
    PriceTooLarge {
        /// The limit.
        limit: Money,
    },
}

impl Rejection for ProductRejection {
    fn reason(&self) -> &'static str {
        let reason = match self {
            Self::ProductNotFound { .. } => Reason::ProductNotFound,
            Self::ProductAlreadyExists { .. } => Reason::ProductAlreadyExists,
            Self::ProductDiscontinued { .. } => Reason::ProductDiscontinued,
            Self::WrongCurrency { .. } => Reason::WrongCurrency,
            Self::PriceNotPositive { .. } => Reason::PriceNotPositive,
            Self::PriceTooLarge { .. } => Reason::PriceTooLarge,
        };
        reason.as_str_name().trim_start_matches("PRODUCT_REJECTION_")
    }

    fn kind(&self) -> RejectionKind {
        match self {
            Self::ProductNotFound { .. } => RejectionKind::NotFound,
            Self::ProductAlreadyExists { .. } => RejectionKind::AlreadyExists,
            _ => RejectionKind::FailedPrecondition,
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::ProductNotFound { product_id }
            | Self::ProductAlreadyExists { product_id }
            | Self::ProductDiscontinued { product_id } => vec![("product_id", product_id.clone())],
            Self::WrongCurrency { product, price } => {
                vec![("product_currency", product.clone()), ("currency", price.clone())]
            }
            Self::PriceNotPositive { price } => vec![("price", price.clone())],
            Self::PriceTooLarge { limit } => vec![("limit", limit.to_string())],
        }
    }
}

// ---- Decide -----------------------------------------------------------------------------------

impl Aggregate for Product {
    type Command = Command;
    type Event = Event;
    type State = ProductState;
    type Rejection = ProductRejection;

    fn decide(
        state: &ProductState,
        command: &Command,
        cx: &Context,
    ) -> Result<Vec<Event>, ProductRejection> {
        match command {
            Command::CreateProduct(request) => create(state, request, cx),
            Command::DescribeProduct(request) => describe(state, request, cx),
            Command::ChangePrice(request) => change_price(state, request, cx),
            Command::DiscontinueProduct(request) => {
                must_be_sold(state, cx)?;
                Ok(vec![Event::ProductDiscontinued(ProductDiscontinued {
                    reason: request.reason.clone(),
                    discontinued_time: Some(cx.now),
                })])
            }
        }
    }

    fn evolve(state: &mut ProductState, event: &Event) {
        match event {
            Event::ProductCreated(event) => {
                state.set_status(ProductStatus::Active);
                state.name.clone_from(&event.name);
                state.description.clone_from(&event.description);
                state.price.clone_from(&event.price);
                state.created_time = event.created_time;
            }
            Event::ProductDescribed(event) => {
                state.name.clone_from(&event.name);
                state.description.clone_from(&event.description);
            }
            Event::PriceChanged(event) => state.price.clone_from(&event.price),
            Event::ProductDiscontinued(event) => {
                state.set_status(ProductStatus::Discontinued);
                state.discontinued_time = event.discontinued_time;
            }
        }
    }
}

fn create(
    state: &ProductState,
    request: &CreateProductRequest,
    cx: &Context,
) -> Result<Vec<Event>, ProductRejection> {
    if state.status() != ProductStatus::Unspecified {
        return Err(ProductRejection::ProductAlreadyExists { product_id: cx.aggregate_id.clone() });
    }
    let price = positive(request.price.as_ref())?;
    Ok(vec![Event::ProductCreated(ProductCreated {
        name: request.name.clone(),
        description: request.description.clone(),
        price: Some(price.into()),
        created_time: Some(cx.now),
    })])
}

fn describe(
    state: &ProductState,
    request: &DescribeProductRequest,
    cx: &Context,
) -> Result<Vec<Event>, ProductRejection> {
    must_be_sold(state, cx)?;
    if (&state.name, &state.description) == (&request.name, &request.description) {
        return Ok(vec![]);
    }
    Ok(vec![Event::ProductDescribed(ProductDescribed {
        name: request.name.clone(),
        description: request.description.clone(),
    })])
}

fn change_price(
    state: &ProductState,
    request: &ChangePriceRequest,
    cx: &Context,
) -> Result<Vec<Event>, ProductRejection> {
    must_be_sold(state, cx)?;
    let code = |price: Option<&wire::Money>| price.map(|price| price.currency_code.clone());
    let (product, price) = (code(state.price.as_ref()), code(request.price.as_ref()));
    if product != price {
        let (product, price) = (product.unwrap_or_default(), price.unwrap_or_default());
        return Err(ProductRejection::WrongCurrency { product, price });
    }
    let price = Some(positive(request.price.as_ref())?.into());
    if state.price == price {
        return Ok(vec![]);
    }
    let old_price = state.price.clone();
    Ok(vec![Event::PriceChanged(PriceChanged { price, old_price, changed_time: Some(cx.now) })])
}

fn must_be_sold(state: &ProductState, cx: &Context) -> Result<(), ProductRejection> {
    let product_id = || cx.aggregate_id.clone();
    match state.status() {
        ProductStatus::Unspecified => {
            Err(ProductRejection::ProductNotFound { product_id: product_id() })
        }
        ProductStatus::Discontinued => {
            Err(ProductRejection::ProductDiscontinued { product_id: product_id() })
        }
        ProductStatus::Active => Ok(()),
    }
}

/// A price: more than zero, within the limit.
fn positive(price: Option<&wire::Money>) -> Result<Money, ProductRejection> {
    // A missing price, or one without a known currency, is refused before it comes here.
    let price = price.cloned().unwrap_or_default();
    let currency = Currency::new(&price.currency_code).unwrap_or(Currency::USD);
    let money = Money::try_from(&price);
    if price.units < 0 || price.nanos < 0 || (price.units, price.nanos) == (0, 0) {
        // What does not fit into 64 bits is shown in whole units.
        let whole = || format!("{} {currency}", price.units);
        let price = money.map_or_else(|_| whole(), |money| money.to_string());
        return Err(ProductRejection::PriceNotPositive { price });
    }
    let too_large = || ProductRejection::PriceTooLarge { limit: Money::new(LIMIT_MINOR, currency) };
    money.ok().filter(|money| money.minor() <= LIMIT_MINOR).ok_or_else(too_large)
}

// ---- Old events -------------------------------------------------------------------------------

/// No event has an older version yet.
impl Upcast for Product {}

// ---- Specifications ---------------------------------------------------------------------------

#[cfg(test)]
mod specs {
    use daybook_contract::catalog::v1::DiscontinueProductRequest;
    use daybook_kernel::spec::{NOW, Spec, context};

    use super::*;

    fn given(events: impl IntoIterator<Item = Event>) -> Spec<Product> {
        Spec::given(events)
    }

    fn cents(minor: i64) -> Option<wire::Money> {
        Some(Money::new(minor, Currency::USD).into())
    }

    fn yen(units: i64) -> Option<wire::Money> {
        Some(wire::Money { currency_code: "JPY".to_owned(), units, nanos: 0 })
    }

    fn created(minor: i64) -> Event {
        let (name, description) = ("Teapot".to_owned(), "Round".to_owned());
        ProductCreated { name, description, price: cents(minor), created_time: Some(NOW) }.into()
    }

    fn described(name: &str, description: &str) -> Event {
        let (name, description) = (name.to_owned(), description.to_owned());
        ProductDescribed { name, description }.into()
    }

    fn repriced(old: i64, new: i64) -> Event {
        let (price, old_price) = (cents(new), cents(old));
        PriceChanged { price, old_price, changed_time: Some(NOW) }.into()
    }

    fn discontinued() -> Event {
        ProductDiscontinued { reason: "old".to_owned(), discontinued_time: Some(NOW) }.into()
    }

    fn create(price: Option<wire::Money>) -> CreateProductRequest {
        let (name, description) = ("Teapot".to_owned(), "Round".to_owned());
        CreateProductRequest { name, description, price, ..Default::default() }
    }

    fn describe(name: &str, description: &str) -> DescribeProductRequest {
        let (name, description) = (name.to_owned(), description.to_owned());
        DescribeProductRequest { name, description, ..Default::default() }
    }

    fn reprice(price: Option<wire::Money>) -> ChangePriceRequest {
        ChangePriceRequest { price, ..Default::default() }
    }

    fn discontinue() -> DiscontinueProductRequest {
        DiscontinueProductRequest { reason: "old".to_owned(), ..Default::default() }
    }

    fn product_id() -> String {
        context().aggregate_id
    }

    /// The commands that need a product that is sold; all have further faults.
    fn others() -> [Command; 3] {
        [describe("", "").into(), reprice(yen(-1)).into(), discontinue().into()]
    }

    #[test]
    fn a_product_is_created() {
        given([]).when(create(cents(1_999))).then([created(1_999)]);
    }

    #[test]
    fn a_product_that_there_is_not_is_not_found() {
        for command in others() {
            let product_id = product_id();
            given([]).when(command).then_rejected(ProductRejection::ProductNotFound { product_id });
        }
    }

    #[test]
    fn a_product_is_created_once_even_when_discontinued() {
        for events in [vec![created(1)], vec![created(1), discontinued()]] {
            given(events)
                .when(create(cents(-1)))
                .then_rejected(ProductRejection::ProductAlreadyExists { product_id: product_id() });
        }
    }

    #[test]
    fn nothing_happens_to_a_discontinued_product() {
        for command in others() {
            given([created(1), discontinued()])
                .when(command)
                .then_rejected(ProductRejection::ProductDiscontinued { product_id: product_id() });
        }
    }

    #[test]
    fn a_product_keeps_its_currency() {
        let (product, price) = ("USD".to_owned(), "JPY".to_owned());
        given([created(1)])
            .when(reprice(yen(-1)))
            .then_rejected(ProductRejection::WrongCurrency { product, price });
    }

    #[test]
    fn a_price_is_positive() {
        let rejection =
            |price: &str| ProductRejection::PriceNotPositive { price: price.to_owned() };
        given([]).when(create(cents(0))).then_rejected(rejection("0.00 USD"));
        given([]).when(create(cents(-1))).then_rejected(rejection("-0.01 USD"));
        given([created(1)]).when(reprice(cents(0))).then_rejected(rejection("0.00 USD"));
        let units = i64::MIN;
        let least = wire::Money { currency_code: "USD".to_owned(), units, nanos: 0 };
        given([]).when(create(Some(least))).then_rejected(rejection(&format!("{units} USD")));
    }

    #[test]
    fn a_price_is_within_the_limit() {
        let limit = Money::new(LIMIT_MINOR, Currency::USD);
        given([created(1)]).when(reprice(cents(LIMIT_MINOR))).then([repriced(1, LIMIT_MINOR)]);
        for minor in [LIMIT_MINOR + 1, i64::MAX] {
            given([])
                .when(create(cents(minor)))
                .then_rejected(ProductRejection::PriceTooLarge { limit });
        }
        let most = wire::Money { currency_code: "USD".to_owned(), units: i64::MAX, nanos: 0 };
        given([]).when(create(Some(most))).then_rejected(ProductRejection::PriceTooLarge { limit });
    }

    #[test]
    fn another_price_says_which_one_it_replaces() {
        given([created(5), repriced(5, 7)]).when(reprice(cents(6))).then([repriced(7, 6)]);
    }

    #[test]
    fn what_changes_nothing_records_nothing() {
        given([created(5)]).when(reprice(cents(5))).then_nothing();
        given([created(5)]).when(describe("Teapot", "Round")).then_nothing();
    }

    #[test]
    fn a_product_is_described_anew() {
        given([created(5)]).when(describe("Pot", "")).then([described("Pot", "")]);
        given([created(5), described("Pot", "")]).when(describe("Pot", "")).then_nothing();
    }

    #[test]
    fn a_product_is_discontinued() {
        let when = given([created(5)]).when(discontinue());
        assert_eq!(when.state().status(), ProductStatus::Discontinued);
        when.then([discontinued()]);
    }
}
