//! Peers: what else one could take, under the same load in turns with daybook.
//!
//! UmaDB comes as a program of its own (tests/peers), outside the workspace, since it is much to
//! build; the plain design ([`crate::plain`]) is part of this one.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use daybook_testing::{TempDir, free_port};

use crate::bank::{ACCOUNTS, Deposits, connections_for};
use crate::load::{self, Asked, Times, Told, Window};
use crate::report::Row;
use crate::scenarios::{Bench, CLIENTS, EVENLY, MANY_CLIENTS};
use crate::{PLAIN_SERVER, noop};

/// Where the program of the peers is, seen from the directory of this one.
const PROGRAM: &str = "../peers/release/daybook-peers";

/// How it gets there.
const BUILD: &str = "cargo build --release --manifest-path tests/peers/Cargo.toml \
                     --target-dir target/peers";

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

impl Bench {
    /// Deposits, in turns with an append to UmaDB and with a deposit to the plain design.
    pub async fn peers(&mut self) -> Result<()> {
        let system = self.commands().await?;
        let data = self.programs.fresh()?;
        let plain = noop::Process::start([OsStr::new(PLAIN_SERVER), data.path().as_os_str()])?;
        let mut uma = self.umadb()?;
        for clients in CLIENTS {
            let (mut own, mut designed, mut appended) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..self.windows {
                if let Some(uma) = &mut uma {
                    appended.push(uma.load(clients, self.times)?);
                }
                own.push(self.deposits(&system, clients, &EVENLY).await?);
                let deposits = Deposits::clients(&plain.url, clients, &EVENLY).await?;
                designed.push(load::closed(deposits, self.times, &[plain.id()]).await?);
            }
            let own = self.summary(own);
            let name = format!("Deposit, {clients} clients");
            if uma.is_some() {
                let appended = self.summary(appended);
                let row = Row::beside(name.clone(), own.clone(), "UmaDB append", appended);
                self.share(&format!("Deposit by {clients} clients, of UmaDB"), &row, 130.0);
                self.row(row);
            }
            let designed = self.summary(designed);
            let row = Row::beside(name, own, "plain design", designed);
            if clients == MANY_CLIENTS {
                let name = format!("Deposit by {clients} clients, of the plain design");
                self.share(&name, &row, 1000.0);
            }
            self.row(row);
        }
        Ok(())
    }

    fn umadb(&self) -> Result<Option<Uma>> {
        let own = std::env::current_exe()?;
        let program = own.parent().context("this program is in no directory")?.join(PROGRAM);
        if !program.is_file() {
            eprintln!(
                "UmaDB is left out, since there is no {}; build it with\n  {BUILD}\nwhich needs \
                 protoc (Debian has it in protobuf-compiler)",
                program.display()
            );
            return Ok(None);
        }
        Uma::start(program, self.programs.fresh()?).map(Some)
    }
}

/// UmaDB and its clients, a process each. They end when this is dropped.
struct Uma {
    clients: Child,
    asked: ChildStdin,
    told: BufReader<ChildStdout>,
    server: Child,
    _data: TempDir,
}

impl Uma {
    fn start(program: PathBuf, data: TempDir) -> Result<Self> {
        let address = format!("127.0.0.1:{}", free_port());
        let server = Command::new(&program)
            .args(["server", &address])
            .arg(data.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("UmaDB cannot be started")?;
        let began = Instant::now();
        while TcpStream::connect(&address).is_err() {
            ensure!(began.elapsed() < PATIENCE, "UmaDB does not listen at {address}");
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut clients = Command::new(&program)
            .args(["clients", &format!("http://{address}"), &server.id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the clients of UmaDB cannot be started")?;
        let asked = clients.stdin.take().context("the clients of UmaDB have no input")?;
        let told = clients.stdout.take().context("the clients of UmaDB have no output")?;
        Ok(Self { clients, asked, told: BufReader::new(told), server, _data: data })
    }

    fn load(&mut self, clients: usize, times: Times) -> Result<Window> {
        let connections = connections_for(clients);
        let asked = Asked { clients, connections, accounts: ACCOUNTS, times };
        writeln!(self.asked, "{}", serde_json::to_string(&asked)?)?;
        let mut line = String::new();
        self.told.read_line(&mut line)?;
        let told: Told = serde_json::from_str(&line).context("a load of UmaDB failed")?;
        Ok(told.into())
    }
}

impl Drop for Uma {
    fn drop(&mut self) {
        for child in [&mut self.clients, &mut self.server] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
