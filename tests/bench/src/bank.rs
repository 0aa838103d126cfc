//! The clients of the bank: requests as a user of the contract would make them.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use daybook_contract::bank::v1::command_service_client::CommandServiceClient as BankClient;
use daybook_contract::bank::v1::query_service_client::QueryServiceClient;
use daybook_contract::bank::v1::{
    DepositRequest, GetAccountRequest, GetAccountResponse, MovementMethod, OpenAccountRequest,
    WithdrawRequest,
};
use daybook_contract::daybook::v1::command_service_client::CommandServiceClient;
use daybook_contract::daybook::v1::execute_stream_response::Outcome;
use daybook_contract::daybook::v1::{
    CommandContext, CommandReceipt, ExecuteStreamRequest, ExecuteStreamResponse, Money, ReadContext,
};
use prost::Message;
use prost_types::Any;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};
use uuid::Uuid;

use crate::load::{Client, Pipe};
use crate::spread::Spread;

/// The accounts of a load that is spread.
pub const ACCOUNTS: u64 = 10_000;

/// The commands in flight on one ExecuteStream: as many as the server takes of one.
pub const WINDOW: usize = 2048;

/// How long a query may wait for a projection before the run fails.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Numbers that only have to be spread, not secret (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Numbers that differ from those of another seed, and are the same in every run.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below a bound.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// The id of an account.
pub fn account(number: u64) -> String {
    format!("bench-{number:05}")
}

/// The context of a new request.
pub fn context() -> Option<CommandContext> {
    Some(CommandContext { request_id: Uuid::now_v7().to_string(), ..CommandContext::default() })
}

/// An amount in dollars.
pub fn dollars(units: u64) -> Money {
    Money { currency_code: "USD".to_owned(), units: units as i64, nanos: 0 }
}

/// A deposit of a common size.
pub fn deposit(account_id: String) -> DepositRequest {
    DepositRequest {
        context: context(),
        account_id,
        amount: Some(dollars(1)),
        description: "salary".to_owned(),
        method: MovementMethod::Transfer.into(),
    }
}

/// How many connections are of use: one keeps up with eight clients.
pub fn connections_for(clients: usize) -> usize {
    if clients <= 8 { 1 } else { 8 }
}

/// A withdrawal of a common size.
pub fn withdraw(account_id: String) -> WithdrawRequest {
    WithdrawRequest {
        context: context(),
        account_id,
        amount: Some(dollars(1)),
        description: "rent".to_owned(),
        method: MovementMethod::Transfer.into(),
    }
}

/// Opens as many connections as are of use.
pub async fn connections(url: &str, clients: usize) -> Result<Vec<Channel>> {
    let mut channels = Vec::new();
    for _ in 0..connections_for(clients) {
        channels.push(connect(url).await?);
    }
    Ok(channels)
}

/// Opens one connection.
pub async fn connect(url: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(url.to_owned())?.tcp_nodelay(true);
    endpoint.connect().await.with_context(|| format!("nobody answers at {url}"))
}

/// Deposits to one account at a time.
pub struct Deposits {
    client: BankClient<Channel>,
    random: Random,
    accounts: Spread,
}

impl Deposits {
    /// As many clients as asked for, spread over their connections.
    pub async fn clients(url: &str, count: usize, accounts: &Spread) -> Result<Vec<Self>> {
        let channels = connections(url, count).await?;
        let clients = (0..count).zip(channels.iter().cycle()).map(|(number, channel)| Self {
            client: BankClient::new(channel.clone()),
            random: Random::new(number as u64),
            accounts: accounts.clone(),
        });
        Ok(clients.collect())
    }
}

impl Client for Deposits {
    async fn call(&mut self) -> Result<()> {
        let account_id = account(self.accounts.next(&mut self.random));
        self.client.deposit(deposit(account_id)).await.context("a deposit failed")?;
        Ok(())
    }
}

/// Gets one of the accounts at a time.
pub struct Reads {
    client: QueryServiceClient<Channel>,
    random: Random,
}

impl Reads {
    /// As many clients as asked for, spread over their connections.
    pub async fn clients(url: &str, count: usize) -> Result<Vec<Self>> {
        let channels = connections(url, count).await?;
        let clients = (0..count).zip(channels.iter().cycle()).map(|(number, channel)| Self {
            client: QueryServiceClient::new(channel.clone()),
            random: Random::new(number as u64),
        });
        Ok(clients.collect())
    }
}

impl Client for Reads {
    async fn call(&mut self) -> Result<()> {
        let account_id = account(self.random.below(ACCOUNTS));
        let request = GetAccountRequest { read: None, account_id };
        self.client.get_account(request).await.context("a query failed")?;
        Ok(())
    }
}

/// One ExecuteStream.
pub struct CommandPipe {
    commands: mpsc::Sender<ExecuteStreamRequest>,
    answers: Streaming<ExecuteStreamResponse>,
    random: Random,
}

impl CommandPipe {
    /// Opens a stream on a connection of its own.
    pub async fn open(url: &str, seed: u64) -> Result<Self> {
        let (commands, requests) = mpsc::channel(WINDOW);
        let mut client = CommandServiceClient::new(connect(url).await?);
        let answers = client.execute_stream(ReceiverStream::new(requests)).await?.into_inner();
        Ok(Self { commands, answers, random: Random::new(seed) })
    }

    /// As many as asked for.
    pub async fn pipes(url: &str, count: u64) -> Result<Vec<Self>> {
        let mut pipes = Vec::new();
        for seed in 0..count {
            pipes.push(Self::open(url, seed).await?);
        }
        Ok(pipes)
    }

