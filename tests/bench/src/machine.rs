//! What the machine says of itself: processor time, memory, and how long its disk takes.

use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::load;

/// The ticks of /proc in a second; a constant of the kernel's interface on all that it runs on.
const TICKS: f64 = 100.0;

/// A page of the disk, and of SQLite.
const PAGE: usize = 4096;

/// The pages of the file that [`fdatasync`] writes to in turn.
const PAGES: u64 = 4096;

/// Processor time so far, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Processor {
    servers: f64,
    bench: f64,
    everybody: f64,
}

/// Processor time within a window, in seconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Usage {
    /// Of the servers.
    pub servers: f64,
    /// Of the clients, in this process.
    pub bench: f64,
    /// Of everything else on the machine: what makes figures doubtful.
    pub others: f64,
}

impl Processor {
    /// Reads what the server processes, this process and the machine have used.
    pub fn read(servers: &[u32]) -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().context("/proc/stat is empty")?;
        let ticks: Vec<f64> = line.split_whitespace().skip(1).flat_map(str::parse).collect();
        // user nice system idle iowait irq softirq steal; the rest is part of these.
        let busy = [0, 1, 2, 5, 6, 7].iter().flat_map(|at| ticks.get(*at)).sum::<f64>();
        let servers = servers.iter().map(|id| process(*id)).sum::<Result<f64>>()?;
        Ok(Self { servers, bench: process(std::process::id())?, everybody: busy / TICKS })
    }

    /// What was used since an earlier reading.
    pub fn since(&self, before: &Self) -> Usage {
        let (servers, bench) = (self.servers - before.servers, self.bench - before.bench);
        let others = (self.everybody - before.everybody - servers - bench).max(0.0);
        Usage { servers, bench, others }
    }
}

/// The user and system time of a process.
fn process(id: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat"))
        .with_context(|| format!("process {id} has ended"))?;
    // The name stands in parentheses and may hold anything; the fields follow it.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let times = fields.split_whitespace().skip(11).take(2);
    Ok(times.flat_map(str::parse::<f64>).sum::<f64>() / TICKS)
}

/// The memory of a process, in MB (10^6 bytes).
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Memory {
    /// Resident, the pages of the program's own file included.
    pub resident_mb: f64,
    /// The same, with shared pages counted in part.
    pub proportional_mb: f64,
    /// Resident and not backed by a file: heap and stacks.
    pub anonymous_mb: f64,
}

/// Reads the memory of a process.
pub fn memory(id: u32) -> Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let rollup = fs::read_to_string(format!("/proc/{id}/smaps_rollup"))?;
    Ok(Memory {
        resident_mb: kilobytes(&status, "VmRSS:")?,
        proportional_mb: kilobytes(&rollup, "Pss:")?,
        anonymous_mb: kilobytes(&status, "RssAnon:")?,
    })
}

fn kilobytes(text: &str, field: &str) -> Result<f64> {
    let line = text.lines().find(|line| line.starts_with(field));
    let value = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    Ok(value.with_context(|| format!("no {field} in /proc"))? * 1024.0 / 1e6)
}

/// Writes pages of 4 KiB in turn to a file that has its size already, as a database does, and
/// waits for the disk after each.
pub fn fdatasync(directory: &Path, time: Duration) -> Result<Histogram<u64>> {
    let path = directory.join("fdatasync");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
    let page = [0x5a_u8; PAGE];
    for _ in 0..PAGES {
        file.write_all(&page)?;
    }
    file.sync_all()?;
    let mut latency = load::histogram();
    let end = Instant::now() + time;
    let mut at = 0;
    while Instant::now() < end {
        let started = Instant::now();
        file.seek(SeekFrom::Start(at * PAGE as u64))?;
        file.write_all(&page)?;
        file.sync_data()?;
        load::record(&mut latency, started.elapsed());
        at = (at + 1) % PAGES;
    }
    fs::remove_file(path)?;
    Ok(latency)
}

/// What a reader of the figures must know of the machine.
#[derive(Debug, Serialize, Deserialize)]
pub struct Machine {
    /// The processors that this process may use.
    pub processors: usize,
    /// Their name.
    pub model: String,
    /// The kernel.
    pub kernel: String,
    /// The load average of the last minute before the run.
    pub load_before: String,
}

impl Machine {
    /// This machine.
    pub fn this() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
        let load = read("/proc/loadavg");
        Self {
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            model: model.unwrap_or("unknown").trim_start_matches(['\t', ' ', ':']).to_owned(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_before: load.split_whitespace().next().unwrap_or_default().to_owned(),
        }
    }
}
