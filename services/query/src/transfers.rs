//! The queries of `bank.v1.QueryService` about transfers.

use daybook_contract::bank::v1::{
    BankTransfer, GetTransferRequest, GetTransferResponse, ListTransfersRequest,
    ListTransfersResponse, TransferRejection, TransferState,
};
use daybook_contract::daybook::v1::ErrorReason;
use daybook_contract::error::Error;
use futures::FutureExt;
use prost::Message;
use sqlx::sqlite::SqliteConnection;
use tonic::Code;

use crate::bank::DEFAULT_PAGE;
use crate::paging::{Pages, page_size};
use crate::projections::transfers::TransferRow;
use crate::runtime::Handle;
use crate::runtime::row::{read_row, read_rows};
use crate::runtime::store::from_i64;
use crate::{check, read, time};

/// `GetTransfer`.
pub(crate) async fn get(
    transfers: &Handle,
    request: GetTransferRequest,
) -> Result<GetTransferResponse, Error> {
    read::check(&request, request.read.as_ref(), |_| {})?;
    let id = &request.transfer_id;
    let (row, position) = transfers
        .read(request.read.as_ref(), |connection| select_transfer(connection, id.clone()).boxed())
        .await?;
    let row = row.ok_or_else(|| not_found(id, position))?;
    Ok(GetTransferResponse { transfer: Some(transfer(row)?), position })
}

/// `ListTransfers`.
pub(crate) async fn list(
    transfers: &Handle,
    mut request: ListTransfersRequest,
) -> Result<ListTransfersResponse, Error> {
    read::check(&request, request.read.as_ref(), |violations| {
        check::page_size(violations, request.page_size);
    })?;
    let read = request.read.take();
    let size = page_size(request.page_size, DEFAULT_PAGE);
    let filters =
        ListTransfersRequest { page_size: 0, page_token: String::new(), ..request.clone() };
    let pages = Pages::of("bank.v1.ListTransfers", &filters);
    let before = match pages.after(&request.page_token)? {
        None => i64::MAX,
        Some(position) => position.parse().unwrap_or(i64::MAX),
    };
    let (mut rows, position) = transfers
        .read(read.as_ref(), |connection| {
            select_transfers(connection, filters.clone(), before, size + 1).boxed()
        })
        .await?;
    let next_page_token = pages.cut(&mut rows, size, |row| row.position.to_string());
    let transfers = rows.into_iter().map(transfer).collect::<Result<_, _>>()?;
    Ok(ListTransfersResponse { transfers, next_page_token, position })
}

fn not_found(id: &str, position: u64) -> Error {
    let reason = TransferRejection::TransferNotFound.as_str_name();
    let reason = reason.trim_start_matches("TRANSFER_REJECTION_");
    Error::custom(Code::NotFound, reason, format!("there is no transfer {id}"))
        .with("transfer_id", id)
        .with("position", position)
        .with_resource("bank.transfer", id)
}

async fn select_transfer(
    connection: &mut SqliteConnection,
    id: String,
) -> Result<Option<TransferRow>, sqlx::Error> {
    let query = sqlx::query("SELECT * FROM transfers WHERE transfer_id = ?").bind(id);
    query.fetch_optional(connection).await?.as_ref().map(read_row).transpose()
}

async fn select_transfers(
    connection: &mut SqliteConnection,
    filters: ListTransfersRequest,
    before: i64,
    limit: u32,
) -> Result<Vec<TransferRow>, sqlx::Error> {
    let sql = match (filters.account_id.is_empty(), filters.status) {
        (true, 0) => ALL,
        (true, _) => BY_STATUS,
        (false, 0) => BY_ACCOUNT,
        (false, _) => BY_ACCOUNT_AND_STATUS,
    };
    let query = sqlx::query(sql).bind(before).bind(limit).bind(filters.status);
    read_rows(&query.bind(filters.account_id).fetch_all(connection).await?)
}

