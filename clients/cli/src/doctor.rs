//! `daybook doctor`: is everything reachable and well, and if not, what mends it. What can be
//! learned from outside is asked here; the check of a store that is not running is the binary's.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;
use daybook_client::{Daybook, Error};
use daybook_contract::daybook::v1::{GetLogInfoResponse, ProjectionState, ProjectionStatus};
use prost_reflect::MethodDescriptor;
use serde_json::json;

use crate::exit::Exit;
use crate::flags::Globals;
use crate::json::CONTRACT;
use crate::output::{self, Format};
use crate::problem::{Problem, headline};
use crate::reflection::Reflected;
use crate::{health, projection, time};

/// A projection that is this many events behind is worth a look; at rest it is not behind at all.
const LAG_EVENTS: u64 = 10_000;

/// `daybook doctor`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  daybook doctor\n  daybook doctor -o json\n  \
                        daybook doctor --data ./data    (the server must not be running)\n\n\
                        Exits with 0 when all is well, 5 when a service is unreachable, 6 when \
                        data is damaged, else with 1.")]
pub struct DoctorArgs {
    /// Check the store in this directory instead of a running server
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Flags of all client commands.
    #[command(flatten)]
    pub globals: Globals,
}

/// One thing that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// Whether it is well.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// What mends it, best a command; empty when all is well.
    pub remedy: String,
    /// How a program ends that found it not well.
    pub exit: Exit,
}

impl Check {
    /// All is well.
    pub fn passed(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ok: true,
            detail: detail.into(),
            remedy: String::new(),
            exit: Exit::Done,
        }
    }

    /// Something is wrong.
    pub fn failed(
        name: impl Into<String>,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            ok: false,
            detail: detail.into(),
            remedy: remedy.into(),
            exit: Exit::Unexpected,
        }
    }

    /// Says how the program ends because of it.
    pub fn with_exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// A service gave an error instead of an answer.
    fn refused(name: &str, error: &Error, remedy: &str) -> Self {
        let problem = error.metadata().get("problem").map_or("", String::as_str);
        let detail = [headline(error).as_str(), problem].join(": ");
        Self::failed(name, detail.trim_end_matches(": "), remedy).with_exit(Exit::of(error))
    }
}

pub(crate) async fn run(args: DoctorArgs) -> Result<Exit, Problem> {
    if let Some(data) = args.data {
        // The binary takes this case before it comes here.
        return Err(Problem::new(Exit::Usage, "this program cannot check a store")
            .why(format!("--data {} needs the server's own code", data.display()))
            .next("daybook doctor"));
    }
    let checks = online_checks(&args.globals).await?;
    Ok(print_checks(&checks, args.globals.output)?)
}

/// Checks a running Daybook from outside.
pub async fn online_checks(globals: &Globals) -> Result<Vec<Check>, Error> {
    let client = globals.client()?;
    let mut checks = vec![Check::passed("this program", env!("CARGO_PKG_VERSION"))];
    let log = client.events().info().await;
    checks.extend(log_checks(&client, &log));
    checks.extend(projection_checks(&client, log.as_ref().ok()).await);
    checks.extend(contract_check(&client, globals).await);
    for (name, path) in [("alive", "healthz"), ("ready", "readyz")] {
        checks.push(http_check(name, globals, path).await);
    }
    Ok(checks)
}

fn log_checks(client: &Daybook, log: &Result<GetLogInfoResponse, Error>) -> Vec<Check> {
    let log = match log {
        Ok(log) => log,
        Err(error) => {
            let remedy = "daybook dev    (or say where it runs: --command-url URL)";
            return vec![Check::refused("command service", error, remedy)];
        }
    };
    let url = &client.command_service().url;
    let created = time::show(log.created_time.as_ref());
    let detail =
        format!("{url}, {} events, store {} of {created}", log.head_position, log.store_id);
    vec![Check::passed("command service", detail), publishing_check(log)]
}

