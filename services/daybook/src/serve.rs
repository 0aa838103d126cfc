//! Listening, and serving gRPC until the shutdown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::TryStreamExt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::server::HealthReporter;
use tracing::warn;

use crate::config::Config;
use crate::gather::Gather;
use crate::http::{Health, Report};
use crate::middleware::{AllowAll, Middleware};

/// The streams of one connection: what 256 busy clients behind one proxy need, four times over.
const MAX_STREAMS: u32 = 1024;

/// A silent connection is asked for a sign of life after this, and closed after the timeout.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection is renewed after this, so that clients spread anew over servers that were added.
const CONNECTION_AGE: Duration = Duration::from_secs(3600);
const CONNECTION_GRACE: Duration = Duration::from_secs(60);

/// Binds an address. The error names the flag that changes it.
pub async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}: choose another address with {flag} HOST:PORT")
    })
}

/// How often the gRPC health is brought up to date.
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);

/// A gRPC server that runs.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    health: HealthReporter,
    services: Vec<&'static str>,
    task: JoinHandle<Result<(), tonic::transport::Error>>,
}

/// Serves routes, with health and reflection beside them. No new requests are taken once
/// `closing` is true.
pub async fn serve(
    listener: TcpListener,
    config: &Config,
    routes: Routes,
    services: Vec<&'static str>,
    closing: watch::Receiver<bool>,
) -> anyhow::Result<Running> {
    let address = listener.local_addr()?;
    let (health, health_service) = tonic_health::server::health_reporter();
    report(&health, &services, true).await;
    let reflection = || {
        services.iter().fold(
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(daybook_contract::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                // The details of errors, so that grpcurl shows them.
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
                .with_service_name("grpc.health.v1.Health"),
            |builder, service| builder.with_service_name(*service),
        )
    };
    let routes = routes
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    let middleware = Middleware::new(
        Arc::new(AllowAll),
        config.max_requests,
        Duration::from_millis(config.request_timeout_ms),
    );
    let server = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_connection_age(CONNECTION_AGE)
        .max_connection_age_grace(CONNECTION_GRACE)
        .layer(middleware)
        .add_routes(routes);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let incoming = incoming.map_ok(Gather::new);
    let task = tokio::spawn(server.serve_with_incoming_shutdown(incoming, until_closing(closing)));
    Ok(Running { address, health, services, task })
}

async fn until_closing(mut closing: watch::Receiver<bool>) {
    let _ = closing.wait_for(|closing| *closing).await;
}

async fn report(reporter: &HealthReporter, services: &[&'static str], serving: bool) {
    let status = match serving {
        true => tonic_health::ServingStatus::Serving,
        false => tonic_health::ServingStatus::NotServing,
    };
    for service in services {
        reporter.set_service_status(*service, status).await;
    }
}

impl Running {
    /// From now on the gRPC health of the services says whether their parts can do their work.
    pub fn follow(&self, parts: Arc<dyn Health>, mut closing: watch::Receiver<bool>) {
        let (reporter, services) = (self.health.clone(), self.services.clone());
        tokio::spawn(async move {
            // Whoever watches the health is told of changes only.
            let mut last = true;
            while !*closing.borrow_and_update() {
                let serving = parts.reports().iter().all(Report::is_working);
                if serving != last {
                    report(&reporter, &services, serving).await;
                    last = serving;
                }
                let _ = tokio::time::timeout(HEALTH_INTERVAL, closing.changed()).await;
            }
            report(&reporter, &services, false).await;
        });
    }

    /// Tells health checks that the end is near.
    pub async fn not_serving(&self) {
        report(&self.health, &self.services, false).await;
    }

    /// Waits for requests under way, at most for the deadline. `closing` must be true.
    pub async fn drained(mut self, deadline: Duration) {
        if tokio::time::timeout(deadline, &mut self.task).await.is_err() {
            warn!(?deadline, "requests were still under way at the deadline and are cut off");
            self.task.abort();
        }
    }

    /// Waits for the server to fail; while it serves, this does not return.
    pub async fn failed(&mut self) -> anyhow::Error {
        match (&mut self.task).await {
            Ok(Ok(())) => anyhow::anyhow!("the gRPC server ended by itself"),
            Ok(Err(error)) => error.into(),
            Err(error) => error.into(),
        }
    }
}
