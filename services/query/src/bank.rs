//! `bank.v1.QueryService`: answers from the projections of the bank.

use std::num::NonZeroUsize;
use std::sync::Arc;

use daybook_contract::bank::v1::query_service_server::QueryService;
use daybook_contract::bank::v1::{
    Account, AccountRejection, DailySummary, GetAccountRequest, GetAccountResponse,
    GetDailySummaryRequest, GetDailySummaryResponse, GetTransferRequest, GetTransferResponse,
    GetYearlyTotalsRequest, GetYearlyTotalsResponse, ListAccountsRequest, ListAccountsResponse,
    ListTransactionsRequest, ListTransactionsResponse, ListTransfersRequest, ListTransfersResponse,
    MovementSummary, Transaction,
};
use daybook_contract::error::Error;
use rusqlite::{Connection, ToSql};
use tonic::{Code, Request, Response, Status};

use crate::amount;
use crate::cache::Cache;
use crate::check;
use crate::paging::{Pages, page_size};
use crate::projections::account_balance::{AccountBalance, AccountRow};
use crate::projections::account_transactions::{AccountTransactions, BalanceRow, TransactionRow};
use crate::projections::daily_summary::{DailySummary as DailySummaryProjection, DayRow};
use crate::projections::transfers::Transfers;
use crate::read;
use crate::runtime::row::{Row as _, first, rows, select};
use crate::runtime::store;
use crate::runtime::{Handle, Projection};
use crate::time;
use crate::timeline::{self, Wanted};
use crate::transfers;

/// How many accounts or transactions a page has when the request does not say.
pub(crate) const DEFAULT_PAGE: u32 = 50;

/// How many accounts are remembered, about 300 bytes each.
const CACHED_ACCOUNTS: NonZeroUsize = NonZeroUsize::new(32_768).expect("not zero");

/// How many lists of each kind are remembered; a full page takes some 100 kB.
const CACHED_LISTS: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");

/// The service.
#[derive(Clone)]
pub struct BankQueries {
    inner: Arc<Inner>,
}

struct Inner {
    balance: Handle,
    transactions: Handle,
    days: Handle,
    transfers: Handle,
    cached_accounts: Cache<Option<AccountView>>,
    cached_lists: Cache<Vec<AccountView>>,
    cached_transactions: Cache<Option<(BalanceRow, Vec<TransactionRow>)>>,
    cached_days: Cache<Vec<DayRow>>,
}

impl BankQueries {
    /// The service over these projections, which must contain those of the bank.
    pub fn new(handles: &[Handle]) -> Result<Self, Error> {
        let find = |name| crate::runtime::host::find(handles, name).cloned();
        Ok(Self {
            inner: Arc::new(Inner {
                balance: find(AccountBalance::NAME)?,
                transactions: find(AccountTransactions::NAME)?,
                days: find(DailySummaryProjection::NAME)?,
                transfers: find(Transfers::NAME)?,
                cached_accounts: Cache::new(CACHED_ACCOUNTS),
                cached_lists: Cache::new(CACHED_LISTS),
                cached_transactions: Cache::new(CACHED_LISTS),
                cached_days: Cache::new(CACHED_LISTS),
            }),
        })
    }

    async fn days(
        &self,
        read: Option<&daybook_contract::daybook::v1::ReadContext>,
        first: String,
        last: String,
        currency_code: String,
    ) -> Result<(Vec<DayRow>, u64), Error> {
        // The key of the cache is a request, whichever of the two queries asks.
        let key =
            GetDailySummaryRequest { read: None, start_date: first, end_date: last, currency_code };
        let wanted = key.clone();
        self.inner
            .cached_days
            .answer(&self.inner.days, read, &key, move |connection| {
                select_days(connection, &wanted)
            })
            .await
    }
}

#[tonic::async_trait]
impl QueryService for BankQueries {
    async fn get_account(
        &self,
        request: Request<GetAccountRequest>,
    ) -> Result<Response<GetAccountResponse>, Status> {
        let request = request.into_inner();
        read::check(&request, request.read.as_ref(), |_| {})?;
        let id = request.account_id.clone();
        let key = GetAccountRequest { read: None, ..request.clone() };
        let (row, position) = self
            .inner
            .cached_accounts
            .answer(&self.inner.balance, request.read.as_ref(), &key, move |connection| {
                select_account(connection, &id)
            })
            .await?;
        let row = row.ok_or_else(|| account_not_found(&request.account_id, position))?;
        Ok(Response::new(GetAccountResponse { account: Some(account(row)?), position }))
    }

