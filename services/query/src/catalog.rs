//! `catalog.v1.QueryService`: answers from the three projections of the products.

use std::num::NonZeroUsize;
use std::sync::Arc;

use daybook_contract::catalog::v1::query_service_server::QueryService;
use daybook_contract::catalog::v1::{
    AdminProduct, FoundProduct, GetProductRequest, GetProductResponse, ListProductsForAdminRequest,
    ListProductsForAdminResponse, PricePeriod, Product, ProductRejection, SearchProductsRequest,
    SearchProductsResponse,
};
use daybook_contract::contract::Violations;
use daybook_contract::daybook::v1::Money;
use daybook_contract::error::Error;
use tonic::{Code, Request, Response, Status};

use crate::cache::Cache;
use crate::paging::{Pages, page_size};
use crate::projections::product_admin::ProductAdmin;
use crate::projections::product_details::{PriceRow, ProductDetails, ProductRow};
use crate::projections::product_search::{FoundRow, ProductSearch};
use crate::runtime::{Handle, Projection, store};
use crate::{amount, check, read, time};

mod search;
mod select;

use search::{Found, Place};
use select::AdminRow;

/// How many products a page has when the request does not say.
const DEFAULT_PAGE: u32 = 50;

/// How many characters of a description the search shows.
const SUMMARY_CHARS: usize = 200;

/// How many products are remembered, at most about 20 kB each.
const CACHED_PRODUCTS: NonZeroUsize = NonZeroUsize::new(1_024).expect("not zero");

/// How many lists of each kind are remembered; a full page takes some 500 kB.
const CACHED_LISTS: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");

/// The service.
#[derive(Clone)]
pub struct CatalogQueries {
    inner: Arc<Inner>,
}

struct Inner {
    search: Handle,
    details: Handle,
    admin: Handle,
    cached_searches: Cache<Found>,
    cached_products: Cache<Option<(ProductRow, Vec<PriceRow>)>>,
    cached_lists: Cache<Vec<AdminRow>>,
}

impl CatalogQueries {
    /// The service over these projections, which must contain those of the products.
    pub fn new(handles: &[Handle]) -> Result<Self, Error> {
        let find = |name| crate::runtime::host::find(handles, name).cloned();
        Ok(Self {
            inner: Arc::new(Inner {
                search: find(ProductSearch::NAME)?,
                details: find(ProductDetails::NAME)?,
                admin: find(ProductAdmin::NAME)?,
                cached_searches: Cache::new(CACHED_LISTS),
                cached_products: Cache::new(CACHED_PRODUCTS),
                cached_lists: Cache::new(CACHED_LISTS),
            }),
        })
    }
}

#[tonic::async_trait]
impl QueryService for CatalogQueries {
    async fn search_products(
        &self,
        request: Request<SearchProductsRequest>,
    ) -> Result<Response<SearchProductsResponse>, Status> {
        let mut request = request.into_inner();
        read::check(&request, request.read.as_ref(), |violations| {
            check::page_size(violations, request.page_size);
            check_prices(violations, request.min_price.as_ref(), request.max_price.as_ref());
        })?;
        let read = request.read.take();
        let size = page_size(request.page_size, DEFAULT_PAGE);
        let filters =
            SearchProductsRequest { page_size: 0, page_token: String::new(), ..request.clone() };
        let pages = Pages::of("catalog.v1.SearchProducts", &filters);
        let place = Place::of(&filters, pages.after(&request.page_token)?.as_deref());
        let begin = place.clone();
        let (Found { mut rows, more_matches }, position) = self
            .inner
            .cached_searches
            .answer(&self.inner.search, read.as_ref(), &request, move |connection| {
                search::products(connection, &filters, &begin, size + 1)
            })
            .await?;
        let next_page_token = pages.cut(&mut rows, size, |last| place.after(last, size));
        let products = rows.into_iter().map(found).collect::<Result<_, _>>()?;
        Ok(Response::new(SearchProductsResponse {
            products,
            next_page_token,
            position,
            more_matches,
        }))
    }

    async fn get_product(
        &self,
        request: Request<GetProductRequest>,
    ) -> Result<Response<GetProductResponse>, Status> {
        let mut request = request.into_inner();
        read::check(&request, request.read.as_ref(), |_| {})?;
        let read = request.read.take();
        let id = request.product_id.clone();
        let (row, position) = self
            .inner
            .cached_products
            .answer(&self.inner.details, read.as_ref(), &request, move |connection| {
                select::product(connection, &id)
            })
            .await?;
        let (row, prices) = row.ok_or_else(|| product_not_found(&request.product_id, position))?;
        let prices = price_periods(&row.currency_code, prices)?;
        Ok(Response::new(GetProductResponse { product: Some(product(row)?), prices, position }))
    }

