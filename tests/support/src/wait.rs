//! Waiting, ports and names.

use std::future::Future;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
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

/// A port of 127.0.0.1 that nobody uses and that stays free while a server is down between two starts. It is
/// below the range from which systems take the ports of outgoing connections: a client that knocks
/// at a dead server could be given the server's own port there, and be connected to itself.
///
/// # Panics
/// When the machine has none.
pub fn free_port() -> u16 {
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 18_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Several test processes begin at different places.
    let start = std::process::id().wrapping_mul(2_654_435_761) % u32::from(COUNT);
    let start = u16::try_from(start).expect("it is below a u16");
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let offset = (u32::from(start) + u32::from(step)) % u32::from(COUNT);
        let port = FIRST + u16::try_from(offset).expect("it is below a u16");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port from {FIRST} on is free");
}

/// A name that no other test has, on this machine or on a shared broker: `<prefix>-<unique>`.
pub fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    format!("{prefix}-{:x}-{:x}-{count}", since.as_millis(), std::process::id())
}