    async fn list_accounts(
        &self,
        request: Request<ListAccountsRequest>,
    ) -> Result<Response<ListAccountsResponse>, Status> {
        let mut request = request.into_inner();
        read::check(&request, request.read.as_ref(), |violations| {
            check::page_size(violations, request.page_size);
        })?;
        let read = request.read.take();
        let size = page_size(request.page_size, DEFAULT_PAGE);
        let filters =
            ListAccountsRequest { page_size: 0, page_token: String::new(), ..request.clone() };
        let pages = Pages::of("bank.v1.ListAccounts", &filters);
        let after = pages.after(&request.page_token)?.unwrap_or_default();
        let (mut rows, position) = self
            .inner
            .cached_lists
            .answer(&self.inner.balance, read.as_ref(), &request, move |connection| {
                select_accounts(connection, &filters, &after, size + 1)
            })
            .await?;
        let next_page_token = pages.cut(&mut rows, size, |view| view.row.account_id.clone());
        let accounts = rows.into_iter().map(account).collect::<Result<_, _>>()?;
        Ok(Response::new(ListAccountsResponse { accounts, next_page_token, position }))
    }

    async fn list_transactions(
        &self,
        request: Request<ListTransactionsRequest>,
    ) -> Result<Response<ListTransactionsResponse>, Status> {
        let mut request = request.into_inner();
        read::check(&request, request.read.as_ref(), |violations| {
            check::page_size(violations, request.page_size);
            check::times(violations, request.start_time.as_ref(), request.end_time.as_ref());
        })?;
        let read = request.read.take();
        let size = page_size(request.page_size, DEFAULT_PAGE);
        let filters =
            ListTransactionsRequest { page_size: 0, page_token: String::new(), ..request.clone() };
        let pages = Pages::of("bank.v1.ListTransactions", &filters);
        let before = match pages.after(&request.page_token)? {
            None => i64::MAX,
            Some(version) => version.parse().unwrap_or(i64::MAX),
        };
        let (found, position) = self
            .inner
            .cached_transactions
            .answer(&self.inner.transactions, read.as_ref(), &request, move |connection| {
                select_transactions(connection, &filters, before, size + 1)
            })
            .await?;
        let (account, mut rows) =
            found.ok_or_else(|| account_not_found(&request.account_id, position))?;
        let next_page_token = pages.cut(&mut rows, size, |row| row.version.to_string());
        let transactions =
            rows.into_iter().map(|row| transaction(&account, row)).collect::<Result<_, _>>()?;
        Ok(Response::new(ListTransactionsResponse { transactions, next_page_token, position }))
    }

    async fn get_daily_summary(
        &self,
        request: Request<GetDailySummaryRequest>,
    ) -> Result<Response<GetDailySummaryResponse>, Status> {
        let request = request.into_inner();
        read::check(&request, request.read.as_ref(), |violations| {
            check::days(violations, &request.start_date, &request.end_date);
            check::currency(violations, &request.currency_code);
        })?;
        let last = match request.end_date.is_empty() {
            true => request.start_date.clone(),
            false => request.end_date,
        };
        let (rows, position) = self
            .days(request.read.as_ref(), request.start_date, last, request.currency_code)
            .await?;
        let mut days = Vec::with_capacity(rows.len());
        for row in rows {
            let mut totals = Totals::default();
            totals.add(&row);
            days.push(DailySummary {
                movements: Some(totals.summary(&row.currency_code)?),
                date: row.day,
            });
        }
        Ok(Response::new(GetDailySummaryResponse { days, position }))
    }

    async fn get_yearly_totals(
        &self,
        request: Request<GetYearlyTotalsRequest>,
    ) -> Result<Response<GetYearlyTotalsResponse>, Status> {
        let request = request.into_inner();
        let year = request.year;
        read::check(&request, request.read.as_ref(), |violations| {
            if year != 0 && !check::YEARS.contains(&year) {
                let (first, last) = (check::YEARS.start(), check::YEARS.end());
                violations.add("year", format!("{year} is not from {first} to {last}"));
            }
            check::currency(violations, &request.currency_code);
        })?;
        let (first, last) = (format!("{year:04}-01-01"), format!("{year:04}-12-31"));
        let (rows, position) =
            self.days(request.read.as_ref(), first, last, request.currency_code).await?;
        let mut by_currency = std::collections::BTreeMap::<String, Totals>::new();
        for row in rows {
            by_currency.entry(row.currency_code.clone()).or_default().add(&row);
        }
        let totals = by_currency
            .iter()
            .map(|(currency, totals)| totals.summary(currency))
            .collect::<Result<_, _>>()?;
        Ok(Response::new(GetYearlyTotalsResponse { totals, position }))
    }

    async fn get_transfer(
        &self,
        request: Request<GetTransferRequest>,
    ) -> Result<Response<GetTransferResponse>, Status> {
        Ok(Response::new(transfers::get(&self.inner.transfers, request.into_inner()).await?))
    }