const ALL: &str = "SELECT * FROM transfers WHERE position < ?1 ORDER BY position DESC LIMIT ?2";
const BY_STATUS: &str = "SELECT * FROM transfers INDEXED BY transfers_by_status
    WHERE status = ?3 AND position < ?1 ORDER BY position DESC LIMIT ?2";

/// What an account sends and what it gets: each half is read in the order of its index.
macro_rules! by_account {
    ($sender:literal, $recipient:literal, $condition:literal) => {
        concat!(
            "SELECT * FROM (
                 SELECT * FROM (
                     SELECT * FROM transfers INDEXED BY ",
            $sender,
            " WHERE from_account_id = ?4 AND ",
            $condition,
            " ORDER BY position DESC LIMIT ?2
                 )
                 UNION ALL
                 SELECT * FROM (
                     SELECT * FROM transfers INDEXED BY ",
            $recipient,
            " WHERE to_account_id = ?4 AND ",
            $condition,
            " ORDER BY position DESC LIMIT ?2
                 )
             ) ORDER BY position DESC LIMIT ?2"
        )
    };
}

const BY_ACCOUNT: &str =
    by_account!("transfers_by_sender", "transfers_by_recipient", "position < ?1");
const BY_ACCOUNT_AND_STATUS: &str = by_account!(
    "transfers_by_sender_and_status",
    "transfers_by_recipient_and_status",
    "status = ?3 AND position < ?1"
);

fn transfer(row: TransferRow) -> Result<BankTransfer, Error> {
    let state = TransferState::decode(row.state.as_slice()).map_err(|error| {
        let text = format!("the row of transfer {} cannot be read: {error}", row.transfer_id);
        Error::new(ErrorReason::Internal, text)
    })?;
    Ok(BankTransfer {
        transfer_id: row.transfer_id,
        from_account_id: state.from_account_id,
        to_account_id: state.to_account_id,
        amount: state.amount,
        description: state.description,
        status: state.status,
        refusal: state.refusal,
        version: from_i64(row.version),
        started_time: state.started_time,
        ended_time: row.ended_time.map(time::timestamp),
        updated_time: Some(time::timestamp(row.updated_time)),
    })
}

#[cfg(test)]
mod tests {
    use sqlx::{AssertSqlSafe, Connection, Executor, Row as _};

    use super::*;
    use crate::projections::transfers::Transfers;
    use crate::runtime::Projection;

    /// No list walks over transfers that it does not show; the two pages of an account are sorted.
    #[tokio::test]
    async fn every_list_is_read_in_the_order_of_an_index() {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        connection.execute(Transfers::SCHEMA).await.unwrap();
        let (from, to) = ("from_account_id=?", "to_account_id=?");
        let place = "status=? AND position<?)";
        for (sql, wanted) in [
            (ALL, vec!["transfers_by_position (position<?)".to_owned()]),
            (BY_STATUS, vec!["transfers_by_status (status=? AND position<?)".to_owned()]),
            (
                BY_ACCOUNT,
                vec![
                    format!("transfers_by_sender ({from} AND position<?)"),
                    format!("transfers_by_recipient ({to} AND position<?)"),
                ],
            ),
            (
                BY_ACCOUNT_AND_STATUS,
                vec![
                    format!("transfers_by_sender_and_status ({from} AND {place}"),
                    format!("transfers_by_recipient_and_status ({to} AND {place}"),
                ],
            ),
        ] {
            let explained = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
            let plan = sqlx::query(explained).fetch_all(&mut connection).await.unwrap();
            let steps: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
            for step in &wanted {
                assert!(steps.iter().any(|found| found.contains(step)), "{step}: {steps:?}");
            }
            let sorts = steps.iter().filter(|step| step.contains("TEMP B-TREE")).count();
            assert_eq!(sorts, if wanted.len() == 1 { 0 } else { 2 }, "{steps:?}");
        }
    }
}
