//! The user: who somebody is, and what they did.
//!
//! A user is registered once and deactivated once. Between the two, logins and actions are recorded
//! and the e-mail address can change. That no two users have the same address is declared in the
//! contract, and kept by the log: there is nothing about other users here.
//!
//! *Not* here: passwords and permissions, and what an action means.

use daybook_contract::users::v1::user::{Command, Event, Upcast};
use daybook_contract::users::v1::{
    ChangeEmailRequest, EmailChanged, RegisterUserRequest, UserActed, UserDeactivated,
    UserLoggedIn, UserRegistered, UserRejection as Reason, UserState, UserStatus,
};
use daybook_kernel::{Aggregate, Context, Rejection, RejectionKind};

/// The aggregate `users.user`.
#[derive(Debug)]
pub struct User;

// ---- Rejections, in order of precedence -------------------------------------------------------

/// The rules that a user keeps. When several do not hold, the first is given. The last of the
/// contract, `EMAIL_TAKEN`, comes from the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserRejection {
    /// There is no such user.
    #[error("there is no user {user_id}")]
    UserNotFound {
        /// The id that was asked for.
        user_id: String,
    },
    /// There is a user with this id already, active or not.
    #[error("there is a user {user_id} already")]
    UserAlreadyRegistered {
        /// The id that is taken.
        user_id: String,
    },
    /// The user is deactivated for good.
    #[error("user {user_id} is deactivated")]
    UserDeactivated {
        /// The id of the user.
        user_id: String,
    },
}

impl Rejection for UserRejection {
    fn reason(&self) -> &'static str {
        let reason = match self {
            Self::UserNotFound { .. } => Reason::UserNotFound,
            Self::UserAlreadyRegistered { .. } => Reason::UserAlreadyRegistered,
            Self::UserDeactivated { .. } => Reason::UserDeactivated,
        };
        reason.as_str_name().trim_start_matches("USER_REJECTION_")
    }

    fn kind(&self) -> RejectionKind {
        match self {
            Self::UserNotFound { .. } => RejectionKind::NotFound,
            Self::UserAlreadyRegistered { .. } => RejectionKind::AlreadyExists,
            Self::UserDeactivated { .. } => RejectionKind::FailedPrecondition,
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::UserNotFound { user_id }
            | Self::UserAlreadyRegistered { user_id }
            | Self::UserDeactivated { user_id } => vec![("user_id", user_id.clone())],
        }
    }
}

// ---- Decide -----------------------------------------------------------------------------------

impl Aggregate for User {
    type Command = Command;
    type Event = Event;
    type State = UserState;
    type Rejection = UserRejection;

    fn decide(
        state: &UserState,
        command: &Command,
        cx: &Context,
    ) -> Result<Vec<Event>, UserRejection> {
        if let Command::RegisterUser(request) = command {
            return register(state, request, cx).map(|event| vec![event]);
        }
        must_be_active(state, cx)?;
        Ok(match command {
            // Returned above; registered already is an answer of `register`.
            Command::RegisterUser(_) => vec![],
            Command::RecordLogin(request) => vec![Event::UserLoggedIn(UserLoggedIn {
                session_id: request.session_id.clone(),
                device: request.device.clone(),
                login_time: Some(cx.now),
            })],
            Command::RecordAction(request) => vec![Event::UserActed(UserActed {
                action: request.action.clone(),
                description: request.description.clone(),
                session_id: request.session_id.clone(),
                action_time: Some(cx.now),
            })],
            Command::ChangeEmail(request) => change_email(state, request, cx),
            Command::DeactivateUser(request) => vec![Event::UserDeactivated(UserDeactivated {
                email: state.email.clone(),
                reason: request.reason.clone(),
                deactivated_time: Some(cx.now),
            })],
        })
    }

