//! The timeline of each user: registration, sessions, actions.

use daybook_contract::contract::EventError;
use daybook_contract::users::v1::ActivityKind;
use daybook_contract::users::v1::user::Event;
use daybook_domain::user::User;

use crate::runtime::{ApplyError, EncodedEvent, Projection, Recorded};

/// The projection.
pub struct UserActivity;

crate::rows! {
    /// The tables of the projection.
    pub struct Tables {
        /// The number of each user.
        users: UserNumberRow in "users",
        /// All entries.
        activities: ActivityRow in "activities",
    }

    /// A user.
    pub struct UserNumberRow {
        key {
            /// The id.
            user_id: String,
        }
        /// A short number: the position of the registration.
        user_no: i64,
    }

    /// An entry of a timeline.
    pub struct ActivityRow {
        key {
            /// The number of the user.
            user_no: i64,
            /// The version of the user's stream with it.
            version: i64,
        }
        /// A number of `users.v1.ActivityKind`.
        kind: i64,
        /// The session; may be empty.
        session_id: String,
        /// What was done; empty for what is no action.
        action: String,
        /// More about it.
        description: String,
        /// When it was recorded, in nanoseconds.
        recorded_time: i64,
        /// The position of its event.
        position: i64,
        /// The id of its event.
        event_id: String,
    }
}

impl Projection for UserActivity {
    const NAME: &'static str = "user_activity";
    const VERSION: u32 = 2;
    const AGGREGATES: &'static [&'static str] = &["users.user"];
    const SCHEMA: &'static str = "
        CREATE TABLE users (
            user_id TEXT PRIMARY KEY,
            user_no INTEGER NOT NULL
        ) WITHOUT ROWID;
        CREATE TABLE activities (
            user_no       INTEGER NOT NULL,
            version       INTEGER NOT NULL,
            kind          INTEGER NOT NULL,
            session_id    TEXT NOT NULL,
            action        TEXT NOT NULL,
            description   TEXT NOT NULL,
            recorded_time INTEGER NOT NULL,
            position      INTEGER NOT NULL,
            event_id      TEXT NOT NULL,
            PRIMARY KEY (user_no, version)
        ) WITHOUT ROWID;
        CREATE INDEX activities_by_kind ON activities (user_no, kind, version);";
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
        let user = slot.get_or_insert_with(|| UserNumberRow {
            user_id: event.aggregate_id.clone(),
            user_no: event.position_i64(),
        });
        let (kind, session_id, action, description) = match &event.event {
            Event::UserRegistered(_) => (ActivityKind::Registration, "", "", ""),
            Event::UserLoggedIn(e) => (ActivityKind::Login, &*e.session_id, "", &*e.device),
            Event::UserActed(e) => {
                (ActivityKind::Action, &*e.session_id, &*e.action, &*e.description)
            }
            Event::EmailChanged(e) => (ActivityKind::EmailChange, "", "", &*e.email),
            Event::UserDeactivated(e) => (ActivityKind::Deactivation, "", "", &*e.reason),
        };
        let row = ActivityRow {
            user_no: user.user_no,
            version: event.version_i64(),
            kind: kind as i64,
            session_id: session_id.to_owned(),
            action: action.to_owned(),
            description: description.to_owned(),
            recorded_time: event.time_ns,
            position: event.position_i64(),
            event_id: event.event_id.clone(),
        };
        tables.activities.add(row);
        Ok(())
    }
}