    async fn list_products_for_admin(
        &self,
        request: Request<ListProductsForAdminRequest>,
    ) -> Result<Response<ListProductsForAdminResponse>, Status> {
        let mut request = request.into_inner();
        read::check(&request, request.read.as_ref(), |violations| {
            check::page_size(violations, request.page_size);
        })?;
        let read = request.read.take();
        let size = page_size(request.page_size, DEFAULT_PAGE);
        let filters = ListProductsForAdminRequest {
            page_size: 0,
            page_token: String::new(),
            ..request.clone()
        };
        let pages = Pages::of("catalog.v1.ListProductsForAdmin", &filters);
        let after = pages.after(&request.page_token)?.unwrap_or_default();
        let (mut rows, position) = self
            .inner
            .cached_lists
            .answer(&self.inner.admin, read.as_ref(), &request, move |connection| {
                select::admin(connection, filters.status, &after, size + 1)
            })
            .await?;
        let next_page_token = pages.cut(&mut rows, size, |row| row.product.product_id.clone());
        let products = rows.into_iter().map(admin_product).collect::<Result<_, _>>()?;
        Ok(Response::new(ListProductsForAdminResponse { products, next_page_token, position }))
    }
}

/// Both prices must be in one currency, and in order.
fn check_prices(violations: &mut Violations, min: Option<&Money>, max: Option<&Money>) {
    let (Some(min), Some(max)) = (min, max) else { return };
    if min.currency_code != max.currency_code {
        violations.add("max_price.currency_code", "is not that of min_price");
    } else if (min.units, min.nanos) > (max.units, max.nanos) {
        violations.add("max_price", "is less than min_price");
    }
}

fn product_not_found(id: &str, position: u64) -> Error {
    let reason = ProductRejection::ProductNotFound.as_str_name();
    let reason = reason.trim_start_matches("PRODUCT_REJECTION_");
    Error::custom(Code::NotFound, reason, format!("there is no product {id}"))
        .with("product_id", id)
        .with("position", position)
        .with_resource("catalog.product", id)
}

// ---- Answers ----------------------------------------------------------------------------------

fn found(row: FoundRow) -> Result<FoundProduct, Error> {
    Ok(FoundProduct {
        price: Some(amount::to_wire(row.price_minor.into(), &row.currency_code)?),
        product_id: row.product_id,
        name: row.name,
        summary: row.description.chars().take(SUMMARY_CHARS).collect(),
    })
}

fn product(row: ProductRow) -> Result<Product, Error> {
    Ok(Product {
        price: Some(amount::to_wire(row.price_minor.into(), &row.currency_code)?),
        product_id: row.product_id,
        name: row.name,
        description: row.description,
        status: store::number(row.status),
        version: store::from_i64(row.version),
        created_time: Some(time::timestamp(row.created_time)),
        discontinued_time: row.discontinued_time.map(time::timestamp),
        updated_time: Some(time::timestamp(row.updated_time)),
    })
}

/// The prices, newest first: each ends when the next begins.
fn price_periods(currency_code: &str, rows: Vec<PriceRow>) -> Result<Vec<PricePeriod>, Error> {
    let mut end_time = None;
    let period = |row: PriceRow| {
        let start_time = Some(time::timestamp(row.start_time));
        Ok(PricePeriod {
            price: Some(amount::to_wire(row.price_minor.into(), currency_code)?),
            start_time,
            end_time: std::mem::replace(&mut end_time, start_time),
            version: store::from_i64(row.version),
        })
    };
    rows.into_iter().map(period).collect()
}

fn admin_product(row: AdminRow) -> Result<AdminProduct, Error> {
    let AdminRow { product: of_product, on_hand, reserved, sales } = row;
    let revenue = sales.iter().map(|s| amount::to_wire(s.revenue_minor.into(), &s.currency_code));
    Ok(AdminProduct {
        product: Some(product(of_product)?),
        on_hand: store::from_i64(on_hand),
        reserved: store::from_i64(reserved),
        sold_quantity: sales.iter().map(|sales| store::from_i64(sales.quantity)).sum(),
        revenue: revenue.collect::<Result<_, _>>()?,
    })
}