    /// Sends a command; there must be room for it.
    pub fn command<M: Message>(&self, type_name: &str, message: &M) -> Result<()> {
        let type_url = format!("type.googleapis.com/{type_name}");
        let command = Some(Any { type_url, value: message.encode_to_vec() });
        let request = ExecuteStreamRequest { command };
        self.commands.try_send(request).context("the stream of commands has no room or has ended")
    }

    async fn receipt(&mut self) -> Result<CommandReceipt> {
        let answer = self.answers.message().await?.context("the stream of answers has ended")?;
        match answer.outcome {
            Some(Outcome::Receipt(receipt)) => Ok(receipt),
            Some(Outcome::Failure(failure)) => bail!("a command failed: {}", failure.message),
            None => bail!("an answer says nothing"),
        }
    }
}

impl Pipe for CommandPipe {
    fn send(&mut self) -> Result<()> {
        let account_id = account(self.random.below(ACCOUNTS));
        self.command("bank.v1.DepositRequest", &deposit(account_id))
    }

    async fn receive(&mut self) -> Result<()> {
        self.receipt().await.map(drop)
    }
}

/// Opens the accounts of a load. Answers with the highest position: that of the last command may
/// be lower, since only the commands of one account keep their order.
pub async fn open_accounts(url: &str) -> Result<u64> {
    open_from(url, 0, ACCOUNTS).await
}

/// Opens so many accounts, from one on. Answers with the highest position.
pub async fn open_from(url: &str, first: u64, accounts: u64) -> Result<u64> {
    send_all(url, accounts, |pipe, number| {
        let request = OpenAccountRequest {
            context: context(),
            account_id: account(first + number),
            owner_name: "Ada Lovelace".to_owned(),
            initial_balance: Some(dollars(1000)),
        };
        pipe.command("bank.v1.OpenAccountRequest", &request)
    })
    .await
}

/// Makes so many deposits. Answers with the highest position.
pub async fn fill(url: &str, deposits: u64) -> Result<u64> {
    deposit_in(url, &Spread::Evenly(ACCOUNTS), deposits).await
}

/// Makes so many deposits to these accounts. Answers with the highest position.
pub async fn deposit_in(url: &str, accounts: &Spread, deposits: u64) -> Result<u64> {
    send_all(url, deposits, |pipe, _| {
        let account_id = account(accounts.next(&mut pipe.random));
        pipe.command("bank.v1.DepositRequest", &deposit(account_id))
    })
    .await
}

/// Sends so many commands, and says the highest position of their receipts.
pub async fn send_all(
    url: &str,
    commands: u64,
    send: impl Fn(&mut CommandPipe, u64) -> Result<()>,
) -> Result<u64> {
    let mut pipe = CommandPipe::open(url, 0).await?;
    let (mut answered, mut position) = (0, 0);
    for number in 0..commands {
        if number - answered == WINDOW as u64 {
            position = position.max(pipe.receipt().await?.position);
            answered += 1;
        }
        send(&mut pipe, number)?;
    }
    while answered < commands {
        position = position.max(pipe.receipt().await?.position);
        answered += 1;
    }
    Ok(position)
}

/// How a client waits until it sees what it wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// By asking once, for an answer that reflects the position of the receipt.
    MinPosition,
    /// By asking every millisecond until the version is there.
    Polling,
}

/// One command and the query that sees its effect.
#[derive(Clone)]
pub struct WriteAndRead {
    commands: BankClient<Channel>,
    queries: QueryServiceClient<Channel>,
}

impl WriteAndRead {
    /// Connects to both services.
    pub async fn connect(command_url: &str, query_url: &str) -> Result<Self> {
        let commands = BankClient::new(connect(command_url).await?);
        let queries = QueryServiceClient::new(connect(query_url).await?);
        Ok(Self { commands, queries })
    }

    /// Waits until the read side has reached a position.
    pub async fn reached(&mut self, position: u64) -> Result<()> {
        self.get(account(0), position).await?;
        Ok(())
    }

    /// Deposits.
    pub async fn write(&mut self, account_id: String) -> Result<CommandReceipt> {
        let receipt = self.commands.deposit(deposit(account_id)).await;
        Ok(receipt.context("a deposit failed")?.into_inner())
    }

    /// Deposits so many units.
    pub async fn write_units(&mut self, account_id: String, units: i64) -> Result<()> {
        let mut request = deposit(account_id);
        request.amount = request.amount.map(|amount| Money { units, ..amount });
        self.commands.deposit(request).await.context("a deposit failed")?;
        Ok(())
    }

    /// Waits until GetAccount shows the effect of a command.
    pub async fn read(&mut self, receipt: &CommandReceipt, waiting: Waiting) -> Result<()> {
        loop {
            let min_position = match waiting {
                Waiting::MinPosition => receipt.position,
                Waiting::Polling => 0,
            };
            let found = self.get(receipt.aggregate_id.clone(), min_position).await?;
            let version = found.account.context("an answer without an account")?.version;
            if version >= receipt.version {
                return Ok(());
            }
            ensure!(
                waiting == Waiting::Polling,
                "an answer at position {} does not show position {}",
                found.position,
                receipt.position
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn get(&mut self, account_id: String, min_position: u64) -> Result<GetAccountResponse> {
        let max_wait = Some(prost_types::Duration::try_from(MAX_WAIT)?);
        let read = Some(ReadContext { min_position, max_wait, ..ReadContext::default() });
        let request = GetAccountRequest { read, account_id };
        let answer = self.queries.get_account(request).await;
        Ok(answer.context("a query failed")?.into_inner())
    }
}
