//! Opens an account, moves money and reads it back.
//!
//! Start a server with `cargo run --release -- dev`, then:
//!
//! ```sh
//! cargo run -p daybook-client --example first_steps
//! cargo run -p daybook-client --example first_steps -- http://127.0.0.1:50051 http://127.0.0.1:50052
//! ```

use daybook_client::{Daybook, Error, Money};
use daybook_contract::bank::v1::MovementMethod;
use futures::TryStreamExt;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let command_url = args.next().unwrap_or_else(|| "http://127.0.0.1:50051".to_owned());
    let query_url = args.next().unwrap_or_else(|| "http://127.0.0.1:50052".to_owned());
    println!("{}", run(&command_url, &query_url).await?);
    Ok(())
}

/// Takes the first steps and says where they led.
pub async fn run(command_url: &str, query_url: &str) -> Result<String, Error> {
    let daybook =
        Daybook::builder().command_url(command_url).query_url(query_url).actor("ada").build()?;

    // The server makes the id of the account; the receipt has it.
    let opened = daybook.open_account("Ada Lovelace").initial_balance(usd(100, 0)).await?;
    let account = &opened.aggregate_id;

    daybook
        .deposit(account, usd(2_500, 0))
        .description("Salary March")
        .method(MovementMethod::Transfer)
        .await?;
    let receipt = daybook.withdraw(account, usd(12, 34)).method(MovementMethod::Card).await?;

    // Read your write: the query waits for the position of the receipt.
    let answer = daybook.get_account(account).after(&receipt).await?;
    let balance = answer.account.and_then(|account| account.balance).unwrap_or_default();
    assert_eq!(balance, usd(2_587, 66));

    // A rule of the bank: there is no overdraft. The reason is for programs, the message for
    // people.
    let refused = daybook.withdraw(account, usd(1_000_000, 0)).await.unwrap_err();
    assert_eq!(refused.reason(), "INSUFFICIENT_FUNDS");

    let transactions: Vec<_> =
        daybook.list_transactions(account).after(&receipt).all().try_collect().await?;
    Ok(format!(
        "account {account} has {}.{:02} USD after {} transactions; refused: {refused}",
        balance.units,
        balance.nanos / 10_000_000,
        transactions.len(),
    ))
}

fn usd(units: i64, cents: i32) -> Money {
    Money { currency_code: "USD".to_owned(), units, nanos: cents * 10_000_000 }
}