fn publishing_check(log: &GetLogInfoResponse) -> Check {
    let name = "publishing";
    if !log.publishing {
        return Check::passed(name, "off: no broker is configured");
    }
    let behind = log.head_position.saturating_sub(log.published_position);
    let detail = format!("up to position {}, {behind} events behind", log.published_position);
    if log.publishing_problem.is_empty() {
        return Check::passed(name, detail);
    }
    let detail = format!("{detail}: {}", log.publishing_problem);
    Check::failed(name, detail, "start the broker, or check --brokers of the command service")
        .with_exit(Exit::Unavailable)
}

async fn projection_checks(client: &Daybook, log: Option<&GetLogInfoResponse>) -> Vec<Check> {
    let name = "query service";
    let projections = match client.projections().list().await {
        Ok(projections) => projections,
        Err(error) => {
            let remedy = "daybook dev    (or say where it runs: --query-url URL)";
            return vec![Check::refused(name, &error, remedy)];
        }
    };
    let url = &client.query_service().url;
    let mut checks = vec![Check::passed(name, format!("{url}, {} projections", projections.len()))];
    let head = log.map_or(0, |log| log.head_position);
    checks.extend(projections.iter().map(|status| projection_check(status, head)));
    checks
}

fn projection_check(status: &ProjectionStatus, head: u64) -> Check {
    let name = format!("projection {}", status.name);
    // The head that the log tells is fresher than the one that the projection knows.
    let behind = head.max(status.head_position).saturating_sub(status.position);
    let detail = format!(
        "{}, version {}, at position {}, {behind} events behind",
        projection::state(status),
        status.version,
        status.position
    );
    let projection = &status.name;
    if status.quarantined_events > 0 {
        let detail = format!("{detail}, {} in quarantine", status.quarantined_events);
        return Check::failed(name, detail, format!("daybook projection quarantine {projection}"));
    }
    if !status.problem.is_empty() {
        let detail = format!("{detail}: {}", status.problem);
        return Check::failed(name, detail, format!("daybook projection show {projection}"));
    }
    match status.state() {
        ProjectionState::Paused => {
            Check::failed(name, detail, format!("daybook projection resume {projection}"))
        }
        ProjectionState::Disconnected => {
            Check::failed(name, detail, "start the source of its events, or wait for it")
        }
        _ if behind > LAG_EVENTS => {
            Check::failed(name, detail, format!("daybook projection show {projection}"))
        }
        _ => Check::passed(name, detail),
    }
}

/// Whether the servers offer what this program was built to call. `None` when they cannot be
/// asked; the other checks say so.
async fn contract_check(client: &Daybook, globals: &Globals) -> Option<Check> {
    let (command, query, saga) = tokio::join!(
        Reflected::load(client.command_service(), globals.timeout),
        Reflected::load(client.query_service(), globals.timeout),
        Reflected::load(client.saga_service(), globals.timeout),
    );
    let servers = [command.ok()?, query.ok()?, saga.ok()?];
    let offered = |method: &MethodDescriptor| {
        let service = method.parent_service().full_name().to_owned();
        servers.iter().any(|server| server.method(&service, method.name()).is_some())
    };
    let missing: Vec<_> = CONTRACT
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .filter(|method| !offered(method))
        .map(|method| method.full_name().to_owned())
        .collect();
    let name = "contract";
    if missing.is_empty() {
        return Some(Check::passed(name, "the servers offer every method of this program's"));
    }
    let detail = format!("the servers do not offer {}", missing.join(", "));
    Some(Check::failed(name, detail, "run servers and client commands of the same version"))
}

async fn http_check(name: &str, globals: &Globals, path: &str) -> Check {
    let url = format!("{}/{path}", globals.http_url.trim_end_matches('/'));
    match health::get(&url, globals.timeout).await {
        Ok(answer) if answer.status == 200 => Check::passed(name, url),
        Ok(answer) => {
            let detail = format!("{url}: HTTP status {}: {}", answer.status, answer.body.trim());
            Check::failed(name, detail, "look at the other checks, and at the log of the server")
                .with_exit(Exit::Unavailable)
        }
        Err(problem) => {
            let remedy = "daybook dev    (or say where it runs: --http-url URL)";
            Check::failed(name, format!("{url}: {problem}"), remedy).with_exit(Exit::Unavailable)
        }
    }
}

