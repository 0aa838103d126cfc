//! `daybook.v1.SagaService`: shows and steers the sagas.

use std::sync::Arc;

use daybook_contract::actor;
use daybook_contract::daybook::v1::saga_service_server::SagaService;
use daybook_contract::daybook::v1::{
    CompensateSagaRequest, CompensateSagaResponse, ErrorReason, GetSagaRequest, GetSagaResponse,
    ListSagasRequest, ListSagasResponse, ReadContext, RetrySagaRequest, RetrySagaResponse, Saga,
    SagaStep, StepAnswer, StepRefusal,
};
use daybook_contract::error::Error;
use daybook_query::paging::{Pages, page_size};
use daybook_query::runtime::Handle;
use daybook_query::time::timestamp;
use daybook_query::{check, read};
use futures::FutureExt;
use prost::Message;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::flights::Flights;
use crate::projection::{SagaRow, StepRow};
use crate::sender::{Outgoing, Sender};
use crate::{ids, kind, select};

/// How many sagas a page has when the request does not say.
const DEFAULT_PAGE: u32 = 50;

/// The service.
#[derive(Clone)]
pub(crate) struct SagaServer {
    sagas: Handle,
    sender: Sender,
    flights: Arc<Flights>,
}

impl SagaServer {
    /// The service over the rows, and what is under way.
    pub fn new(sagas: Handle, sender: Sender, flights: Arc<Flights>) -> Self {
        Self { sagas, sender, flights }
    }

    async fn find(&self, stream: &str, read: Option<&ReadContext>) -> Result<Found, Error> {
        let name = stream.to_owned();
        let (found, position) = self
            .sagas
            .read(read, |connection| select::saga(connection, name.clone()).boxed())
            .await?;
        let Some((saga, steps)) = found else {
            let text = format!("there is no saga with the stream {stream:?}");
            return Err(Error::new(ErrorReason::SagaNotFound, text)
                .with("position", position)
                .with_resource("saga", stream));
        };
        Ok(Found { saga, steps, position })
    }

    fn step(&self, row: StepRow) -> SagaStep {
        let id = ids::step(&row.stream, count(row.version), count(row.number));
        let (failed_attempts, problem) = self.flights.trouble(id).unwrap_or_default();
        SagaStep {
            version: count(row.version),
            index: u32::try_from(row.number).unwrap_or_default(),
            cause_event_name: row.event_name,
            cause_event_id: row.event_id,
            command: row.type_name,
            target_stream: format!("{}-{}", row.aggregate, row.aggregate_id),
            request_id: id.to_string(),
            due_time: Some(timestamp(row.event_time)),
            answer: row.answer.and_then(|answer| StepAnswer::decode(answer.as_slice()).ok()),
            answer_version: row.answer_version.map_or(0, count),
            answer_time: row.answer_time.map(timestamp),
            failed_attempts,
            problem,
        }
    }
}

struct Found {
    saga: SagaRow,
    steps: Vec<StepRow>,
    position: u64,
}

#[tonic::async_trait]
impl SagaService for SagaServer {
    async fn list_sagas(
        &self,
        request: Request<ListSagasRequest>,
    ) -> Result<Response<ListSagasResponse>, Status> {
        let request = request.into_inner();
        read::check(&request, request.read.as_ref(), |violations| {
            check::page_size(violations, request.page_size);
            let kind = &request.kind;
            if !kind.is_empty() && kind::find(kind).is_none() {
                let kinds = kind::all().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
                violations.add("kind", format!("is none of the kinds of sagas: {kinds}"));
            }
        })?;
        let size = page_size(request.page_size, DEFAULT_PAGE);
        let filters = ListSagasRequest {
            read: None,
            page_size: 0,
            page_token: String::new(),
            ..request.clone()
        };
        let pages = Pages::of("daybook.v1.ListSagas", &filters);
        let before = match pages.after(&request.page_token)? {
            None => i64::MAX,
            Some(position) => position.parse().unwrap_or(i64::MAX),
        };
        let (mut rows, position) = self
            .sagas
            .read(request.read.as_ref(), |connection| {
                select::sagas(connection, filters.clone(), before, size + 1).boxed()
            })
            .await?;
        let next_page_token = pages.cut(&mut rows, size, |row| row.position.to_string());
        let sagas = rows.into_iter().map(saga).collect();
        Ok(Response::new(ListSagasResponse { sagas, next_page_token, position }))
    }

    async fn get_saga(
        &self,
        request: Request<GetSagaRequest>,
    ) -> Result<Response<GetSagaResponse>, Status> {
        let request = request.into_inner();
        read::check(&request, request.read.as_ref(), |_| {})?;
        let found = self.find(&request.stream, request.read.as_ref()).await?;
        let steps = found.steps.into_iter().map(|row| self.step(row)).collect();
        let (saga, position) = (Some(saga(found.saga)), found.position);
        Ok(Response::new(GetSagaResponse { saga, steps, position }))
    }

    async fn retry_saga(
        &self,
        request: Request<RetrySagaRequest>,
    ) -> Result<Response<RetrySagaResponse>, Status> {
        let actor = actor::of(request.metadata())?;
        let request = request.into_inner();
        read::check(&request, None, |_| {})?;
        let found = self.find(&request.stream, None).await?;
        self.flights.retry(&request.stream, &actor);
        let steps = u32::try_from(found.saga.open_steps).unwrap_or_default();
        Ok(Response::new(RetrySagaResponse { steps }))
    }

    async fn compensate_saga(
        &self,
        request: Request<CompensateSagaRequest>,
    ) -> Result<Response<CompensateSagaResponse>, Status> {
        let actor = actor::of(request.metadata())?;
        let request = request.into_inner();
        read::check(&request, None, |_| {})?;
        let found = self.find(&request.stream, None).await?.saga;
        let kind = kind::find(&found.kind).ok_or_else(|| {
            let text = format!("sagas of the kind {} are not run here", found.kind);
            Error::new(ErrorReason::NotSupported, text)
        })?;
        let step = kind.compensate(&found.saga_id, &request.reason).ok_or_else(|| {
            let text = format!("there is no way back for sagas of the kind {}", found.kind);
            Error::new(ErrorReason::NotSupported, text)
        })?;
        let mut context = request.context.unwrap_or_default();
        if context.request_id.is_empty() {
            context.request_id = Uuid::now_v7().to_string();
        }
        let command =
            Outgoing { type_name: step.type_name.to_owned(), request: step.request, context };
        let receipt = Some(self.sender.call(&command, &actor).await?);
        Ok(Response::new(CompensateSagaResponse { receipt }))
    }
}

fn saga(row: SagaRow) -> Saga {
    Saga {
        stream: row.stream,
        kind: row.kind,
        saga_id: row.saga_id,
        status: i32::try_from(row.status).unwrap_or_default(),
        version: count(row.version),
        started_time: Some(timestamp(row.started_time)),
        updated_time: Some(timestamp(row.updated_time)),
        ended_time: row.ended_time.map(timestamp),
        deadline: row.due_time.map(timestamp),
        refusal: row.refusal.and_then(|refusal| StepRefusal::decode(refusal.as_slice()).ok()),
        open_steps: u32::try_from(row.open_steps).unwrap_or_default(),
    }
}

fn count(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or_default()
}
