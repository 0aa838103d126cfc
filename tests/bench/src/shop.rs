//! Queries of a big shop: lists over a million rows, an order, and the search for products.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use daybook_contract::bank::v1::query_service_client::QueryServiceClient as BankQueries;
use daybook_contract::bank::v1::{ListTransactionsRequest, TransactionKind};
use daybook_contract::catalog::v1::query_service_client::QueryServiceClient as CatalogQueries;
use daybook_contract::catalog::v1::{CreateProductRequest, SearchProductsRequest};
use daybook_contract::orders::v1::query_service_client::QueryServiceClient as OrderQueries;
use daybook_contract::orders::v1::{
    AddItemRequest, CancelOrderRequest, CreateOrderRequest, GetOrderRequest, ListOrdersRequest,
    OrderStatus,
};
use daybook_contract::users::v1::RegisterUserRequest;
use daybook_testing::Ports;
use prost_types::Timestamp;
use tonic::transport::Channel;

use crate::bank::{
    Random, account, connect, connections, context, deposit, dollars, open_accounts, send_all,
    withdraw,
};
use crate::load::{self, Client};
use crate::projections::all_reached;
use crate::report::Row;
use crate::scenarios::{Bench, MANY_CLIENTS};
use crate::servers::System;

/// Answers are not remembered: a list that is asked for again is read again.
const NOTHING_REMEMBERED: [&str; 2] = ["--cache-lifetime-ms", "0"];

/// The rows behind each list.
const ROWS: u64 = 1_000_000;

/// The users whose orders they are.
const USERS: u64 = 1_000;

/// Of so many orders one is cancelled; of so many movements one is a withdrawal.
const ONE_IN: u64 = 10;

/// The lists that are asked for in a second.
const LISTS_A_SECOND: u64 = 200;

/// The rows of a page.
const PAGE: i32 = 50;

/// The rows of a page while page tokens are gathered; the largest there is.
const LARGEST_PAGE: i32 = 500;

/// The orders that are read one at a time, and what they have on them.
const ORDERS: u64 = 10_000;
const ITEMS: u64 = 3;

/// The products that are searched.
const PRODUCTS: u64 = 100_000;

/// The searches in a second.
const SEARCHES_A_SECOND: u64 = 100;

// ---- Lists ------------------------------------------------------------------------------------

/// A list that somebody may ask for, with a place in it.
#[derive(Debug, Clone)]
enum List {
    Orders(ListOrdersRequest),
    Transactions(ListTransactionsRequest),
}

impl Bench {
    /// Pages of lists over a million orders, and over a million movements of one account: each
    /// list with its filter, and pages from anywhere in it.
    pub async fn lists(&mut self) -> Result<()> {
        let began = Instant::now();
        let system = self.filled().await?;
        let rate = (2 * ROWS) as f64 / began.elapsed().as_secs_f64();
        self.figure("filling orders and movements, until they can be read", rate, "rows/s");
        let queries = Queries::connect(&system).await?;
        for (name, lists) in queries.lists().await? {
            self.pages(&system, &queries, name, lists).await?;
        }
        Ok(())
    }

    /// Everything in one process, on a store that a process without projections has filled: they are
    /// faster when they are built in one go.
    async fn filled(&self) -> Result<System> {
        let (data, ports) = (self.programs.fresh()?, Ports::free());
        let command = self.programs.start("command", data.path(), ports, &[]).daybook;
        let url = ports.command_url();
        let head = fill_orders(&url).await?.max(fill_account(&url).await?);
        ensure!(command.terminate().success(), "the command process did not end well");
        let system = self.programs.on(data, "dev", &NOTHING_REMEMBERED)?;
        all_reached(&system.ports.query_url(), head).await.with_context(|| system.log_lines())?;
        Ok(system)
    }

