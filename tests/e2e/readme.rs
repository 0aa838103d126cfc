//! Every command of the README is run, and prints what the README says it prints.
//!
//! A block of `console` is run line by line against a `daybook dev` of this test; ids, times and
//! ports are compared by their form only. A block of `sh` may hold only what [`ELSEWHERE`] names,
//! with the place that runs it. After a change: `UPDATE_README=1 cargo test -p daybook --test e2e
//! readme`, and read the difference.

use std::path::{Path, PathBuf};
use std::process::Command;

use daybook_contract::daybook::v1::{ProjectionState, ReadStreamRequest};
use daybook_testing::{Ports, eventually};
use futures::TryStreamExt;

use crate::common::{PATIENCE, Site, head};

const BINARY: &str = env!("CARGO_BIN_EXE_daybook");

/// The commands of `sh` blocks, and where each is run.
const ELSEWHERE: &[(&str, &str)] = &[
    ("cargo run --release -- dev", "e2e: the same binary in the same mode, in nearly every test"),
    ("cargo test --workspace", "the gate"),
    ("export PATH=\"$PWD/target/release:$PATH\"", "this test sets its PATH"),
    ("cargo run --release -p daybook-client --example first_steps", "e2e: examples"),
    ("cargo run --release -- dev --brokers 127.0.0.1:9092", "e2e: dev over Kafka"),
    ("daybook command --data ./data --brokers 127.0.0.1:9092", "e2e: bank over Kafka"),
    (
        "daybook query --data ./data --brokers 127.0.0.1:9092 --log http://127.0.0.1:50051 \
         --http 127.0.0.1:8089",
        "e2e: bank over Kafka",
    ),
    (
        "daybook saga --data ./data --brokers 127.0.0.1:9092 --log http://127.0.0.1:50051 \
         --http 127.0.0.1:8090",
        "e2e: the whole shop over Kafka",
    ),
    ("docker compose up --build", "deploy/check.sh checks the file; no engine in the tests"),
];

/// What stands before a block when the server is to be killed and started again.
const RESTART: &str = "<!-- the server is killed and started again -->";

#[tokio::test(flavor = "multi_thread")]
async fn the_readme_is_true() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = root.join("README.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let site = Site::new();
    let mut server = site.start("dev", &[]);
    let shell =
        Shell { ports: site.ports, directory: site.data.path().to_owned(), tools: grpcurl() };
    let mut actual = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        actual.push_str(line);
        actual.push('\n');
        match line {
            RESTART => {
                server.kill();
                server = site.start("dev", &[]);
            }
            "```sh" => {
                for command in lines.by_ref().take_while(|line| *line != "```") {
                    let known = ELSEWHERE.iter().any(|(known, _)| *known == command);
                    assert!(known, "no test is named that runs {command:?}");
                    actual.push_str(command);
                    actual.push('\n');
                }
                actual.push_str("```\n");
            }
            "```console" => {
                for line in lines.by_ref().take_while(|line| *line != "```") {
                    if let Some(command) = line.strip_prefix("$ ") {
                        projections_settle(&site).await;
                        saga_begins(&site, command).await;
                        actual.push_str(&format!("$ {command}\n{}", shell.run(command)));
                    }
                }
                actual.push_str("```\n");
            }
            _ => {}
        }
    }
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(&page, &actual).unwrap();
        return;
    }
    assert!(
        same_form(&actual) == same_form(&text),
        "README.md is not true any more: UPDATE_README=1 cargo test -p daybook --test e2e readme, \
         and read the difference\n{}",
        difference(&same_form(&text), &same_form(&actual))
    );
}

/// Waits until the projections have everything: a reader types more slowly than they work.
async fn projections_settle(site: &Site) {
    let client = site.client();
    let settled = || async {
        // It moves on while sagas are at work.
        let head = head(&client).await;
        let list = client.projections().list().await.unwrap();
        let all = list
            .iter()
            .all(|p| p.state() == ProjectionState::Live && p.position == head && p.lag_events == 0);
        all.then_some(())
    };
    eventually(PATIENCE, settled).await;
}