/// Shows checks, and says how a program that made them ends.
pub fn print_checks(checks: &[Check], format: Format) -> std::io::Result<Exit> {
    if format == Format::Json {
        let value = |check: &Check| {
            json!({
                "name": check.name,
                "ok": check.ok,
                "detail": check.detail,
                "remedy": check.remedy,
            })
        };
        let checks: Vec<_> = checks.iter().map(value).collect();
        output::document(&json!({ "checks": checks }))?;
    } else {
        let colour = output::colour(std::io::stdout().is_terminal());
        let width = checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
        for check in checks {
            let mark =
                if check.ok { output::green("✓", colour) } else { output::red("✗", colour) };
            output::line(&format!("{mark} {:width$}  {}", check.name, check.detail))?;
            if !check.remedy.is_empty() {
                let remedy = output::bold(&check.remedy, colour);
                output::line(&format!("  {:width$}  mend: {remedy}", ""))?;
            }
        }
    }
    Ok(exit_of(checks))
}

/// Damage weighs most, then a service that is away, then anything else.
fn exit_of(checks: &[Check]) -> Exit {
    let failed = |exit| checks.iter().any(|check| !check.ok && check.exit == exit);
    let all_well = checks.iter().all(|check| check.ok);
    let other = if all_well { Exit::Done } else { Exit::Unexpected };
    [Exit::Damaged, Exit::Unavailable].into_iter().find(|exit| failed(*exit)).unwrap_or(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live() -> ProjectionStatus {
        ProjectionStatus {
            name: "account_balance".into(),
            version: 1,
            state: ProjectionState::Live.into(),
            position: 100,
            head_position: 100,
            ..Default::default()
        }
    }

    #[test]
    fn a_projection_is_well_when_it_follows_the_log() {
        assert!(projection_check(&live(), 100).ok);
        assert!(!projection_check(&live(), 100 + LAG_EVENTS + 1).ok);
    }

    #[test]
    fn what_is_wrong_with_a_projection_comes_with_its_remedy() {
        let paused = ProjectionStatus { state: ProjectionState::Paused.into(), ..live() };
        let check = projection_check(&paused, 100);
        assert_eq!(check.remedy, "daybook projection resume account_balance");
        let poisoned = ProjectionStatus { quarantined_events: 2, ..live() };
        let check = projection_check(&poisoned, 100);
        assert!(!check.ok && check.detail.contains("2 in quarantine"), "{check:?}");
    }

    #[test]
    fn a_publisher_with_a_problem_is_not_well() {
        let off = GetLogInfoResponse::default();
        assert!(publishing_check(&off).ok);
        let stuck = GetLogInfoResponse {
            publishing: true,
            head_position: 9,
            published_position: 4,
            publishing_problem: "no broker".into(),
            ..Default::default()
        };
        let check = publishing_check(&stuck);
        assert_eq!(check.detail, "up to position 4, 5 events behind: no broker");
        assert_eq!(check.exit, Exit::Unavailable);
    }

    #[test]
    fn damage_weighs_more_than_a_service_that_is_away() {
        let away = Check::failed("a", "", "").with_exit(Exit::Unavailable);
        let damaged = Check::failed("b", "", "").with_exit(Exit::Damaged);
        let well = Check::passed("c", "");
        assert_eq!(exit_of(std::slice::from_ref(&well)), Exit::Done);
        assert_eq!(exit_of(&[away.clone(), damaged, well.clone()]), Exit::Damaged);
        assert_eq!(exit_of(&[well.clone(), away]), Exit::Unavailable);
        assert_eq!(exit_of(&[well, Check::failed("d", "", "")]), Exit::Unexpected);
    }
}