    async fn pages(
        &mut self,
        system: &System,
        queries: &Queries,
        name: &str,
        lists: Vec<List>,
    ) -> Result<()> {
        let lists = Arc::new(lists);
        let mut windows = Vec::new();
        for _ in 0..self.windows {
            let (queries, lists) = (queries.clone(), lists.clone());
            let request = move |due: Instant| {
                let (queries, lists) = (queries.clone(), lists.clone());
                async move {
                    let seed = due.elapsed().as_nanos() as u64;
                    let list = &lists[Random::new(seed).below(lists.len() as u64) as usize];
                    let (rows, _) = queries.page(list.clone()).await?;
                    ensure!(rows == PAGE as usize, "a page has {rows} rows: {list:?}");
                    Ok([due.elapsed()])
                }
            };
            let ([_], window) =
                load::open(LISTS_A_SECOND, self.times, &system.ids(), request).await?;
            windows.push(window);
        }
        let measured = self.summary(windows);
        let p99 = measured.p99_ms;
        let name = format!("list, {name}, {LISTS_A_SECOND}/s");
        self.floor(&name, "p99 < 10 ms", p99, p99 < 10.0);
        self.row(Row { name, measured, beside: None });
        Ok(())
    }
}

/// The services that answer lists.
#[derive(Clone)]
struct Queries {
    orders: OrderQueries<Channel>,
    bank: BankQueries<Channel>,
}

impl Queries {
    async fn connect(system: &System) -> Result<Self> {
        let channel = connect(&system.ports.query_url()).await?;
        Ok(Self { orders: OrderQueries::new(channel.clone()), bank: BankQueries::new(channel) })
    }

    /// Asks for a page. Answers with how many rows it has, and the token of the next.
    async fn page(&self, list: List) -> Result<(usize, String)> {
        match list {
            List::Orders(request) => {
                let page = self.orders.clone().list_orders(request).await?.into_inner();
                Ok((page.orders.len(), page.next_page_token))
            }
            List::Transactions(request) => {
                let page = self.bank.clone().list_transactions(request).await?.into_inner();
                Ok((page.transactions.len(), page.next_page_token))
            }
        }
    }

    /// What is asked for: by name, lists with all their places.
    async fn lists(&self) -> Result<Vec<(&'static str, Vec<List>)>> {
        let orders = |filter: ListOrdersRequest| List::Orders(filter);
        let all = ListOrdersRequest::default;
        let cancelled = ListOrdersRequest { status: OrderStatus::Cancelled.into(), ..all() };
        let moves = ListTransactionsRequest { account_id: account(0), ..Default::default() };
        let withdrawals =
            ListTransactionsRequest { kind: TransactionKind::Withdrawal.into(), ..moves.clone() };
        let (begin, end) = self.middle(&moves).await?;
        let old = ListTransactionsRequest {
            start_time: Some(begin),
            end_time: Some(end),
            ..moves.clone()
        };
        let mut of_users = Vec::new();
        for user in 0..USERS / 10 {
            let of_user = ListOrdersRequest { user_id: user_id(user), ..all() };
            of_users.extend(self.places(orders(of_user)).await?);
        }
        Ok(vec![
            ("all orders", self.places(orders(all())).await?),
            ("orders by status", self.places(orders(cancelled)).await?),
            ("orders of a user", of_users),
            ("movements", self.places(List::Transactions(moves)).await?),
            ("movements by kind", self.places(List::Transactions(withdrawals)).await?),
            ("movements of a time", self.places(List::Transactions(old)).await?),
        ])
    }

    /// The time of some of the movements: a tenth in the older half.
    async fn middle(&self, moves: &ListTransactionsRequest) -> Result<(Timestamp, Timestamp)> {
        let places = self.places(List::Transactions(moves.clone())).await?;
        let mut times = Vec::new();
        for part in [7, 6] {
            let List::Transactions(request) = places[places.len() * part / 10].clone() else {
                continue;
            };
            let page = self.bank.clone().list_transactions(request).await?.into_inner();
            times.extend(page.transactions.first().and_then(|first| first.recorded_time));
        }
        Ok((*times.first().context("no time")?, *times.last().context("no time")?))
    }

