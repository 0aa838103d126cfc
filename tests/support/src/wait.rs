//! Waiting, ports and names.

use std::future::Future;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long [`eventually`] sleeps between two attempts: short, so that tests are quick, and long
/// enough not to take the processor from what is waited for.
const PAUSE: Duration = Duration::from_millis(10);

/// Repeats `check` until it gives something, at most for `timeout`. A timeout is only a guard
/// against hanging: give it plenty, for a slow machine.
///
/// # Panics
/// When the time is over.
#[track_caller]
pub fn eventually<T, F, Fut>(timeout: Duration, mut check: F) -> impl Future<Output = T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(value) = check().await {
                return value;
            }
            assert!(Instant::now() < deadline, "still not so after {timeout:?}, at {caller}");
            sleep(PAUSE).await;
        }
    }
}

/// A port of 127.0.0.1 that was free a moment ago. Where a server can choose its own port, let it.
///
/// # Panics
/// When the machine has none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("the machine has a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// A name that no other test has, on this machine or on a shared broker: `<prefix>-<unique>`.
pub fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    format!("{prefix}-{:x}-{:x}-{count}", since.as_millis(), std::process::id())
}
