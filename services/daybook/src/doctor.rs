//! `daybook doctor --data DIR`: checks the store itself, without a server.

use std::path::PathBuf;

use daybook_cli::{Check, DoctorArgs, print_checks};
use daybook_cli::{Exit, Format};
use daybook_command::Claims;
use daybook_contract::daybook::v1::RecordedEvent;
use daybook_log::verify::{Findings, MAX_LISTED, verify};

/// What mends damage: there is no other way than a copy.
const RESTORE: &str = "stop the server, keep the damaged directory aside, and restore the \
                       directory from a copy";

/// Checks every record of the log.
pub async fn run(args: DoctorArgs) -> anyhow::Result<Exit> {
    let directory: PathBuf = args.data.unwrap_or_default().join("log");
    let show = args.globals.output == Format::Table;
    let bar = indicatif::ProgressBar::new_spinner();
    if !show {
        bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
    }
    bar.set_message(format!("checking the log in {}", directory.display()));
    let mut claims = Claims::default();
    daybook_domain::register(&mut claims);
    let claims_of = move |event: &RecordedEvent| claims.of(event);
    let checked = verify(&directory, Some(&claims_of), |at| bar.set_position(at)).await;
    bar.finish_and_clear();
    let checks = match checked {
        Ok(findings) => to_checks(&findings),
        Err(error) => vec![Check::failed("log", error.to_string(), "check --data")],
    };
    Ok(print_checks(&checks, args.globals.output)?)
}

fn to_checks(findings: &Findings) -> Vec<Check> {
    let counted = format!("{} events in {} streams", findings.events, findings.streams);
    if findings.problem_count == 0 {
        return vec![Check::passed("log", format!("{counted}; every record is as it was written"))];
    }
    let mut checks: Vec<Check> = findings
        .problems
        .iter()
        .map(|problem| {
            let name = match problem.position {
                0 => "file of the log".to_owned(),
                position => format!("position {position}, stream {}", problem.stream),
            };
            Check::failed(name, &problem.text, RESTORE).with_exit(Exit::Damaged)
        })
        .collect();
    if findings.problem_count > MAX_LISTED as u64 {
        let more = format!("{} problems in all; {counted}", findings.problem_count);
        checks.push(Check::failed("log", more, RESTORE).with_exit(Exit::Damaged));
    }
    checks
}