    async fn list_transfers(
        &self,
        request: Request<ListTransfersRequest>,
    ) -> Result<Response<ListTransfersResponse>, Status> {
        Ok(Response::new(transfers::list(&self.inner.transfers, request.into_inner()).await?))
    }
}

fn account_not_found(id: &str, position: u64) -> Error {
    let reason = AccountRejection::AccountNotFound.as_str_name();
    let reason = reason.trim_start_matches("ACCOUNT_REJECTION_");
    Error::custom(Code::NotFound, reason, format!("there is no account {id}"))
        .with("account_id", id)
        .with("position", position)
        .with_resource("bank.account", id)
}

// ---- Rows -------------------------------------------------------------------------------------

/// An account with what is on its way from and to it.
#[derive(Clone)]
struct AccountView {
    row: AccountRow,
    out_minor: i64,
    in_minor: i64,
}

impl AccountView {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        let after = AccountRow::COLUMNS.len();
        Ok(Self {
            row: AccountRow::read(row, 0)?,
            // Below zero is what one account knows before the other.
            out_minor: row.get::<_, Option<i64>>(after)?.unwrap_or_default().max(0),
            in_minor: row.get::<_, Option<i64>>(after + 1)?.unwrap_or_default().max(0),
        })
    }
}

fn select_account(connection: &Connection, id: &str) -> rusqlite::Result<Option<AccountView>> {
    let sql = "SELECT accounts.*, out_minor, in_minor
         FROM accounts LEFT JOIN pending USING (account_id, currency_code)
         WHERE account_id = ?";
    Ok(select(connection, sql, &[&id], AccountView::read)?.pop())
}

/// Accounts in the order of one index: by id, or by owner and id when the owner's name has to begin
/// with something. No text is greater than one with a byte 255, so the range holds exactly the
/// names with the prefix.
fn select_accounts(
    connection: &Connection,
    filters: &ListAccountsRequest,
    after: &str,
    limit: u32,
) -> rusqlite::Result<Vec<AccountView>> {
    let sql = match (filters.owner_prefix.is_empty(), filters.status) {
        (true, 0) => BY_ID,
        (true, _) => BY_STATUS,
        (false, 0) => BY_OWNER,
        (false, _) => BY_STATUS_AND_OWNER,
    };
    // A page begins after an owner and an id. Owners keep their names.
    let mut after_owner = filters.owner_prefix.clone();
    if !filters.owner_prefix.is_empty() && !after.is_empty() {
        let owner = "SELECT owner_name FROM accounts WHERE account_id = ?";
        let owner = select(connection, owner, &[&after], |row| row.get(0))?.pop();
        after_owner = owner.unwrap_or_default();
    }
    let (status, prefix) = (filters.status, &filters.owner_prefix);
    let values: &[&dyn ToSql] = &[&after, &limit, &status, &after_owner, prefix];
    select(connection, sql, values, AccountView::read)
}

/// Accounts in the order of one index, after a place in it.
macro_rules! accounts_by {
    ($index:literal, $condition:literal, $order:literal) => {
        concat!(
            "SELECT accounts.*, out_minor, in_minor FROM accounts ",
            $index,
            " LEFT JOIN pending USING (account_id, currency_code) WHERE ",
            $condition,
            " ORDER BY ",
            $order,
            " LIMIT ?2"
        )
    };
}

const BY_ID: &str = accounts_by!("", "account_id > ?1", "account_id");
const BY_STATUS: &str =
    accounts_by!("INDEXED BY accounts_by_status", "status = ?3 AND account_id > ?1", "account_id");
const BY_OWNER: &str = accounts_by!(
    "INDEXED BY accounts_by_owner",
    "(owner_name, account_id) > (?4, ?1) AND owner_name < ?5 || CAST(x'ff' AS TEXT)",
    "owner_name, account_id"
);
const BY_STATUS_AND_OWNER: &str = accounts_by!(
    "INDEXED BY accounts_by_status_and_owner",
    "status = ?3 AND (owner_name, account_id) > (?4, ?1)
        AND owner_name < ?5 || CAST(x'ff' AS TEXT)",
    "owner_name, account_id"
);

fn select_transactions(
    connection: &Connection,
    filters: &ListTransactionsRequest,
    before: i64,
    limit: u32,
) -> rusqlite::Result<Option<(BalanceRow, Vec<TransactionRow>)>> {
    let account = "SELECT * FROM balances WHERE account_id = ?";
    let account = first::<BalanceRow>(connection, account, &[&filters.account_id])?;
    let Some(account) = account else { return Ok(None) };
    let wanted = Wanted {
        stream_no: account.account_no,
        kind: filters.kind,
        start_time: filters.start_time.as_ref(),
        end_time: filters.end_time.as_ref(),
        before,
        limit,
    };
    Ok(Some((account, timeline::page(connection, wanted)?)))
}

