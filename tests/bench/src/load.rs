//! Load: clients that wait for each answer (closed loop), requests that come at their time whether
//! or not the last one was answered (open loop), and streams with a window of commands in flight.
//!
//! Nothing here knows what is called.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::machine::{Processor, Usage};

/// Latencies are kept in microseconds, to three significant digits, up to this.
const LONGEST: Duration = Duration::from_secs(60);

/// How long a load lasts.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Times {
    /// What is thrown away at the start.
    pub warm_up: Duration,
    /// What is measured.
    pub window: Duration,
}

/// One measured window.
#[derive(Debug)]
pub struct Window {
    /// The answers within the window.
    pub answers: u64,
    /// How long it was.
    pub seconds: f64,
    /// How long each answer took, in microseconds.
    pub latency: Histogram<u64>,
    /// What the processor did meanwhile.
    pub usage: Usage,
}

impl Window {
    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.answers as f64 / self.seconds
    }
}

/// What one process asks another to run: a closed loop.
#[derive(Debug, Serialize, Deserialize)]
pub struct Asked {
    /// How many clients.
    pub clients: usize,
    /// Over how many connections.
    pub connections: usize,
    /// To how many accounts.
    pub accounts: u64,
    /// For how long.
    pub times: Times,
}

/// A window as one process tells it another.
#[derive(Debug, Serialize, Deserialize)]
pub struct Told {
    seconds: f64,
    /// Each latency in microseconds, and how many answers took it.
    latency: Vec<(u64, u64)>,
    usage: Usage,
}

impl From<Window> for Told {
    fn from(window: Window) -> Self {
        let recorded = window.latency.iter_recorded();
        let latency =
            recorded.map(|at| (at.value_iterated_to(), at.count_since_last_iteration())).collect();
        Self { seconds: window.seconds, latency, usage: window.usage }
    }
}

impl From<Told> for Window {
    fn from(told: Told) -> Self {
        let mut latency = histogram();
        for (micros, count) in told.latency {
            latency.saturating_record_n(micros, count);
        }
        Self { answers: latency.len(), seconds: told.seconds, latency, usage: told.usage }
    }
}

/// An empty histogram of latencies.
pub fn histogram() -> Histogram<u64> {
    let longest = LONGEST.as_micros() as u64;
    Histogram::new_with_max(longest, 3).expect("the bounds of the histogram are constants")
}

/// Adds a latency; what is longer than the longest counts as that.
pub fn record(histogram: &mut Histogram<u64>, took: Duration) {
    histogram.saturating_record(took.as_micros() as u64);
}

/// A client of a closed loop.
pub trait Client: Send + 'static {
    /// One request and its answer.
    fn call(&mut self) -> impl Future<Output = Result<()>> + Send;
}

/// Runs clients that each send their next request when the last one was answered. `servers` are
/// the processes whose processor time is counted.
pub async fn closed<C: Client>(clients: Vec<C>, times: Times, servers: &[u32]) -> Result<Window> {
    let (begin, end) = span(times);
    let mut tasks = JoinSet::new();
    for mut client in clients {
        tasks.spawn(async move {
            let mut latency = histogram();
            loop {
                let started = Instant::now();
                if started >= end {
                    return anyhow::Ok(latency);
                }
                client.call().await?;
                let now = Instant::now();
                if now >= begin && now < end {
                    record(&mut latency, now - started);
                }
            }
        });
    }
    collect(tasks, begin, end, servers).await
}

/// A stream of commands and answers.
pub trait Pipe: Send + 'static {
    /// Sends one command; the pipe has room for a whole window.
    fn send(&mut self) -> Result<()>;
    /// Waits for the next answer.
    fn receive(&mut self) -> impl Future<Output = Result<()>> + Send;
}

/// Keeps `in_flight` commands under way on each pipe. The latency is that of a command behind a
/// full window.
pub async fn pipelined<P: Pipe>(
    pipes: Vec<P>,
    in_flight: usize,
    times: Times,
    servers: &[u32],
) -> Result<Window> {
    let (begin, end) = span(times);
    let mut tasks = JoinSet::new();
    for mut pipe in pipes {
        tasks.spawn(async move {
            let mut latency = histogram();
            let mut sent = std::collections::VecDeque::with_capacity(in_flight);
            for _ in 0..in_flight {
                sent.push_back(Instant::now());
                pipe.send()?;
            }
            while let Some(started) = sent.pop_front() {
                pipe.receive().await?;
                let now = Instant::now();
                if now >= begin && now < end {
                    record(&mut latency, now - started);
                }
                if now < end {
                    sent.push_back(now);
                    pipe.send()?;
                }
            }
            anyhow::Ok(latency)
        });
    }
    collect(tasks, begin, end, servers).await
}

