//! `catalog.v1.QueryService`.

use daybook_contract::catalog::v1::query_service_server::QueryService;
use daybook_contract::catalog::v1::{
    AdminProduct, GetProductRequest, GetProductResponse, ListProductsForAdminRequest, PriceChanged,
    ProductCreated, ProductDescribed, ProductDiscontinued, ProductStatus, SearchProductsRequest,
};
use daybook_contract::daybook::v1::Money;
use daybook_contract::error::Error;
use daybook_contract::inventory::v1::{StockReceived, StockReserved};
use daybook_contract::orders::v1::{OrderCancelled, OrderItem, OrderPaid, OrderSubmitted};
use daybook_domain::{order, product, stock};
use daybook_query::CatalogQueries;
use daybook_query::runtime::Host;
use prost_types::Timestamp;
use tonic::{Code, Request};

use crate::bank::{answer, violations};
use crate::fakes::*;
use crate::random::{Random, seed};

struct Catalog {
    host: Host,
    queries: CatalogQueries,
    _dir: tempfile::TempDir,
}

impl Catalog {
    /// The projections over what has been written to a log.
    async fn over(log: &Log) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = run_bank(&dir, log);
        until_position(&host, log.position()).await;
        let queries = CatalogQueries::new(host.handles()).unwrap();
        Self { host, queries, _dir: dir }
    }

    /// The ids of all products that a request finds, page by page.
    async fn found(&self, mut request: SearchProductsRequest) -> Vec<String> {
        let mut found = Vec::new();
        loop {
            let page = self.queries.search_products(Request::new(request.clone())).await;
            let page = answer(page).unwrap();
            found.extend(page.products.into_iter().map(|product| product.product_id));
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return found;
            }
        }
    }

    async fn with_words(&self, text: &str) -> Vec<String> {
        self.found(search(text)).await
    }

    async fn product(&self, id: &str) -> Result<GetProductResponse, Error> {
        let request = GetProductRequest { product_id: id.to_owned(), read: None };
        answer(self.queries.get_product(Request::new(request)).await)
    }

    async fn admin(&self, mut request: ListProductsForAdminRequest) -> Vec<AdminProduct> {
        let mut found = Vec::new();
        loop {
            let page = self.queries.list_products_for_admin(Request::new(request.clone())).await;
            let page = answer(page).unwrap();
            found.extend(page.products);
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return found;
            }
        }
    }
}

fn search(text: &str) -> SearchProductsRequest {
    SearchProductsRequest { text: text.to_owned(), page_size: 2, ..Default::default() }
}

fn created(name: &str, description: &str, price: Money) -> ProductCreated {
    let (name, description) = (name.to_owned(), description.to_owned());
    ProductCreated { name, description, price: Some(price), created_time: None }
}

fn described(name: &str, description: &str) -> ProductDescribed {
    ProductDescribed { name: name.to_owned(), description: description.to_owned() }
}

fn repriced(price: Money) -> PriceChanged {
    PriceChanged { price: Some(price), ..Default::default() }
}

fn at(nanos: i32) -> Option<Timestamp> {
    Some(Timestamp { seconds: START, nanos })
}

/// A few products, by id and position.
fn products() -> Log {
    let log = Log::new();
    for (id, name, description, price) in [
        ("pot", "Red teapot", "For four cups of tea, round", usd(20_00)),
        ("cup", "Tea cup", "Red and small; fits the teapot", usd(5_00)),
        ("mug", "Mug", "Large, for coffee or tea", usd(7_00)),
        ("cafe", "Café crème set", "Eight pieces", usd(60_00)),
        ("sen", "Sencha", "Green tea from Uji", money(1_200, "JPY")),
        ("cpp", "C++ in a nutshell", "A book AND a cat", usd(30_00)),
    ] {
        log.append_to::<product::Product>(id, created(name, description, price));
    }
    log
}