    fn evolve(state: &mut UserState, event: &Event) {
        match event {
            Event::UserRegistered(event) => {
                state.set_status(UserStatus::Active);
                state.name.clone_from(&event.name);
                state.email.clone_from(&event.email);
                state.registered_time = event.registered_time;
            }
            Event::UserLoggedIn(event) => state.last_login_time = event.login_time,
            Event::UserActed(_) => {}
            Event::EmailChanged(event) => state.email.clone_from(&event.email),
            Event::UserDeactivated(event) => {
                state.set_status(UserStatus::Deactivated);
                state.email.clear();
                state.deactivated_time = event.deactivated_time;
            }
        }
    }
}

fn register(
    state: &UserState,
    request: &RegisterUserRequest,
    cx: &Context,
) -> Result<Event, UserRejection> {
    if state.status() != UserStatus::Unspecified {
        return Err(UserRejection::UserAlreadyRegistered { user_id: cx.aggregate_id.clone() });
    }
    Ok(Event::UserRegistered(UserRegistered {
        name: request.name.clone(),
        email: request.email.clone(),
        registered_time: Some(cx.now),
    }))
}

fn change_email(state: &UserState, request: &ChangeEmailRequest, cx: &Context) -> Vec<Event> {
    if state.email == request.email {
        return vec![];
    }
    vec![Event::EmailChanged(EmailChanged {
        email: request.email.clone(),
        old_email: state.email.clone(),
        changed_time: Some(cx.now),
    })]
}

fn must_be_active(state: &UserState, cx: &Context) -> Result<(), UserRejection> {
    let user_id = || cx.aggregate_id.clone();
    match state.status() {
        UserStatus::Unspecified => Err(UserRejection::UserNotFound { user_id: user_id() }),
        UserStatus::Deactivated => Err(UserRejection::UserDeactivated { user_id: user_id() }),
        UserStatus::Active => Ok(()),
    }
}

// ---- Old events -------------------------------------------------------------------------------

/// No event has an older version yet.
impl Upcast for User {}

// ---- Specifications ---------------------------------------------------------------------------

#[cfg(test)]
mod specs {
    use daybook_contract::contract::{Claim, ClaimChange, EventSet};
    use daybook_contract::users::v1::{
        DeactivateUserRequest, RecordActionRequest, RecordLoginRequest,
    };
    use daybook_kernel::spec::{NOW, Spec, context};

    use super::*;

    fn given(events: impl IntoIterator<Item = Event>) -> Spec<User> {
        Spec::given(events)
    }

    fn registered(email: &str) -> Event {
        let (name, email) = ("Ada".to_owned(), email.to_owned());
        UserRegistered { name, email, registered_time: Some(NOW) }.into()
    }

    fn logged_in(session: &str) -> Event {
        let (session_id, device) = (session.to_owned(), "phone".to_owned());
        UserLoggedIn { session_id, device, login_time: Some(NOW) }.into()
    }

    fn changed(old: &str, new: &str) -> Event {
        let (email, old_email) = (new.to_owned(), old.to_owned());
        EmailChanged { email, old_email, changed_time: Some(NOW) }.into()
    }

    fn deactivated(email: &str) -> Event {
        let (email, reason) = (email.to_owned(), "moved".to_owned());
        UserDeactivated { email, reason, deactivated_time: Some(NOW) }.into()
    }

    fn register(email: &str) -> RegisterUserRequest {
        let (name, email) = ("Ada".to_owned(), email.to_owned());
        RegisterUserRequest { name, email, ..Default::default() }
    }

    fn log_in(session: &str) -> RecordLoginRequest {
        let (session_id, device) = (session.to_owned(), "phone".to_owned());
        RecordLoginRequest { session_id, device, ..Default::default() }
    }

    fn change(email: &str) -> ChangeEmailRequest {
        ChangeEmailRequest { email: email.to_owned(), ..Default::default() }
    }

    fn deactivate() -> DeactivateUserRequest {
        DeactivateUserRequest { reason: "moved".to_owned(), ..Default::default() }
    }

    fn user_id() -> String {
        context().aggregate_id
    }

