//! Each user as they are now.

use daybook_contract::contract::{EventError, claim_key};
use daybook_contract::users::v1::UserStatus;
use daybook_contract::users::v1::user::Event;
use daybook_domain::user::User;

use crate::runtime::{ApplyError, EncodedEvent, Projection, Recorded};
use crate::time::nanos;

/// The projection.
pub struct Users;

crate::rows! {
    /// The tables of the projection.
    pub struct Tables {
        /// All users.
        users: UserRow in "users",
    }

    /// A user.
    pub struct UserRow {
        key {
            /// The id.
            user_id: String,
        }
        /// The name.
        name: String,
        /// The e-mail address, as it was written.
        email: String,
        /// The same in lower case, by which it is found.
        email_key: String,
        /// Whether the user is active: a number of `users.v1.UserStatus`.
        status: i64,
        /// The version of the user's stream.
        version: i64,
        /// When the user was registered, in nanoseconds.
        registered_time: i64,
        /// When the user last logged in.
        last_login_time: Option<i64>,
        /// When the user was deactivated.
        deactivated_time: Option<i64>,
        /// When the last event was recorded.
        updated_time: i64,
    }
}

impl Projection for Users {
    const NAME: &'static str = "users";
    const VERSION: u32 = 3;
    const AGGREGATES: &'static [&'static str] = &["users.user"];
    const SCHEMA: &'static str = "
        CREATE TABLE users (
            user_id          TEXT PRIMARY KEY,
            name             TEXT NOT NULL COLLATE NOCASE,
            email            TEXT NOT NULL,
            email_key        TEXT NOT NULL,
            status           INTEGER NOT NULL,
            version          INTEGER NOT NULL,
            registered_time  INTEGER NOT NULL,
            last_login_time  INTEGER,
            deactivated_time INTEGER,
            updated_time     INTEGER NOT NULL
        ) WITHOUT ROWID;
        CREATE INDEX users_by_name ON users (name COLLATE NOCASE, user_id);
        CREATE INDEX users_by_status ON users (status, user_id);
        CREATE INDEX users_by_status_and_name ON users (status, name COLLATE NOCASE, user_id);
        CREATE INDEX users_by_email ON users (email_key, user_id);";
    type Tables = Tables;
    type Event = Event;

    fn decode(event: EncodedEvent<'_>) -> Result<Event, EventError> {
        event.decode::<User>()
    }

    fn want(event: &Recorded<Event>, tables: &mut Tables) {
        tables.users.want(&event.aggregate_id);
    }

    fn apply(event: &Recorded<Event>, tables: &mut Tables) -> Result<(), ApplyError> {
        let slot = tables.users.edit(&event.aggregate_id)?;
        let time = |time: &Option<_>| time.as_ref().and_then(nanos).unwrap_or(event.time_ns);
        if let Event::UserRegistered(registered) = &event.event {
            if slot.is_some() {
                return Err(ApplyError::failed("the user is registered already"));
            }
            *slot = Some(UserRow {
                user_id: event.aggregate_id.clone(),
                name: registered.name.clone(),
                email: registered.email.clone(),
                email_key: claim_key(&registered.email, true),
                status: UserStatus::Active as i64,
                version: 0,
                registered_time: time(&registered.registered_time),
                last_login_time: None,
                deactivated_time: None,
                updated_time: 0,
            });
        }
        let Some(user) = slot else {
            return Err(ApplyError::failed("the user was never registered"));
        };
        match &event.event {
            Event::UserRegistered(_) | Event::UserActed(_) => {}
            Event::UserLoggedIn(login) => user.last_login_time = Some(time(&login.login_time)),
            Event::EmailChanged(changed) => {
                user.email.clone_from(&changed.email);
                user.email_key = claim_key(&changed.email, true);
            }
            Event::UserDeactivated(deactivated) => {
                user.status = UserStatus::Deactivated as i64;
                user.deactivated_time = Some(time(&deactivated.deactivated_time));
            }
        }
        user.version = event.version_i64();
        user.updated_time = event.time_ns;
        Ok(())
    }
}
