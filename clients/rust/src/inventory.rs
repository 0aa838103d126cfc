//! Commands and queries of the inventory.

use daybook_contract::error::Error;
use daybook_contract::inventory::v1::{
    AdjustStockRequest, GetStockRequest, GetStockResponse, ListLowStockRequest,
    ListLowStockResponse, ListMovementsRequest, ListMovementsResponse, Movement, MovementKind,
    ReceiveStockRequest, ReleaseReservationRequest, ReserveStockRequest,
    SetLowStockThresholdRequest, ShipReservationRequest, Stock, WatchLowStockRequest,
    WatchLowStockResponse,
};
use futures::stream::{StreamExt, TryStreamExt};
use futures::{Stream, TryFutureExt};
use prost_types::Timestamp;

use crate::client::Daybook;
use crate::command::{Command, commands};
use crate::failure;
use crate::query::{Query, duration, paged, queries, wait_of};

commands!("inventory.v1":
    ReceiveStockRequest => "ReceiveStock",
    ReserveStockRequest => "ReserveStock",
    ReleaseReservationRequest => "ReleaseReservation",
    ShipReservationRequest => "ShipReservation",
    AdjustStockRequest => "AdjustStock",
    SetLowStockThresholdRequest => "SetLowStockThreshold",
);

queries!("inventory.v1":
    "GetStock": GetStockRequest => GetStockResponse,
    "ListMovements": ListMovementsRequest => ListMovementsResponse,
    "ListLowStock": ListLowStockRequest => ListLowStockResponse,
);

paged!(
    ListMovementsRequest => movements: Movement,
    ListLowStockRequest => stocks: Stock,
);

impl Daybook {
    /// Takes goods in.
    pub fn receive_stock(
        &self,
        product_id: impl Into<String>,
        quantity: u64,
    ) -> Command<ReceiveStockRequest> {
        let product_id = product_id.into();
        self.command(ReceiveStockRequest { product_id, quantity, ..Default::default() })
    }

    /// Keeps pieces for a line of an order; the same line again is no second reservation.
    pub fn reserve_stock(
        &self,
        product_id: impl Into<String>,
        order_id: impl Into<String>,
        line_id: impl Into<String>,
        quantity: u64,
    ) -> Command<ReserveStockRequest> {
        self.command(ReserveStockRequest {
            product_id: product_id.into(),
            order_id: order_id.into(),
            line_id: line_id.into(),
            quantity,
            ..Default::default()
        })
    }

    /// Makes the pieces that are kept for a line available again.
    pub fn release_reservation(
        &self,
        product_id: impl Into<String>,
        order_id: impl Into<String>,
        line_id: impl Into<String>,
    ) -> Command<ReleaseReservationRequest> {
        self.command(ReleaseReservationRequest {
            product_id: product_id.into(),
            order_id: order_id.into(),
            line_id: line_id.into(),
            ..Default::default()
        })
    }

    /// Sends out the pieces that are kept for a line.
    pub fn ship_reservation(
        &self,
        product_id: impl Into<String>,
        order_id: impl Into<String>,
        line_id: impl Into<String>,
    ) -> Command<ShipReservationRequest> {
        self.command(ShipReservationRequest {
            product_id: product_id.into(),
            order_id: order_id.into(),
            line_id: line_id.into(),
            ..Default::default()
        })
    }

    /// Corrects the number of pieces, up or down, and says why.
    pub fn adjust_stock(
        &self,
        product_id: impl Into<String>,
        quantity_delta: i64,
        reason: impl Into<String>,
    ) -> Command<AdjustStockRequest> {
        self.command(AdjustStockRequest {
            product_id: product_id.into(),
            quantity_delta,
            reason: reason.into(),
            ..Default::default()
        })
    }

    /// Says at how many available pieces the stock is low; 0 for never.
    pub fn set_low_stock_threshold(
        &self,
        product_id: impl Into<String>,
        threshold: u64,
    ) -> Command<SetLowStockThresholdRequest> {
        let product_id = product_id.into();
        self.command(SetLowStockThresholdRequest { product_id, threshold, ..Default::default() })
    }

    /// Gets the stock of one product.
    pub fn get_stock(&self, product_id: impl Into<String>) -> Query<GetStockRequest> {
        self.query(GetStockRequest { product_id: product_id.into(), ..Default::default() })
    }

    /// Lists the movements of the stock of one product, newest first.
    pub fn list_movements(&self, product_id: impl Into<String>) -> Query<ListMovementsRequest> {
        self.query(ListMovementsRequest { product_id: product_id.into(), ..Default::default() })
    }

    /// Lists the products whose stock is low, by id.
    pub fn list_low_stock(&self) -> Query<ListLowStockRequest> {
        self.query(ListLowStockRequest::default())
    }

    /// Follows the products whose stock is low: those that are low now, then every change. The
    /// stream ends when the server stops; whoever begins again is told what is low then.
    pub fn watch_low_stock(
        &self,
    ) -> impl Stream<Item = Result<WatchLowStockResponse, Error>> + Send + 'static {
        let (client, service) = (self.clone(), self.inner.query.clone());
        let read = daybook_contract::daybook::v1::ReadContext {
            min_position: self.written(),
            max_wait: self.inner.max_wait.map(duration),
            ..Default::default()
        };
        let wait = wait_of(&read);
        let request = WatchLowStockRequest { read: Some(read) };
        let path = "/inventory.v1.QueryService/WatchLowStock";
        let begin = async move {
            let mut options = client.repeatable();
            options.deadline += wait;
            let service = &client.inner.query;
            client.server_stream(service, path, request, options).await
        };
        begin
            .map_ok(move |updates| updates.map_err(move |e| failure::from_status(&e, &service)))
            .try_flatten_stream()
            .boxed()
    }
}

impl Command<ReceiveStockRequest> {
    /// Which delivery.
    pub fn reference(mut self, text: impl Into<String>) -> Self {
        self.request.reference = text.into();
        self
    }
}

impl Command<ReleaseReservationRequest> {
    /// Why.
    pub fn reason(mut self, text: impl Into<String>) -> Self {
        self.request.reason = text.into();
        self
    }
}

impl Query<ListMovementsRequest> {
    /// Only movements of this kind.
    pub fn kind(mut self, kind: MovementKind) -> Self {
        self.request.kind = kind.into();
        self
    }

    /// Only movements recorded at this time or later.
    pub fn since(mut self, time: Timestamp) -> Self {
        self.request.start_time = Some(time);
        self
    }

    /// Only movements recorded before this time.
    pub fn until(mut self, time: Timestamp) -> Self {
        self.request.end_time = Some(time);
        self
    }
}
