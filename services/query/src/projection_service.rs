//! `daybook.v1.ProjectionService`: shows and steers the projections.

use std::pin::Pin;
use std::sync::Arc;

use daybook_contract::contract::{Validate, Violations};
use daybook_contract::daybook::v1::projection_service_server::ProjectionService;
use daybook_contract::daybook::v1::{
    ErrorReason, GetProjectionRequest, GetProjectionResponse, ListProjectionsRequest,
    ListProjectionsResponse, ListQuarantinedEventsRequest, ListQuarantinedEventsResponse,
    PauseProjectionRequest, PauseProjectionResponse, QuarantinedEvent, RebuildProjectionRequest,
    RebuildProjectionResponse, RebuildStage, ResumeProjectionRequest, ResumeProjectionResponse,
    RetryQuarantinedStreamRequest, RetryQuarantinedStreamResponse, SkipQuarantinedEventRequest,
    SkipQuarantinedEventResponse, WatchRebuildRequest, WatchRebuildResponse,
};
use daybook_contract::error::Error;
use futures::{FutureExt, Stream, StreamExt, stream};
use rusqlite::Connection;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use crate::paging::{Pages, page_size};
use crate::runtime::handle::is_running;
use crate::runtime::row::select;
use crate::runtime::store::{Quarantined, quarantined};
use crate::runtime::{Handle, Host};
use crate::time;

/// How many quarantined events a page has when the request does not say.
const DEFAULT_PAGE: u32 = 100;

/// The service.
#[derive(Clone)]
pub struct ProjectionServer {
    handles: Arc<[Handle]>,
    stopping: watch::Receiver<bool>,
}

impl ProjectionServer {
    /// The service over the projections of a host.
    pub fn new(host: &Host) -> Self {
        Self { handles: host.handles().clone(), stopping: host.stopping() }
    }

    /// The same service, over those of other hosts of this process as well.
    #[must_use]
    pub fn beside(self, others: &[Handle]) -> Self {
        let mut handles = [&self.handles, others].concat();
        handles.sort_by_key(Handle::name);
        Self { handles: handles.into(), ..self }
    }

    fn find(&self, request: &impl Validate, name: &str) -> Result<&Handle, Error> {
        self.find_and(request, name, |_| {})
    }

    fn find_and(
        &self,
        request: &impl Validate,
        name: &str,
        own: impl FnOnce(&mut Violations),
    ) -> Result<&Handle, Error> {
        crate::read::check(request, None, own)?;
        crate::runtime::host::find(&self.handles, name)
    }
}

#[tonic::async_trait]
impl ProjectionService for ProjectionServer {
    async fn list_projections(
        &self,
        _: Request<ListProjectionsRequest>,
    ) -> Result<Response<ListProjectionsResponse>, Status> {
        let projections = self.handles.iter().map(Handle::status).collect();
        Ok(Response::new(ListProjectionsResponse { projections }))
    }

    async fn get_projection(
        &self,
        request: Request<GetProjectionRequest>,
    ) -> Result<Response<GetProjectionResponse>, Status> {
        let request = request.into_inner();
        let projection = Some(self.find(&request, &request.name)?.status());
        Ok(Response::new(GetProjectionResponse { projection }))
    }

    async fn rebuild_projection(
        &self,
        request: Request<RebuildProjectionRequest>,
    ) -> Result<Response<RebuildProjectionResponse>, Status> {
        let request = request.into_inner();
        let rebuild = Some(self.find(&request, &request.name)?.rebuild().await?);
        Ok(Response::new(RebuildProjectionResponse { rebuild }))
    }

    type WatchRebuildStream =
        Pin<Box<dyn Stream<Item = Result<WatchRebuildResponse, Status>> + Send>>;

