//! Redpanda in a container, for machines with a Docker engine.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::broker::await_ready;
use crate::wait::{free_port, unique};

/// The same as in docker-compose.yml.
const IMAGE: &str = "redpandadata/redpanda:v26.2.1";

/// Removes the container when the standard input ends, which it does with the test process.
const WATCHDOG: &str = r#"read -r _; exec docker rm -f "$0" >/dev/null 2>&1"#;

/// A container with Redpanda.
#[derive(Debug)]
pub(crate) struct Redpanda {
    name: String,
    port: u16,
    watchdog: Child,
}

impl Redpanda {
    /// Whether a Docker engine answers.
    pub(crate) fn is_possible() -> bool {
        docker(&["info", "--format", "{{.ServerVersion}}"]).is_ok()
    }

    pub(crate) fn start() -> Result<Self> {
        let name = unique("daybook-test");
        let port = free_port();
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, &name])
            .stdin(Stdio::piped())
            .spawn()
            .context("starting sh")?;
        let this = Self { name, port, watchdog };
        let publish = format!("127.0.0.1:{port}:{port}");
        let listen = format!("PLAINTEXT://0.0.0.0:{port}");
        let advertise = format!("PLAINTEXT://127.0.0.1:{port}");
        docker(&[
            "run",
            "--detach",
            "--name",
            &this.name,
            "--publish",
            &publish,
            IMAGE,
            "redpanda",
            "start",
            "--mode",
            "dev-container",
            "--smp",
            "1",
            "--memory",
            "1G",
            "--kafka-addr",
            &listen,
            "--advertise-kafka-addr",
            &advertise,
            "--set",
            "redpanda.auto_create_topics_enabled=false",
        ])?;
        await_ready(&this.bootstrap())?;
        Ok(this)
    }

    pub(crate) fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn kill(&self) -> Result<()> {
        docker(&["kill", "--signal", "KILL", &self.name])
    }

    pub(crate) fn restart(&self) -> Result<()> {
        docker(&["start", &self.name])?;
        await_ready(&self.bootstrap())
    }
}

impl Drop for Redpanda {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        // If the watchdog is gone, there is nothing to be done about it.
        let _ = self.watchdog.wait();
    }
}

fn docker(args: &[&str]) -> Result<()> {
    let output = Command::new("docker")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .context("starting docker")?;
    ensure!(
        output.status.success(),
        "docker {}: {}",
        args[0],
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
