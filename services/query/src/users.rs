//! `users.v1.QueryService`: answers from the projections of the users.

use std::num::NonZeroUsize;
use std::sync::Arc;

use daybook_contract::error::Error;
use daybook_contract::users::v1::query_service_server::QueryService;
use daybook_contract::users::v1::{
    Activity, GetUserActivityRequest, GetUserActivityResponse, GetUserRequest, GetUserResponse,
    GetUserStatisticsRequest, GetUserStatisticsResponse, ListUsersRequest, ListUsersResponse, User,
    UserRejection, UserStatistics,
};
use tonic::{Code, Request, Response, Status};

use crate::cache::Cache;
use crate::paging::{Pages, page_size};
use crate::projections::user_activity::{ActivityRow, UserActivity};
use crate::projections::user_statistics::{
    NumbersRow, SpentRow, UserStatistics as UserStatisticsProjection,
};
use crate::projections::users::{UserRow, Users};
use crate::runtime::{Handle, Projection, store};
use crate::{amount, check, read, time};

mod select;

/// How many users or activities a page has when the request does not say.
const DEFAULT_PAGE: u32 = 50;

/// How many users are remembered, about 400 bytes each.
const CACHED_USERS: NonZeroUsize = NonZeroUsize::new(4_096).expect("not zero");

/// How many lists of each kind are remembered; a full page takes some 100 kB.
const CACHED_LISTS: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");

/// The service.
#[derive(Clone)]
pub struct UserQueries {
    inner: Arc<Inner>,
}

struct Inner {
    users: Handle,
    activity: Handle,
    statistics: Handle,
    cached_users: Cache<Option<UserRow>>,
    cached_lists: Cache<Vec<UserRow>>,
    cached_activities: Cache<Option<Vec<ActivityRow>>>,
    cached_statistics: Cache<Option<(NumbersRow, Vec<SpentRow>)>>,
}

impl UserQueries {
    /// The service over these projections, which must contain those of the users.
    pub fn new(handles: &[Handle]) -> Result<Self, Error> {
        let find = |name| crate::runtime::host::find(handles, name).cloned();
        Ok(Self {
            inner: Arc::new(Inner {
                users: find(Users::NAME)?,
                activity: find(UserActivity::NAME)?,
                statistics: find(UserStatisticsProjection::NAME)?,
                cached_users: Cache::new(CACHED_USERS),
                cached_lists: Cache::new(CACHED_LISTS),
                cached_activities: Cache::new(CACHED_LISTS),
                cached_statistics: Cache::new(CACHED_USERS),
            }),
        })
    }
}

#[tonic::async_trait]
impl QueryService for UserQueries {
    async fn get_user(
        &self,
        request: Request<GetUserRequest>,
    ) -> Result<Response<GetUserResponse>, Status> {
        let mut request = request.into_inner();
        read::check(&request, request.read.as_ref(), |_| {})?;
        let read = request.read.take();
        let id = request.user_id.clone();
        let (row, position) = self
            .inner
            .cached_users
            .answer(&self.inner.users, read.as_ref(), &request, move |connection| {
                select::user(connection, &id)
            })
            .await?;
        let row = row.ok_or_else(|| user_not_found(&request.user_id, position))?;
        Ok(Response::new(GetUserResponse { user: Some(user(row)), position }))
    }

    async fn list_users(
        &self,
        request: Request<ListUsersRequest>,
    ) -> Result<Response<ListUsersResponse>, Status> {
        let mut request = request.into_inner();
        read::check(&request, request.read.as_ref(), |violations| {
            check::page_size(violations, request.page_size);
        })?;
        let read = request.read.take();
        let size = page_size(request.page_size, DEFAULT_PAGE);
        let filters =
            ListUsersRequest { page_size: 0, page_token: String::new(), ..request.clone() };
        let pages = Pages::of("users.v1.ListUsers", &filters);
        let after = pages.after(&request.page_token)?.unwrap_or_default();
        let (mut rows, position) = self
            .inner
            .cached_lists
            .answer(&self.inner.users, read.as_ref(), &request, move |connection| {
                select::users(connection, &filters, &after, size + 1)
            })
            .await?;
        let next_page_token = pages.cut(&mut rows, size, |row| row.user_id.clone());
        let users = rows.into_iter().map(user).collect();
        Ok(Response::new(ListUsersResponse { users, next_page_token, position }))
    }

