//! What `daybook dev` says when it is up: addresses, and next steps that can be copied.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::config::Config;

/// Where the parts listen.
#[derive(Debug, Clone, Copy)]
pub struct Listening {
    /// The command service.
    pub command: SocketAddr,
    /// The query service.
    pub query: SocketAddr,
    /// The saga service.
    pub saga: SocketAddr,
    /// Metrics and health.
    pub http: SocketAddr,
}

/// The addresses in use and commands to try.
pub fn text(config: &Config, listening: Listening) -> String {
    let Listening { command, query, saga, http } = listening;
    let [command, query, saga, http] = [command, query, saga, http].map(reachable);
    let program = program();
    let client = client(&program, Listening { command, query, saga, http });
    let source = match config.brokers.is_empty() {
        true => "the log".to_owned(),
        false => format!("Kafka at {}", config.brokers),
    };
    let mut text = String::new();
    let _ = write!(
        text,
        "Daybook is up. The data is in {data}; events reach the queries from {source}.

  commands  {command}    gRPC, with reflection
  queries   {query}    gRPC, with reflection
  sagas     {saga}    gRPC, with reflection
  http      http://{http}/metrics  http://{http}/readyz

Try, in another terminal:

  {client} account open 'Ada Lovelace' 100.00 USD --id ada
  {client} account deposit ada 12.34 USD --description Salary
  {client} account show ada
  {client} events read bank.account-ada
  {client} demo

or with grpcurl:

  grpcurl -plaintext -d '{{\"account_id\": \"ada\", \"amount\": {{\"currency_code\": \"USD\", \
         \"units\": 5}}}}' {command} bank.v1.CommandService/Deposit
  grpcurl -plaintext -d '{{\"account_id\": \"ada\"}}' {query} bank.v1.QueryService/GetAccount

Ctrl-C stops it; everything acknowledged stays.
",
        data = config.data.display(),
    );
    text
}

/// An address that can be typed: one that means all interfaces is reached over loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        ip if !ip.is_unspecified() => address,
        IpAddr::V4(_) => (Ipv4Addr::LOCALHOST, address.port()).into(),
        IpAddr::V6(_) => (Ipv6Addr::LOCALHOST, address.port()).into(),
    }
}

/// The program as it can be typed: relative when it lies below the working directory.
fn program() -> String {
    let Ok(path) = std::env::current_exe() else { return "daybook".to_owned() };
    let below = std::env::current_dir()
        .ok()
        .and_then(|here| path.strip_prefix(here).ok().map(|rest| rest.display().to_string()));
    below.unwrap_or_else(|| path.display().to_string())
}

/// The program with the addresses that are not the usual ones.
fn client(program: &str, Listening { command, query, saga, http }: Listening) -> String {
    let usual = Config::default();
    let mut text = String::new();
    let others = [
        ("DAYBOOK_COMMAND_URL", command, usual.command_listen),
        ("DAYBOOK_QUERY_URL", query, usual.query_listen),
        ("DAYBOOK_SAGA_URL", saga, usual.saga_listen),
        ("DAYBOOK_HTTP_URL", http, usual.http_listen),
    ];
    for (variable, address, usual) in others {
        if address != usual {
            let _ = write!(text, "{variable}=http://{address} ");
        }
    }
    text + program
}
