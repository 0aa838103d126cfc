//! `daybook call`: any RPC of the server with JSON, also one that this program has never heard of.

use clap::Args;
use futures::TryStreamExt;
use prost_reflect::{DynamicMessage, MethodDescriptor};
use serde_json::{Value, json};

use crate::events::read_stdin;
use crate::exit::Exit;
use crate::flags::Globals;
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::reflection::Reflected;

/// `daybook call`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  daybook call\n  \
                        daybook call bank.v1.CommandService/Deposit '{\"accountId\": \"ada\", \
                        \"amount\": {\"currencyCode\": \"USD\", \"units\": 5}}'\n  \
                        daybook call daybook.v1.EventLogService/ReadAll '{\"limit\": 3}'\n  \
                        echo '{\"accountId\": \"ada\"}' | daybook call bank.v1.QueryService/GetAccount -")]
pub struct CallArgs {
    /// The method, such as bank.v1.CommandService/Deposit; lists all methods when not given
    method: Option<String>,
    /// The request as proto3 JSON; - reads it from standard input. A method that takes a stream
    /// takes several documents
    #[arg(default_value = "{}")]
    request: String,
    /// Flags of all client commands.
    #[command(flatten)]
    pub globals: Globals,
}

pub(crate) async fn run(args: CallArgs) -> Result<(), Problem> {
    let Some(method) = &args.method else { return list(&args.globals).await };
    let (server, method) = find(&args.globals, method).await?;
    let requests = requests(&method, args.request)?;
    let actor = args.globals.actor.as_deref();
    let mut answers = server.call(&method, requests, actor, args.globals.timeout).await?;
    let failed = |status| Problem::from(daybook_client::from_status(&status, &server.service));
    while let Some(answer) = answers.try_next().await.map_err(failed)? {
        let value = crate::json::dynamic(answer)?;
        if method.is_server_streaming() {
            output::stream_document(&value)?;
        } else {
            output::document(&value)?;
        }
    }
    Ok(())
}

/// What the servers offer; when one cannot be asked, what the others do. An error when none can.
async fn servers(globals: &Globals) -> Result<(Vec<Reflected>, Option<Problem>), Problem> {
    let client = globals.client()?;
    let (command, query, saga) = tokio::join!(
        Reflected::load(client.command_service(), globals.timeout),
        Reflected::load(client.query_service(), globals.timeout),
        Reflected::load(client.saga_service(), globals.timeout),
    );
    let (mut servers, mut problem) = (Vec::new(), None);
    for loaded in [command, query, saga] {
        match loaded {
            Ok(server) => servers.push(server),
            Err(failed) => problem = problem.or(Some(failed)),
        }
    }
    match (servers.is_empty(), problem) {
        (true, Some(problem)) => Err(problem),
        (_, problem) => Ok((servers, problem)),
    }
}

/// Finds a method on any server.
async fn find(globals: &Globals, name: &str) -> Result<(Reflected, MethodDescriptor), Problem> {
    let (service, method) = split(name)?;
    let (servers, problem) = servers(globals).await?;
    let mut known = Vec::new();
    for server in servers {
        if let Some(method) = server.method(service, method) {
            return Ok((server, method));
        }
        if let Some(service) = server.pool.get_service_by_name(service) {
            known.extend(service.methods().map(|method| method.name().to_owned()));
        }
    }
    if let Some(problem) = problem {
        return Err(problem);
    }
    let why = match known.is_empty() {
        true => format!("no server has a service {service}"),
        false => format!("{service} has the methods {}", known.join(", ")),
    };
    Err(Problem::invalid(format!("there is no method {name}"))
        .why(why)
        .next("daybook call    (lists all methods)"))
}

/// Takes `bank.v1.CommandService/Deposit` apart; a leading slash and a dot instead of the slash
/// will do too.
fn split(name: &str) -> Result<(&str, &str), Problem> {
    let plain = name.strip_prefix('/').unwrap_or(name);
    plain.split_once('/').or_else(|| plain.rsplit_once('.')).ok_or_else(|| {
        Problem::new(Exit::Usage, format!("{name} is not the name of a method"))
            .why("a method is written package.Service/Method")
            .next("daybook call    (lists all methods)")
    })
}

