//! The sagas of the saga service: how they are doing, and steering them.

use daybook_contract::daybook::v1::{
    CommandContext, CommandReceipt, CompensateSagaRequest, CompensateSagaResponse, GetSagaRequest,
    GetSagaResponse, ListSagasRequest, ListSagasResponse, RetrySagaRequest, RetrySagaResponse,
    Saga,
};
use daybook_contract::error::Error;
use prost::Message;
use uuid::Uuid;

use crate::client::Daybook;
use crate::failure;
use crate::query::{Query, paged, queries};

queries!(saga_service, "SagaService", "daybook.v1":
    "GetSaga": GetSagaRequest => GetSagaResponse,
    "ListSagas": ListSagasRequest => ListSagasResponse,
);

paged!(ListSagasRequest => sagas: Saga);

/// The sagas of a Daybook.
#[derive(Debug, Clone)]
pub struct Sagas {
    client: Daybook,
}

impl Sagas {
    pub(crate) fn new(client: Daybook) -> Self {
        Self { client }
    }

    /// A page of sagas, newest first.
    pub fn list(&self, request: ListSagasRequest) -> Query<ListSagasRequest> {
        self.client.query(request)
    }

    /// One saga with every step.
    pub fn get(&self, request: GetSagaRequest) -> Query<GetSagaRequest> {
        self.client.query(request)
    }

    /// Tries the waiting steps of a saga at once, and says how many there were.
    pub async fn retry(&self, stream: impl Into<String>) -> Result<u32, Error> {
        let request = RetrySagaRequest { stream: stream.into() };
        let answer: RetrySagaResponse =
            self.call("/daybook.v1.SagaService/RetrySaga", request).await?;
        Ok(answer.steps)
    }

    /// Gives a saga up: what was done is undone.
    pub async fn compensate(
        &self,
        stream: impl Into<String>,
        reason: impl Into<String>,
    ) -> Result<CommandReceipt, Error> {
        let request_id = Uuid::now_v7().to_string();
        let request = CompensateSagaRequest {
            context: Some(CommandContext { request_id, ..Default::default() }),
            stream: stream.into(),
            reason: reason.into(),
        };
        let answer: CompensateSagaResponse =
            self.call("/daybook.v1.SagaService/CompensateSaga", request).await?;
        let receipt = answer
            .receipt
            .ok_or_else(|| failure::malformed(&self.client.inner.saga, "an empty answer"))?;
        self.client.remember(&receipt);
        Ok(receipt)
    }

    async fn call<Q, A>(&self, path: &'static str, request: Q) -> Result<A, Error>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let options = self.client.repeatable();
        self.client.unary(&self.client.inner.saga, path, request, options).await
    }
}