/// Waits until there is the saga that is to be watched: a reader types more slowly than it begins.
async fn saga_begins(site: &Site, command: &str) {
    let Some(stream) = command.strip_prefix("daybook saga watch ") else { return };
    let log = site.client().events();
    let begun = || async {
        let request = ReadStreamRequest { stream: stream.to_owned(), ..Default::default() };
        log.read_stream(request).try_collect::<Vec<_>>().await.ok()
    };
    eventually(PATIENCE, begun).await;
}

struct Shell {
    ports: Ports,
    directory: PathBuf,
    tools: PathBuf,
}

impl Shell {
    /// Runs a command as a reader would type it, with the ports of this test for the usual ones.
    fn run(&self, command: &str) -> String {
        let Ports { command: commands, query, saga, http } = self.ports;
        let ports = [
            ("50051", commands.to_string()),
            ("50052", query.to_string()),
            ("50053", saga.to_string()),
            ("8088", http.to_string()),
        ];
        let here = |text: &str| {
            ports.iter().fold(text.to_owned(), |text, (usual, port)| {
                text.replace(&format!("127.0.0.1:{usual}"), &format!("127.0.0.1:{port}"))
            })
        };
        let usual = |text: &str| {
            ports.iter().fold(text.to_owned(), |text, (usual, port)| {
                text.replace(&format!("127.0.0.1:{port}"), &format!("127.0.0.1:{usual}"))
            })
        };
        let bin = Path::new(BINARY).parent().unwrap().display();
        let path = format!("{bin}:{}:{}", self.tools.display(), std::env::var("PATH").unwrap());
        let output = Command::new("sh")
            .args(["-c", &format!("{} 2>&1", here(command))])
            .current_dir(&self.directory)
            .env("PATH", path)
            .env("DAYBOOK_COMMAND_URL", self.ports.command_url())
            .env("DAYBOOK_QUERY_URL", self.ports.query_url())
            .env("DAYBOOK_SAGA_URL", self.ports.saga_url())
            .env("DAYBOOK_HTTP_URL", self.ports.http_url())
            .env("DAYBOOK_WAIT", "30s")
            .output()
            .unwrap();
        let text = usual(&String::from_utf8(output.stdout).unwrap());
        let code = output.status.code().unwrap();
        // The README shows one refusal; everything else succeeds.
        let expected = if command.contains("withdraw ada 500") { 3 } else { 0 };
        assert_eq!(code, expected, "{command}\n{text}");
        text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }
}

/// The text without what is different at each run: ids, times, and the line of the demo with its rate.
fn same_form(text: &str) -> String {
    let word = |word: &str| {
        let uuid = word.len() >= 36 && word.matches('-').count() == 4;
        let time = word.contains('T') && word.contains(':') && word.contains('-');
        match (uuid, time) {
            (true, _) => "<id>".to_owned(),
            (_, true) => "<time>".to_owned(),
            _ => word.to_owned(),
        }
    };
    let line = |line: &str| {
        let words: Vec<_> =
            line.split_whitespace().map(|text| word(text.trim_matches(['"', ',']))).collect();
        words.join(" ")
    };
    let steady = |text: &&str| !text.starts_with("took");
    text.lines().filter(steady).map(|text| line(text) + "\n").collect()
}

fn difference(written: &str, actual: &str) -> String {
    let only = |these: &str, others: &str, mark: &str| {
        let lines = these.lines().filter(|line| !others.lines().any(|other| other == *line));
        lines.map(|line| format!("{mark} {line}\n")).collect::<String>()
    };
    only(written, actual, "-") + &only(actual, written, "+")
}

/// The directory of grpcurl: on the PATH, or installed by Go.
fn grpcurl() -> PathBuf {
    if Command::new("grpcurl").arg("-version").output().is_ok() {
        return PathBuf::new();
    }
    let tools = Path::new(BINARY).parent().unwrap().join("../tools");
    std::fs::create_dir_all(&tools).unwrap();
    let tools = tools.canonicalize().unwrap();
    if !tools.join("grpcurl").exists() {
        let installed = Command::new("go")
            .args(["install", "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4"])
            .env("GOBIN", &tools)
            .status();
        assert!(
            installed.is_ok_and(|status| status.success()),
            "grpcurl is needed to run the commands of the README: install grpcurl, or Go 1.24"
        );
    }
    tools
}
