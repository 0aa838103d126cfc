//! `daybook user`: the users.

use clap::{Args, Subcommand, ValueEnum};
use daybook_client::{Daybook, QueryRequest};
use daybook_contract::users::v1::{
    Activity, ActivityKind, ChangeEmailRequest, DeactivateUserRequest, GetUserActivityRequest,
    GetUserRequest, GetUserStatisticsRequest, ListUsersRequest, RecordActionRequest,
    RecordLoginRequest, RegisterUserRequest, User, UserStatus,
};

use crate::account::{show_receipt, word};
use crate::flags::{CommandFlags, Globals, Pages, QueryFlags};
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::{json, money, time};

/// `daybook user`
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  daybook user register \"Ada Lovelace\" ada@example.org --id ada\n  \
                        daybook user login ada --device phone\n  \
                        daybook user activity ada"
)]
pub struct UserArgs {
    #[command(subcommand)]
    command: UserCommand,
    /// Flags of all client commands.
    #[command(flatten)]
    pub globals: Globals,
}

#[derive(Debug, Subcommand)]
enum UserCommand {
    /// Register a user; no two have the same e-mail address
    #[command(after_help = "Example:\n  daybook user register \"Ada Lovelace\" ada@example.org")]
    Register {
        /// The name
        name: String,
        /// The e-mail address
        email: String,
        /// The id of the user; made by the server when not given
        #[arg(long, value_name = "USER")]
        id: Option<String>,
        #[command(flatten)]
        flags: CommandFlags,
    },
    /// Record that a user has logged in
    #[command(after_help = "Example:\n  daybook user login ada --session 17 --device phone")]
    Login {
        /// The user
        user: String,
        /// The session that begins
        #[arg(long, default_value = "", hide_default_value = true)]
        session: String,
        /// With what
        #[arg(long, default_value = "", hide_default_value = true)]
        device: String,
        #[command(flatten)]
        flags: CommandFlags,
    },
    /// Record something that a user did
    #[command(after_help = "Example:\n  daybook user act ada product.viewed --description teapot")]
    Act {
        /// The user
        user: String,
        /// What was done, such as product.viewed
        action: String,
        /// More about it
        #[arg(long, short, default_value = "", hide_default_value = true)]
        description: String,
        /// The session in which it was done
        #[arg(long, default_value = "", hide_default_value = true)]
        session: String,
        #[command(flatten)]
        flags: CommandFlags,
    },
    /// Give a user another e-mail address
    #[command(after_help = "Example:\n  daybook user email ada ada@example.net")]
    Email {
        /// The user
        user: String,
        /// The e-mail address from now on
        email: String,
        #[command(flatten)]
        flags: CommandFlags,
    },
    /// Deactivate a user for good
    #[command(after_help = "Example:\n  daybook user deactivate ada --reason \"moved away\"")]
    Deactivate {
        /// The user
        user: String,
        /// Why
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        #[command(flatten)]
        flags: CommandFlags,
    },
    /// Show one user
    #[command(after_help = "Example:\n  daybook user show ada")]
    Show {
        /// The user
        user: String,
        #[command(flatten)]
        flags: QueryFlags,
    },
    /// List users, by id
    #[command(after_help = "Example:\n  daybook user list --name Ada --status active\n  \
                            daybook user list --email ada@example.org -o json")]
    List {
        /// Only users whose name begins with this
        #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
        name: String,
        /// Only users with this e-mail address
        #[arg(long, default_value = "", hide_default_value = true)]
        email: String,
        /// Only users with this status
        #[arg(long, value_enum)]
        status: Option<Status>,
        #[command(flatten)]
        pages: Pages,
        #[command(flatten)]
        flags: QueryFlags,
    },
    /// List what a user did, newest first
    #[command(after_help = "Example:\n  daybook user activity ada --kind login --since 2026-11-01")]
    Activity {
        /// The user
        user: String,
        /// Only this kind
        #[arg(long, value_enum)]
        kind: Option<Kind>,
        /// Only from this moment on, such as 2026-11-01 or 2026-11-01T08:00:00Z
        #[arg(long, value_name = "TIME", value_parser = time::parse_moment)]
        since: Option<prost_types::Timestamp>,
        /// Only before this moment
        #[arg(long, value_name = "TIME", value_parser = time::parse_moment)]
        until: Option<prost_types::Timestamp>,
        #[command(flatten)]
        pages: Pages,
        #[command(flatten)]
        flags: QueryFlags,
    },
    /// Show the numbers of a user: logins, orders, what was spent
    #[command(after_help = "Example:\n  daybook user statistics ada")]
    Statistics {
        /// The user
        user: String,
        #[command(flatten)]
        flags: QueryFlags,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Status {
    Active,
    Deactivated,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Registration,
    Login,
    Action,
    EmailChange,
    Deactivation,
}

pub(crate) async fn run(args: UserArgs) -> Result<(), Problem> {
    let client = args.globals.client()?;
    let format = args.globals.output;
    let receipt = match args.command {
        UserCommand::Register { name, email, id, flags } => {
            let user_id = id.clone().unwrap_or_default();
            let subject = id.unwrap_or_else(|| email.clone());
            let request = RegisterUserRequest { user_id, name, email, context: None };
            flags.send(&client, request, &subject).await?
        }
        UserCommand::Login { user, session, device, flags } => {
            let (user_id, session_id) = (user.clone(), session);
            let request = RecordLoginRequest { user_id, session_id, device, context: None };
            flags.send(&client, request, &user).await?
        }
        UserCommand::Act { user, action, description, session, flags } => {
            let request = RecordActionRequest {
                user_id: user.clone(),
                action,
                description,
                session_id: session,
                context: None,
            };
            flags.send(&client, request, &user).await?
        }
        UserCommand::Email { user, email, flags } => {
            let request = ChangeEmailRequest { user_id: user.clone(), email, context: None };
            flags.send(&client, request, &user).await?
        }
        UserCommand::Deactivate { user, reason, flags } => {
            let request = DeactivateUserRequest { user_id: user.clone(), reason, context: None };
            flags.send(&client, request, &user).await?
        }
        UserCommand::Show { user, flags } => return show(&client, &user, &flags, format).await,
        UserCommand::List { name, email, status, pages, flags } => {
            let request = ListUsersRequest {
                name_prefix: name,
                email,
                status: status.map_or(UserStatus::Unspecified, status_of).into(),
                ..Default::default()
            };
            return list(&client, request, pages, &flags, format).await;
        }
        UserCommand::Activity { user, kind, since, until, pages, flags } => {
            let request = GetUserActivityRequest {
                user_id: user,
                kind: kind.map_or(ActivityKind::Unspecified, kind_of).into(),
                start_time: since,
                end_time: until,
                ..Default::default()
            };
            return activity(&client, request, pages, &flags, format).await;
        }
        UserCommand::Statistics { user, flags } => {
            return statistics(&client, &user, &flags, format).await;
        }
    };
    show_receipt(&receipt, format)
}

async fn show(
    client: &Daybook,
    user: &str,
    flags: &QueryFlags,
    format: Format,
) -> Result<(), Problem> {
    let query = flags.apply(client, client.get_user(user)).await;
    let answer = query.await.map_err(|error| Problem::from(error).about(user))?;
    if format == Format::Json {
        return Ok(output::document(&json::of(GetUserRequest::RESPONSE_NAME, &answer)?)?);
    }
    let user = answer.user.unwrap_or_default();
    Ok(output::fields(&[
        ("user", user.user_id.clone()),
        ("name", user.name.clone()),
        ("email", user.email.clone()),
        ("status", word(user.status().as_str_name(), "USER_STATUS_")),
        ("version", user.version.to_string()),
        ("registered", time::show(user.registered_time.as_ref())),
        ("last login", time::show(user.last_login_time.as_ref())),
        ("deactivated", time::show(user.deactivated_time.as_ref())),
        ("as of position", answer.position.to_string()),
    ])?)
}

async fn list(
    client: &Daybook,
    request: ListUsersRequest,
    pages: Pages,
    flags: &QueryFlags,
    format: Format,
) -> Result<(), Problem> {
    let answer = flags.fetch(client, request, pages).await?;
    if format == Format::Json {
        return Ok(output::document(&json::of(ListUsersRequest::RESPONSE_NAME, &answer)?)?);
    }
    let row = |user: &User| {
        vec![
            user.user_id.clone(),
            user.name.clone(),
            user.email.clone(),
            word(user.status().as_str_name(), "USER_STATUS_"),
            time::show(user.registered_time.as_ref()),
        ]
    };
    let header = ["user", "name", "email", "status", "registered"];
    output::table(&header, &[], answer.users.iter().map(row).collect())?;
    output::more(&answer.next_page_token);
    Ok(())
}

async fn activity(
    client: &Daybook,
    request: GetUserActivityRequest,
    pages: Pages,
    flags: &QueryFlags,
    format: Format,
) -> Result<(), Problem> {
    let user = request.user_id.clone();
    let answer = flags.fetch(client, request, pages).await;
    let answer = answer.map_err(|problem| problem.about(&user))?;
    if format == Format::Json {
        return Ok(output::document(&json::of(GetUserActivityRequest::RESPONSE_NAME, &answer)?)?);
    }
    let row = |entry: &Activity| {
        vec![
            entry.version.to_string(),
            time::show(entry.recorded_time.as_ref()),
            word(entry.kind().as_str_name(), "ACTIVITY_KIND_"),
            entry.session_id.clone(),
            entry.action.clone(),
            entry.description.clone(),
        ]
    };
    let header = ["version", "time", "kind", "session", "action", "description"];
    output::table(&header, &[0], answer.activities.iter().map(row).collect())?;
    output::more(&answer.next_page_token);
    Ok(())
}

async fn statistics(
    client: &Daybook,
    user: &str,
    flags: &QueryFlags,
    format: Format,
) -> Result<(), Problem> {
    let query = flags.apply(client, client.user_statistics(user)).await;
    let answer = query.await.map_err(|error| Problem::from(error).about(user))?;
    if format == Format::Json {
        let name = GetUserStatisticsRequest::RESPONSE_NAME;
        return Ok(output::document(&json::of(name, &answer)?)?);
    }
    let numbers = answer.statistics.unwrap_or_default();
    Ok(output::fields(&[
        ("user", numbers.user_id.clone()),
        ("logins", numbers.login_count.to_string()),
        ("actions", numbers.action_count.to_string()),
        ("orders", numbers.order_count.to_string()),
        ("paid", numbers.paid_order_count.to_string()),
        ("cancelled", numbers.cancelled_order_count.to_string()),
        ("spent", money::show_all(&numbers.total_spent)),
        ("last seen", time::show(numbers.last_seen_time.as_ref())),
        ("registered", time::show(numbers.registered_time.as_ref())),
        ("as of position", answer.position.to_string()),
    ])?)
}

/// What to do when a rule of a user did not hold.
pub(crate) fn advice(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "USER_NOT_FOUND" => "daybook user list",
        "USER_ALREADY_REGISTERED" | "USER_DEACTIVATED" => "daybook user show SUBJECT",
        "EMAIL_TAKEN" => {
            "choose another address; daybook user list --email ADDRESS says whose it is"
        }
        _ => return None,
    })
}

fn status_of(status: Status) -> UserStatus {
    match status {
        Status::Active => UserStatus::Active,
        Status::Deactivated => UserStatus::Deactivated,
    }
}

fn kind_of(kind: Kind) -> ActivityKind {
    match kind {
        Kind::Registration => ActivityKind::Registration,
        Kind::Login => ActivityKind::Login,
        Kind::Action => ActivityKind::Action,
        Kind::EmailChange => ActivityKind::EmailChange,
        Kind::Deactivation => ActivityKind::Deactivation,
    }
}
