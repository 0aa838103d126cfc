//! Redpanda in a container, for machines with a Docker engine.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::broker::await_ready;
use crate::wait::{free_port, unique};

/// The same as in docker-compose.yml.
const IMAGE: &str = "redpandadata/redpanda:v26.2.1";

/// Removes the container when the standard input ends, which it does with the test process.
const WATCHDOG: &str = r#"read -r _; exec "$0" rm -f "$1" >/dev/null 2>&1"#;

/// A container with Redpanda.
#[derive(Debug)]
pub(crate) struct Redpanda {
    docker: Docker,
    name: String,
    port: u16,
    watchdog: Child,
}

impl Redpanda {
    /// Whether a Docker engine answers.
    pub(crate) fn is_possible() -> bool {
        Docker::default().run(&["info", "--format", "{{.ServerVersion}}"]).is_ok()
    }

    pub(crate) fn start() -> Result<Self> {
        Self::start_with(Docker::default(), free_port())
    }

    fn start_with(docker: Docker, port: u16) -> Result<Self> {
        let name = unique("daybook-test");
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG])
            .arg(&docker.program)
            .arg(&name)
            .stdin(Stdio::piped())
            .spawn()
            .context("starting sh")?;
        let this = Self { docker, name, port, watchdog };
        let publish = format!("127.0.0.1:{port}:{port}");
        let listen = format!("PLAINTEXT://0.0.0.0:{port}");
        let advertise = format!("PLAINTEXT://127.0.0.1:{port}");
        this.docker.run(&[
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
        self.docker.run(&["kill", "--signal", "KILL", &self.name])
    }

    pub(crate) fn restart(&self) -> Result<()> {
        self.docker.run(&["start", &self.name])?;
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

/// The command of a Docker engine.
#[derive(Debug)]
struct Docker {
    program: PathBuf,
}

impl Default for Docker {
    fn default() -> Self {
        Self { program: "docker".into() }
    }
}

impl Docker {
    fn run(&self, args: &[&str]) -> Result<()> {
        let output = Command::new(&self.program)
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
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::sync::{Mutex, PoisonError};

    use rdkafka::mocking::MockCluster;

    use super::*;

    /// Held by each test: a script cannot be started while it is open for writing, and a process
    /// that another test is just starting has inherited what is open.
    static ALONE: Mutex<()> = Mutex::new(());

    /// A command that writes down what it is asked for, and does one thing more.
    fn fake(dir: &Path, then: &str) -> Docker {
        let program = dir.join("docker");
        let script = format!("#!/bin/sh\necho \"$@\" >> {}/calls\n{then}\n", dir.display());
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Docker { program }
    }

    #[test]
    fn a_container_is_run_killed_started_and_removed() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        // What answers at the port is another broker.
        let cluster = MockCluster::new(1).unwrap();
        let servers = cluster.bootstrap_servers();
        let port = servers.rsplit(':').next().unwrap().parse().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let redpanda = Redpanda::start_with(fake(dir.path(), ""), port).unwrap();
        assert_eq!(redpanda.bootstrap(), format!("127.0.0.1:{port}"));
        redpanda.kill().unwrap();
        redpanda.restart().unwrap();
        let name = redpanda.name.clone();
        drop(redpanda);
        let calls = fs::read_to_string(dir.path().join("calls")).unwrap();
        let calls: Vec<&str> = calls.lines().collect();
        let run = format!("run --detach --name {name} --publish 127.0.0.1:{port}:{port} {IMAGE}");
        assert!(calls[0].starts_with(&run), "{calls:?}");
        assert!(calls[0].contains(&format!("--kafka-addr PLAINTEXT://0.0.0.0:{port}")));
        assert!(calls[0].contains(&format!("--advertise-kafka-addr PLAINTEXT://127.0.0.1:{port}")));
        let rest = [
            format!("kill --signal KILL {name}"),
            format!("start {name}"),
            format!("rm -f {name}"),
        ];
        assert_eq!(calls[1..], rest);
    }

    #[test]
    fn what_docker_says_is_passed_on() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().unwrap();
        let docker = fake(dir.path(), "echo no such image >&2; exit 1");
        let error = Redpanda::start_with(docker, 1).unwrap_err();
        assert_eq!(error.to_string(), "docker run: no such image");
        // Nothing is left, even of a container that was made and did not start.
        let calls = fs::read_to_string(dir.path().join("calls")).unwrap();
        assert!(calls.lines().last().unwrap().starts_with("rm -f daybook-test-"), "{calls}");
    }
}
