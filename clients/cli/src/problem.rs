//! What went wrong, for the person at the terminal: what, why, and what next.

use std::io::{self, IsTerminal};

use daybook_client::{Error, UNREACHABLE};
use serde_json::json;

use crate::exit::Exit;
use crate::output;

/// The values of an error that can name what it is about.
const SUBJECTS: [&str; 3] = ["aggregate_id", "account_id", "projection"];

/// Something went wrong.
#[derive(Debug)]
pub(crate) struct Problem {
    exit: Exit,
    what: String,
    /// The reason and its values.
    why: Vec<String>,
    /// Commands that can be copied, or what else to do.
    next: Vec<String>,
    /// The error of the server behind it.
    error: Option<Box<Error>>,
}

impl Problem {
    /// A problem that was found here.
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), why: Vec::new(), next: Vec::new(), error: None }
    }

    /// A request that cannot be sent as it is.
    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::new(Exit::Invalid, what)
    }

    /// Adds a reason.
    pub(crate) fn why(mut self, why: impl Into<String>) -> Self {
        self.why.push(why.into());
        self
    }

    /// Adds something to do next.
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next.push(next.into());
        self
    }

    /// Says what the request was about, so that the advice can name it: the id of an account, a
    /// stream or a projection.
    pub(crate) fn about(self, subject: &str) -> Self {
        self.naming("SUBJECT", subject)
    }

    /// Says what a word of the advice stands for.
    pub(crate) fn naming(mut self, word: &str, value: &str) -> Self {
        if value.is_empty() {
            return self;
        }
        for next in &mut self.next {
            *next = next.replace(word, value);
        }
        self
    }

    /// Says with which request id to send the command again, when its outcome is not known.
    pub(crate) fn repeat_with(mut self, request_id: &str) -> Self {
        if self.error.as_ref().is_some_and(|error| error.is_retryable()) {
            self.next.push(format!(
                "then repeat the command with --request-id {request_id}: it has its effect once"
            ));
        }
        self
    }

    /// Writes it to standard error.
    pub(crate) fn report(self, json: bool) -> Exit {
        if self.exit == Exit::Done {
            return Exit::Done;
        }
        let text = if json { self.to_json().to_string() } else { self.to_text() };
        eprintln!("{text}");
        self.exit
    }

    /// What to do next; when nobody said what it is about, the reader knows.
    fn advice(&self) -> impl Iterator<Item = String> {
        self.next.iter().map(|next| next.replace("SUBJECT", "ID"))
    }

    fn to_text(&self) -> String {
        let colour = output::colour(io::stderr().is_terminal());
        let mut text =
            format!("{} {}", output::red("error:", colour), output::printable(&self.what));
        for (index, why) in self.why.iter().enumerate() {
            text += if index == 0 { "\n  why:  " } else { "\n        " };
            text += &output::printable(why);
        }
        for (index, next) in self.advice().enumerate() {
            text += if index == 0 { "\n  next: " } else { "\n        " };
            text += &output::bold(&next, colour);
        }
        text
    }

    fn to_json(&self) -> serde_json::Value {
        let mut value = json!({
            "error": self.what,
            "why": self.why,
            "next": self.advice().collect::<Vec<_>>(),
            "exitCode": self.exit as u8,
        });
        if let Some(error) = &self.error {
            value["code"] = code_name(error.code()).into();
            value["reason"] = error.reason().into();
            value["metadata"] = json!(error.metadata());
        }
        value
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let mut problem = Self::new(Exit::of(&error), headline(&error));
        let mut reason = match error.reason() {
            "" => code_name(error.code()).to_owned(),
            reason => reason.to_owned(),
        };
        let mut values: Vec<_> = error.metadata().iter().collect();
        values.sort();
        for (name, value) in values.into_iter().filter(|(name, _)| !in_headline(&error, name)) {
            reason += &format!(", {name}={value}");
        }
        problem.why.push(reason);
        let violations = violations(&error);
        if violations.len() > 1 {
            problem.what = format!("the request has {} malformed fields", violations.len());
            problem.why.extend(violations);
        }
        problem.next.extend(advice(&error));
        let named = SUBJECTS.iter().find_map(|name| error.metadata().get(*name));
        let problem = match named {
            Some(subject) => problem.about(subject),
            None => problem,
        };
        Self { error: Some(Box::new(error)), ..problem }
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        // Whoever read our output has seen enough, such as `head`: that is no problem.
        let exit = match error.kind() {
            io::ErrorKind::BrokenPipe => Exit::Done,
            _ => Exit::Unexpected,
        };
        Self::new(exit, format!("the output could not be written: {error}"))
    }
}

/// What went wrong, without advice: that is given apart.
pub(crate) fn headline(error: &Error) -> String {
    let value = |name: &str| error.metadata().get(name).map_or("", String::as_str);
    if error.reason() != UNREACHABLE {
        return error.message().trim_start_matches("Error, ").to_owned();
    }
    format!("the {} service at {} cannot be reached", value("service"), value("url"))
}

