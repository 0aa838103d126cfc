//! The `daybook` processes of a run, each with a directory and ports of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use daybook_testing::{Daybook, Ports, TempDir, free_port, giving_way, unique};

/// How long a process may take to start; with a full store it builds its projections first.
const PATIENCE: Duration = Duration::from_secs(300);

/// The programs and directories of a run.
#[derive(Debug, Clone)]
pub struct Programs {
    binary: PathBuf,
    directory: PathBuf,
}

impl Programs {
    /// Finds `daybook`: where it was said to be, else beside this program. Data go below
    /// `directory`, else beside this program too: the directory for temporary files is often in
    /// memory, where nothing is durable.
    pub fn find(server: Option<PathBuf>, directory: Option<PathBuf>) -> Result<Self> {
        let own = std::env::current_exe()?;
        let beside = own.parent().unwrap_or(Path::new(".")).to_owned();
        let binary = server.unwrap_or_else(|| beside.join("daybook"));
        ensure!(
            binary.is_file(),
            "there is no server at {}; build it with `cargo build --release -p daybook`, or name \
             it with --server FILE",
            binary.display()
        );
        // A bare name would be looked for in PATH.
        let binary = binary.canonicalize()?;
        if cfg!(debug_assertions) {
            bail!("this is a debug build, whose figures mean nothing; run it with --release");
        }
        Ok(Self { binary, directory: directory.unwrap_or(beside) })
    }

    /// A new directory for data.
    pub fn fresh(&self) -> Result<TempDir> {
        Ok(tempfile::Builder::new().prefix("bench-").tempdir_in(&self.directory)?)
    }

    /// Starts `daybook MODE` and waits until it is ready. Says how long that took.
    pub fn start(&self, mode: &str, data: &Path, ports: Ports, more: &[&str]) -> Started {
        self.start_as(Command::new(&self.binary), mode, data, ports, more)
    }

    fn start_as(
        &self,
        command: Command,
        mode: &str,
        data: &Path,
        ports: Ports,
        more: &[&str],
    ) -> Started {
        let started = Instant::now();
        let mut daybook = Daybook::spawn_as(command, mode, data, ports, more);
        while !daybook.is_ready() {
            let ended = daybook.ended();
            assert!(
                ended.is_none() && started.elapsed() < PATIENCE,
                "daybook {mode} did not start ({ended:?}):\n{}",
                daybook.log_lines()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        Started { daybook, took: started.elapsed() }
    }

    /// A system in one process, with an empty store.
    pub fn single(&self, mode: &str) -> Result<System> {
        self.with(mode, &[])
    }

    /// The same with more flags.
    pub fn with(&self, mode: &str, flags: &[&str]) -> Result<System> {
        self.on(self.fresh()?, mode, flags)
    }

    /// The same with a store that somebody has filled.
    pub fn on(&self, data: TempDir, mode: &str, flags: &[&str]) -> Result<System> {
        let ports = Ports::free();
        let process = self.start(mode, data.path(), ports, flags).daybook;
        Ok(System { ports, processes: vec![process], _data: data })
    }

    /// Separate command and query processes with a broker between them. The query process may give
    /// way to the others.
    pub fn over_kafka(&self, brokers: &str, gives_way: bool) -> Result<System> {
        let data = self.fresh()?;
        let prefix = format!("{}-", unique("bench"));
        let flags = ["--brokers", brokers, "--topic-prefix", &prefix];
        let ports = Ports::free();
        let command = self.start("command", data.path(), ports, &flags).daybook;
        let beside = Ports { http: free_port(), ..ports };
        let query = if gives_way { giving_way(&self.binary) } else { Command::new(&self.binary) };
        let query = self.start_as(query, "query", data.path(), beside, &flags).daybook;
        Ok(System { ports, processes: vec![command, query], _data: data })
    }
}

/// A process, and how long it took to get ready.
pub struct Started {
    /// The process.
    pub daybook: Daybook,
    /// From its start to `/readyz`.
    pub took: Duration,
}

/// A running system. It ends when this is dropped.
pub struct System {
    /// Where it listens.
    pub ports: Ports,
    // Before the data: the processes end before their files go.
    processes: Vec<Daybook>,
    _data: TempDir,
}

impl System {
    /// The ids of its processes.
    pub fn ids(&self) -> Vec<u32> {
        self.processes.iter().map(Daybook::id).collect()
    }

    /// What its processes printed.
    pub fn log_lines(&self) -> String {
        self.processes.iter().map(Daybook::log_lines).collect()
    }
}