/// The requests that the JSON describes: one, or any number for a method that takes a stream.
fn requests(method: &MethodDescriptor, text: String) -> Result<Vec<DynamicMessage>, Problem> {
    let text = if text == "-" { read_stdin()? } else { text.into_bytes() };
    let name = method.input().full_name().to_owned();
    let malformed = |error: &dyn std::fmt::Display| {
        Problem::invalid(format!("the request is not the JSON of a {name}"))
            .why(error.to_string())
            .next("write proto3 JSON, such as {\"accountId\": \"ada\"}; the fields are in proto/")
    };
    let mut requests = Vec::new();
    for document in serde_json::Deserializer::from_slice(&text).into_iter::<Value>() {
        let document = document.map_err(|error| malformed(&error))?;
        let request = DynamicMessage::deserialize(method.input(), document);
        requests.push(request.map_err(|error| malformed(&error))?);
    }
    if !method.is_client_streaming() && requests.len() != 1 {
        return Err(malformed(&format!("{} documents instead of one", requests.len())));
    }
    Ok(requests)
}

/// Lists all methods of both servers.
async fn list(globals: &Globals) -> Result<(), Problem> {
    let (servers, problem) = servers(globals).await?;
    let mut rows = Vec::new();
    for server in &servers {
        for name in &server.names {
            let service = server.pool.get_service_by_name(name);
            for method in service.iter().flat_map(|service| service.methods()) {
                let stream = |streaming| if streaming { "stream of " } else { "" };
                rows.push(vec![
                    format!("{name}/{}", method.name()),
                    format!(
                        "{}{}",
                        stream(method.is_client_streaming()),
                        method.input().full_name()
                    ),
                    format!(
                        "{}{}",
                        stream(method.is_server_streaming()),
                        method.output().full_name()
                    ),
                    server.service.name.to_owned(),
                ]);
            }
        }
    }
    rows.sort();
    if globals.output == Format::Json {
        let method = |row: &Vec<String>| json!({"method": row[0], "request": row[1], "answer": row[2], "server": row[3]});
        let methods: Vec<_> = rows.iter().map(method).collect();
        output::document(&json!({ "methods": methods }))?;
    } else {
        output::table(&["method", "request", "answer", "server"], &[], rows)?;
    }
    problem.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_method_can_be_written_in_three_ways() {
        let parts = ("bank.v1.CommandService", "Deposit");
        assert_eq!(split("bank.v1.CommandService/Deposit").unwrap(), parts);
        assert_eq!(split("/bank.v1.CommandService/Deposit").unwrap(), parts);
        assert_eq!(split("bank.v1.CommandService.Deposit").unwrap(), parts);
        assert!(split("Deposit").is_err());
    }

    #[test]
    fn a_method_without_a_stream_takes_one_document_and_a_method_with_one_takes_many() {
        let pool = &crate::json::CONTRACT;
        let service = pool.get_service_by_name("daybook.v1.CommandService").unwrap();
        let method = |name| service.methods().find(|method| method.name() == name).unwrap();
        let deposit = r#"{"command": {"@type": "type.googleapis.com/bank.v1.DepositRequest",
            "accountId": "ada", "amount": {"currencyCode": "USD", "units": "5"}}}"#;
        let twice = format!("{deposit}\n{deposit}");
        assert_eq!(requests(&method("Execute"), deposit.to_owned()).unwrap().len(), 1);
        assert!(requests(&method("Execute"), twice.clone()).is_err());
        assert_eq!(requests(&method("ExecuteStream"), twice).unwrap().len(), 2);
        assert!(requests(&method("Execute"), r#"{"comand": {}}"#.to_owned()).is_err());
        assert!(requests(&method("Execute"), "{".to_owned()).is_err());
    }
}
