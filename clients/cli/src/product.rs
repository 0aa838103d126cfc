//! `daybook product`: the catalogue.

use clap::{Args, Subcommand, ValueEnum};
use daybook_client::{Daybook, QueryRequest};
use daybook_contract::catalog::v1::{
    AdminProduct, ChangePriceRequest, CreateProductRequest, DescribeProductRequest,
    DiscontinueProductRequest, FoundProduct, GetProductRequest, ListProductsForAdminRequest,
    PricePeriod, ProductStatus, SearchProductsRequest,
};

use crate::account::{parse_amount, show_receipt, word};
use crate::flags::{CommandFlags, Globals, Pages, QueryFlags};
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::{json, money, time};

/// `daybook product`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  daybook product create Teapot 19.99 EUR --id teapot\n  \
                        daybook product search \"red tea\" --max 20 --currency EUR\n  \
                        daybook product show teapot")]
pub struct ProductArgs {
    #[command(subcommand)]
    command: ProductCommand,
    /// Flags of all client commands.
    #[command(flatten)]
    pub globals: Globals,
}

#[derive(Debug, Subcommand)]
enum ProductCommand {
    /// Put a product into the catalogue
    #[command(after_help = "Example:\n  daybook product create Teapot 19.99 EUR --id teapot \
                            --description \"Round, for four cups\"")]
    Create {
        /// The name
        name: String,
        /// What one piece costs
        #[arg(allow_negative_numbers = true)]
        price: String,
        /// The currency of the product, of ISO 4217
        #[arg(default_value = "USD")]
        currency: String,
        /// What there is to say about it
        #[arg(long, short, default_value = "", hide_default_value = true)]
        description: String,
        /// The id of the product; made by the server when not given
        #[arg(long, value_name = "PRODUCT")]
        id: Option<String>,
        #[command(flatten)]
        flags: CommandFlags,
    },
    /// Give a product another name and description
    #[command(after_help = "Example:\n  daybook product describe teapot \"Red teapot\" \
                            --description \"Round, for six cups\"")]
    Describe {
        /// The product
        product: String,
        /// The name from now on
        name: String,
        /// The description from now on
        #[arg(long, short, default_value = "", hide_default_value = true)]
        description: String,
        #[command(flatten)]
        flags: CommandFlags,
    },
    /// Give a product another price
    #[command(after_help = "Example:\n  daybook product price teapot 17.50 EUR")]
    Price {
        /// The product
        product: String,
        /// What one piece costs from now on
        #[arg(allow_negative_numbers = true)]
        price: String,
        /// The currency of the product
        #[arg(default_value = "USD")]
        currency: String,
        #[command(flatten)]
        flags: CommandFlags,
    },
    /// Take a product off the market for good
    #[command(after_help = "Example:\n  daybook product discontinue teapot --reason replaced")]
    Discontinue {
        /// The product
        product: String,
        /// Why
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        #[command(flatten)]
        flags: CommandFlags,
    },
    /// Find products by words, best match first
    ///
    /// Of very many that match, only the oldest are ranked, and the answer says so.
    #[command(after_help = "Example:\n  daybook product search \"red tea\"\n  \
                            daybook product search tea --min 5 --max 20 --currency EUR")]
    Search {
        /// The words, or beginnings of words; all products when not given
        #[arg(default_value = "", hide_default_value = true)]
        text: String,
        /// Only products that cost this or more
        #[arg(long, value_name = "PRICE")]
        min: Option<String>,
        /// Only products that cost this or less
        #[arg(long, value_name = "PRICE")]
        max: Option<String>,
        /// The currency of both
        #[arg(long, default_value = "USD")]
        currency: String,
        #[command(flatten)]
        pages: Pages,
        #[command(flatten)]
        flags: QueryFlags,
    },
    /// Show one product with the history of its price
    #[command(after_help = "Example:\n  daybook product show teapot")]
    Show {
        /// The product
        product: String,
        #[command(flatten)]
        flags: QueryFlags,
    },
    /// List all products with their stock and sales, by id
    #[command(after_help = "Example:\n  daybook product list --status active --all -o json")]
    List {
        /// Only products with this status
        #[arg(long, value_enum)]
        status: Option<Status>,
        #[command(flatten)]
        pages: Pages,
        #[command(flatten)]
        flags: QueryFlags,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Status {
    Active,
    Discontinued,
}

pub(crate) async fn run(args: ProductArgs) -> Result<(), Problem> {
    let client = args.globals.client()?;
    let format = args.globals.output;
    let receipt = match args.command {
        ProductCommand::Create { name, price, currency, description, id, flags } => {
            let request = CreateProductRequest {
                product_id: id.clone().unwrap_or_default(),
                name,
                description,
                price: Some(parse_amount(&price, &currency)?),
                context: None,
            };
            flags.send(&client, request, &id.unwrap_or_default()).await?
        }
        ProductCommand::Describe { product, name, description, flags } => {
            let product_id = product.clone();
            let request = DescribeProductRequest { product_id, name, description, context: None };
            flags.send(&client, request, &product).await?
        }
        ProductCommand::Price { product, price, currency, flags } => {
            let (product_id, price) = (product.clone(), Some(parse_amount(&price, &currency)?));
            let request = ChangePriceRequest { product_id, price, context: None };
            flags.send(&client, request, &product).await?
        }
        ProductCommand::Discontinue { product, reason, flags } => {
            let product_id = product.clone();
            let request = DiscontinueProductRequest { product_id, reason, context: None };
            flags.send(&client, request, &product).await?
        }
        ProductCommand::Search { text, min, max, currency, pages, flags } => {
            let amount =
                |text: Option<String>| text.map(|text| parse_amount(&text, &currency)).transpose();
            let (min_price, max_price) = (amount(min)?, amount(max)?);
            let request =
                SearchProductsRequest { text, min_price, max_price, ..Default::default() };
            return search(&client, request, pages, &flags, format).await;
        }
        ProductCommand::Show { product, flags } => {
            return show(&client, &product, &flags, format).await;
        }
        ProductCommand::List { status, pages, flags } => {
            let status = status.map_or(ProductStatus::Unspecified, status_of).into();
            let request = ListProductsForAdminRequest { status, ..Default::default() };
            return list(&client, request, pages, &flags, format).await;
        }
    };
    show_receipt(&receipt, format)
}

async fn search(
    client: &Daybook,
    request: SearchProductsRequest,
    pages: Pages,
    flags: &QueryFlags,
    format: Format,
) -> Result<(), Problem> {
    let answer = flags.fetch(client, request, pages).await?;
    if format == Format::Json {
        return Ok(output::document(&json::of(SearchProductsRequest::RESPONSE_NAME, &answer)?)?);
    }
    let row = |product: &FoundProduct| {
        vec![
            product.product_id.clone(),
            money::show(product.price.as_ref()),
            product.name.clone(),
            product.summary.clone(),
        ]
    };
    let header = ["product", "price", "name", "description"];
    output::table(&header, &[1], answer.products.iter().map(row).collect())?;
    output::more(&answer.next_page_token);
    if answer.more_matches {
        output::hint("more products match than are looked at: say more words");
    }
    Ok(())
}

async fn show(
    client: &Daybook,
    product: &str,
    flags: &QueryFlags,
    format: Format,
) -> Result<(), Problem> {
    let query = flags.apply(client, client.get_product(product)).await;
    let answer = query.await.map_err(|error| Problem::from(error).about(product))?;
    if format == Format::Json {
        return Ok(output::document(&json::of(GetProductRequest::RESPONSE_NAME, &answer)?)?);
    }
    let product = answer.product.unwrap_or_default();
    output::fields(&[
        ("product", product.product_id.clone()),
        ("name", product.name.clone()),
        ("description", product.description.clone()),
        ("price", money::show(product.price.as_ref())),
        ("status", word(product.status().as_str_name(), "PRODUCT_STATUS_")),
        ("version", product.version.to_string()),
        ("created", time::show(product.created_time.as_ref())),
        ("discontinued", time::show(product.discontinued_time.as_ref())),
        ("as of position", answer.position.to_string()),
    ])?;
    output::line("")?;
    let row = |period: &PricePeriod| {
        vec![
            money::show(period.price.as_ref()),
            time::show(period.start_time.as_ref()),
            time::show(period.end_time.as_ref()),
        ]
    };
    let header = ["price", "since", "until"];
    Ok(output::table(&header, &[0], answer.prices.iter().map(row).collect())?)
}

async fn list(
    client: &Daybook,
    request: ListProductsForAdminRequest,
    pages: Pages,
    flags: &QueryFlags,
    format: Format,
) -> Result<(), Problem> {
    let answer = flags.fetch(client, request, pages).await?;
    if format == Format::Json {
        let name = ListProductsForAdminRequest::RESPONSE_NAME;
        return Ok(output::document(&json::of(name, &answer)?)?);
    }
    let row = |row: &AdminProduct| {
        let product = row.product.clone().unwrap_or_default();
        vec![
            product.product_id.clone(),
            word(product.status().as_str_name(), "PRODUCT_STATUS_"),
            money::show(product.price.as_ref()),
            row.on_hand.to_string(),
            row.reserved.to_string(),
            row.sold_quantity.to_string(),
            money::show_all(&row.revenue),
            product.name,
        ]
    };
    let header = ["product", "status", "price", "on hand", "reserved", "sold", "revenue", "name"];
    output::table(&header, &[2, 3, 4, 5, 6], answer.products.iter().map(row).collect())?;
    output::more(&answer.next_page_token);
    Ok(())
}

/// What to do when a rule of a product did not hold.
pub(crate) fn advice(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "PRODUCT_NOT_FOUND" => "daybook product list",
        "PRODUCT_ALREADY_EXISTS" | "PRODUCT_DISCONTINUED" | "WRONG_CURRENCY" => {
            "daybook product show SUBJECT"
        }
        "PRICE_NOT_POSITIVE" => "give a price above zero",
        "PRICE_TOO_LARGE" => "give a lower price",
        _ => return None,
    })
}

fn status_of(status: Status) -> ProductStatus {
    match status {
        Status::Active => ProductStatus::Active,
        Status::Discontinued => ProductStatus::Discontinued,
    }
}
