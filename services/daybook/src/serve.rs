//! Listening, and serving gRPC until the shutdown.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http::{Request, Response};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tonic::body::Body;
use tonic::service::Routes;
use tonic_health::server::HealthReporter;
use tower::{Layer, Service};
use tracing::warn;

use crate::config::Config;
use crate::connection;
use crate::http::{Health, Report};
use crate::middleware::{AllowAll, Middleware};

/// The pause after a connection could not be accepted, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
    task: JoinHandle<()>,
}

/// Serves what `over` puts over routes, with health and reflection beside them. No new requests are
/// taken once `closing` is true.
pub async fn serve<S>(
    listener: TcpListener,
    config: &Config,
    routes: Routes,
    over: impl FnOnce(Routes) -> S,
    services: Vec<&'static str>,
    closing: watch::Receiver<bool>,
) -> anyhow::Result<Running>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
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
    let service = middleware.layer(over(routes.prepare()));
    let task = tokio::spawn(accept(listener, service, closing));
    Ok(Running { address, health, services, task })
}

/// Serves each connection in a task of its own, until all of them have ended after `closing`.
async fn accept<S>(listener: TcpListener, service: S, mut closing: watch::Receiver<bool>)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    let mut connections = JoinSet::new();
    let each = closing.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            _ = closing.wait_for(|closing| *closing) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(connection::serve(stream, service.clone(), each.clone()));
            }
            Err(error) => {
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Nobody can connect while the rest is answered.
    drop(listener);
    while connections.join_next().await.is_some() {}
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
            Ok(()) => anyhow::anyhow!("the gRPC server ended by itself"),
            Err(error) => error.into(),
        }
    }
}
