//! Commands and queries of orders.

use daybook_contract::orders::v1::{
    AddItemRequest, CancelFulfilmentRequest, CancelOrderRequest, CreateOrderRequest,
    ExpireFulfilmentRequest, GetDailyStatisticsRequest, GetDailyStatisticsResponse,
    GetOrderRequest, GetOrderResponse, ListOrdersByProductRequest, ListOrdersByProductResponse,
    ListOrdersRequest, ListOrdersResponse, Order, OrderStatus, PayOrderRequest, ProductOrder,
    RecordFulfilmentStepRequest, RecordShipmentStepRequest, RemoveItemRequest, ShipOrderRequest,
    StartFulfilmentRequest, StartShipmentRequest, SubmitOrderRequest,
};
use prost_types::Timestamp;

use crate::client::Daybook;
use crate::command::{Command, commands};
use crate::query::{Query, paged, queries};

commands!("orders.v1":
    CreateOrderRequest => "CreateOrder",
    AddItemRequest => "AddItem",
    RemoveItemRequest => "RemoveItem",
    SubmitOrderRequest => "SubmitOrder",
    PayOrderRequest => "PayOrder",
    ShipOrderRequest => "ShipOrder",
    CancelOrderRequest => "CancelOrder",
    StartFulfilmentRequest => "StartFulfilment",
    CancelFulfilmentRequest => "CancelFulfilment",
    ExpireFulfilmentRequest => "ExpireFulfilment",
    RecordFulfilmentStepRequest => "RecordFulfilmentStep",
    StartShipmentRequest => "StartShipment",
    RecordShipmentStepRequest => "RecordShipmentStep",
);

queries!("orders.v1":
    "GetOrder": GetOrderRequest => GetOrderResponse,
    "ListOrders": ListOrdersRequest => ListOrdersResponse,
    "ListOrdersByProduct": ListOrdersByProductRequest => ListOrdersByProductResponse,
    "GetDailyStatistics": GetDailyStatisticsRequest => GetDailyStatisticsResponse,
);

paged!(
    ListOrdersRequest => orders: Order,
    ListOrdersByProductRequest => orders: ProductOrder,
);

impl Daybook {
    /// Begins an order of a user. The server makes its id unless [`Command::order_id`] gives one.
    pub fn create_order(&self, user_id: impl Into<String>) -> Command<CreateOrderRequest> {
        self.command(CreateOrderRequest { user_id: user_id.into(), ..Default::default() })
    }

    /// Adds pieces of a product to an order, at the price that the catalogue has now.
    pub fn add_item(
        &self,
        order_id: impl Into<String>,
        product_id: impl Into<String>,
        quantity: u64,
    ) -> Command<AddItemRequest> {
        self.command(AddItemRequest {
            order_id: order_id.into(),
            product_id: product_id.into(),
            quantity,
            ..Default::default()
        })
    }

    /// Takes an item off an order.
    pub fn remove_item(
        &self,
        order_id: impl Into<String>,
        line_id: impl Into<String>,
    ) -> Command<RemoveItemRequest> {
        self.command(RemoveItemRequest {
            order_id: order_id.into(),
            line_id: line_id.into(),
            ..Default::default()
        })
    }

    /// Submits an order, and says which account to charge.
    pub fn submit_order(
        &self,
        order_id: impl Into<String>,
        account_id: impl Into<String>,
    ) -> Command<SubmitOrderRequest> {
        self.command(SubmitOrderRequest {
            order_id: order_id.into(),
            account_id: account_id.into(),
            ..Default::default()
        })
    }

    /// Says that an order is paid in full.
    pub fn pay_order(&self, order_id: impl Into<String>) -> Command<PayOrderRequest> {
        self.command(PayOrderRequest { order_id: order_id.into(), ..Default::default() })
    }

    /// Says that the goods of an order left the house.
    pub fn ship_order(&self, order_id: impl Into<String>) -> Command<ShipOrderRequest> {
        self.command(ShipOrderRequest { order_id: order_id.into(), ..Default::default() })
    }

    /// Cancels an order that is not paid.
    pub fn cancel_order(&self, order_id: impl Into<String>) -> Command<CancelOrderRequest> {
        self.command(CancelOrderRequest { order_id: order_id.into(), ..Default::default() })
    }

    /// Gets one order with its items.
    pub fn get_order(&self, order_id: impl Into<String>) -> Query<GetOrderRequest> {
        self.query(GetOrderRequest { order_id: order_id.into(), ..Default::default() })
    }

    /// Lists orders without their items, newest first.
    pub fn list_orders(&self) -> Query<ListOrdersRequest> {
        self.query(ListOrdersRequest::default())
    }

    /// Lists the items of one product in all orders, newest order first.
    pub fn list_orders_by_product(
        &self,
        product_id: impl Into<String>,
    ) -> Query<ListOrdersByProductRequest> {
        let product_id = product_id.into();
        self.query(ListOrdersByProductRequest { product_id, ..Default::default() })
    }

    /// Gets the orders and the revenue of each day from the first to the last, both inclusive and
    /// in UTC, such as `2026-11-21`.
    pub fn daily_statistics(
        &self,
        first_day: impl Into<String>,
        last_day: impl Into<String>,
    ) -> Query<GetDailyStatisticsRequest> {
        self.query(GetDailyStatisticsRequest {
            start_date: first_day.into(),
            end_date: last_day.into(),
            ..Default::default()
        })
    }
}

impl Command<CreateOrderRequest> {
    /// The id of the new order.
    pub fn order_id(mut self, id: impl Into<String>) -> Self {
        self.request.order_id = id.into();
        self
    }
}

impl Command<PayOrderRequest> {
    /// What the payment is known by.
    pub fn payment_id(mut self, id: impl Into<String>) -> Self {
        self.request.payment_id = id.into();
        self
    }
}

impl Command<ShipOrderRequest> {
    /// What the carrier knows the parcel by.
    pub fn tracking_id(mut self, id: impl Into<String>) -> Self {
        self.request.tracking_id = id.into();
        self
    }
}

impl Command<SubmitOrderRequest> {
    /// How long its fulfilment may take, in whole seconds; 15 minutes unless told otherwise.
    pub fn fulfil_within_seconds(mut self, seconds: u32) -> Self {
        self.request.fulfil_within_seconds = seconds;
        self
    }
}

impl Command<CancelOrderRequest> {
    /// Why.
    pub fn reason(mut self, text: impl Into<String>) -> Self {
        self.request.reason = text.into();
        self
    }
}

impl Query<ListOrdersRequest> {
    /// Only orders that have come this far.
    pub fn status(mut self, status: OrderStatus) -> Self {
        self.request.status = status.into();
        self
    }

    /// Only orders of this user.
    pub fn user(mut self, user_id: impl Into<String>) -> Self {
        self.request.user_id = user_id.into();
        self
    }

    /// Only orders created at this time or later.
    pub fn since(mut self, time: Timestamp) -> Self {
        self.request.start_time = Some(time);
        self
    }

    /// Only orders created before this time.
    pub fn until(mut self, time: Timestamp) -> Self {
        self.request.end_time = Some(time);
        self
    }
}

impl Query<GetDailyStatisticsRequest> {
    /// Only this currency.
    pub fn currency(mut self, code: impl Into<String>) -> Self {
        self.request.currency_code = code.into();
        self
    }
}
