//! Transfers through the saga, beside the two plain commands that they consist of.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use daybook_contract::bank::v1::TransferRequest;
use daybook_contract::bank::v1::command_service_client::CommandServiceClient as BankClient;
use daybook_contract::daybook::v1::event_log_service_client::EventLogServiceClient;
use daybook_contract::daybook::v1::subscribe_response::Content;
use daybook_contract::daybook::v1::{
    EventFilter, GetLogInfoRequest, RecordedEvent, SubscribeRequest,
};
use prost::Message;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use uuid::Uuid;

use crate::bank::{
    ACCOUNTS, Random, account, connect, connections, context, deposit, dollars, open_accounts,
    withdraw,
};
use crate::load::{self, Client, Window};
use crate::projections::all_reached;
use crate::report::Row;
use crate::scenarios::Bench;
use crate::servers::System;

/// The clients. A transfer takes several turns of the log, so it needs many to keep it busy.
const CLIENTS: [usize; 2] = [64, 256];

/// The part of the rate of the plain commands that transfers are to reach, in percent.
const TARGET: f64 = 30.0;

impl Bench {
    /// Moves money by transfers and by plain commands, in turns. Everything runs in one process,
    /// and every window begins when the projections have seen all of the one before.
    pub async fn transfers(&mut self) -> Result<()> {
        let system = self.programs.single("dev")?;
        open_accounts(&system.ports.command_url()).await?;
        for clients in CLIENTS {
            let (mut transfers, mut plain) = (Vec::new(), Vec::new());
            for _ in 0..self.windows {
                settle(&system).await?;
                plain.push(self.plain_moves(&system, clients).await?);
                settle(&system).await?;
                transfers.push(self.saga_moves(&system, clients).await?);
            }
            let (transfers, plain) = (self.summary(transfers), self.summary(plain));
            let name = format!("Transfer until completed, {clients} clients");
            let row = Row::beside(name, transfers, "Withdraw and Deposit", plain);
            let percent = row.beside.as_ref().map_or(0.0, |beside| beside.ratio * 100.0);
            let what = format!("transfers of {clients} clients");
            self.floor(&what, "≥ 30 % of two commands", percent, percent >= TARGET);
            self.row(row);
        }
        Ok(())
    }

    async fn plain_moves(&self, system: &System, count: usize) -> Result<Window> {
        let channels = connections(&system.ports.command_url(), count).await?;
        let clients = (0..count).zip(channels.iter().cycle()).map(|(number, channel)| Moves {
            client: BankClient::new(channel.clone()),
            random: Random::new(number as u64),
        });
        load::closed(clients.collect(), self.times, &system.ids()).await
    }

    async fn saga_moves(&self, system: &System, count: usize) -> Result<Window> {
        let url = system.ports.command_url();
        let ends = Ends::follow(&url).await?;
        let channels = connections(&url, count).await?;
        let clients = (0..count).zip(channels.iter().cycle()).map(|(number, channel)| Transfers {
            client: BankClient::new(channel.clone()),
            random: Random::new(number as u64),
            ends: ends.clone(),
        });
        load::closed(clients.collect(), self.times, &system.ids()).await
    }
}

/// Waits until every projection reflects all that is in the log.
async fn settle(system: &System) -> Result<()> {
    let mut log = EventLogServiceClient::new(connect(&system.ports.command_url()).await?);
    let head = log.get_log_info(GetLogInfoRequest {}).await?.into_inner().head_position;
    all_reached(&system.ports.query_url(), head).await.with_context(|| system.log_lines())
}

/// Two different accounts.
fn two_accounts(random: &mut Random) -> (String, String) {
    let from = random.below(ACCOUNTS);
    let to = (from + 1 + random.below(ACCOUNTS - 1)) % ACCOUNTS;
    (account(from), account(to))
}

/// Moves money by two plain commands at a time.
struct Moves {
    client: BankClient<Channel>,
    random: Random,
}

impl Client for Moves {
    async fn call(&mut self) -> Result<()> {
        let (from, to) = two_accounts(&mut self.random);
        self.client.withdraw(withdraw(from)).await.context("a withdrawal failed")?;
        self.client.deposit(deposit(to)).await.context("a deposit failed")?;
        Ok(())
    }
}

/// Moves money by one transfer at a time, each until it is completed.
struct Transfers {
    client: BankClient<Channel>,
    random: Random,
    ends: Arc<Ends>,
}

impl Client for Transfers {
    async fn call(&mut self) -> Result<()> {
        let (from_account_id, to_account_id) = two_accounts(&mut self.random);
        let transfer_id = Uuid::now_v7().to_string();
        let ended = self.ends.of(&transfer_id);
        let request = TransferRequest {
            context: context(),
            transfer_id,
            from_account_id,
            to_account_id,
            amount: Some(dollars(1)),
            description: "rent".to_owned(),
        };
        self.client.transfer(request).await.context("a transfer was refused")?;
        let name = ended.await.context("the subscription to the ends of transfers ended")?;
        anyhow::ensure!(name == COMPLETED, "a transfer ended with {name}");
        Ok(())
    }
}

/// The event with which a transfer has reached its aim.
const COMPLETED: &str = "TransferCompleted";

/// The events with which a transfer ends.
const ENDS: [&str; 3] = [COMPLETED, "TransferReturned", "TransferFailed"];

/// Tells how transfers end, as the log has it.
struct Ends {
    waiting: Mutex<HashMap<String, oneshot::Sender<String>>>,
    follower: Mutex<Option<JoinHandle<()>>>,
}

impl Ends {
    /// Follows the log from its end.
    async fn follow(url: &str) -> Result<Arc<Self>> {
        let mut client = EventLogServiceClient::new(connect(url).await?);
        let after_position =
            client.get_log_info(GetLogInfoRequest {}).await?.into_inner().head_position;
        let filter = EventFilter {
            aggregate_types: vec!["bank.transfer".to_owned()],
            event_names: ENDS.map(str::to_owned).into(),
        };
        let request = SubscribeRequest { after_position, filter: Some(filter) };
        let mut events = client.subscribe(request).await?.into_inner();
        let ends = Arc::new(Self { waiting: Mutex::default(), follower: Mutex::default() });
        let weak = Arc::downgrade(&ends);
        let follower = tokio::spawn(async move {
            while let Ok(Some(answer)) = events.message().await {
                let Some(ends) = weak.upgrade() else { return };
                let Some(Content::Batch(batch)) = answer.content else { continue };
                for event in batch.events {
                    if let Ok(event) = RecordedEvent::decode(event) {
                        ends.ended(&event.aggregate_id, event.event_name);
                    }
                }
            }
            // Nobody is left waiting for what cannot come.
            if let Some(ends) = weak.upgrade() {
                ends.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
            }
        });
        *ends.follower.lock().unwrap_or_else(PoisonError::into_inner) = Some(follower);
        Ok(ends)
    }

    /// The name of the event with which a transfer is going to end.
    fn of(&self, transfer_id: &str) -> oneshot::Receiver<String> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.insert(transfer_id.to_owned(), sender);
        receiver
    }

    fn ended(&self, transfer_id: &str, event_name: String) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = waiting.remove(transfer_id) {
            let _ = sender.send(event_name);
        }
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        if let Some(follower) = self.follower.get_mut().unwrap_or_else(PoisonError::into_inner) {
            follower.abort();
        }
    }
}