    /// The commands that need an active user.
    fn others() -> [Command; 4] {
        let act = RecordActionRequest { action: "a".to_owned(), ..Default::default() };
        [log_in("s").into(), act.into(), change("b@x.org").into(), deactivate().into()]
    }

    #[test]
    fn a_user_is_registered() {
        given([]).when(register("a@x.org")).then([registered("a@x.org")]);
    }

    #[test]
    fn nothing_happens_to_a_user_that_there_is_not() {
        for command in others() {
            given([])
                .when(command)
                .then_rejected(UserRejection::UserNotFound { user_id: user_id() });
        }
    }

    #[test]
    fn a_user_is_registered_once_even_when_deactivated() {
        let rejection = || UserRejection::UserAlreadyRegistered { user_id: user_id() };
        given([registered("a@x.org")]).when(register("b@x.org")).then_rejected(rejection());
        given([registered("a@x.org"), deactivated("a@x.org")])
            .when(register("b@x.org"))
            .then_rejected(rejection());
    }

    #[test]
    fn nothing_happens_to_a_deactivated_user() {
        for command in others() {
            given([registered("a@x.org"), deactivated("a@x.org")])
                .when(command)
                .then_rejected(UserRejection::UserDeactivated { user_id: user_id() });
        }
    }

    #[test]
    fn a_login_is_recorded_each_time() {
        let when = given([registered("a@x.org"), logged_in("s1")]).when(log_in("s1"));
        assert_eq!(when.state().last_login_time, Some(NOW));
        when.then([logged_in("s1")]);
    }

    #[test]
    fn an_action_is_recorded() {
        let (action, description) = ("product.viewed".to_owned(), "teapot".to_owned());
        let act = RecordActionRequest {
            action: action.clone(),
            description: description.clone(),
            session_id: "s1".to_owned(),
            ..Default::default()
        };
        let acted =
            UserActed { action, description, session_id: "s1".to_owned(), action_time: Some(NOW) };
        given([registered("a@x.org")]).when(act).then([acted.into()]);
    }

    #[test]
    fn another_address_frees_the_one_before() {
        given([registered("a@x.org"), changed("a@x.org", "b@x.org")])
            .when(change("c@x.org"))
            .then([changed("b@x.org", "c@x.org")]);
    }

    #[test]
    fn the_same_address_records_nothing_but_another_spelling_does() {
        given([registered("a@x.org")]).when(change("a@x.org")).then_nothing();
        given([registered("a@x.org")])
            .when(change("A@x.org"))
            .then([changed("a@x.org", "A@x.org")]);
    }

    #[test]
    fn a_deactivated_user_gives_the_address_up() {
        given([registered("a@x.org"), changed("a@x.org", "b@x.org")])
            .when(deactivate())
            .then([deactivated("b@x.org")]);
    }

    fn claims(event: &Event) -> Vec<(String, ClaimChange)> {
        let claims = EventSet::<User>::claims(event).into_iter();
        claims
            .map(|Claim { scope, key, change }| {
                assert_eq!(scope, "users.email");
                (key, change)
            })
            .collect()
    }

    #[test]
    fn addresses_are_claimed_in_lower_case_and_freed_before_they_are_taken() {
        let key = |key: &str, change| (key.to_owned(), change);
        let take = |k| key(k, ClaimChange::Take);
        let free = |k| key(k, ClaimChange::Free);
        assert_eq!(claims(&registered("Äda@X.org")), [take("äda@x.org")]);
        // The letter is the same when its dots are a character of their own.
        assert_eq!(claims(&registered("A\u{308}da@X.org")), [take("\u{e4}da@x.org")]);
        assert_eq!(claims(&changed("a@x.org", "A@x.org")), [free("a@x.org"), take("a@x.org")]);
        assert_eq!(claims(&deactivated("A@x.org")), [free("a@x.org")]);
        assert_eq!(claims(&logged_in("s")), []);
    }
}
