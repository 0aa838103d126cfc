//! A small shop for system tests: users who order, and products that are sold.

use daybook_client::{CommandReceipt, Daybook as Client, Error, Money};
use daybook_contract::catalog::v1::command_service_client::CommandServiceClient as Catalog;
use daybook_contract::catalog::v1::{
    ChangePriceRequest, CreateProductRequest, DiscontinueProductRequest,
};
use daybook_contract::inventory::v1::command_service_client::CommandServiceClient as Inventory;
use daybook_contract::orders::v1::command_service_client::CommandServiceClient as Orders;
use daybook_contract::users::v1::command_service_client::CommandServiceClient as Users;
use daybook_contract::users::v1::{DeactivateUserRequest, RegisterUserRequest};
use daybook_testing::Daybook as Process;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::common::{Site, channel, error, head};

/// A running Daybook and connections to the services of the shop.
pub struct Shop {
    /// A client that sends everything once.
    pub client: Client,
    /// The commands of the orders, without a client in between.
    pub orders: Orders<Channel>,
    /// The commands of the inventory, without a client in between.
    pub inventory: Inventory<Channel>,
    /// The commands of the users, without a client in between.
    pub users: Users<Channel>,
    /// The commands of the catalogue, without a client in between.
    pub catalog: Catalog<Channel>,
    /// The process.
    pub process: Process,
    /// Where it is.
    pub site: Site,
}

impl Shop {
    /// Opens an empty one.
    pub fn open() -> Self {
        let site = Site::new();
        // Orders are brought on their way by hand here.
        let process = site.start("dev", &["--sagas", "false"]);
        let connect = || channel(site.ports.command_url());
        Self {
            client: site.strict_client(),
            orders: Orders::new(connect()),
            inventory: Inventory::new(connect()),
            users: Users::new(connect()),
            catalog: Catalog::new(connect()),
            process,
            site,
        }
    }

    /// Registers a user.
    pub async fn user(&self, user_id: &str) {
        let request = RegisterUserRequest {
            user_id: user_id.into(),
            name: user_id.into(),
            email: format!("{user_id}@example.org"),
            context: None,
        };
        self.users.clone().register_user(request).await.unwrap();
    }

    /// Deactivates a user.
    pub async fn deactivate(&self, user_id: &str) {
        let request = DeactivateUserRequest { user_id: user_id.into(), ..Default::default() };
        self.users.clone().deactivate_user(request).await.unwrap();
    }

    /// Puts a product into the catalogue.
    pub async fn product(&self, product_id: &str, price: Money) {
        let request = CreateProductRequest {
            product_id: product_id.into(),
            name: product_id.into(),
            price: Some(price),
            ..Default::default()
        };
        self.catalog.clone().create_product(request).await.unwrap();
    }

    /// Changes the price of a product.
    pub async fn price(&self, product_id: &str, price: Money) {
        let product_id = product_id.into();
        let request = ChangePriceRequest { product_id, price: Some(price), context: None };
        self.catalog.clone().change_price(request).await.unwrap();
    }

    /// Takes a product out of the catalogue.
    pub async fn discontinue(&self, product_id: &str) {
        let product_id = product_id.into();
        let request = DiscontinueProductRequest { product_id, ..Default::default() };
        self.catalog.clone().discontinue_product(request).await.unwrap();
    }

    /// Makes a call that must be refused in this way and record nothing.
    pub async fn refuses(
        &self,
        call: impl Future<Output = Result<Response<CommandReceipt>, Status>>,
        code: Code,
        reason: &str,
    ) -> Error {
        let before = head(&self.client).await;
        let error = error(call.await.expect_err(reason));
        assert_eq!((error.code(), error.reason()), (code, reason), "{error}");
        assert_eq!(head(&self.client).await, before, "{reason} recorded something");
        error
    }

    /// Makes a call that breaks a rule.
    pub async fn forbids(
        &self,
        call: impl Future<Output = Result<Response<CommandReceipt>, Status>>,
        reason: &str,
    ) -> Error {
        self.refuses(call, Code::FailedPrecondition, reason).await
    }

    /// Makes a call whose fields must be refused, exactly these. Answers with what is said.
    pub async fn refuses_fields(
        &self,
        call: impl Future<Output = Result<Response<CommandReceipt>, Status>>,
        fields: &[&str],
    ) -> String {
        let error = self.refuses(call, Code::InvalidArgument, "INVALID_REQUEST").await;
        let violations = error.details().bad_request().unwrap().field_violations.clone();
        let found: Vec<&str> = violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(found, fields, "{error}");
        violations.into_iter().map(|v| v.description).collect::<Vec<_>>().join("; ")
    }
}
