//! The `daybook` binary as a process of a test.

use std::ffi::OsStr;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::wait::free_port;

/// How long a process may take to get ready or to end: plenty, for a slow machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// How long an answer over HTTP may take. A port where nobody listens refuses at once.
const HTTP_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the services of a process listen.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// The command service.
    pub command: u16,
    /// The query service.
    pub query: u16,
    /// The saga service.
    pub saga: u16,
    /// Metrics and health.
    pub http: u16,
}

impl Ports {
    /// Free ports.
    pub fn free() -> Self {
        Self { command: free_port(), query: free_port(), saga: free_port(), http: free_port() }
    }

    /// The same ports, but others for sagas and for metrics and health: for a second process beside.
    pub fn beside(self) -> Self {
        Self { saga: free_port(), http: free_port(), ..self }
    }

    /// The URL of the command service.
    pub fn command_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.command)
    }

    /// The URL of the query service.
    pub fn query_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.query)
    }

    /// The URL of the saga service.
    pub fn saga_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.saga)
    }

    /// The URL of metrics and health.
    pub fn http_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }
}

/// A command that starts `binary` as a process that gives way to the others of its session and
/// cgroup, as the README says it (`SCHED_IDLE`, sched(7)). It needs `chrt` of util-linux.
pub fn giving_way(binary: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("chrt");
    command.args(["--idle", "0"]).arg(binary);
    command
}

/// A running `daybook`. It is killed when dropped.
pub struct Daybook {
    /// Where it listens.
    pub ports: Ports,
    mode: String,
    child: Child,
    lines: PathBuf,
}

impl Daybook {
    /// Starts `daybook MODE` and waits until it is ready. `binary` is
    /// `env!("CARGO_BIN_EXE_daybook")`; its log lines go to a file beside the data.
    ///
    /// # Panics
    /// When it ends or does not get ready; with its log lines.
    pub fn start(binary: &str, mode: &str, data: &Path, ports: Ports, more: &[&str]) -> Self {
        Self::spawn(binary, mode, data, ports, more).until_ready()
    }

    /// Waits until it is ready.
    ///
    /// # Panics
    /// When it ends or does not get ready; with its log lines.
    pub fn until_ready(mut self) -> Self {
        let started = Instant::now();
        while !self.is_ready() {
            if let Some(status) = self.ended() {
                panic!("daybook {} ended with {status}:\n{}", self.mode, self.log_lines());
            }
            assert!(
                started.elapsed() < PATIENCE,
                "daybook {} is not ready:\n{}",
                self.mode,
                self.log_lines()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        self
    }

    /// Starts `daybook MODE` without waiting.
    pub fn spawn(binary: &str, mode: &str, data: &Path, ports: Ports, more: &[&str]) -> Self {
        Self::spawn_as(Command::new(binary), mode, data, ports, more)
    }

    /// The same with a command that has more to it than the name of the binary.
    pub fn spawn_as(
        mut command: Command,
        mode: &str,
        data: &Path,
        ports: Ports,
        more: &[&str],
    ) -> Self {
        std::fs::create_dir_all(data).expect("the directory can be made");
        let lines = data.join(format!("{mode}.log"));
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&lines)
            .expect("the file can be made");
        let child = command
            .arg(mode)
            .arg("--data")
            .arg(data)
            .args(["--command-listen", &format!("127.0.0.1:{}", ports.command)])
            .args(["--query-listen", &format!("127.0.0.1:{}", ports.query)])
            .args(["--saga-listen", &format!("127.0.0.1:{}", ports.saga)])
            .args(["--http", &format!("127.0.0.1:{}", ports.http)])
            .args(["--log", &ports.command_url()])
            .args(more)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file can be shared"))
            .stderr(file)
            .spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?} did not start: {error}"));
        Self { ports, mode: mode.to_owned(), child, lines }
    }

    /// The id of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether `/readyz` says yes.
    pub fn is_ready(&self) -> bool {
        http_get(self.ports.http, "/readyz").is_some_and(|(code, _)| code == 200)
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the process is ours")
    }

    /// Kills it as a power cut would (SIGKILL).
    pub fn kill(&mut self) {
        self.child.kill().expect("the process is ours");
        self.child.wait().expect("the process is ours");
    }

    /// Sends a signal, by the name that `kill` takes: `TERM`, `STOP`, `CONT`.
    pub fn signal(&self, name: &str) {
        let sent =
            Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "signal {name} was not sent");
    }

    /// Asks it to end (SIGTERM) and waits.
    pub fn terminate(mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait()
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// When it does not end; with its log lines.
    pub fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "it does not end:\n{}", self.log_lines());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What it printed so far.
    pub fn log_lines(&self) -> String {
        std::fs::read_to_string(&self.lines).unwrap_or_default()
    }
}

impl Drop for Daybook {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A GET on 127.0.0.1: the status code and the body. `None` when nobody answers.
pub fn http_get(port: u16, path: &str) -> Option<(u16, String)> {
    use std::io::Write;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = TcpStream::connect_timeout(&address, HTTP_TIMEOUT).ok()?;
    stream.set_read_timeout(Some(HTTP_TIMEOUT)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let code = head.split_whitespace().nth(1)?.parse().ok()?;
    Some((code, body.to_owned()))
}
