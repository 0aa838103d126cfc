//! The projections of the query service, and that of the saga service: how they are doing, and
//! steering them.

use daybook_contract::daybook::v1::{
    GetProjectionRequest, GetProjectionResponse, ListProjectionsRequest, ListProjectionsResponse,
    ListQuarantinedEventsRequest, ListQuarantinedEventsResponse, PauseProjectionRequest,
    PauseProjectionResponse, ProjectionStatus, RebuildProjectionRequest, RebuildProjectionResponse,
    RebuildStatus, ResumeProjectionRequest, ResumeProjectionResponse,
    RetryQuarantinedStreamRequest, RetryQuarantinedStreamResponse, SkipQuarantinedEventRequest,
    SkipQuarantinedEventResponse, WatchRebuildRequest, WatchRebuildResponse,
};
use daybook_contract::error::Error;
use futures::Stream;
use futures::stream::try_unfold;

use crate::call::Options;
use crate::client::{Daybook, Service};
use crate::failure;

/// The projection of the saga service, which has no other.
const SAGAS: &str = "sagas";

/// The projections of a Daybook.
#[derive(Debug, Clone)]
pub struct Projections {
    client: Daybook,
}

impl Projections {
    pub(crate) fn new(client: Daybook) -> Self {
        Self { client }
    }

    /// All projections, by name. That of the saga service is missing when it cannot be reached.
    pub async fn list(&self) -> Result<Vec<ProjectionStatus>, Error> {
        let inner = &self.client.inner;
        let mut all = self.list_of(&inner.query, self.client.repeatable()).await?;
        // In one process with all services each of them has it.
        if !all.iter().any(|projection| projection.name == SAGAS) {
            all.extend(self.list_of(&inner.saga, self.client.once()).await.unwrap_or_default());
            all.sort_by(|a, b| a.name.cmp(&b.name));
        }
        Ok(all)
    }

    async fn list_of(
        &self,
        service: &Service,
        options: Options,
    ) -> Result<Vec<ProjectionStatus>, Error> {
        let path = "/daybook.v1.ProjectionService/ListProjections";
        let request = ListProjectionsRequest {};
        let answer: ListProjectionsResponse =
            self.client.unary(service, path, request, options).await?;
        Ok(answer.projections)
    }

    /// One projection.
    pub async fn get(&self, name: impl Into<String>) -> Result<ProjectionStatus, Error> {
        let path = "/daybook.v1.ProjectionService/GetProjection";
        let name = name.into();
        let service = self.service_of(&name);
        let request = GetProjectionRequest { name };
        let answer: GetProjectionResponse =
            self.client.unary(service, path, request, self.client.repeatable()).await?;
        present(service, answer.projection)
    }

    /// Begins to build a projection anew beside the live one. While one is under way, that one is
    /// the answer; so it may be repeated.
    pub async fn rebuild(&self, name: impl Into<String>) -> Result<RebuildStatus, Error> {
        let path = "/daybook.v1.ProjectionService/RebuildProjection";
        let name = name.into();
        let service = self.service_of(&name);
        let request = RebuildProjectionRequest { name };
        let answer: RebuildProjectionResponse =
            self.client.unary(service, path, request, self.client.repeatable()).await?;
        present(service, answer.rebuild)
    }

    /// The progress of the rebuild under way, or of the last one, until it has ended.
    pub fn watch_rebuild(
        &self,
        name: impl Into<String>,
    ) -> impl Stream<Item = Result<RebuildStatus, Error>> + Send + 'static {
        let client = self.client.clone();
        let name = name.into();
        let service = self.service_of(&name).clone();
        let request = WatchRebuildRequest { name };
        try_unfold(None, move |answers| {
            let client = client.clone();
            let service = service.clone();
            let request = request.clone();
            async move {
                let mut answers = match answers {
                    Some(answers) => answers,
                    None => {
                        let path = "/daybook.v1.ProjectionService/WatchRebuild";
                        client.server_stream(&service, path, request, client.repeatable()).await?
                    }
                };
                let answer: Option<WatchRebuildResponse> = answers
                    .message()
                    .await
                    .map_err(|status| failure::from_status(&status, &service))?;
                Ok(answer.map(|answer| (answer.rebuild.unwrap_or_default(), Some(answers))))
            }
        })
    }

    /// Stops a projection from applying events.
    pub async fn pause(&self, name: impl Into<String>) -> Result<ProjectionStatus, Error> {
        let path = "/daybook.v1.ProjectionService/PauseProjection";
        let name = name.into();
        let service = self.service_of(&name);
        let request = PauseProjectionRequest { name };
        let answer: PauseProjectionResponse =
            self.client.unary(service, path, request, self.client.repeatable()).await?;
        present(service, answer.projection)
    }

    /// Lets a paused projection go on.
    pub async fn resume(&self, name: impl Into<String>) -> Result<ProjectionStatus, Error> {
        let path = "/daybook.v1.ProjectionService/ResumeProjection";
        let name = name.into();
        let service = self.service_of(&name);
        let request = ResumeProjectionRequest { name };
        let answer: ResumeProjectionResponse =
            self.client.unary(service, path, request, self.client.repeatable()).await?;
        present(service, answer.projection)
    }

    /// A page of what a projection could not apply, oldest first.
    pub async fn quarantine(
        &self,
        request: ListQuarantinedEventsRequest,
    ) -> Result<ListQuarantinedEventsResponse, Error> {
        let path = "/daybook.v1.ProjectionService/ListQuarantinedEvents";
        let service = self.service_of(&request.name);
        self.client.unary(service, path, request, self.client.repeatable()).await
    }

    /// Applies the quarantined events of a stream again.
    pub async fn retry(
        &self,
        name: impl Into<String>,
        stream: impl Into<String>,
    ) -> Result<RetryQuarantinedStreamResponse, Error> {
        let path = "/daybook.v1.ProjectionService/RetryQuarantinedStream";
        let name = name.into();
        let service = self.service_of(&name);
        let request = RetryQuarantinedStreamRequest { name, stream: stream.into() };
        self.client.unary(service, path, request, self.client.once()).await
    }

    /// Gives up one quarantined event. It is sent once: repeated after a lost answer, it would be
    /// refused although it has succeeded.
    pub async fn skip(
        &self,
        name: impl Into<String>,
        quarantine_id: u64,
    ) -> Result<SkipQuarantinedEventResponse, Error> {
        let path = "/daybook.v1.ProjectionService/SkipQuarantinedEvent";
        let name = name.into();
        let service = self.service_of(&name);
        let request = SkipQuarantinedEventRequest { name, quarantine_id };
        self.client.unary(service, path, request, self.client.once()).await
    }

    /// The service that has a projection.
    fn service_of(&self, name: &str) -> &Service {
        match name {
            SAGAS => &self.client.inner.saga,
            _ => &self.client.inner.query,
        }
    }
}

/// What the answer must contain.
fn present<T>(service: &Service, part: Option<T>) -> Result<T, Error> {
    part.ok_or_else(|| failure::malformed(service, "an empty answer"))
}