/// Starts a request at each of evenly spaced moments and times it from that moment, even when it
/// could only be sent later: a server that stalls is not asked less often for it (coordinated
/// omission). Each request says `N` latencies.
pub async fn open<const N: usize, F, Fut>(
    rate: u64,
    times: Times,
    servers: &[u32],
    request: F,
) -> Result<([Histogram<u64>; N], Window)>
where
    F: Fn(Instant) -> Fut + Send + 'static,
    Fut: Future<Output = Result<[Duration; N]>> + Send + 'static,
{
    let (begin, end) = span(times);
    let (started, mut tasks) = tokio::sync::mpsc::unbounded_channel();
    let runtime = Handle::current();
    // A thread of its own, since the timers of the runtime only count milliseconds.
    let clock = std::thread::spawn(move || {
        let first = Instant::now();
        for number in 0.. {
            let intended = first + Duration::from_secs_f64(number as f64 / rate as f64);
            if intended >= end {
                return;
            }
            std::thread::sleep(intended.saturating_duration_since(Instant::now()));
            let task = runtime.spawn(request(intended));
            if started.send((intended, task)).is_err() {
                return;
            }
        }
    });
    let mut latencies = [(); N].map(|()| histogram());
    let mut answers = 0;
    let measured = measure(begin, end, servers.to_vec());
    let gathered = async {
        while let Some((intended, task)) = tasks.recv().await {
            let took = task.await.context("a request panicked")??;
            if intended >= begin {
                answers += 1;
                for (latency, took) in latencies.iter_mut().zip(took) {
                    record(latency, took);
                }
            }
        }
        anyhow::Ok(())
    };
    let (usage, gathered) = tokio::join!(measured, gathered);
    gathered?;
    clock.join().map_err(|_| anyhow::anyhow!("the clock panicked"))?;
    let seconds = (end - begin).as_secs_f64();
    let latency = latencies.first().cloned().unwrap_or_else(histogram);
    Ok((latencies, Window { answers, seconds, latency, usage: usage? }))
}

fn span(times: Times) -> (Instant, Instant) {
    let begin = Instant::now() + times.warm_up;
    (begin, begin + times.window)
}

/// What the processor does between two moments.
async fn measure(begin: Instant, end: Instant, servers: Vec<u32>) -> Result<Usage> {
    tokio::time::sleep_until(begin.into()).await;
    let before = Processor::read(&servers)?;
    tokio::time::sleep_until(end.into()).await;
    Ok(Processor::read(&servers)?.since(&before))
}

async fn collect(
    mut tasks: JoinSet<Result<Histogram<u64>>>,
    begin: Instant,
    end: Instant,
    servers: &[u32],
) -> Result<Window> {
    let measured = tokio::spawn(measure(begin, end, servers.to_vec()));
    let mut latency = histogram();
    while let Some(done) = tasks.join_next().await {
        latency.add(done.context("a client panicked")??)?;
    }
    let usage = measured.await.context("the measuring task panicked")??;
    let seconds = (end - begin).as_secs_f64();
    Ok(Window { answers: latency.len(), seconds, latency, usage })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Failing(u64);

    impl Client for Failing {
        async fn call(&mut self) -> Result<()> {
            self.0 += 1;
            tokio::task::yield_now().await;
            anyhow::ensure!(self.0 < 3, "the third call fails");
            Ok(())
        }
    }

    const SHORT: Times =
        Times { warm_up: Duration::from_millis(10), window: Duration::from_millis(30) };

    #[tokio::test]
    async fn a_load_with_a_failure_has_no_figures() {
        // The window is long: a load that went on would be noticed.
        let times = Times { window: Duration::from_secs(3600), ..SHORT };
        let failed = closed(vec![Failing(0)], times, &[]).await.unwrap_err();
        assert_eq!(failed.to_string(), "the third call fails");
    }

    #[test]
    fn a_window_that_another_process_tells_is_the_same() {
        let mut latency = histogram();
        for micros in [0, 7, 7, 123_456] {
            record(&mut latency, Duration::from_micros(micros));
        }
        let usage = Usage { servers: 1.0, bench: 2.0, others: 0.5 };
        let window = Window { answers: 4, seconds: 1.5, latency: latency.clone(), usage };
        let line = serde_json::to_string(&Told::from(window)).unwrap();
        let told = Window::from(serde_json::from_str::<Told>(&line).unwrap());
        assert_eq!((told.answers, told.seconds, told.latency), (4, 1.5, latency));
        assert_eq!((told.usage.servers, told.usage.bench), (1.0, 2.0));
    }

    #[tokio::test]
    async fn an_open_loop_times_a_request_from_the_moment_at_which_it_was_due() {
        let request = |due: Instant| async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok([due.elapsed()])
        };
        let ([latency], window) = open(200, SHORT, &[], request).await.unwrap();
        assert_eq!(window.answers, latency.len());
        assert!(latency.iter_recorded().all(|each| each.value_iterated_to() >= 5_000));
    }
}
