//! The projections of the query service: how they are doing, and steering them.

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
use prost::Message;

use crate::call::Options;
use crate::client::Daybook;
use crate::failure;

/// The projections of a Daybook.
#[derive(Debug, Clone)]
pub struct Projections {
    client: Daybook,
}

impl Projections {
    pub(crate) fn new(client: Daybook) -> Self {
        Self { client }
    }

    /// All projections, by name.
    pub async fn list(&self) -> Result<Vec<ProjectionStatus>, Error> {
        let path = "/daybook.v1.ProjectionService/ListProjections";
        let answer: ListProjectionsResponse =
            self.call(path, ListProjectionsRequest {}, self.client.repeatable()).await?;
        Ok(answer.projections)
    }

    /// One projection.
    pub async fn get(&self, name: impl Into<String>) -> Result<ProjectionStatus, Error> {
        let path = "/daybook.v1.ProjectionService/GetProjection";
        let request = GetProjectionRequest { name: name.into() };
        let answer: GetProjectionResponse =
            self.call(path, request, self.client.repeatable()).await?;
        self.present(answer.projection)
    }

    /// Begins to build a projection anew beside the live one. While one is under way, that one is
    /// the answer; so it may be repeated.
    pub async fn rebuild(&self, name: impl Into<String>) -> Result<RebuildStatus, Error> {
        let path = "/daybook.v1.ProjectionService/RebuildProjection";
        let request = RebuildProjectionRequest { name: name.into() };
        let answer: RebuildProjectionResponse =
            self.call(path, request, self.client.repeatable()).await?;
        self.present(answer.rebuild)
    }

    /// The progress of the rebuild under way, or of the last one, until it has ended.
    pub fn watch_rebuild(
        &self,
        name: impl Into<String>,
    ) -> impl Stream<Item = Result<RebuildStatus, Error>> + Send + 'static {
        let client = self.client.clone();
        let request = WatchRebuildRequest { name: name.into() };
        try_unfold(None, move |answers| {
            let client = client.clone();
            let request = request.clone();
            async move {
                let service = &client.inner.query;
                let mut answers = match answers {
                    Some(answers) => answers,
                    None => {
                        let path = "/daybook.v1.ProjectionService/WatchRebuild";
                        client.server_stream(service, path, request, client.repeatable()).await?
                    }
                };
                let answer: Option<WatchRebuildResponse> = answers
                    .message()
                    .await
                    .map_err(|status| failure::from_status(&status, service))?;
                Ok(answer.map(|answer| (answer.rebuild.unwrap_or_default(), Some(answers))))
            }
        })
    }

    /// Stops a projection from applying events.
    pub async fn pause(&self, name: impl Into<String>) -> Result<ProjectionStatus, Error> {
        let path = "/daybook.v1.ProjectionService/PauseProjection";
        let request = PauseProjectionRequest { name: name.into() };
        let answer: PauseProjectionResponse =
            self.call(path, request, self.client.repeatable()).await?;
        self.present(answer.projection)
    }

    /// Lets a paused projection go on.
    pub async fn resume(&self, name: impl Into<String>) -> Result<ProjectionStatus, Error> {
        let path = "/daybook.v1.ProjectionService/ResumeProjection";
        let request = ResumeProjectionRequest { name: name.into() };
        let answer: ResumeProjectionResponse =
            self.call(path, request, self.client.repeatable()).await?;
        self.present(answer.projection)
    }

    /// A page of what a projection could not apply, oldest first.
    pub async fn quarantine(
        &self,
        request: ListQuarantinedEventsRequest,
    ) -> Result<ListQuarantinedEventsResponse, Error> {
        let path = "/daybook.v1.ProjectionService/ListQuarantinedEvents";
        self.call(path, request, self.client.repeatable()).await
    }

    /// Applies the quarantined events of a stream again.
    pub async fn retry(
        &self,
        name: impl Into<String>,
        stream: impl Into<String>,
    ) -> Result<RetryQuarantinedStreamResponse, Error> {
        let path = "/daybook.v1.ProjectionService/RetryQuarantinedStream";
        let request = RetryQuarantinedStreamRequest { name: name.into(), stream: stream.into() };
        self.call(path, request, self.client.once()).await
    }

    /// Gives up one quarantined event. It is sent once: repeated after a lost answer, it would be
    /// refused although it has succeeded.
    pub async fn skip(
        &self,
        name: impl Into<String>,
        quarantine_id: u64,
    ) -> Result<SkipQuarantinedEventResponse, Error> {
        let path = "/daybook.v1.ProjectionService/SkipQuarantinedEvent";
        let request = SkipQuarantinedEventRequest { name: name.into(), quarantine_id };
        self.call(path, request, self.client.once()).await
    }

    async fn call<Q, A>(&self, path: &'static str, request: Q, options: Options) -> Result<A, Error>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        self.client.unary(&self.client.inner.query, path, request, options).await
    }

    /// What the answer must contain.
    fn present<T>(&self, part: Option<T>) -> Result<T, Error> {
        part.ok_or_else(|| failure::malformed(&self.client.inner.query, "an empty answer"))
    }
}
