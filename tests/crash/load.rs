//! Clients that write until they are told to stop, and of whose commands none may fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use daybook_client::Daybook as Client;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::common::usd;

/// A load under way.
pub struct Load {
    writers: JoinSet<usize>,
}

impl Load {
    /// The accounts that it opens.
    pub const ACCOUNTS: usize = 7;

    /// Opens the accounts and begins to deposit and withdraw.
    pub async fn start(client: &Client, writers: usize, over: Arc<AtomicBool>) -> Self {
        for account in 0..Self::ACCOUNTS {
            let open = client.open_account("Ada").account_id(format!("l{account}"));
            open.initial_balance(usd(1_000_000)).await.unwrap();
        }
        let mut tasks = JoinSet::new();
        for writer in 0..writers {
            tasks.spawn(write(client.clone(), writer, over.clone()));
        }
        Self { writers: tasks }
    }

    /// Waits for the writers and tells how many receipts they got.
    pub async fn receipts(self) -> usize {
        self.writers.join_all().await.into_iter().sum()
    }
}

async fn write(client: Client, writer: usize, over: Arc<AtomicBool>) -> usize {
    let mut count = 0;
    while !over.load(Ordering::SeqCst) {
        let number = writer + count;
        let account = format!("l{}", number % Load::ACCOUNTS);
        let receipt = match number % 3 {
            0 => client.withdraw(account, usd(2)).await,
            _ => client.deposit(account, usd(3)).await,
        };
        assert!(!receipt.unwrap().replayed);
        count += 1;
        // Steady rather than heavy: the other side has to keep up on a slow machine.
        sleep(Duration::from_millis(2)).await;
    }
    count
}
