//! The rows of users.

use daybook_contract::users::v1::{GetUserActivityRequest, ListUsersRequest};
use sqlx::sqlite::SqliteConnection;

use crate::projections::user_activity::{ActivityRow, UserNumberRow};
use crate::projections::user_statistics::{NumbersRow, SpentRow};
use crate::projections::users::UserRow;
use crate::runtime::row::{read_row, read_rows};
use crate::time;

pub async fn user(
    connection: &mut SqliteConnection,
    id: String,
) -> Result<Option<UserRow>, sqlx::Error> {
    let query = sqlx::query("SELECT * FROM users WHERE user_id = ?").bind(id);
    query.fetch_optional(connection).await?.as_ref().map(read_row).transpose()
}

/// Users by id. Those with an e-mail address, or a name that begins so, are found in an index and
/// then put in order. No text is greater than one with a byte 255, so the range holds exactly the
/// names with the prefix.
pub async fn users(
    connection: &mut SqliteConnection,
    filters: ListUsersRequest,
    after: String,
    limit: u32,
) -> Result<Vec<UserRow>, sqlx::Error> {
    let sql = match (filters.email.is_empty(), filters.name_prefix.is_empty()) {
        (false, _) => BY_EMAIL,
        (true, false) => BY_NAME,
        (true, true) => BY_ID,
    };
    let query = sqlx::query(sql).bind(after).bind(filters.status).bind(limit);
    let query = query.bind(filters.name_prefix).bind(filters.email.to_lowercase());
    read_rows(&query.fetch_all(connection).await?)
}

const BY_ID: &str = "SELECT * FROM users
    WHERE user_id > ?1 AND (?2 = 0 OR status = ?2)
    ORDER BY user_id LIMIT ?3";

const BY_NAME: &str = "SELECT * FROM users INDEXED BY users_by_name
    WHERE name >= ?4 AND name < ?4 || CAST(x'ff' AS TEXT)
    AND user_id > ?1 AND (?2 = 0 OR status = ?2)
    ORDER BY user_id LIMIT ?3";

const BY_EMAIL: &str = "SELECT * FROM users INDEXED BY users_by_email
    WHERE email_key = ?5 AND user_id > ?1 AND (?2 = 0 OR status = ?2)
    AND (?4 = '' OR name >= ?4 AND name < ?4 || CAST(x'ff' AS TEXT))
    ORDER BY user_id LIMIT ?3";

/// The timeline of a user, newest first; `None` when there is no such user.
pub async fn activities(
    connection: &mut SqliteConnection,
    filters: GetUserActivityRequest,
    before: i64,
    limit: u32,
) -> Result<Option<Vec<ActivityRow>>, sqlx::Error> {
    let user = sqlx::query("SELECT * FROM users WHERE user_id = ?")
        .bind(filters.user_id)
        .fetch_optional(&mut *connection)
        .await?;
    let Some(user) = user else { return Ok(None) };
    let user: UserNumberRow = read_row(&user)?;
    let rows = sqlx::query(
        "SELECT * FROM activities
         WHERE user_no = ?1 AND version < ?2 AND (?3 = 0 OR kind = ?3)
         AND recorded_time >= ?4 AND (?5 IS NULL OR recorded_time < ?5)
         ORDER BY version DESC LIMIT ?6",
    )
    .bind(user.user_no)
    .bind(before)
    .bind(filters.kind)
    .bind(filters.start_time.as_ref().map_or(i64::MIN, time::saturating_nanos))
    .bind(filters.end_time.as_ref().map(time::saturating_nanos))
    .bind(limit)
    .fetch_all(connection)
    .await?;
    read_rows(&rows).map(Some)
}

/// The numbers of a user who is registered.
pub async fn statistics(
    connection: &mut SqliteConnection,
    id: String,
) -> Result<Option<(NumbersRow, Vec<SpentRow>)>, sqlx::Error> {
    let user = sqlx::query("SELECT * FROM users WHERE user_id = ? AND registered_time IS NOT NULL")
        .bind(&id)
        .fetch_optional(&mut *connection)
        .await?;
    let Some(user) = user else { return Ok(None) };
    let spent = sqlx::query("SELECT * FROM spent WHERE user_id = ? ORDER BY currency_code")
        .bind(id)
        .fetch_all(connection)
        .await?;
    Ok(Some((read_row(&user)?, read_rows(&spent)?)))
}
