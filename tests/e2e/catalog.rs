//! The catalogue as its users meet it.

use daybook_client::{Daybook as Client, Money};
use daybook_contract::catalog::v1::{
    ChangePriceRequest, CreateProductRequest, DescribeProductRequest, DiscontinueProductRequest,
    ProductStatus,
};
use futures::TryStreamExt;
use tonic::Code;

use crate::cli::Bench;
use crate::common::{eur, head, usd};
use crate::shop::Shop;

/// The ids of the products with these words.
async fn found(client: &Client, text: &str) -> Vec<String> {
    let query = client.search_products(text).min_position(head(client).await);
    let products: Vec<_> = query.page_size(2).all().try_collect().await.unwrap();
    products.into_iter().map(|product| product.product_id).collect()
}

#[tokio::test]
async fn a_product_is_described_priced_found_and_discontinued() {
    let shop = Shop::open();
    let client = &shop.client;
    let made = client.create_product("Teapot", usd(19_99)).description("Round, for four cups");
    let made = made.await.unwrap();
    let id = made.aggregate_id.as_str();
    client.create_product("Tea cup", usd(4_50)).product_id("cup").await.unwrap();
    assert_eq!(found(client, "TEA").await.len(), 2);
    assert_eq!(found(client, "round teapot").await, [id]);
    assert_eq!(found(client, "tea\" OR \"cup*").await, Vec::<String>::new());
    let range = client.search_products("").min_price(usd(5_00)).max_price(usd(20_00));
    let range = range.await.unwrap().products;
    assert_eq!((range.len(), range[0].product_id.as_str()), (1, id));

    client.describe_product(id, "Samovar", "Large").await.unwrap();
    client.change_price(id, usd(25_00)).await.unwrap();
    let same = client.change_price(id, usd(25_00)).await.unwrap();
    assert!(same.event_ids.is_empty());
    assert_eq!(found(client, "samov").await, [id]);
    assert_eq!(found(client, "teapot").await, Vec::<String>::new());
    let last = client.discontinue_product(id).reason("replaced").await.unwrap();
    assert_eq!(found(client, "samovar").await, Vec::<String>::new());
    let query = client.get_product(id).min_position(last.position);
    let answer = query.await.unwrap();
    let product = answer.product.unwrap();
    assert_eq!((product.name.as_str(), product.version), ("Samovar", 4));
    assert_eq!(product.status(), ProductStatus::Discontinued);
    let prices: Vec<_> = answer.prices.into_iter().map(|p| p.price.unwrap()).collect();
    assert_eq!(prices, [usd(25_00), usd(19_99)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_not_everything_is_told_so() {
    let shop = Shop::open();
    let pots = (0..1_001).map(|number| CreateProductRequest {
        product_id: format!("pot-{number}"),
        name: format!("Teapot {number}"),
        price: Some(usd(1_00)),
        ..Default::default()
    });
    let receipts = shop.client.execute_stream(futures::stream::iter(pots));
    receipts.try_for_each(async |_| Ok(())).await.unwrap();
    let query = |words| {
        let query = shop.client.search_products(words).page_size(1);
        query.min_position(1_001)
    };
    assert!(query("teapot").await.unwrap().more_matches);
    assert!(!query("teapot 7").await.unwrap().more_matches);
    let bench = crate::cli::Bench::at(shop.site.ports);
    let hint = "more products match than are looked at: say more words";
    let says = |words| bench.run(&["product", "search", words, "--wait", "30s"]).err;
    assert!(says("teapot").contains(hint) && !says("teapot 7").contains(hint));
    let all = bench.json(&["product", "search", "teapot", "--wait", "30s", "--all"]);
    let number = all["products"].as_array().map(Vec::len);
    assert_eq!((number, &all["moreMatches"]), (Some(1_000), &serde_json::json!(true)));
}

#[tokio::test]
async fn the_admin_sees_stock_and_sales_beside_each_product() {
    let shop = Shop::open();
    let client = &shop.client;
    shop.user("ada").await;
    shop.product("cup", eur(3_50)).await;
    shop.product("teapot", usd(20_00)).await;
    client.receive_stock("teapot", 10).await.unwrap();
    for (order, pieces) in [("1", 2), ("2", 3), ("3", 4)] {
        client.create_order("ada").order_id(order).await.unwrap();
        client.add_item(order, "teapot", pieces).await.unwrap();
        client.submit_order(order, "account").await.unwrap();
    }
    shop.price("teapot", usd(25_00)).await;
    client.pay_order("1").await.unwrap();
    client.pay_order("2").await.unwrap();
    let last = client.cancel_order("3").await.unwrap();
    let query = client.list_products_for_admin().min_position(last.position);
    let products: Vec<_> = query.page_size(1).all().try_collect().await.unwrap();
    let [cup, teapot] = products.try_into().unwrap();
    assert_eq!((cup.on_hand, cup.sold_quantity, cup.revenue.len()), (0, 0, 0));
    assert_eq!((teapot.on_hand, teapot.reserved, teapot.sold_quantity), (10, 0, 5));
    // The price of an item is that of when it was added.
    assert_eq!(teapot.revenue, [usd(10_000)]);
    assert_eq!(teapot.product.unwrap().price, Some(usd(25_00)));
}

#[tokio::test]
async fn every_field_of_every_command_is_checked() {
    let shop = Shop::open();
    let catalog = || shop.catalog.clone();
    let wrong = Money { currency_code: "usd".into(), units: 1, nanos: -1 };
    let price_fields = ["price.currency_code", "price.nanos"];

    let request = CreateProductRequest {
        product_id: "a b".into(),
        name: String::new(),
        description: "x".repeat(4_001),
        price: None,
        context: None,
    };
    let fields = ["product_id", "name", "description", "price"];
    shop.refuses_fields(catalog().create_product(request), &fields).await;
    let request = CreateProductRequest {
        name: "x".repeat(201),
        price: Some(wrong.clone()),
        ..Default::default()
    };
    let fields = [&["name"], &price_fields[..]].concat();
    shop.refuses_fields(catalog().create_product(request), &fields).await;

    let request = DescribeProductRequest { description: "x".repeat(4_001), ..Default::default() };
    let fields = ["product_id", "name", "description"];
    shop.refuses_fields(catalog().describe_product(request), &fields).await;
    let request = ChangePriceRequest::default();
    shop.refuses_fields(catalog().change_price(request), &["product_id", "price"]).await;
    let request =
        ChangePriceRequest { product_id: "cup".into(), price: Some(wrong), context: None };
    shop.refuses_fields(catalog().change_price(request), &price_fields).await;
    let request = DiscontinueProductRequest { reason: "x".repeat(201), ..Default::default() };
    let fields = ["product_id", "reason"];
    shop.refuses_fields(catalog().discontinue_product(request), &fields).await;
}

#[tokio::test]
async fn every_rule_of_a_product_is_named_when_it_does_not_hold() {
    let shop = Shop::open();
    let (client, mut catalog) = (&shop.client, shop.catalog.clone());
    shop.product("cup", usd(4_50)).await;
    shop.product("tin", usd(1_00)).await;
    shop.discontinue("tin").await;
    let create =
        |id: &str, price| client.create_product("Cup", price).product_id(id).into_request();
    let reprice = |id: &str, price| client.change_price(id, price).into_request();

    let call = catalog.change_price(reprice("pot", usd(1)));
    shop.refuses(call, Code::NotFound, "PRODUCT_NOT_FOUND").await;
    for id in ["cup", "tin"] {
        let call = catalog.create_product(create(id, usd(1)));
        shop.refuses(call, Code::AlreadyExists, "PRODUCT_ALREADY_EXISTS").await;
    }
    let discontinued = "PRODUCT_DISCONTINUED";
    shop.forbids(catalog.change_price(reprice("tin", usd(2))), discontinued).await;
    let request = client.describe_product("tin", "Tin", "").into_request();
    shop.forbids(catalog.describe_product(request), discontinued).await;
    let request = client.discontinue_product("tin").into_request();
    shop.forbids(catalog.discontinue_product(request), discontinued).await;
    shop.forbids(catalog.change_price(reprice("cup", eur(1))), "WRONG_CURRENCY").await;
    let negative = Money { units: -1, ..usd(0) };
    for price in [usd(0), negative] {
        let call = catalog.change_price(reprice("cup", price.clone()));
        shop.forbids(call, "PRICE_NOT_POSITIVE").await;
        let call = catalog.create_product(create("new", price));
        shop.forbids(call, "PRICE_NOT_POSITIVE").await;
    }
    let most = Money { units: i64::MAX, ..usd(0) };
    for price in [usd(1_000_000_000_001), most] {
        let call = catalog.create_product(create("new", price));
        shop.forbids(call, "PRICE_TOO_LARGE").await;
    }
    client.create_product("Dear", usd(1_000_000_000_000)).await.unwrap();
}

#[test]
fn a_product_lives_through_the_product_commands() {
    let bench = Bench::start();
    let made = ["product", "create", "Teapot", "19.99", "EUR", "--id", "teapot", "-d", "Round"];
    bench.text(&made);
    bench.text(&["product", "price", "teapot", "17.50", "EUR"]);
    let text = bench.text(&["product", "search", "tea", "--max", "20", "--currency", "EUR"]);
    assert!(text.starts_with("PRODUCT") && text.contains("17.50 EUR"), "{text}");
    let json = bench.json(&["product", "search", "tea", "--min", "18", "--currency", "EUR"]);
    assert!(json["products"].as_array().is_none_or(Vec::is_empty), "{json}");
    bench.text(&["product", "describe", "teapot", "Red pot", "-d", "Large"]);
    let shown = bench.text(&["product", "show", "teapot"]);
    assert!(shown.contains("Red pot") && shown.contains("19.99 EUR"), "{shown}");
    let listed = bench.json(&["product", "list", "--all"]);
    assert_eq!(listed["products"][0]["product"]["productId"], "teapot");
    let listed = bench.text(&["product", "list", "--status", "active"]);
    assert!(listed.contains("ON HAND") && listed.contains("Red pot"), "{listed}");
    bench.text(&["product", "discontinue", "teapot", "--reason", "replaced"]);
    let gone = bench.run(&["product", "price", "teapot", "1", "EUR"]);
    assert_eq!(gone.code, 3);
    assert!(gone.err.contains("daybook product show teapot"), "{}", gone.err);
    let wrong = bench.run(&["product", "price", "teapot", "-1.234", "EUR"]);
    assert_eq!(wrong.code, 4, "{}", wrong.err);
}