fn select_days(
    connection: &Connection,
    request: &GetDailySummaryRequest,
) -> rusqlite::Result<Vec<DayRow>> {
    let sql = "SELECT * FROM days
         WHERE day BETWEEN ?1 AND ?2 AND (?3 = '' OR currency_code = ?3)
         ORDER BY day, currency_code";
    rows(connection, sql, &[&request.start_date, &request.end_date, &request.currency_code])
}

// ---- Answers ----------------------------------------------------------------------------------

fn account(AccountView { row, out_minor, in_minor }: AccountView) -> Result<Account, Error> {
    let money = |minor: i64| amount::to_wire(minor.into(), &row.currency_code);
    Ok(Account {
        balance: Some(money(row.balance_minor)?),
        pending_out: Some(money(out_minor)?),
        pending_in: Some(money(in_minor)?),
        account_id: row.account_id,
        owner_name: row.owner_name,
        status: store::number(row.status),
        version: store::from_i64(row.version),
        opened_time: Some(time::timestamp(row.opened_time)),
        closed_time: row.closed_time.map(time::timestamp),
        updated_time: Some(time::timestamp(row.updated_time)),
    })
}

fn transaction(account: &BalanceRow, row: TransactionRow) -> Result<Transaction, Error> {
    let currency = &account.currency_code;
    Ok(Transaction {
        account_id: account.account_id.clone(),
        version: store::from_i64(row.version),
        kind: store::number(row.kind),
        amount: Some(amount::to_wire(row.amount_minor.into(), currency)?),
        balance_after: Some(amount::to_wire(row.balance_minor.into(), currency)?),
        description: row.description,
        method: store::number(row.method),
        recorded_time: Some(time::timestamp(row.recorded_time)),
        position: store::from_i64(row.position),
        event_id: row.event_id,
    })
}

/// Sums over days. A year may hold more than 64 bits of the smallest unit.
#[derive(Default)]
struct Totals {
    accounts_opened: i128,
    accounts_closed: i128,
    deposit_count: i128,
    deposit_minor: i128,
    withdrawal_count: i128,
    withdrawal_minor: i128,
    transfer_count: i128,
    transfer_minor: i128,
}

impl Totals {
    fn add(&mut self, day: &DayRow) {
        self.accounts_opened += i128::from(day.accounts_opened);
        self.accounts_closed += i128::from(day.accounts_closed);
        self.deposit_count += i128::from(day.deposit_count);
        self.deposit_minor += i128::from(day.deposit_minor);
        self.withdrawal_count += i128::from(day.withdrawal_count);
        self.withdrawal_minor += i128::from(day.withdrawal_minor);
        self.transfer_count += i128::from(day.transfer_count);
        self.transfer_minor += i128::from(day.transfer_minor);
    }

    fn summary(&self, currency: &str) -> Result<MovementSummary, Error> {
        let count = |count: i128| u64::try_from(count).unwrap_or_default();
        Ok(MovementSummary {
            currency_code: currency.to_owned(),
            accounts_opened: count(self.accounts_opened),
            accounts_closed: count(self.accounts_closed),
            deposit_count: count(self.deposit_count),
            deposit_total: Some(amount::to_wire(self.deposit_minor, currency)?),
            withdrawal_count: count(self.withdrawal_count),
            withdrawal_total: Some(amount::to_wire(self.withdrawal_minor, currency)?),
            transfer_count: count(self.transfer_count),
            transfer_total: Some(amount::to_wire(self.transfer_minor, currency)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_of_accounts_is_read_in_the_order_of_an_index() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(AccountBalance::SCHEMA).unwrap();
        let place = "AND (owner_name,account_id)>(?,?) AND owner_name<?)";
        for (sql, step) in [
            (BY_ID, "PRIMARY KEY (account_id>?)".to_owned()),
            (BY_STATUS, "accounts_by_status (status=? AND account_id>?)".to_owned()),
            (BY_OWNER, format!("accounts_by_owner ({}", &place[4..])),
            (BY_STATUS_AND_OWNER, format!("accounts_by_status_and_owner (status=? {place}")),
        ] {
            let sql = format!("EXPLAIN QUERY PLAN {sql}");
            let steps: Vec<String> =
                select(&connection, &sql, &[], |row| row.get("detail")).unwrap();
            assert!(steps[0].contains(&step), "{step}: {steps:?}");
            assert!(steps.iter().all(|step| !step.contains("TEMP B-TREE")), "{steps:?}");
        }
    }
}
