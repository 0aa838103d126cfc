//! The query side: projections and typed queries.
//!
//! [`runtime`] runs projections of any kind, [`projections`] says which there are, and the gRPC
//! services answer from their rows. Events come from a [`SourceFactory`] and, for rebuilds and
//! gaps, from a [`LogReader`], which also tells whether the log is still that of the rows; nothing
//! here knows whether there is a Kafka.
//!
//! The saga runtime keeps what it remembers with the same [`runtime`].
//!
//! A new projection is a file in `projections/` and a line in `projections/mod.rs`. A query over
//! it is a method of a service like [`BankQueries`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use daybook_bus::source::{LogReader, SourceFactory};
use daybook_contract::bank::v1::query_service_server::QueryServiceServer as BankServer;
use daybook_contract::catalog::v1::query_service_server::QueryServiceServer as CatalogServer;
use daybook_contract::daybook::v1::ProjectionStatus;
use daybook_contract::daybook::v1::projection_service_server::ProjectionServiceServer;
use daybook_contract::inventory::v1::query_service_server::QueryServiceServer as InventoryServer;
use daybook_contract::orders::v1::query_service_server::QueryServiceServer as OrderServer;
use daybook_contract::users::v1::query_service_server::QueryServiceServer as UserServer;
use tonic::service::Routes;

mod amount;
mod bank;
mod cache;
mod catalog;
pub mod check;
mod inventory;
mod orders;
pub mod paging;
mod projection_service;
pub mod projections;
pub mod read;
pub mod runtime;
mod stock_count;
pub mod time;
mod timeline;
mod transfers;
mod users;

pub use bank::BankQueries;
pub use catalog::CatalogQueries;
pub use inventory::InventoryQueries;
pub use orders::OrderQueries;
pub use projection_service::ProjectionServer;
pub use runtime::OpenError;
pub use users::UserQueries;

use runtime::{Handle, Host, Settings};

/// The largest request that is read, in bytes.
pub const MAX_REQUEST_BYTES: usize = 256 * 1024;

/// How the query side is run.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the projections are kept. One process at a time.
    pub data_dir: PathBuf,
    /// The projections that are run, by name, out of [`projections::NAMES`]; none for all of them.
    pub projections: Vec<String>,
    /// About how many records are applied at once when there are that many: one transaction, or, far
    /// behind, a part of one.
    pub batch_size: usize,
    /// How often an event is tried before it goes into quarantine.
    pub attempts: u32,
    /// The most queries that read one projection at the same time.
    pub readers: u32,
    /// How long an answer is remembered while its rows stay the same; zero for not at all.
    pub cache_lifetime: Duration,
}

impl Config {
    /// The defaults, for projections in a directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        let Settings {
            data_dir, projections, batch_size, attempts, readers, cache_lifetime, ..
        } = Settings::new(data_dir);
        Self { data_dir, projections, batch_size, attempts, readers, cache_lifetime }
    }
}

/// The running query side: all projections, and the services over them.
pub struct QuerySide {
    host: Host,
    bank: BankQueries,
    inventory: InventoryQueries,
    orders: OrderQueries,
    users: UserQueries,
    catalog: CatalogQueries,
}

impl QuerySide {
    /// Starts all projections. Returns at once: a projection that is being built or caught up says
    /// so in its status, and its queries fail with UNAVAILABLE until there is something to show.
    pub fn open(
        config: Config,
        factory: Arc<dyn SourceFactory>,
        log: Arc<dyn LogReader>,
    ) -> Result<Self, OpenError> {
        let settings = Settings {
            projections: config.projections,
            batch_size: config.batch_size,
            attempts: config.attempts,
            readers: config.readers.max(1),
            cache_lifetime: config.cache_lifetime,
            ..Settings::new(config.data_dir)
        };
        let host = Host::open(settings, factory, log, projections::start_all)?;
        let all = "all projections have handles";
        let bank = BankQueries::new(host.all_handles()).expect(all);
        let inventory = InventoryQueries::new(&host).expect(all);
        let orders = OrderQueries::new(host.all_handles()).expect(all);
        let users = UserQueries::new(host.all_handles()).expect(all);
        let catalog = CatalogQueries::new(host.all_handles()).expect(all);
        Ok(Self { host, bank, inventory, orders, users, catalog })
    }

    /// `bank.v1.QueryService`.
    pub fn bank_queries(&self) -> BankServer<BankQueries> {
        BankServer::new(self.bank.clone()).max_decoding_message_size(MAX_REQUEST_BYTES)
    }

    /// `inventory.v1.QueryService`.
    pub fn inventory_queries(&self) -> InventoryServer<InventoryQueries> {
        InventoryServer::new(self.inventory.clone()).max_decoding_message_size(MAX_REQUEST_BYTES)
    }

    /// `orders.v1.QueryService`.
    pub fn order_queries(&self) -> OrderServer<OrderQueries> {
        OrderServer::new(self.orders.clone()).max_decoding_message_size(MAX_REQUEST_BYTES)
    }

    /// `users.v1.QueryService`.
    pub fn user_queries(&self) -> UserServer<UserQueries> {
        UserServer::new(self.users.clone()).max_decoding_message_size(MAX_REQUEST_BYTES)
    }

    /// `catalog.v1.QueryService`.
    pub fn catalog_queries(&self) -> CatalogServer<CatalogQueries> {
        CatalogServer::new(self.catalog.clone()).max_decoding_message_size(MAX_REQUEST_BYTES)
    }

    /// `daybook.v1.ProjectionService`, which also shows and steers the projections of others in
    /// this process.
    pub fn projection_service(
        &self,
        others: &[Handle],
    ) -> ProjectionServiceServer<ProjectionServer> {
        ProjectionServiceServer::new(ProjectionServer::new(&self.host).beside(others))
            .max_decoding_message_size(MAX_REQUEST_BYTES)
    }

    /// All services; see [`Self::projection_service`] for the others.
    pub fn routes(&self, others: &[Handle]) -> Routes {
        Routes::new(self.bank_queries())
            .add_service(self.inventory_queries())
            .add_service(self.order_queries())
            .add_service(self.user_queries())
            .add_service(self.catalog_queries())
            .add_service(self.projection_service(others))
    }

    /// How the projections are doing, by name; for health and readiness.
    pub fn statuses(&self) -> Vec<ProjectionStatus> {
        self.host.statuses()
    }

    /// Ends open streams and queries that wait, stops the projections at a batch boundary and
    /// closes their files. Queries fail with UNAVAILABLE afterwards.
    pub async fn shutdown(&self) {
        self.host.shutdown().await;
    }
}
