//! Apache Kafka from Maven Central: one node, broker and controller in one process.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{env, io};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::broker::{START_TIMEOUT, await_ready_while};
use crate::wait::free_port;

const POM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kafka/pom.xml");

/// The class data archive: halves the time to start.
const ARCHIVE: &str = "classes.jsa";

/// Some other program may take a port between finding and using it.
const START_ATTEMPTS: usize = 3;

/// Runs the broker in its own place, so that it is our child, and beside it a process that kills
/// it when the standard input ends, which it does with the test process. A line on the standard
/// input asks to keep the data.
const WATCHDOG: &str = r#"
exec 3<&0 0</dev/null
broker=$$
(
    read -r keep <&3
    kept=$?
    kill -9 "$broker" 2>/dev/null
    [ "$kept" -eq 0 ] || rm -rf "$0"
) &
exec "$@" 3<&-
"#;

/// A running broker and its data.
#[derive(Debug)]
pub(crate) struct Kafka {
    installation: PathBuf,
    data: TempDir,
    port: u16,
    process: Option<Child>,
}

impl Kafka {
    pub(crate) fn start() -> Result<Self> {
        let installation = install()?;
        let mut attempt = 1;
        loop {
            match Self::start_in(&installation, &[]) {
                Err(_) if attempt < START_ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    fn start_in(installation: &Path, options: &[String]) -> Result<Self> {
        let data = tempfile::Builder::new().prefix("daybook-kafka-").tempdir()?;
        let port = free_port();
        let controller_port = free_port();
        let properties = properties(data.path(), port, controller_port);
        fs::write(data.path().join("server.properties"), properties)?;
        // Formatting takes as long as starting, so it is done once, when installing.
        fs::create_dir(data.path().join("logs"))?;
        for entry in fs::read_dir(installation.join("formatted"))? {
            let entry = entry?;
            fs::copy(entry.path(), data.path().join("logs").join(entry.file_name()))?;
        }
        let mut kafka = Self { installation: installation.to_owned(), data, port, process: None };
        kafka.run(options)?;
        Ok(kafka)
    }

    pub(crate) fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        ensure!(self.process.is_some(), "the broker is not running");
        self.end(true);
        Ok(())
    }

    pub(crate) fn restart(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the broker is still running");
        self.run(&[])
    }

    fn run(&mut self, options: &[String]) -> Result<()> {
        let output =
            File::options().create(true).append(true).open(self.data.path().join("output.log"))?;
        let mut command = Command::new("sh");
        command
            .args(["-c", WATCHDOG])
            .arg(self.data.path())
            .args(java(&self.installation))
            .args(options)
            .args(["-cp", &class_path(&self.installation)?, "kafka.Kafka"])
            .arg(self.data.path().join("server.properties"))
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output);
        self.process = Some(command.spawn().context("starting java")?);
        let bootstrap = self.bootstrap();
        let result = await_ready_while(&bootstrap, || {
            let process = self.process.as_mut().expect("it was set above");
            match process.try_wait()? {
                Some(status) => bail!("Kafka ended at once, {status}"),
                None => Ok(()),
            }
        });
        result.with_context(|| {
            fs::read_to_string(self.data.path().join("output.log")).unwrap_or_default()
        })
    }

    /// Lets the watchdog kill the broker. The process is reaped only after that, so that the
    /// watchdog never kills another one which got the same id.
    fn end(&mut self, keep: bool) {
        let Some(mut process) = self.process.take() else { return };
        let mut stdin = process.stdin.take();
        if let (true, Some(stdin)) = (keep, &mut stdin) {
            let _ = stdin.write_all(b"keep\n");
        }
        drop(stdin);
        let _ = process.wait();
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.end(true);
    }
}

/// Fetches Kafka, once; returns where it is.
fn install() -> Result<PathBuf> {
    let root = target_dir().join("kafka");
    fs::create_dir_all(&root)?;
    let pom = fs::read_to_string(POM).with_context(|| format!("reading {POM}"))?;
    let version = pom
        .split_once("<kafka.version>")
        .and_then(|(_, rest)| rest.split_once("</"))
        .map(|(version, _)| version)
        .with_context(|| format!("{POM} has no kafka.version"))?;
    let installation = root.join(version);
    // Several test binaries may get here at the same time.
    let lock = File::create(root.join("lock"))?;
    lock.lock()?;
    if installation.is_dir() {
        return Ok(installation);
    }
    let new = root.join(format!("{version}.new"));
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    fs::create_dir(&new)?;
    fetch(&new)?;
    format(&new)?;
    fs::rename(&new, &installation)?;
    // The archive names the jars, so it is made where they stay. Without it all works, slower.
    if let Err(error) = archive(&installation) {
        eprintln!("no class data archive for Kafka: {error:#}");
    }
    Ok(installation)
}

fn fetch(installation: &Path) -> Result<()> {
    eprintln!("fetching Apache Kafka with Maven, once");
    run(Command::new("mvn")
        .args(["-q", "-B", "-f", POM, "dependency:copy-dependencies"])
        .arg(format!("-DoutputDirectory={}", installation.join("libs").display())))
}

/// Makes the files that every new broker begins with.
fn format(installation: &Path) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("server.properties");
    fs::write(&file, properties(directory.path(), 1, 2))?;
    let java = java(installation);
    run(Command::new(&java[0])
        .args(&java[1..])
        .args(["-cp", &class_path(installation)?, "kafka.tools.StorageTool", "format"])
        .args(["--cluster-id", "ZGF5Ym9vay10ZXN0aW5nLQ", "--config"])
        .arg(&file))?;
    fs::create_dir(installation.join("formatted"))?;
    for entry in fs::read_dir(directory.path().join("logs"))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), installation.join("formatted").join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// Runs a broker once and keeps its loaded classes in an archive.