/// What is wrong with which field. With one, the message says it all.
fn violations(error: &Error) -> Vec<String> {
    let violations = error.details().bad_request().map(|request| &request.field_violations);
    let text = |v: &tonic_types::FieldViolation| format!("{}: {}", v.field, v.description);
    violations.into_iter().flatten().map(text).collect()
}

/// Whether a value stands in the headline already.
fn in_headline(error: &Error, name: &str) -> bool {
    error.reason() == UNREACHABLE && name != "problem"
}

/// What to do about an error. `SUBJECT` is replaced with what the request was about.
fn advice(error: &Error) -> Option<String> {
    let value = |name: &str| error.metadata().get(name).map_or("", String::as_str);
    // Two domains may have a rule of the same name.
    let of_domain = match value("aggregate") {
        "inventory.stock" => crate::stock::advice(error.reason()),
        "users.user" => crate::user::advice(error.reason()),
        "catalog.product" => crate::product::advice(error.reason()),
        "orders.order" => crate::order::advice(error.reason()),
        "bank.transfer" => crate::transfer::advice(error.reason()),
        "orders.fulfilment" => Some("daybook saga show orders.fulfilment-SUBJECT"),
        "orders.shipment" => Some("daybook saga show orders.shipment-SUBJECT"),
        _ => None,
    };
    if let Some(text) = of_domain {
        return Some(text.to_owned());
    }
    let text = match error.reason() {
        UNREACHABLE => {
            let flag = match value("service") {
                "query" => "--query-url",
                "saga" => "--saga-url",
                _ => "--command-url",
            };
            return Some(format!("daybook dev    (or say where it runs: {flag} URL)"));
        }
        "ACCOUNT_NOT_FOUND" | "NOT_FOUND" => "daybook account list",
        "TRANSFER_NOT_FOUND" => "daybook transfer list",
        "SAGA_NOT_FOUND" => "daybook saga list",
        "TRANSFER_IN_FLIGHT" | "TOO_MANY_TRANSFERS" => "daybook transfer list --account SUBJECT",
        "TRANSFER_NOT_IN_FLIGHT" => "send a transfer instead: daybook transfer send --help",
        "PAYMENT_IN_FLIGHT" => "daybook saga list --kind orders.fulfilment --open",
        "PAYMENT_NOT_IN_FLIGHT" => "leave it to the saga: daybook order submit --help",
        "ACCOUNT_ALREADY_OPEN" | "WRONG_CURRENCY" | "AMOUNT_TOO_LARGE" | "INSUFFICIENT_FUNDS" => {
            "daybook account show SUBJECT"
        }
        "STOCK_NOT_FOUND" => "daybook product list",
        "ORDER_NOT_FOUND" => "daybook order list",
        "USER_NOT_FOUND" => "daybook user list",
        "PRODUCT_NOT_FOUND" => "daybook product list",
        "INVALID_REQUEST" => "mend the request and repeat it; --help shows what a command takes",
        "AMOUNT_NOT_POSITIVE" => "give an amount above zero",
        "ACCOUNT_CLOSED" => "daybook account history SUBJECT",
        "BALANCE_NOT_ZERO" => {
            "daybook account withdraw SUBJECT AMOUNT    (all of it; see daybook account show SUBJECT)"
        }
        "VERSION_CONFLICT" => {
            "look at it again, decide again, and repeat with the new --expected-version"
        }
        "REQUEST_ID_REUSED" => "repeat the command without --request-id: it is another command",
        "UNKNOWN_COMMAND" | "NOT_SUPPORTED" => "daybook call    (lists what the server offers)",
        "STREAM_OWNED_BY_AGGREGATE" => "use the commands of the domain: daybook account --help",
        "EVENT_NOT_FOUND" => "daybook events tail --no-follow",
        "STREAM_NOT_FOUND" => "daybook events read --limit 20",
        "PROJECTION_NOT_FOUND" | "PROJECTION_STATE" | "PROJECTION_REBUILDING" => {
            "daybook projection list"
        }
        "PROJECTION_LAGGING" if value("state") == "PAUSED" => {
            return Some(format!("daybook projection resume {}", value("projection")));
        }
        "PROJECTION_LAGGING" => {
            "daybook projection list    (queries take --wait 30s, or --stale for what there is)"
        }
        "QUARANTINED_EVENT_NOT_FOUND" => "daybook projection quarantine SUBJECT",
        "INVALID_PAGE_TOKEN" => "repeat the command without --page-token",
        "LIMIT_EXCEEDED" => "send less at once",
        "DAMAGED_RECORD" => "daybook doctor --data ./data",
        "DISK_FULL" => "make room on the disk of the server; queries go on",
        "INTERNAL" | "STORE_UNAVAILABLE" | "NOT_SERVING" | "OVERLOADED" | "DEADLINE_EXCEEDED" => {
            "daybook doctor"
        }
        _ => return None,
    };
    Some(text.to_owned())
}