    /// Pages that begin anywhere in a list: as many as there are large ones.
    async fn places(&self, list: List) -> Result<Vec<List>> {
        let at = |size: i32, token: &str| {
            let mut list = list.clone();
            let (page_size, page_token) = match &mut list {
                List::Orders(request) => (&mut request.page_size, &mut request.page_token),
                List::Transactions(request) => (&mut request.page_size, &mut request.page_token),
            };
            *page_size = size;
            token.clone_into(page_token);
            list
        };
        let mut places = Vec::new();
        let mut token = String::new();
        loop {
            let (rows, next) = self.page(at(LARGEST_PAGE, &token)).await?;
            if rows >= PAGE as usize {
                places.push(at(PAGE, &token));
            }
            if next.is_empty() {
                return Ok(places);
            }
            token = next;
        }
    }
}

fn user_id(number: u64) -> String {
    format!("user-{number:04}")
}

fn order_id(number: u64) -> String {
    format!("order-{number:07}")
}

fn product_id(number: u64) -> String {
    format!("product-{number:06}")
}

async fn register_users(url: &str) -> Result<u64> {
    send_all(url, USERS, |pipe, number| {
        let request = RegisterUserRequest {
            context: context(),
            user_id: user_id(number),
            name: "Ada Lovelace".to_owned(),
            email: format!("ada{number}@example.com"),
        };
        pipe.command("users.v1.RegisterUserRequest", &request)
    })
    .await
}

/// Orders of all users in turn.
async fn create_orders(url: &str, orders: u64) -> Result<u64> {
    send_all(url, orders, |pipe, number| {
        let request = CreateOrderRequest {
            context: context(),
            order_id: order_id(number),
            user_id: user_id(number % USERS),
        };
        pipe.command("orders.v1.CreateOrderRequest", &request)
    })
    .await
}

/// A million orders, of which some are cancelled.
async fn fill_orders(url: &str) -> Result<u64> {
    register_users(url).await?;
    create_orders(url, ROWS).await?;
    send_all(url, ROWS / ONE_IN, |pipe, number| {
        let request = CancelOrderRequest {
            context: context(),
            // Of every user some: their numbers are those of the orders, modulo theirs.
            order_id: order_id(number * ONE_IN + number / USERS % ONE_IN),
            reason: "changed my mind".to_owned(),
        };
        pipe.command("orders.v1.CancelOrderRequest", &request)
    })
    .await
}

/// A million movements of one account.
async fn fill_account(url: &str) -> Result<u64> {
    open_accounts(url).await?;
    send_all(url, ROWS, |pipe, number| match number % ONE_IN {
        0 => pipe.command("bank.v1.WithdrawRequest", &withdraw(account(0))),
        _ => pipe.command("bank.v1.DepositRequest", &deposit(account(0))),
    })
    .await
}

// ---- One order --------------------------------------------------------------------------------

impl Bench {
    /// Orders, each with its items, one at a time.
    pub async fn get_order(&mut self) -> Result<()> {
        let system = self.programs.single("dev")?;
        let url = system.ports.command_url();
        register_users(&url).await?;
        create_products(&url, ITEMS).await?;
        create_orders(&url, ORDERS).await?;
        let head = send_all(&url, ORDERS * ITEMS, |pipe, number| {
            let request = AddItemRequest {
                context: context(),
                order_id: order_id(number / ITEMS),
                product_id: product_id(number % ITEMS),
                quantity: 1 + number % 5,
            };
            pipe.command("orders.v1.AddItemRequest", &request)
        })
        .await?;
        let query = system.ports.query_url();
        all_reached(&query, head).await.with_context(|| system.log_lines())?;
        let (mut own, mut ceiling) = (Vec::new(), Vec::new());
        for _ in 0..self.windows {
            let clients = OrderReads::clients(&self.noop.url, MANY_CLIENTS).await?;
            ceiling.push(load::closed(clients, self.times, &[self.noop.id()]).await?);
            let clients = OrderReads::clients(&query, MANY_CLIENTS).await?;
            own.push(load::closed(clients, self.times, &system.ids()).await?);
        }
        let (own, ceiling) = (self.summary(own), self.summary(ceiling));
        let row =
            Row::beside(format!("GetOrder, {MANY_CLIENTS} clients"), own, "no-op unary", ceiling);
        let percent = row.beside.as_ref().map_or(0.0, |beside| beside.ratio * 100.0);
        self.floor("GetOrder", "≥ 60 % of no-op", percent, percent >= 60.0);
        self.row(row);
        Ok(())
    }
}

