//! `daybook.v1.SagaService`: shows and steers the sagas.

use std::sync::Arc;
use std::time::Duration;

use daybook_bus::source::LogReader;
use daybook_contract::actor;
use daybook_contract::daybook::v1::saga_service_server::SagaService;
use daybook_contract::daybook::v1::{
    CompensateSagaRequest, CompensateSagaResponse, ErrorReason, GetSagaRequest, GetSagaResponse,
    ListSagasRequest, ListSagasResponse, ReadContext, RetrySagaRequest, RetrySagaResponse, Saga,
    SagaStep, StepRefusal,
};
use daybook_contract::error::Error;
use daybook_query::paging::{Pages, page_size};
use daybook_query::runtime::Handle;
use daybook_query::time::timestamp;
use daybook_query::{check, read};
use prost::Message;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::flights::Flights;
use crate::projection::SagaRow;
use crate::sender::{Outgoing, Sender};
use crate::{history, kind, select};

/// How many sagas a page has when the request does not say.
const DEFAULT_PAGE: u32 = 50;

/// How long the log may take to say what a saga has done.
const PATIENCE: Duration = Duration::from_secs(2);

/// The service.
#[derive(Clone)]
pub(crate) struct SagaServer {
    sagas: Handle,
    log: Arc<dyn LogReader>,
    sender: Sender,
    flights: Arc<Flights>,
}

impl SagaServer {
    /// The service over the rows, the log, and what is under way.
    pub fn new(
        sagas: Handle,
        log: Arc<dyn LogReader>,
        sender: Sender,
        flights: Arc<Flights>,
    ) -> Self {
        Self { sagas, log, sender, flights }
    }

    async fn find(
        &self,
        stream: &str,
        read: Option<&ReadContext>,
    ) -> Result<(SagaRow, u64), Error> {
        let name = stream.to_owned();
        let (found, position) =
            self.sagas.read(read, move |connection| select::saga(connection, &name)).await?;
        let Some(saga) = found else {
            let text = format!("there is no saga with the stream {stream:?}");
            return Err(Error::new(ErrorReason::SagaNotFound, text)
                .with("position", position)
                .with_resource("saga", stream));
        };
        Ok((saga, position))
    }

    /// What a saga has done until a version of its stream, which is in the log. When the log does
    /// not say: what the saga waits for, and why that is all.
    async fn steps(&self, saga: &SagaRow) -> (Vec<SagaStep>, String) {
        let read = self.log.read_stream(saga.stream.clone(), 1, count(saga.version));
        let steps = match tokio::time::timeout(PATIENCE, read).await {
            Ok(Ok(events)) => history::steps(saga, &events),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the log cannot be reached: it does not answer".to_owned()),
        };
        let (steps, problem) = match steps {
            Ok(steps) => (steps, String::new()),
            Err(problem) => (history::open_step(saga).into_iter().collect(), problem),
        };
        (steps.into_iter().map(|step| self.with_trouble(step)).collect(), problem)
    }

    fn with_trouble(&self, step: SagaStep) -> SagaStep {
        let id = Uuid::parse_str(&step.request_id).unwrap_or_default();
        let (failed_attempts, problem) = self.flights.trouble(id).unwrap_or_default();
        SagaStep { failed_attempts, problem, ..step }
    }
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
            .read(request.read.as_ref(), move |connection| {
                select::sagas(connection, &filters, before, size + 1)
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
        let (row, position) = self.find(&request.stream, request.read.as_ref()).await?;
        let (steps, problem) = self.steps(&row).await;
        let saga = Some(saga(row));
        Ok(Response::new(GetSagaResponse { saga, steps, position, problem }))
    }

    async fn retry_saga(
        &self,
        request: Request<RetrySagaRequest>,
    ) -> Result<Response<RetrySagaResponse>, Status> {
        let actor = actor::of(request.metadata())?;
        let request = request.into_inner();
        read::check(&request, None, |_| {})?;
        let (saga, _) = self.find(&request.stream, None).await?;
        self.flights.retry(&request.stream, &actor);
        let steps = open_steps(&saga);
        Ok(Response::new(RetrySagaResponse { steps }))
    }

    async fn compensate_saga(
        &self,
        request: Request<CompensateSagaRequest>,
    ) -> Result<Response<CompensateSagaResponse>, Status> {
        let actor = actor::of(request.metadata())?;
        let request = request.into_inner();
        read::check(&request, None, |_| {})?;
        let (found, _) = self.find(&request.stream, None).await?;
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

/// How many steps of a saga have no answer.
fn open_steps(saga: &SagaRow) -> u32 {
    saga.step_position.is_some().into()
}

fn saga(row: SagaRow) -> Saga {
    Saga {
        open_steps: open_steps(&row),
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
    }
}

fn count(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or_default()
}
