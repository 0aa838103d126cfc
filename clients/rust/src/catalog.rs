//! Commands and queries of products.

use daybook_contract::catalog::v1::{
    AdminProduct, ChangePriceRequest, CreateProductRequest, DescribeProductRequest,
    DiscontinueProductRequest, FoundProduct, GetProductRequest, GetProductResponse,
    ListProductsForAdminRequest, ListProductsForAdminResponse, ProductStatus,
    SearchProductsRequest, SearchProductsResponse,
};
use daybook_contract::daybook::v1::Money;

use crate::client::Daybook;
use crate::command::{Command, commands};
use crate::query::{Query, paged, queries};

commands!("catalog.v1":
    CreateProductRequest => "CreateProduct",
    DescribeProductRequest => "DescribeProduct",
    ChangePriceRequest => "ChangePrice",
    DiscontinueProductRequest => "DiscontinueProduct",
);

queries!("catalog.v1":
    "SearchProducts": SearchProductsRequest => SearchProductsResponse,
    "GetProduct": GetProductRequest => GetProductResponse,
    "ListProductsForAdmin": ListProductsForAdminRequest => ListProductsForAdminResponse,
);

paged!(
    SearchProductsRequest => products: FoundProduct,
    ListProductsForAdminRequest => products: AdminProduct,
);

impl Daybook {
    /// Puts a product into the catalogue. The server makes the id unless [`Command::product_id`]
    /// gives one.
    pub fn create_product(
        &self,
        name: impl Into<String>,
        price: Money,
    ) -> Command<CreateProductRequest> {
        let (name, price) = (name.into(), Some(price));
        self.command(CreateProductRequest { name, price, ..Default::default() })
    }

    /// Gives a product another name and description.
    pub fn describe_product(
        &self,
        product_id: impl Into<String>,
        name: impl Into<String>,
        description: impl Into<String>,
    ) -> Command<DescribeProductRequest> {
        self.command(DescribeProductRequest {
            product_id: product_id.into(),
            name: name.into(),
            description: description.into(),
            ..Default::default()
        })
    }

    /// Gives a product another price, in its currency.
    pub fn change_price(
        &self,
        product_id: impl Into<String>,
        price: Money,
    ) -> Command<ChangePriceRequest> {
        let (product_id, price) = (product_id.into(), Some(price));
        self.command(ChangePriceRequest { product_id, price, ..Default::default() })
    }

    /// Takes a product off the market for good.
    pub fn discontinue_product(
        &self,
        product_id: impl Into<String>,
    ) -> Command<DiscontinueProductRequest> {
        let product_id = product_id.into();
        self.command(DiscontinueProductRequest { product_id, ..Default::default() })
    }

    /// Finds products by words of their name and description, best match first.
    pub fn search_products(&self, text: impl Into<String>) -> Query<SearchProductsRequest> {
        self.query(SearchProductsRequest { text: text.into(), ..Default::default() })
    }

    /// Gets one product with the history of its price.
    pub fn get_product(&self, product_id: impl Into<String>) -> Query<GetProductRequest> {
        self.query(GetProductRequest { product_id: product_id.into(), ..Default::default() })
    }

    /// Lists products with their stock and sales, by id.
    pub fn list_products_for_admin(&self) -> Query<ListProductsForAdminRequest> {
        self.query(ListProductsForAdminRequest::default())
    }
}

impl Command<CreateProductRequest> {
    /// The id of the new product.
    pub fn product_id(mut self, id: impl Into<String>) -> Self {
        self.request.product_id = id.into();
        self
    }

    /// What there is to say about it.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.request.description = text.into();
        self
    }
}

impl Command<DiscontinueProductRequest> {
    /// Why.
    pub fn reason(mut self, text: impl Into<String>) -> Self {
        self.request.reason = text.into();
        self
    }
}

impl Query<SearchProductsRequest> {
    /// Only products that cost this or more, in its currency.
    pub fn min_price(mut self, price: Money) -> Self {
        self.request.min_price = Some(price);
        self
    }

    /// Only products that cost this or less, in its currency.
    pub fn max_price(mut self, price: Money) -> Self {
        self.request.max_price = Some(price);
        self
    }
}

impl Query<ListProductsForAdminRequest> {
    /// Only products with this status.
    pub fn status(mut self, status: ProductStatus) -> Self {
        self.request.status = status.into();
        self
    }
}