/// Gets one of the orders at a time.
struct OrderReads {
    client: OrderQueries<Channel>,
    random: Random,
}

impl OrderReads {
    async fn clients(url: &str, count: usize) -> Result<Vec<Self>> {
        let channels = connections(url, count).await?;
        let clients = (0..count).zip(channels.iter().cycle()).map(|(number, channel)| Self {
            client: OrderQueries::new(channel.clone()),
            random: Random::new(number as u64),
        });
        Ok(clients.collect())
    }
}

impl Client for OrderReads {
    async fn call(&mut self) -> Result<()> {
        let order_id = order_id(self.random.below(ORDERS));
        let request = GetOrderRequest { read: None, order_id };
        let answer = self.client.get_order(request).await.context("a query failed")?.into_inner();
        let items = answer.order.map_or(0, |order| order.items.len());
        ensure!(items as u64 == ITEMS, "an order with {items} items");
        Ok(())
    }
}

// ---- Search -----------------------------------------------------------------------------------

/// The words of names and descriptions, the frequent ones first in each: a word is taken with a
/// chance that falls with its place (Zipf).
const KINDS: &[&str] = &[
    "teapot",
    "kettle",
    "lamp",
    "chair",
    "table",
    "mug",
    "bowl",
    "plate",
    "knife",
    "spoon",
    "blanket",
    "cushion",
    "mirror",
    "shelf",
    "basket",
    "candle",
    "vase",
    "clock",
    "rug",
    "towel",
    "apron",
    "kitchen scale",
    "bread bin",
    "pepper mill",
    "coffee grinder",
    "cutting board",
    "picture frame",
    "door mat",
    "coat hook",
    "bottle opener",
];
const MATERIALS: &[&str] = &[
    "oak",
    "steel",
    "cotton",
    "linen",
    "glass",
    "copper",
    "wool",
    "bamboo",
    "marble",
    "leather",
    "ceramic",
    "porcelain",
    "walnut",
    "brass",
    "enamel",
    "concrete",
    "felt",
    "cork",
    "jute",
    "ash",
];
const LOOKS: &[&str] = &[
    "red",
    "blue",
    "white",
    "black",
    "green",
    "grey",
    "small",
    "large",
    "round",
    "square",
    "light",
    "dark",
    "striped",
    "plain",
    "foldable",
    "stackable",
    "vintage",
    "modern",
    "rustic",
    "slim",
];
const MAKERS: &[&str] = &[
    "Alder", "Birch", "Nordlund", "Kestrel", "Hearth", "Milan", "Osaka", "Perla", "Quist", "Rowan",
];
const SENTENCES: &[&str] = &[
    "Made to last, for the kitchen and the table.",
    "Easy to clean: a damp cloth is enough.",
    "For every day and for guests.",
    "Each piece is made by hand and a little different.",
    "Safe in the dishwasher.",
    "Comes in a box of recycled paper.",
    "With a warranty of five years.",
    "A present for people who have everything.",
];

/// One of some words: each half as often as the first is the second, a third the third.
fn pick<'a>(random: &mut Random, words: &[&'a str]) -> &'a str {
    let weight = |place: usize| 10_000 / (place as u64 + 1);
    let mut left = random.below((0..words.len()).map(weight).sum());
    for (place, word) in words.iter().enumerate() {
        match left.checked_sub(weight(place)) {
            Some(rest) => left = rest,
            None => return word,
        }
    }
    words[0]
}

