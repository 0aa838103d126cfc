//! A connection, and all requests that come over it, in one task.
//!
//! A task for each request, as is usual, is woken by each answer alone, on whichever processor is
//! idle, and wakes the task of the connection in turn. The answers to a group of commands become
//! known at the same moment: here one task takes them up, writes them at once, and begins what was
//! read meanwhile.

use std::convert::Infallible;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tonic::body::Body;
use tower::Service;
use tracing::{debug, error};

use crate::gather::Gather;

/// The streams of one connection: what 256 busy clients behind one proxy need, four times over.
const MAX_STREAMS: u32 = 1024;

/// A silent connection is asked for a sign of life after this, and closed after the timeout.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection is renewed after this, so that clients spread anew over servers that were added.
const AGE: Duration = Duration::from_secs(3600);

/// What is under way on an old connection may take this long.
const GRACE: Duration = Duration::from_secs(60);

/// The requests that were read and not begun yet.
#[derive(Clone, Default)]
struct Arrived(Arc<Mutex<Vec<BoxFuture<'static, ()>>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Arrived {
    fn execute(&self, request: F) {
        self.lock().push(alone(request).boxed());
    }
}

impl Arrived {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<BoxFuture<'static, ()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A fault in the code of one request ends that request, not the others of its connection.
async fn alone(request: impl Future<Output = ()>) {
    if AssertUnwindSafe(request).catch_unwind().await.is_err() {
        error!("a request panicked");
    }
}

/// Serves a connection until the client ends it, or it is old, or everything on it is answered
/// after `closing`.
pub async fn serve<S>(stream: TcpStream, service: S, mut closing: watch::Receiver<bool>)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "the connection was over before it began");
        return;
    }
    let arrived = Arrived::default();
    let service = service_fn(move |request: Request<Incoming>| {
        let mut service = service.clone();
        async move {
            let ready = poll_fn(|cx| service.poll_ready(cx)).await;
            ready.unwrap_or_else(|never: Infallible| match never {});
            service.call(request.map(Body::new)).await
        }
    });
    let connection = http2::Builder::new(arrived.clone())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .serve_connection(TokioIo::new(Gather::new(stream)), service);
    let mut connection = pin!(connection);
    let mut requests = FuturesUnordered::new();
    let mut limit = pin!(tokio::time::sleep(AGE));
    let mut is_last = false;
    loop {
        tokio::select! {
            biased;
            ended = poll_fn(|cx| poll(connection.as_mut(), &arrived, &mut requests, cx)) => {
                if let Err(error) = ended {
                    debug!(%error, "a connection failed");
                }
                return;
            }
            _ = closing.wait_for(|closing| *closing), if !is_last => {}
            () = &mut limit => {
                if is_last {
                    debug!("a connection was cut off");
                    return;
                }
                limit.as_mut().reset(tokio::time::Instant::now() + GRACE);
            }
        }
        // No new requests from here on. After `closing`, the server as a whole has a deadline.
        is_last = true;
        connection.as_mut().graceful_shutdown();
    }
}

/// Answers what can be answered, writes it and reads what has come, and begins that.
fn poll<C: Future>(
    connection: Pin<&mut C>,
    arrived: &Arrived,
    requests: &mut FuturesUnordered<BoxFuture<'static, ()>>,
    cx: &mut Context<'_>,
) -> Poll<C::Output> {
    while let Poll::Ready(Some(())) = requests.poll_next_unpin(cx) {}
    let ended = connection.poll(cx);
    requests.extend(arrived.lock().drain(..));
    while let Poll::Ready(Some(())) = requests.poll_next_unpin(cx) {}
    ended
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::sync::Notify;
    use tokio::task::JoinHandle;
    use tonic::transport::{Channel, Error};
    use tower::ServiceExt;

    use super::*;

    /// A server of one connection, and its client.
    struct Site {
        channel: Channel,
        closing: watch::Sender<bool>,
        served: JoinHandle<()>,
        /// A request waits.
        waits: Arc<Notify>,
        go_on: Arc<Notify>,
    }

    impl Site {
        async fn new() -> Self {
            let (waits, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
            let notifies = (waits.clone(), go_on.clone());
            let service = tower::service_fn(move |request: Request<Body>| {
                let (waits, go_on) = notifies.clone();
                async move {
                    match request.uri().path() {
                        "/panic" => panic!("a fault"),
                        "/wait" => {
                            waits.notify_one();
                            go_on.notified().await;
                        }
                        _ => {}
                    }
                    Ok::<_, Infallible>(Response::new(Body::empty()))
                }
            });
            let (closing, watch) = watch::channel(false);
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let served = tokio::spawn(async move {
                let (stream, _) = listener.accept().await.unwrap();
                serve(stream, service, watch).await;
            });
            let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
            Self { channel, closing, served, waits, go_on }
        }

        fn call(&self, path: &str) -> JoinHandle<Result<Response<Body>, Error>> {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            let channel = self.channel.clone();
            tokio::spawn(async move { channel.oneshot(request).await })
        }
    }

    #[tokio::test]
    async fn a_request_that_panics_ends_alone() {
        let site = Site::new().await;
        let waiting = site.call("/wait");
        site.waits.notified().await;
        assert!(site.call("/panic").await.unwrap().is_err());
        assert!(site.call("/").await.unwrap().is_ok());
        site.go_on.notify_one();
        assert!(waiting.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn what_is_under_way_is_answered_before_the_end() {
        let site = Site::new().await;
        let waiting = site.call("/wait");
        site.waits.notified().await;
        site.closing.send_replace(true);
        tokio::task::yield_now().await;
        assert!(!site.served.is_finished());
        site.go_on.notify_one();
        assert!(waiting.await.unwrap().is_ok());
        site.served.await.unwrap();
    }
}
