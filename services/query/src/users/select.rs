//! The rows of users.

use daybook_contract::contract::claim_key;
use daybook_contract::users::v1::{GetUserActivityRequest, ListUsersRequest};
use sqlx::sqlite::SqliteConnection;

use crate::projections::user_activity::{ActivityRow, UserNumberRow};
use crate::projections::user_statistics::{NumbersRow, SpentRow};
use crate::projections::users::UserRow;
use crate::runtime::row::{read_row, read_rows};
use crate::timeline::{self, Wanted};

pub async fn user(
    connection: &mut SqliteConnection,
    id: String,
) -> Result<Option<UserRow>, sqlx::Error> {
    let query = sqlx::query("SELECT * FROM users WHERE user_id = ?").bind(id);
    query.fetch_optional(connection).await?.as_ref().map(read_row).transpose()
}

/// Users in the order of one index: by id, or by name and id when the name has to begin with
/// something. No text is greater than one with a byte 255, so the range holds exactly the names
/// with the prefix. Those with an e-mail address are few, and are put in order.
pub async fn users(
    connection: &mut SqliteConnection,
    filters: ListUsersRequest,
    after: String,
    limit: u32,
) -> Result<Vec<UserRow>, sqlx::Error> {
    let sql = match (filters.email.is_empty(), filters.name_prefix.is_empty(), filters.status) {
        (false, _, _) => BY_EMAIL,
        (true, true, 0) => BY_ID,
        (true, true, _) => BY_STATUS,
        (true, false, 0) => BY_NAME,
        (true, false, _) => BY_STATUS_AND_NAME,
    };
    // A page begins after a name and an id. Users keep their names.
    let mut after_name = filters.name_prefix.clone();
    if !filters.name_prefix.is_empty() && !after.is_empty() {
        let name = sqlx::query_scalar("SELECT name FROM users WHERE user_id = ?").bind(&after);
        after_name = name.fetch_optional(&mut *connection).await?.unwrap_or_default();
    }
    let query = sqlx::query(sql).bind(after).bind(limit).bind(filters.status);
    let query = query.bind(after_name).bind(filters.name_prefix);
    let query = query.bind(claim_key(&filters.email, true));
    read_rows(&query.fetch_all(connection).await?)
}

const BY_ID: &str = "SELECT * FROM users WHERE user_id > ?1 ORDER BY user_id LIMIT ?2";

const BY_STATUS: &str = "SELECT * FROM users INDEXED BY users_by_status
    WHERE status = ?3 AND user_id > ?1 ORDER BY user_id LIMIT ?2";

const BY_NAME: &str = "SELECT * FROM users INDEXED BY users_by_name
    WHERE (name, user_id) > (?4, ?1) AND name < ?5 || CAST(x'ff' AS TEXT)
    ORDER BY name, user_id LIMIT ?2";

const BY_STATUS_AND_NAME: &str = "SELECT * FROM users INDEXED BY users_by_status_and_name
    WHERE status = ?3 AND (name, user_id) > (?4, ?1) AND name < ?5 || CAST(x'ff' AS TEXT)
    ORDER BY name, user_id LIMIT ?2";

const BY_EMAIL: &str = "SELECT * FROM users INDEXED BY users_by_email
    WHERE email_key = ?6 AND user_id > ?1 AND (?3 = 0 OR status = ?3)
    AND (?5 = '' OR name >= ?5 AND name < ?5 || CAST(x'ff' AS TEXT))
    ORDER BY user_id LIMIT ?2";

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
    let wanted = Wanted {
        stream_no: user.user_no,
        kind: filters.kind,
        start_time: filters.start_time.as_ref(),
        end_time: filters.end_time.as_ref(),
        before,
        limit,
    };
    timeline::page(connection, wanted).await.map(Some)
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

#[cfg(test)]
mod tests {
    use sqlx::{AssertSqlSafe, Connection, Executor, Row as _};

    use super::*;
    use crate::projections::users::Users;
    use crate::runtime::Projection;

    /// No list sorts or walks over users that it does not show, but for the few with an address.
    #[tokio::test]
    async fn every_list_is_read_in_the_order_of_an_index() {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        connection.execute(Users::SCHEMA).await.unwrap();
        let place = "(name,user_id)>(?,?) AND name<?)";
        for (sql, step) in [
            (BY_ID, "PRIMARY KEY (user_id>?)".to_owned()),
            (BY_STATUS, "users_by_status (status=? AND user_id>?)".to_owned()),
            (BY_NAME, format!("users_by_name ({place}")),
            (BY_STATUS_AND_NAME, format!("users_by_status_and_name (status=? AND {place}")),
            (BY_EMAIL, "users_by_email (email_key=? AND user_id>?)".to_owned()),
        ] {
            let explained = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
            let plan = sqlx::query(explained).fetch_all(&mut connection).await.unwrap();
            let steps: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
            assert!(steps[0].contains(&step), "{step}: {steps:?}");
            assert_eq!(steps.len(), 1, "{steps:?}");
        }
    }
}
