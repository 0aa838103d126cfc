//! All domains over a real broker, with a process for each side.

use daybook_client::Daybook as Client;
use daybook_contract::orders::v1::OrderStatus;
use daybook_testing::{Broker, Ports, eventually, http_get, unique};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};

use crate::bank::published;
use crate::cli::{Bench, the_demo_ends_well};
use crate::common::{DIVIDED, PATIENCE, Site, head, minor, over_kafka, usd};
use crate::sagas::{order, orders_are_fulfilled_or_undone, saga_ended};

/// The topics of the shop.
const TOPICS: [&str; 6] = [
    "bank-events",
    "users-events",
    "catalog-events",
    "inventory-events",
    "orders-events",
    "saga-events",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_shop_works_over_kafka_with_a_process_for_each_side() {
    let broker = Broker::shared().await;
    let prefix = format!("{}-", unique("shop"));
    let flags = over_kafka(broker, &prefix);
    let site = Site::new();
    let [queries, sagas] = [(); 2].map(|()| Site { ports: site.ports.beside(), ..Site::new() });
    let _processes = [
        site.start("command", &flags),
        queries.start("query", &flags),
        sagas.start("saga", &flags),
    ];
    let client = sagas.client();
    let bench = Bench::at(Ports { saga: sagas.ports.saga, ..site.ports });
    tokio::task::block_in_place(|| the_demo_ends_well(&bench));
    orders_are_fulfilled_or_undone(&client).await;
    every_query_knows_the_orders(&client, 1).await;
    published(&client, broker, &prefix, DIVIDED).await;

    // Somebody writes to every topic what nobody can decode; all the others go on.
    poison(&client, &broker.bootstrap, &prefix).await;
    client.record_login("ada").await.unwrap();
    client.receive_stock("ball", 1).await.unwrap();
    client.deposit("ada", usd(10_000)).await.unwrap();
    order(&client, "after", 2, 1, 0).await;
    saga_ended(&client, "orders.fulfilment-after").await;
    every_query_knows_the_orders(&client, 2).await;
    // Every projection reads every topic, and sets aside what is nobody's.
    for projection in client.projections().list().await.unwrap() {
        assert_eq!(projection.source, "kafka", "{projection:?}");
        let set_aside = || async {
            let status = client.projections().get(&projection.name).await.ok()?;
            (status.quarantined_events == TOPICS.len() as u64).then_some(())
        };
        eventually(PATIENCE, set_aside).await;
    }
    for ports in [queries.ports, sagas.ports] {
        let (code, ready) = http_get(ports.http, "/readyz").unwrap();
        assert!(code == 200 && ready.contains("quarantine"), "{code}: {ready}");
    }
}

/// Writes a record that is no event to the first partition of every topic.
async fn poison(client: &Client, bootstrap: &str, prefix: &str) {
    let store = client.events().info().await.unwrap().store_id;
    let producer: FutureProducer =
        ClientConfig::new().set("bootstrap.servers", bootstrap).create().unwrap();
    for name in TOPICS {
        let topic = format!("{prefix}{name}");
        let header = Header { key: "daybook_store_id", value: Some(&store) };
        let record = FutureRecord::<str, [u8]>::to(&topic)
            .partition(0)
            .payload(&[0xff; 40])
            .headers(OwnedHeaders::new().insert(header));
        producer.send(record, PATIENCE).await.unwrap();
    }
}

/// Asks every query of the shop about Ada's orders of two balls and a cup each, so many of which
/// were paid, and three cancelled.
async fn every_query_knows_the_orders(client: &Client, paid: u64) {
    let at = head(client).await;
    macro_rules! ask {
        ($query:expr) => {
            $query.min_position(at).await.unwrap()
        };
    }
    let user = ask!(client.get_user("ada")).user.unwrap();
    assert_eq!(user.email, "ada@example.org");
    assert_eq!(ask!(client.list_users().email("ada@example.org")).users, [user]);
    let timeline = ask!(client.user_activity("ada")).activities;
    // Registered, and logged in before each order but the first.
    assert_eq!(timeline.len() as u64, paid);
    let statistics = ask!(client.user_statistics("ada")).statistics.unwrap();
    assert_eq!(
        (statistics.order_count, statistics.paid_order_count, statistics.cancelled_order_count),
        (paid + 3, paid, 3)
    );
    assert_eq!(minor(&statistics.total_spent[0]), 3_000 * i64::try_from(paid).unwrap());

    let found = ask!(client.search_products("ball")).products;
    assert_eq!(found[0].product_id, "ball");
    let product = ask!(client.get_product("ball"));
    assert_eq!((product.product.unwrap().product_id.as_str(), product.prices.len()), ("ball", 1));
    let admin = ask!(client.list_products_for_admin().page_size(500)).products;
    let ball = admin.iter().find(|p| p.product.as_ref().unwrap().product_id == "ball").unwrap();
    let stock = ask!(client.get_stock("ball")).stock.unwrap();
    assert_eq!((ball.sold_quantity, ball.reserved, ball.on_hand), (2 * paid, 2 * paid, 4 + paid));
    assert_eq!((stock.reserved, stock.on_hand), (ball.reserved, ball.on_hand));
    assert!(!ask!(client.list_low_stock()).stocks.is_empty());
    let movements = ask!(client.list_movements("ball")).movements;
    let of_order = |id: &str| movements.iter().filter(|m| m.order_id == id).count();
    assert_eq!((of_order("good"), of_order("no-stock"), of_order("no-money")), (1, 2, 2));

    let orders = ask!(client.list_orders().user("ada")).orders;
    let by_status = |status| orders.iter().filter(|order| order.status() == status).count() as u64;
    assert_eq!(by_status(OrderStatus::Paid), paid);
    assert_eq!(by_status(OrderStatus::Cancelled), 3);
    let good = ask!(client.get_order("good")).order.unwrap();
    assert!(orders.iter().any(|order| order.order_id == good.order_id));
    assert_eq!((good.items.len(), minor(good.total.as_ref().unwrap())), (2, 3_000));
    assert_eq!(ask!(client.list_orders_by_product("ball")).orders.len() as u64, paid + 3);
    let all = ask!(client.list_orders().page_size(500)).orders;
    let days: Vec<String> = all
        .iter()
        .filter_map(|order| Some(order.paid_time?.to_string()[..10].to_owned()))
        .collect();
    let (first, last) = (days.iter().min().unwrap(), days.iter().max().unwrap());
    let summed = ask!(client.daily_statistics(first, last)).days;
    let counted: u64 = summed.iter().map(|day| day.orders_paid).sum();
    assert_eq!(counted, days.len() as u64);
}
