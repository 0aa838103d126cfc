//! How fast projections read: catching up from Kafka and from the log, and a rebuild.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use daybook_contract::daybook::v1::event_log_service_client::EventLogServiceClient;
use daybook_contract::daybook::v1::projection_service_client::ProjectionServiceClient;
use daybook_contract::daybook::v1::{
    GetLogInfoRequest, GetProjectionRequest, ListProjectionsRequest, ProjectionStatus,
    RebuildProjectionRequest, RebuildStage,
};
use daybook_testing::{Ports, free_port, unique};
use tonic::transport::Channel;

use crate::bank::{connect, fill, open_accounts};
use crate::kafka::Reading;
use crate::report::median;
use crate::scenarios::Bench;

/// The events that a reader is behind.
const EVENTS: u64 = 300_000;

/// How often it is asked how far a reader is.
const POLL: Duration = Duration::from_millis(5);

/// How long a reader may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// How many events a second were caught up with.
struct CaughtUp {
    own: f64,
    /// How many a reader of Kafka takes that does nothing with them.
    alone: Option<f64>,
}

impl Bench {
    /// Lets the projections of a query process catch up from the log and, if there is a broker,
    /// from Kafka.
    pub async fn catch_up(&mut self) -> Result<()> {
        let mut rates = Vec::new();
        for _ in 0..self.windows {
            rates.push(self.catch_up_over(None).await?.own);
        }
        self.figure("catch-up from the log, three projections", median(rates), "events/s");
        let Some(kafka) = self.kafka().await? else { return Ok(()) };
        let (mut rates, mut alone) = (Vec::new(), Vec::new());
        for _ in 0..self.windows {
            let caught_up = self.catch_up_over(Some(&kafka.bootstrap)).await?;
            rates.push(caught_up.own);
            alone.extend(caught_up.alone);
        }
        let name = "records of the same topics read from Kafka alone";
        self.figure(name, median(alone), "events/s");
        let rate = median(rates);
        self.figure("catch-up from Kafka, three projections", rate, "events/s");
        self.floor("catch-up from Kafka", "≥ 100,000 events/s", rate, rate >= 100_000.0);
        Ok(())
    }

    async fn catch_up_over(&mut self, brokers: Option<&str>) -> Result<CaughtUp> {
        let data = self.programs.fresh()?;
        let prefix = format!("{}-", unique("bench"));
        let mut flags = vec!["--topic-prefix", &prefix];
        if let Some(brokers) = brokers {
            flags.extend(["--brokers", brokers]);
        }
        let ports = Ports::free();
        let beside = Ports { http: free_port(), ..ports };
        let some = ["--projections", "account_balance,account_transactions,daily_summary"];
        let query_flags = [&flags[..], &some].concat();
        let _command = self.programs.start("command", data.path(), ports, &flags).daybook;
        let query = self.programs.start("query", data.path(), beside, &query_flags).daybook;
        // From here on they have files, and go on from their place instead of being built.
        let opened = open_accounts(&ports.command_url()).await?;
        reached(&ports.query_url(), opened).await?;
        ensure!(query.terminate().success(), "the query process did not end well");
        let head = fill(&ports.command_url(), EVENTS).await?;
        let mut alone = None;
        if let Some(brokers) = brokers {
            published(&ports.command_url(), head).await?;
            alone = Some(Reading::begin(brokers, &prefix)?.rate(head)?);
        }
        let began = Instant::now();
        let query = self.programs.start("query", data.path(), beside, &query_flags).daybook;
        reached(&ports.query_url(), head).await.with_context(|| query.log_lines())?;
        Ok(CaughtUp { own: (head - opened) as f64 / began.elapsed().as_secs_f64(), alone })
    }

