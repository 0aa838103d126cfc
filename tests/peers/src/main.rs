//! UmaDB beside daybook: its server, and clients that load it as daybook-bench loads daybook.
//!
//! daybook-bench starts this program twice: as the server (`daybook-peers server ADDRESS DIR`, UmaDB
//! as it is shipped, with its defaults) and as the clients (`daybook-peers clients URL PROCESS`).
//! The loops, the clock and the look at the processors are the files of daybook-bench.
//!
//! An append is the counterpart of a deposit: one event, on the condition that its account has no
//! event after the last one that the writer knows. Each account has one writer, which remembers
//! where its last event is, so that nothing has to be read and no condition fails. UmaDB answers
//! when its data and then its header have been synced to the disk (fdatasync).

#[allow(dead_code, reason = "the file of daybook-bench has more than is needed here")]
#[path = "../../bench/src/load.rs"]
mod load;
#[allow(dead_code, reason = "the file of daybook-bench has more than is needed here")]
#[path = "../../bench/src/machine.rs"]
mod machine;

use std::collections::HashMap;
use std::io::BufRead;
use std::mem::take;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, anyhow, bail};
use umadb_client::{AsyncUmaDbClient, UmaDbClient};
use umadb_dcb::{DcbAppendCondition, DcbEvent, DcbEventStoreAsync, DcbQuery, DcbQueryItem};
use uuid::Uuid;

use crate::load::{Asked, Client, Told};

/// The type of the events.
const TYPE: &str = "MoneyDeposited";

/// As many bytes as the content of a deposit has.
const DATA: [u8; 48] = [0x5a; 48];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["server", address, directory] => serve(address, directory),
        ["clients", url, server] => {
            tokio::runtime::Runtime::new()?.block_on(load_when_asked(url, server.parse()?))
        }
        _ => bail!("this program is started by `daybook-bench peers`"),
    }
}

/// UmaDB's own server, until standard input ends.
fn serve(address: &str, directory: &str) -> Result<()> {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    let options = umadb::CliOptions {
        listen_addr: address.to_owned(),
        db_path: directory.to_owned(),
        ..umadb::CliOptions::default()
    };
    umadb::start_server_with_cli_options(options).map_err(|error| anyhow!("{error}"))
}

/// Runs a load for each line of standard input, and prints what came out as a line.
async fn load_when_asked(url: &str, server: u32) -> Result<()> {
    // What the writers know of their accounts, from one load to the next.
    let mut known = HashMap::new();
    for line in std::io::stdin().lock().lines() {
        let asked: Asked = serde_json::from_str(&line?)?;
        let writers = Writer::all(url, &asked, take(&mut known)).await?;
        let back = Arc::new(Mutex::new(HashMap::new()));
        let clients = writers.into_iter().map(|writer| Returning(writer, back.clone())).collect();
        let window = load::closed(clients, asked.times, &[server]).await?;
        known = take(&mut back.lock().expect("no writer panics with the lock"));
        println!("{}", serde_json::to_string(&Told::from(window))?);
    }
    Ok(())
}

/// The position of the last event of an account.
type Known = HashMap<u64, u64>;

/// Appends to its own accounts in turn by chance.
struct Writer {
    client: Arc<AsyncUmaDbClient>,
    first: u64,
    step: u64,
    accounts: u64,
    random: u64,
    known: Known,
}

impl Writer {
    /// As many writers as asked for, spread over their connections; each has every n-th account.
    async fn all(url: &str, asked: &Asked, mut known: Known) -> Result<Vec<Self>> {
        let mut connections = Vec::new();
        for _ in 0..asked.connections {
            let connected = UmaDbClient::new(url.to_owned()).connect_async().await;
            connections.push(Arc::new(connected.context("UmaDB does not answer")?));
        }
        let step = asked.clients as u64;
        let writers = (0..step).zip(connections.iter().cycle()).map(|(first, client)| Self {
            client: client.clone(),
            first,
            step,
            accounts: asked.accounts / step,
            random: first + 1,
            known: known.extract_if(|account, _| account % step == first).collect(),
        });
        Ok(writers.collect())
    }

    async fn append(&mut self) -> Result<()> {
        // xorshift: the numbers only have to be spread.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let account = self.first + self.random % self.accounts * self.step;
        let tag = format!("bench-{account:05}");
        let event = DcbEvent::default()
            .event_type(TYPE)
            .tags([tag.as_str()])
            .data(DATA)
            .uuid(Uuid::now_v7());
        let unchanged = DcbQuery::new().item(DcbQueryItem::new().types([TYPE]).tags([tag]));
        let condition = DcbAppendCondition::new(unchanged).after(self.known.get(&account).copied());
        let position = self.client.append(vec![event], Some(condition), None).await?;
        self.known.insert(account, position);
        Ok(())
    }
}

/// A writer that hands back what it knows when its load ends.
struct Returning(Writer, Arc<Mutex<Known>>);

impl Client for Returning {
    async fn call(&mut self) -> Result<()> {
        self.0.append().await
    }
}

impl Drop for Returning {
    fn drop(&mut self) {
        self.1.lock().expect("no writer panics with the lock").extend(take(&mut self.0.known));
    }
}