#[tokio::test]
async fn products_are_found_by_words_and_their_beginnings_best_first() {
    let catalog = Catalog::over(&products()).await;
    assert_eq!(catalog.with_words("tea").await, ["pot", "cup", "sen", "mug"]);
    assert_eq!(catalog.with_words("TEAPOT").await, ["pot", "cup"]);
    assert_eq!(catalog.with_words("red t").await, ["pot", "cup"]);
    assert_eq!(catalog.with_words("cups tea").await, ["pot"]);
    assert_eq!(catalog.with_words("cafe creme").await, ["cafe"]);
    assert_eq!(catalog.with_words("CAFE\u{301}").await, ["cafe"]);
    assert!(catalog.with_words("pot").await.is_empty(), "no word begins so");
    assert!(catalog.with_words("tea zebra").await.is_empty());
    let all = catalog.with_words(" ").await;
    assert_eq!(all, ["cpp", "cafe", "mug", "pot", "sen", "cup"]);
    catalog.host.shutdown().await;
}

#[tokio::test]
async fn nothing_in_a_text_is_an_operator() {
    let catalog = Catalog::over(&products()).await;
    assert_eq!(catalog.with_words("c++").await, ["cafe", "cpp", "cup", "mug", "pot"]);
    assert_eq!(catalog.with_words("book and cat").await, ["cpp"]);
    assert!(catalog.with_words("teapot OR book").await.is_empty());
    assert!(catalog.with_words("teapot NOT red").await.is_empty());
    for text in [
        "\"",
        "tea\"",
        "*",
        "-tea",
        "name:",
        "name : tea",
        "(tea",
        "tea)",
        "NEAR(tea cup)",
        "^red",
        "{name} : tea",
        "tea + cup",
        "' OR 1=1 --",
        "\\",
        "AND",
        "tea AND",
        "🫖",
    ] {
        let request = Request::new(search(text));
        answer(catalog.queries.search_products(request).await).expect(text);
    }
    for text in ["\"", "*", "()", "🫖"] {
        assert!(catalog.with_words(text).await.is_empty(), "{text}");
    }
    assert_eq!(catalog.with_words("-tea \"cup\"").await, ["cup", "pot"]);
    catalog.host.shutdown().await;
}

#[tokio::test]
async fn the_search_keeps_to_a_range_of_prices_in_one_currency() {
    let log = products();
    log.append_to::<product::Product>("jug", created("Mug", "For milk", usd(7_00)));
    let catalog = Catalog::over(&log).await;
    let range =
        |text, min_price, max_price| SearchProductsRequest { min_price, max_price, ..search(text) };
    let tea = |min, max| range("tea", min, max);
    assert_eq!(catalog.found(tea(Some(usd(7_00)), None)).await, ["pot", "mug"]);
    assert_eq!(catalog.found(tea(None, Some(usd(7_00)))).await, ["cup", "mug"]);
    assert_eq!(catalog.found(tea(Some(usd(7_00)), Some(usd(7_00)))).await, ["mug"]);
    assert_eq!(catalog.found(tea(Some(money(1, "JPY")), None)).await, ["sen"]);
    // Without words the cheapest comes first, and what is alike by its id.
    let priced = ["cup", "jug", "mug", "pot", "cpp", "cafe"];
    for page_size in [1, 2, 3, 6] {
        let page = |request| SearchProductsRequest { page_size, ..request };
        let from = |cents| page(range("", Some(usd(cents)), None));
        assert_eq!(catalog.found(from(1)).await, priced);
        assert_eq!(catalog.found(from(7_00)).await, priced[1..]);
        let between = page(range("", Some(usd(5_01)), Some(usd(20_00))));
        assert_eq!(catalog.found(between).await, priced[1..4]);
        let by_name = ["cpp", "cafe", "jug", "mug", "pot", "sen", "cup"];
        assert_eq!(catalog.found(page(search(""))).await, by_name);
    }
    let most = Money { currency_code: "USD".to_owned(), units: i64::MAX, nanos: 0 };
    assert_eq!(catalog.found(range("", Some(usd(30_00)), Some(most))).await, ["cpp", "cafe"]);
    for (min, max, field) in [
        (usd(2), usd(1), "max_price"),
        (usd(1), money(1, "JPY"), "max_price.currency_code"),
        (money(1, "USD"), Money { nanos: 1, ..usd(1_00) }, "max_price.nanos"),
    ] {
        let request = Request::new(range("", Some(min), Some(max)));
        let error = answer(catalog.queries.search_products(request).await).unwrap_err();
        assert_eq!(violations(&error)[0], field);
    }
    let wrong = SearchProductsRequest { page_size: -1, ..search(&"x".repeat(201)) };
    let error = answer(catalog.queries.search_products(Request::new(wrong)).await).unwrap_err();
    assert_eq!(violations(&error), ["text", "page_size"]);
    catalog.host.shutdown().await;
}

