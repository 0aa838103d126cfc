//! The rows of users.

use daybook_contract::contract::claim_key;
use daybook_contract::users::v1::{GetUserActivityRequest, ListUsersRequest};
use rusqlite::{Connection, ToSql};

use crate::projections::user_activity::{ActivityRow, UserNumberRow};
use crate::projections::user_statistics::{NumbersRow, SpentRow};
use crate::projections::users::UserRow;
use crate::runtime::row::{first, rows, select};
use crate::timeline::{self, Wanted};

pub fn user(connection: &Connection, id: &str) -> rusqlite::Result<Option<UserRow>> {
    first(connection, "SELECT * FROM users WHERE user_id = ?", &[&id])
}

/// Users in the order of one index: by id, or by name and id when the name has to begin with
/// something. No text is greater than one with a byte 255, so the range holds exactly the names
/// with the prefix. Those with an e-mail address are few, and are put in order.
pub fn users(
    connection: &Connection,
    filters: &ListUsersRequest,
    after: &str,
    limit: u32,
) -> rusqlite::Result<Vec<UserRow>> {
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
        let name = "SELECT name FROM users WHERE user_id = ?";
        let name = select(connection, name, &[&after], |row| row.get(0))?.pop();
        after_name = name.unwrap_or_default();
    }
    let (status, prefix) = (filters.status, &filters.name_prefix);
    let email_key = claim_key(&filters.email, true);
    let values: &[&dyn ToSql] = &[&after, &limit, &status, &after_name, prefix, &email_key];
    rows(connection, sql, values)
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
pub fn activities(
    connection: &Connection,
    filters: &GetUserActivityRequest,
    before: i64,
    limit: u32,
) -> rusqlite::Result<Option<Vec<ActivityRow>>> {
    let user = "SELECT * FROM users WHERE user_id = ?";
    let user = first::<UserNumberRow>(connection, user, &[&filters.user_id])?;
    let Some(user) = user else { return Ok(None) };
    let wanted = Wanted {
        stream_no: user.user_no,
        kind: filters.kind,
        start_time: filters.start_time.as_ref(),
        end_time: filters.end_time.as_ref(),
        before,
        limit,
    };
    timeline::page(connection, wanted).map(Some)
}

/// The numbers of a user who is registered.
pub fn statistics(
    connection: &Connection,
    id: &str,
) -> rusqlite::Result<Option<(NumbersRow, Vec<SpentRow>)>> {
    let user = "SELECT * FROM users WHERE user_id = ? AND registered_time IS NOT NULL";
    let Some(user) = first(connection, user, &[&id])? else { return Ok(None) };
    let spent = "SELECT * FROM spent WHERE user_id = ? ORDER BY currency_code";
    Ok(Some((user, rows(connection, spent, &[&id])?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projections::users::Users;
    use crate::runtime::Projection;

    /// No list sorts or walks over users that it does not show, but for the few with an address.
    #[test]
    fn every_list_is_read_in_the_order_of_an_index() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(Users::SCHEMA).unwrap();
        let place = "(name,user_id)>(?,?) AND name<?)";
        for (sql, step) in [
            (BY_ID, "PRIMARY KEY (user_id>?)".to_owned()),
            (BY_STATUS, "users_by_status (status=? AND user_id>?)".to_owned()),
            (BY_NAME, format!("users_by_name ({place}")),
            (BY_STATUS_AND_NAME, format!("users_by_status_and_name (status=? AND {place}")),
            (BY_EMAIL, "users_by_email (email_key=? AND user_id>?)".to_owned()),
        ] {
            let sql = format!("EXPLAIN QUERY PLAN {sql}");
            let steps: Vec<String> =
                select(&connection, &sql, &[], |row| row.get("detail")).unwrap();
            assert!(steps[0].contains(&step), "{step}: {steps:?}");
            assert_eq!(steps.len(), 1, "{steps:?}");
        }
    }
}