async fn create_products(url: &str, products: u64) -> Result<u64> {
    send_all(url, products, |pipe, number| {
        let random = &mut Random::new(number);
        let (look, material) = (pick(random, LOOKS), pick(random, MATERIALS));
        let (kind, maker) = (pick(random, KINDS), pick(random, MAKERS));
        let (first, second) = (pick(random, SENTENCES), pick(random, SENTENCES));
        let request = CreateProductRequest {
            context: context(),
            product_id: product_id(number),
            name: format!("{maker} {look} {material} {kind} {}", 100 + random.below(900)),
            description: format!("A {look} {kind} of {material} by {maker}. {first} {second}"),
            price: Some(dollars(1 + random.below(500))),
        };
        pipe.command("catalog.v1.CreateProductRequest", &request)
    })
    .await
}

impl Bench {
    /// Searches over many products, by what is asked: nothing is remembered from one to the next.
    pub async fn search(&mut self) -> Result<()> {
        let system = self.programs.with("dev", &NOTHING_REMEMBERED)?;
        let began = Instant::now();
        let head = create_products(&system.ports.command_url(), PRODUCTS).await?;
        let query = system.ports.query_url();
        all_reached(&query, head).await.with_context(|| system.log_lines())?;
        let rate = PRODUCTS as f64 / began.elapsed().as_secs_f64();
        self.figure("creating products, until they can be found", rate, "products/s");
        let client = CatalogQueries::new(connect(&query).await?);
        for search in Search::ALL {
            let mut windows = Vec::new();
            for _ in 0..self.windows {
                let client = client.clone();
                let request = move |due: Instant| {
                    let mut client = client.clone();
                    async move {
                        let mut random = Random::new(due.elapsed().as_nanos() as u64);
                        let request = search.request(&mut random);
                        let text = request.text.clone();
                        let found = client.search_products(request).await?.into_inner().products;
                        ensure!(!found.is_empty(), "nothing is found for {text:?}");
                        Ok([due.elapsed()])
                    }
                };
                let rate = SEARCHES_A_SECOND;
                let ([_], window) = load::open(rate, self.times, &system.ids(), request).await?;
                windows.push(window);
            }
            let measured = self.summary(windows);
            let p99 = measured.p99_ms;
            let name = format!("search for {}, {SEARCHES_A_SECOND}/s", search.name());
            self.floor(&name, "p99 < 20 ms", p99, p99 < 20.0);
            self.row(Row { name, measured, beside: None });
        }
        Ok(())
    }
}

/// What somebody searches for.
#[derive(Debug, Clone, Copy)]
enum Search {
    /// Two words of names, the second one not yet at its end.
    TwoWords,
    /// One word of names, of which some are in one product of four.
    OneWord,
    /// One word within a range of prices.
    Prices,
    /// What is in nearly every product: one letter, or a word of every day.
    Frequent,
}

impl Search {
    const ALL: [Self; 4] = [Self::TwoWords, Self::OneWord, Self::Prices, Self::Frequent];

    fn name(self) -> &'static str {
        match self {
            Self::TwoWords => "two words",
            Self::OneWord => "one word",
            Self::Prices => "one word and a price",
            Self::Frequent => "what is in most products",
        }
    }

    fn request(self, random: &mut Random) -> SearchProductsRequest {
        let one = |random: &mut Random| {
            let of = [KINDS, MATERIALS, LOOKS, MAKERS][random.below(4) as usize];
            pick(random, of).to_owned()
        };
        let text = match self {
            Self::TwoWords => {
                let (first, second) = (pick(random, MATERIALS), pick(random, KINDS));
                let typed = second.len().min(3 + random.below(3) as usize);
                format!("{first} {}", &second[..typed])
            }
            Self::OneWord | Self::Prices => one(random),
            Self::Frequent => {
                let words = ["a", "m", "the", "for", "made", "every", "piece", "table", "kitchen"];
                words[random.below(words.len() as u64) as usize].to_owned()
            }
        };
        let from = 1 + random.below(400);
        let prices = matches!(self, Self::Prices).then(|| (dollars(from), dollars(from + 50)));
        let (min_price, max_price) = prices.unzip();
        SearchProductsRequest { text, min_price, max_price, ..Default::default() }
    }
}