#[tokio::test]
async fn the_index_follows_every_change_and_a_rebuild_finds_the_same() {
    let log = products();
    let catalog = Catalog::over(&log).await;
    log.append_to::<product::Product>("mug", described("Beaker", "Tall"));
    log.append_to::<product::Product>("mug", repriced(usd(1)));
    log.append_to::<product::Product>("cup", ProductDiscontinued::default());
    log.append_to::<product::Product>(
        "pot",
        described("Red Teapot", "For four cups of tea, round"),
    );
    until_position(&catalog.host, log.position()).await;
    assert_eq!(catalog.with_words("beaker").await, ["mug"]);
    assert!(catalog.with_words("mug").await.is_empty());
    assert!(catalog.with_words("coffee").await.is_empty());
    assert_eq!(catalog.with_words("tea").await, ["pot", "sen"]);
    let cheap = SearchProductsRequest { max_price: Some(usd(1)), ..search("") };
    assert_eq!(catalog.found(cheap).await, ["mug"]);

    let again = Catalog::over(&log).await;
    for text in ["beaker", "mug", "tea", "red", "cups", ""] {
        assert_eq!(again.with_words(text).await, catalog.with_words(text).await, "{text}");
    }
    catalog.host.shutdown().await;
    again.host.shutdown().await;
}

#[tokio::test]
async fn a_product_has_the_history_of_its_price() {
    let log = products();
    log.append_to::<product::Product>("pot", repriced(usd(18_00)));
    log.append_to::<product::Product>("pot", described("Pot", ""));
    log.append_to::<product::Product>("pot", repriced(usd(19_00)));
    log.append_to::<product::Product>("pot", ProductDiscontinued::default());
    let catalog = Catalog::over(&log).await;
    let found = catalog.product("pot").await.unwrap();
    let product = found.product.unwrap();
    assert_eq!((product.name.as_str(), product.description.as_str()), ("Pot", ""));
    assert_eq!((product.price.clone(), product.version), (Some(usd(19_00)), 5));
    assert_eq!(product.status(), ProductStatus::Discontinued);
    assert_eq!((product.created_time, product.discontinued_time), (at(1), at(10)));
    let prices = found.prices.into_iter();
    let prices = prices.map(|p| (p.price.unwrap(), p.start_time, p.end_time, p.version));
    let expected = [
        (usd(19_00), at(9), None, 4),
        (usd(18_00), at(7), at(9), 2),
        (usd(20_00), at(1), at(7), 1),
    ];
    assert_eq!(prices.collect::<Vec<_>>(), expected);
    let error = catalog.product("tin").await.unwrap_err();
    assert_eq!((error.code(), error.reason()), (Code::NotFound, "PRODUCT_NOT_FOUND"));
    catalog.host.shutdown().await;
}