    async fn get_user_activity(
        &self,
        request: Request<GetUserActivityRequest>,
    ) -> Result<Response<GetUserActivityResponse>, Status> {
        let mut request = request.into_inner();
        read::check(&request, request.read.as_ref(), |violations| {
            check::page_size(violations, request.page_size);
            check::times(violations, request.start_time.as_ref(), request.end_time.as_ref());
        })?;
        let read = request.read.take();
        let size = page_size(request.page_size, DEFAULT_PAGE);
        let filters =
            GetUserActivityRequest { page_size: 0, page_token: String::new(), ..request.clone() };
        let pages = Pages::of("users.v1.GetUserActivity", &filters);
        let before = match pages.after(&request.page_token)? {
            None => i64::MAX,
            Some(version) => version.parse().unwrap_or(i64::MAX),
        };
        let (rows, position) = self
            .inner
            .cached_activities
            .answer(&self.inner.activity, read.as_ref(), &request, move |connection| {
                select::activities(connection, &filters, before, size + 1)
            })
            .await?;
        let mut rows = rows.ok_or_else(|| user_not_found(&request.user_id, position))?;
        let next_page_token = pages.cut(&mut rows, size, |row| row.version.to_string());
        let activities = rows.into_iter().map(activity).collect();
        Ok(Response::new(GetUserActivityResponse { activities, next_page_token, position }))
    }

    async fn get_user_statistics(
        &self,
        request: Request<GetUserStatisticsRequest>,
    ) -> Result<Response<GetUserStatisticsResponse>, Status> {
        let mut request = request.into_inner();
        read::check(&request, request.read.as_ref(), |_| {})?;
        let read = request.read.take();
        let id = request.user_id.clone();
        let (found, position) = self
            .inner
            .cached_statistics
            .answer(&self.inner.statistics, read.as_ref(), &request, move |connection| {
                select::statistics(connection, &id)
            })
            .await?;
        let (numbers, spent) = found.ok_or_else(|| user_not_found(&request.user_id, position))?;
        let statistics = Some(statistics(numbers, spent)?);
        Ok(Response::new(GetUserStatisticsResponse { statistics, position }))
    }
}

fn user_not_found(id: &str, position: u64) -> Error {
    let reason = UserRejection::UserNotFound.as_str_name().trim_start_matches("USER_REJECTION_");
    Error::custom(Code::NotFound, reason, format!("there is no user {id}"))
        .with("user_id", id)
        .with("position", position)
        .with_resource("users.user", id)
}

// ---- Answers ----------------------------------------------------------------------------------

fn user(row: UserRow) -> User {
    User {
        user_id: row.user_id,
        name: row.name,
        email: row.email,
        status: store::number(row.status),
        version: store::from_i64(row.version),
        registered_time: Some(time::timestamp(row.registered_time)),
        last_login_time: row.last_login_time.map(time::timestamp),
        deactivated_time: row.deactivated_time.map(time::timestamp),
        updated_time: Some(time::timestamp(row.updated_time)),
    }
}

fn activity(row: ActivityRow) -> Activity {
    Activity {
        version: store::from_i64(row.version),
        kind: store::number(row.kind),
        session_id: row.session_id,
        action: row.action,
        description: row.description,
        recorded_time: Some(time::timestamp(row.recorded_time)),
        position: store::from_i64(row.position),
        event_id: row.event_id,
    }
}

fn statistics(row: NumbersRow, spent: Vec<SpentRow>) -> Result<UserStatistics, Error> {
    let total = |row: &SpentRow| amount::to_wire(row.minor.into(), &row.currency_code);
    Ok(UserStatistics {
        user_id: row.user_id,
        login_count: store::from_i64(row.logins),
        action_count: store::from_i64(row.actions),
        order_count: store::from_i64(row.orders),
        paid_order_count: store::from_i64(row.paid_orders),
        cancelled_order_count: store::from_i64(row.cancelled_orders),
        total_spent: spent.iter().map(total).collect::<Result<_, _>>()?,
        last_seen_time: Some(time::timestamp(row.last_seen_time)),
        registered_time: row.registered_time.map(time::timestamp),
    })
}