    async fn watch_rebuild(
        &self,
        request: Request<WatchRebuildRequest>,
    ) -> Result<Response<Self::WatchRebuildStream>, Status> {
        let request = request.into_inner();
        let handle = self.find(&request, &request.name)?;
        let status = handle.rebuild_status();
        if status.borrow().stage() == RebuildStage::Unspecified {
            let text = format!("projection {} was not rebuilt since the start", request.name);
            let error = Error::new(ErrorReason::ProjectionState, text);
            return Err(error.with("projection", &request.name).into());
        }
        // It ends with the message that tells of the end, or when the service stops.
        let progress = stream::unfold(Some(WatchStream::new(status)), |watched| async {
            let mut watched = watched?;
            let status = watched.next().await?;
            let rest = is_running(&status).then_some(watched);
            Some((Ok(WatchRebuildResponse { rebuild: Some(status) }), rest))
        });
        let mut stopping = self.stopping.clone();
        let stopped = async move {
            let _ = stopping.wait_for(|stop| *stop).await;
        };
        let progress = progress.take_until(stopped.boxed());
        Ok(Response::new(Box::pin(progress)))
    }

    async fn pause_projection(
        &self,
        request: Request<PauseProjectionRequest>,
    ) -> Result<Response<PauseProjectionResponse>, Status> {
        let request = request.into_inner();
        let handle = self.find(&request, &request.name)?;
        handle.pause().await?;
        Ok(Response::new(PauseProjectionResponse { projection: Some(handle.status()) }))
    }

    async fn resume_projection(
        &self,
        request: Request<ResumeProjectionRequest>,
    ) -> Result<Response<ResumeProjectionResponse>, Status> {
        let request = request.into_inner();
        let handle = self.find(&request, &request.name)?;
        handle.resume().await?;
        Ok(Response::new(ResumeProjectionResponse { projection: Some(handle.status()) }))
    }

    async fn list_quarantined_events(
        &self,
        request: Request<ListQuarantinedEventsRequest>,
    ) -> Result<Response<ListQuarantinedEventsResponse>, Status> {
        let request = request.into_inner();
        let handle = self.find_and(&request, &request.name, |violations| {
            crate::check::page_size(violations, request.page_size);
        })?;
        let size = page_size(request.page_size, DEFAULT_PAGE);
        let filters =
            ListQuarantinedEventsRequest { name: request.name.clone(), ..Default::default() };
        let pages = Pages::of("daybook.v1.ListQuarantinedEvents", &filters);
        let after = pages.after(&request.page_token)?;
        let after = after.and_then(|id| id.parse::<i64>().ok()).unwrap_or(0);
        let (mut rows, _) = handle
            .read(None, move |connection| select_quarantined(connection, after, size + 1))
            .await?;
        let next_page_token = pages.cut(&mut rows, size, |row| row.id.to_string());
        Ok(Response::new(ListQuarantinedEventsResponse {
            events: rows.into_iter().map(quarantined_event).collect(),
            next_page_token,
        }))
    }

    async fn retry_quarantined_stream(
        &self,
        request: Request<RetryQuarantinedStreamRequest>,
    ) -> Result<Response<RetryQuarantinedStreamResponse>, Status> {
        let request = request.into_inner();
        let handle = self.find(&request, &request.name)?;
        let retried = handle.retry(request.stream).await?;
        Ok(Response::new(RetryQuarantinedStreamResponse {
            applied_events: retried.applied,
            remaining_events: retried.remaining,
        }))
    }

    async fn skip_quarantined_event(
        &self,
        request: Request<SkipQuarantinedEventRequest>,
    ) -> Result<Response<SkipQuarantinedEventResponse>, Status> {
        let request = request.into_inner();
        let handle = self.find(&request, &request.name)?;
        let skipped = handle.skip(request.quarantine_id).await?;
        Ok(Response::new(SkipQuarantinedEventResponse {
            applied_events: skipped.applied,
            remaining_events: skipped.remaining,
        }))
    }
}

fn select_quarantined(
    connection: &Connection,
    after: i64,
    limit: u32,
) -> rusqlite::Result<Vec<Quarantined>> {
    let sql = "SELECT * FROM quarantine WHERE quarantine_id > ? ORDER BY quarantine_id LIMIT ?";
    select(connection, sql, &[&after, &limit], quarantined)
}

fn quarantined_event(row: Quarantined) -> QuarantinedEvent {
    let is_event = !row.stream.is_empty();
    QuarantinedEvent {
        quarantine_id: row.id,
        stream: row.stream,
        version: row.version,
        position: row.position,
        problem: row.problem,
        attempts: row.attempts,
        quarantine_time: Some(time::timestamp(row.time_ns)),
        event: if is_event { row.record } else { Default::default() },
        source: if is_event { String::new() } else { row.source },
    }
}
