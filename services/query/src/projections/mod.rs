//! The projections. A new one is a file here and a line in the list below.

use crate::runtime::{Environment, Started, start};

/// Declares the modules of the projections and starts them all.
macro_rules! projections {
    ($($(#[$meta:meta])* $module:ident :: $projection:ident),+ $(,)?) => {
        $( $(#[$meta])* pub mod $module; )+

        /// The names of all projections.
        pub const NAMES: &[&str] =
            &[ $( <$module::$projection as $crate::runtime::Projection>::NAME, )+ ];

        /// The runners of all projections.
        pub fn start_all(environment: &Environment) -> Vec<Started> {
            vec![ $( start::<$module::$projection>(environment), )+ ]
        }
    };
}

projections! {
    account_balance::AccountBalance,
    account_transactions::AccountTransactions,
    daily_summary::DailySummary,
    order_statistics::OrderStatistics,
    orders::Orders,
    product_admin::ProductAdmin,
    product_details::ProductDetails,
    product_search::ProductSearch,
    stock_levels::StockLevels,
    stock_movements::StockMovements,
    user_activity::UserActivity,
    user_statistics::UserStatistics,
    users::Users,
    transfers::Transfers,
}