/// The events of products, stocks and orders, by stream.
fn shop(log: &Log) -> Vec<Vec<bytes::Bytes>> {
    let item = |product: &str, quantity, price| OrderItem {
        line_id: "1".to_owned(),
        product_id: product.to_owned(),
        quantity,
        unit_price: Some(price),
    };
    let submitted = |items| OrderSubmitted { items, ..Default::default() };
    let received = |quantity| StockReceived { quantity, ..Default::default() };
    let reserved = |quantity| StockReserved { quantity, ..Default::default() };
    vec![
        vec![
            log.append_to::<product::Product>("pot", created("Pot", "", usd(20_00))),
            log.append_to::<product::Product>("pot", repriced(usd(18_00))),
        ],
        vec![log.append_to::<product::Product>("tin", created("Tin", "", usd(1_00)))],
        vec![
            log.append_to::<stock::Stock>("pot", received(10)),
            log.append_to::<stock::Stock>("pot", reserved(4)),
        ],
        vec![
            log.append_to::<order::Order>(
                "o1",
                submitted(vec![item("pot", 2, usd(20_00)), item("pot", 1, usd(18_00))]),
            ),
            log.append_to::<order::Order>("o1", OrderPaid::default()),
        ],
        vec![
            log.append_to::<order::Order>("o2", submitted(vec![item("pot", 3, money(100, "JPY"))])),
            log.append_to::<order::Order>("o2", OrderPaid::default()),
        ],
        vec![
            log.append_to::<order::Order>("o3", submitted(vec![item("tin", 9, usd(1_00))])),
            log.append_to::<order::Order>("o3", OrderCancelled::default()),
        ],
        vec![log.append_to::<order::Order>("o4", submitted(vec![item("tin", 9, usd(1_00))]))],
    ]
}

#[tokio::test]
async fn stock_and_sales_are_the_same_in_whichever_order_the_topics_come() {
    for seed in (seed()..).take(20) {
        let (dir, log, topic) = (tempfile::tempdir().unwrap(), Log::new(), Topic::new(2));
        // Whatever is there at the start is read from the log, in its order.
        let host = run(&dir, &topic, &log, daybook_query::projections::start_all);
        until_position(&host, 0).await;
        topic.write_mixed(&shop(&log), &mut Random::new(seed));
        topic.watermarks(log.position());
        until_position(&host, log.position()).await;
        assert_eq!(log.gap_reads(), 0, "seed {seed}");
        let queries = CatalogQueries::new(host.handles()).unwrap();
        let catalog = Catalog { host, queries, _dir: dir };
        let request = ListProductsForAdminRequest { page_size: 1, ..Default::default() };
        let [pot, tin] = catalog.admin(request).await.try_into().unwrap();
        assert_eq!((pot.on_hand, pot.reserved, pot.sold_quantity), (10, 4, 6), "seed {seed}");
        assert_eq!(pot.revenue, [money(300, "JPY"), usd(58_00)], "seed {seed}");
        assert_eq!(pot.product.unwrap().price, Some(usd(18_00)), "seed {seed}");
        assert_eq!((tin.on_hand, tin.reserved, tin.sold_quantity), (0, 0, 0), "seed {seed}");
        assert!(tin.revenue.is_empty(), "seed {seed}");
        catalog.host.shutdown().await;
    }
}

/// What is paid or cancelled is not looked at again, and must not pile up.
#[tokio::test]
async fn only_the_orders_that_wait_for_their_payment_are_remembered() {
    let log = Log::new();
    shop(&log);
    let catalog = Catalog::over(&log).await;
    let remembered = dump(&catalog._dir, "product_admin", "submitted").await;
    assert_eq!(remembered.len(), 1, "{remembered:?}");
    assert!(remembered[0].starts_with("'o4'"), "{remembered:?}");
    catalog.host.shutdown().await;
}

#[tokio::test]
async fn the_admin_sees_discontinued_products_too() {
    let log = products();
    log.append_to::<product::Product>("pot", ProductDiscontinued::default());
    let catalog = Catalog::over(&log).await;
    let all = ListProductsForAdminRequest { page_size: 4, ..Default::default() };
    assert_eq!(catalog.admin(all.clone()).await.len(), 6);
    let status = ProductStatus::Discontinued.into();
    let gone = catalog.admin(ListProductsForAdminRequest { status, ..all }).await;
    assert_eq!(gone.len(), 1);
    assert_eq!(gone[0].product.as_ref().unwrap().product_id, "pot");
    catalog.host.shutdown().await;
}