fn archive(installation: &Path) -> Result<()> {
    let path = installation.join(ARCHIVE);
    let option = format!("-XX:ArchiveClassesAtExit={}", path.display());
    let mut kafka = Kafka::start_in(installation, &[option])?;
    let process = kafka.process.as_mut().context("it has just been started")?;
    run(Command::new("kill").arg(process.id().to_string()))?;
    let deadline = Instant::now() + START_TIMEOUT;
    while process.try_wait()?.is_none() {
        ensure!(Instant::now() < deadline, "Kafka does not end");
        sleep(Duration::from_millis(20));
    }
    ensure!(path.is_file(), "Java made none");
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {name}, which must be installed"))?;
    ensure!(
        output.status.success(),
        "{name}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Java, tuned for a quick start and little memory.
fn java(installation: &Path) -> Vec<String> {
    let java = env::var("JAVA_HOME").map_or("java".to_owned(), |home| format!("{home}/bin/java"));
    let mut command = vec![
        java,
        "-Xms64m".to_owned(),
        "-Xmx512m".to_owned(),
        "-XX:+UseSerialGC".to_owned(),
        "-XX:TieredStopAtLevel=1".to_owned(),
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn".to_owned(),
    ];
    let archive = installation.join(ARCHIVE);
    if archive.is_file() {
        command.push(format!("-XX:SharedArchiveFile={}", archive.display()));
        // An archive of another Java is not used, and that is not worth a word.
        command.push("-Xlog:disable".to_owned());
    }
    command
}

/// The jars in a fixed order, as a class data archive demands.
fn class_path(installation: &Path) -> Result<String> {
    let mut jars = Vec::new();
    for entry in fs::read_dir(installation.join("libs"))? {
        jars.push(entry?.path().display().to_string());
    }
    jars.sort();
    Ok(jars.join(":"))
}

fn properties(directory: &Path, port: u16, controller_port: u16) -> String {
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=BROKER://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=BROKER://127.0.0.1:{port}
inter.broker.listener.name=BROKER
controller.listener.names=CONTROLLER
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={logs}
auto.create.topics.enable=false
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=4
# How long a killed broker is remembered, and so how long it takes to start again.
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=300
",
        logs = directory.join("logs").display()
    )
}

/// The target directory of cargo: where this test program is, and there is a mark in it.
fn target_dir() -> PathBuf {
    let program = env::current_exe().unwrap_or_default();
    let marked = program.ancestors().find(|path| path.join("CACHEDIR.TAG").is_file());
    match (marked, env::var_os("CARGO_TARGET_DIR")) {
        (Some(path), _) => path.to_owned(),
        (None, Some(path)) => path.into(),
        (None, None) => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
    }
}
