//! The queries of `bank.v1.QueryService` about transfers.

use daybook_contract::bank::v1::{
    BankTransfer, GetTransferRequest, GetTransferResponse, ListTransfersRequest,
    ListTransfersResponse, TransferRejection, TransferState, TransferStatus,
};
use daybook_contract::daybook::v1::ErrorReason;
use daybook_contract::error::Error;
use prost::Message;
use rusqlite::Connection;
use tonic::Code;

use crate::bank::DEFAULT_PAGE;
use crate::paging::{Pages, newest, page_size};
use crate::projections::transfers::TransferRow;
use crate::runtime::Handle;
use crate::runtime::row::{first, rows};
use crate::runtime::store::from_i64;
use crate::{check, read, time};

/// `GetTransfer`.
pub(crate) async fn get(
    transfers: &Handle,
    request: GetTransferRequest,
) -> Result<GetTransferResponse, Error> {
    read::check(&request, request.read.as_ref(), |_| {})?;
    let id = request.transfer_id.clone();
    let (row, position) = transfers
        .read(request.read.as_ref(), move |connection| select_transfer(connection, &id))
        .await?;
    let row = row.ok_or_else(|| not_found(&request.transfer_id, position))?;
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
        .read(read.as_ref(), move |connection| {
            select_transfers(connection, &filters, before, size + 1)
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

fn select_transfer(connection: &Connection, id: &str) -> rusqlite::Result<Option<TransferRow>> {
    first(connection, "SELECT * FROM transfers WHERE transfer_id = ?", &[&id])
}

fn select_transfers(
    connection: &Connection,
    filters: &ListTransfersRequest,
    before: i64,
    limit: u32,
) -> rusqlite::Result<Vec<TransferRow>> {
    rows(connection, &statement(filters), &[&before, &limit, &filters.account_id])
}

/// What an account sends and what it gets, in every status that is asked for; also in none, when the
/// first event of a transfer was given up.
fn statement(filters: &ListTransfersRequest) -> String {
    let accounts: &[&str] = match filters.account_id.is_empty() {
        true => &[""],
        false => &["from_account_id = ?3 AND ", "to_account_id = ?3 AND "],
    };
    let statuses = (0..).map_while(|number| TransferStatus::try_from(number).ok());
    let statuses = statuses.map(i32::from).filter(|it| [0, *it].contains(&filters.status));
    let ranges = statuses.flat_map(|status| {
        accounts.iter().map(move |account| format!("{account}status = {status}"))
    });
    newest("transfers", ranges)
}

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
    use super::*;
    use crate::projections::transfers::Transfers;
    use crate::runtime::Projection;
    use crate::runtime::row::select;

    /// No list walks over transfers that it does not show.
    #[test]
    fn every_list_is_read_in_the_order_of_an_index() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(Transfers::SCHEMA).unwrap();
        let (by_sender, by_recipient) = (
            "transfers_by_sender (from_account_id=? AND status=? AND position<?)",
            "transfers_by_recipient (to_account_id=? AND status=? AND position<?)",
        );
        let by_status = "transfers_by_status (status=? AND position<?)";
        for (account_id, status, wanted) in [
            ("", 0, vec![by_status; 8]),
            ("", 2, vec![by_status]),
            ("ada", 0, [by_sender, by_recipient].repeat(8)),
            ("ada", 2, vec![by_sender, by_recipient]),
        ] {
            let account_id = account_id.to_owned();
            let filters = ListTransfersRequest { account_id, status, ..Default::default() };
            let sql = format!("EXPLAIN QUERY PLAN {}", statement(&filters));
            let steps: Vec<String> =
                select(&connection, &sql, &[], |row| row.get("detail")).unwrap();
            let mut read: Vec<_> = steps
                .iter()
                .filter_map(|step| step.strip_prefix("SEARCH transfers USING "))
                .collect();
            let rows = "INTEGER PRIMARY KEY (rowid=?)";
            assert_eq!(read.iter().filter(|step| **step == rows).count(), 1, "{steps:?}");
            read.retain(|step| *step != rows);
            let read = read.into_iter().map(|step| step.trim_start_matches("COVERING INDEX "));
            assert_eq!(read.collect::<Vec<_>>(), wanted, "{steps:?}");
            // What is sorted are the pages that were found, not the ranges.
            let sorts =
                |pair: &[String]| pair[0].starts_with("SEARCH") && pair[1].contains("TEMP B-TREE");
            assert!(!steps.windows(2).any(sorts), "{steps:?}");
        }
    }
}
