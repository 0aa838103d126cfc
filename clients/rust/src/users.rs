//! Commands and queries of users.

use daybook_contract::users::v1::{
    Activity, ActivityKind, ChangeEmailRequest, DeactivateUserRequest, GetUserActivityRequest,
    GetUserActivityResponse, GetUserRequest, GetUserResponse, GetUserStatisticsRequest,
    GetUserStatisticsResponse, ListUsersRequest, ListUsersResponse, RecordActionRequest,
    RecordLoginRequest, RegisterUserRequest, User, UserStatus,
};
use prost_types::Timestamp;

use crate::client::Daybook;
use crate::command::{Command, commands};
use crate::query::{Query, paged, queries};

commands!("users.v1":
    RegisterUserRequest => "RegisterUser",
    RecordLoginRequest => "RecordLogin",
    RecordActionRequest => "RecordAction",
    ChangeEmailRequest => "ChangeEmail",
    DeactivateUserRequest => "DeactivateUser",
);

queries!("users.v1":
    "GetUser": GetUserRequest => GetUserResponse,
    "ListUsers": ListUsersRequest => ListUsersResponse,
    "GetUserActivity": GetUserActivityRequest => GetUserActivityResponse,
    "GetUserStatistics": GetUserStatisticsRequest => GetUserStatisticsResponse,
);

paged!(
    ListUsersRequest => users: User,
    GetUserActivityRequest => activities: Activity,
);

impl Daybook {
    /// Registers a user. The server makes the id unless [`Command::user_id`] gives one. No two
    /// users have the same e-mail address.
    pub fn register_user(
        &self,
        name: impl Into<String>,
        email: impl Into<String>,
    ) -> Command<RegisterUserRequest> {
        let (name, email) = (name.into(), email.into());
        self.command(RegisterUserRequest { name, email, ..Default::default() })
    }

    /// Records that a user has logged in.
    pub fn record_login(&self, user_id: impl Into<String>) -> Command<RecordLoginRequest> {
        self.command(RecordLoginRequest { user_id: user_id.into(), ..Default::default() })
    }

    /// Records something that a user did, such as `product.viewed`.
    pub fn record_action(
        &self,
        user_id: impl Into<String>,
        action: impl Into<String>,
    ) -> Command<RecordActionRequest> {
        let (user_id, action) = (user_id.into(), action.into());
        self.command(RecordActionRequest { user_id, action, ..Default::default() })
    }

    /// Gives a user another e-mail address; the old one is free from then on.
    pub fn change_email(
        &self,
        user_id: impl Into<String>,
        email: impl Into<String>,
    ) -> Command<ChangeEmailRequest> {
        let (user_id, email) = (user_id.into(), email.into());
        self.command(ChangeEmailRequest { user_id, email, ..Default::default() })
    }

    /// Deactivates a user for good; the e-mail address is free from then on.
    pub fn deactivate_user(&self, user_id: impl Into<String>) -> Command<DeactivateUserRequest> {
        self.command(DeactivateUserRequest { user_id: user_id.into(), ..Default::default() })
    }

    /// Gets one user.
    pub fn get_user(&self, user_id: impl Into<String>) -> Query<GetUserRequest> {
        self.query(GetUserRequest { user_id: user_id.into(), ..Default::default() })
    }

    /// Lists users, by id.
    pub fn list_users(&self) -> Query<ListUsersRequest> {
        self.query(ListUsersRequest::default())
    }

    /// Lists what happened to a user and what the user did, newest first.
    pub fn user_activity(&self, user_id: impl Into<String>) -> Query<GetUserActivityRequest> {
        self.query(GetUserActivityRequest { user_id: user_id.into(), ..Default::default() })
    }

    /// Gets the numbers of a user: logins, orders, what was spent, when last seen.
    pub fn user_statistics(&self, user_id: impl Into<String>) -> Query<GetUserStatisticsRequest> {
        self.query(GetUserStatisticsRequest { user_id: user_id.into(), ..Default::default() })
    }
}

impl Command<RegisterUserRequest> {
    /// The id of the new user.
    pub fn user_id(mut self, id: impl Into<String>) -> Self {
        self.request.user_id = id.into();
        self
    }
}

impl Command<RecordLoginRequest> {
    /// The session that begins.
    pub fn session(mut self, id: impl Into<String>) -> Self {
        self.request.session_id = id.into();
        self
    }

    /// With what.
    pub fn device(mut self, text: impl Into<String>) -> Self {
        self.request.device = text.into();
        self
    }
}

impl Command<RecordActionRequest> {
    /// The session in which it was done.
    pub fn session(mut self, id: impl Into<String>) -> Self {
        self.request.session_id = id.into();
        self
    }

    /// More about it.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.request.description = text.into();
        self
    }
}

impl Command<DeactivateUserRequest> {
    /// Why.
    pub fn reason(mut self, text: impl Into<String>) -> Self {
        self.request.reason = text.into();
        self
    }
}

impl Query<ListUsersRequest> {
    /// Only users with this status.
    pub fn status(mut self, status: UserStatus) -> Self {
        self.request.status = status.into();
        self
    }

    /// Only users whose name begins with this, ASCII letters in either case.
    pub fn name_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.request.name_prefix = prefix.into();
        self
    }

    /// Only the users with this e-mail address, in either case.
    pub fn email(mut self, email: impl Into<String>) -> Self {
        self.request.email = email.into();
        self
    }
}

impl Query<GetUserActivityRequest> {
    /// Only this kind.
    pub fn kind(mut self, kind: ActivityKind) -> Self {
        self.request.kind = kind.into();
        self
    }

    /// Only what was recorded at this time or later.
    pub fn since(mut self, time: Timestamp) -> Self {
        self.request.start_time = Some(time);
        self
    }

    /// Only what was recorded before this time.
    pub fn until(mut self, time: Timestamp) -> Self {
        self.request.end_time = Some(time);
        self
    }
}