/// The name of a code as the gRPC documentation writes it.
pub(crate) fn code_name(code: tonic::Code) -> &'static str {
    use tonic::Code::*;
    match code {
        Ok => "OK",
        Cancelled => "CANCELLED",
        Unknown => "UNKNOWN",
        InvalidArgument => "INVALID_ARGUMENT",
        DeadlineExceeded => "DEADLINE_EXCEEDED",
        NotFound => "NOT_FOUND",
        AlreadyExists => "ALREADY_EXISTS",
        PermissionDenied => "PERMISSION_DENIED",
        ResourceExhausted => "RESOURCE_EXHAUSTED",
        FailedPrecondition => "FAILED_PRECONDITION",
        Aborted => "ABORTED",
        OutOfRange => "OUT_OF_RANGE",
        Unimplemented => "UNIMPLEMENTED",
        Internal => "INTERNAL",
        Unavailable => "UNAVAILABLE",
        DataLoss => "DATA_LOSS",
        Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use daybook_contract::daybook::v1::ErrorReason;
    use tonic::Code;

    #[test]
    fn a_refusal_says_what_why_and_what_next() {
        let error = Error::custom(Code::FailedPrecondition, "INSUFFICIENT_FUNDS", "too little")
            .with("requested", "50.00 USD")
            .with("balance", "12.34 USD");
        let text = Problem::from(error).about("ada").repeat_with("id").to_text();
        assert_eq!(
            text,
            "error: too little\n  \
             why:  INSUFFICIENT_FUNDS, balance=12.34 USD, requested=50.00 USD\n  \
             next: daybook account show ada"
        );
    }

    #[test]
    fn a_command_with_an_unknown_outcome_is_to_be_repeated_with_its_request_id() {
        let error = Error::new(ErrorReason::StoreUnavailable, "the disk is gone");
        let text = Problem::from(error).about("ada").repeat_with("0190-7").to_text();
        assert!(text.contains("--request-id 0190-7"), "{text}");
    }

    #[test]
    fn a_service_that_is_away_is_named_once() {
        let error = Error::custom(Code::Unavailable, UNREACHABLE, "long, with advice")
            .with("service", "query")
            .with("url", "http://127.0.0.1:1")
            .with("problem", "refused");
        assert_eq!(
            Problem::from(error).to_text(),
            "error: the query service at http://127.0.0.1:1 cannot be reached\n  \
             why:  UNREACHABLE, problem=refused\n  \
             next: daybook dev    (or say where it runs: --query-url URL)"
        );
    }

    #[test]
    fn every_violation_is_listed() {
        let error = Error::new(ErrorReason::InvalidRequest, "two fields are wrong")
            .with_violation("amount", "is required")
            .with_violation("account_id", "is no id");
        let problem = Problem::from(error);
        assert_eq!(problem.exit, Exit::Invalid);
        assert_eq!(problem.why, ["INVALID_REQUEST", "amount: is required", "account_id: is no id"]);
    }

    #[test]
    fn every_rule_of_a_domain_comes_with_something_to_do() {
        use daybook_contract::{bank, catalog, inventory, orders, users};
        macro_rules! reasons {
            ($aggregate:literal, $rejection:ty, $prefix:literal) => {
                (1..)
                    .map_while(|number| <$rejection>::try_from(number).ok())
                    .map(|reason| ($aggregate, reason.as_str_name().trim_start_matches($prefix)))
                    .collect::<Vec<_>>()
            };
        }
        let rules = [
            reasons!("bank.account", bank::v1::AccountRejection, "ACCOUNT_REJECTION_"),
            reasons!("bank.transfer", bank::v1::TransferRejection, "TRANSFER_REJECTION_"),
            reasons!("catalog.product", catalog::v1::ProductRejection, "PRODUCT_REJECTION_"),
            reasons!("inventory.stock", inventory::v1::StockRejection, "STOCK_REJECTION_"),
            reasons!("orders.order", orders::v1::OrderRejection, "ORDER_REJECTION_"),
            reasons!("orders.fulfilment", orders::v1::FulfilmentRejection, "FULFILMENT_REJECTION_"),
            reasons!("orders.shipment", orders::v1::ShipmentRejection, "SHIPMENT_REJECTION_"),
            reasons!("users.user", users::v1::UserRejection, "USER_REJECTION_"),
        ];
        let without = rules.into_iter().flatten().filter(|(aggregate, reason)| {
            let error = Error::custom(Code::FailedPrecondition, reason, "no");
            advice(&error.with("aggregate", *aggregate)).is_none()
        });
        assert_eq!(without.collect::<Vec<_>>(), []);
    }

    #[test]
    fn a_reader_who_has_seen_enough_is_no_problem() {
        let closed = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(Problem::from(closed).report(false), Exit::Done);
    }
}