    /// Builds each projection of the bank anew.
    pub async fn rebuild(&mut self) -> Result<()> {
        self.rows()?;
        let system = self.programs.single("dev")?;
        open_accounts(&system.ports.command_url()).await?;
        let head = fill(&system.ports.command_url(), EVENTS).await?;
        reached(&system.ports.query_url(), head).await?;
        let mut client = projections(&system.ports.query_url()).await?;
        for status in list(&mut client).await? {
            let mut rates = Vec::new();
            for _ in 0..self.windows {
                let began = Instant::now();
                rebuild(&mut client, &status.name).await?;
                rates.push(head as f64 / began.elapsed().as_secs_f64());
            }
            let rate = median(rates);
            let name = format!("rebuild of {} and comparison", status.name);
            self.figure(&name, rate, "events/s");
            self.floor(&name, "≥ 300,000 events/s", rate, rate >= 300_000.0);
        }
        Ok(())
    }
}

/// Builds a projection anew, until its new generation has taken the place of the old one.
async fn rebuild(client: &mut ProjectionServiceClient<Channel>, name: &str) -> Result<()> {
    let began = Instant::now();
    client.rebuild_projection(RebuildProjectionRequest { name: name.to_owned() }).await?;
    loop {
        let request = GetProjectionRequest { name: name.to_owned() };
        let now = client.get_projection(request).await?.into_inner();
        let rebuild = now.projection.context("no status")?.rebuild;
        match rebuild.map(|rebuild| rebuild.stage()) {
            Some(RebuildStage::Done) => return Ok(()),
            Some(RebuildStage::Failed) => bail!("the rebuild failed"),
            _ => tokio::time::sleep(POLL).await,
        }
        ensure!(began.elapsed() < PATIENCE, "the rebuild does not end");
    }
}

async fn projections(url: &str) -> Result<ProjectionServiceClient<Channel>> {
    Ok(ProjectionServiceClient::new(connect(url).await?))
}

/// Waits until all projections reflect a position.
pub async fn all_reached(url: &str, position: u64) -> Result<()> {
    let mut client = projections(url).await?;
    let began = Instant::now();
    loop {
        let statuses = client.list_projections(ListProjectionsRequest {}).await?.into_inner();
        if statuses.projections.iter().all(|status| status.position >= position) {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "the projections do not catch up: {statuses:?}");
        tokio::time::sleep(POLL).await;
    }
}

async fn list(client: &mut ProjectionServiceClient<Channel>) -> Result<Vec<ProjectionStatus>> {
    let answer = client.list_projections(ListProjectionsRequest {}).await?.into_inner();
    let mut projections = answer.projections;
    projections.retain(|projection| {
        ["account_balance", "account_transactions", "daily_summary"]
            .contains(&projection.name.as_str())
    });
    Ok(projections)
}

/// Waits until all projections of the bank reflect a position.
pub(crate) async fn reached(url: &str, position: u64) -> Result<()> {
    let mut client = projections(url).await?;
    let began = Instant::now();
    loop {
        let statuses = list(&mut client).await?;
        if statuses.iter().all(|status| status.position >= position) {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "the projections do not catch up: {statuses:?}");
        tokio::time::sleep(POLL).await;
    }
}

/// The end of the log.
pub(crate) async fn head(url: &str) -> Result<u64> {
    let mut client = EventLogServiceClient::new(connect(url).await?);
    Ok(client.get_log_info(GetLogInfoRequest {}).await?.into_inner().head_position)
}

/// The least position of the projections of the bank.
pub(crate) async fn lowest(url: &str) -> Result<u64> {
    let statuses = list(&mut projections(url).await?).await?;
    Ok(statuses.iter().map(|status| status.position).min().unwrap_or_default())
}

/// Waits until everything up to a position is on Kafka.
pub(crate) async fn published(url: &str, position: u64) -> Result<()> {
    let mut client = EventLogServiceClient::new(connect(url).await?);
    let began = Instant::now();
    loop {
        let info = client.get_log_info(GetLogInfoRequest {}).await?.into_inner();
        if info.published_position >= position {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "publishing does not catch up: {info:?}");
        tokio::time::sleep(POLL).await;
    }
}
