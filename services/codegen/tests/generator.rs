//! The generator on a small contract, `fixture/shop/v1/cart.proto`: what it writes, and what it
//! says to mistakes.

use std::path::{Path, PathBuf};

use daybook_codegen::{Generated, Mistakes};
use prost_reflect::DescriptorPool;

const CART: &str = include_str!("fixture/shop/v1/cart.proto");

/// Generates code for a version of the fixture.
fn generate(cart: &str) -> Result<Generated, Mistakes> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("shop/v1/cart.proto");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, cart).unwrap();
    let daybook = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let mut compiler = protox::Compiler::new([dir.path(), &daybook]).unwrap();
    compiler.include_source_info(true).include_imports(true);
    compiler.open_file(&file).unwrap_or_else(|error| panic!("{error:?}"));
    let bytes = compiler.encode_file_descriptor_set();
    daybook_codegen::generate(&DescriptorPool::decode(bytes.as_slice()).unwrap())
}

/// Puts a mistake into the fixture and compares what is said to it.
#[track_caller]
fn mistake(right: &str, wrong: &str, expected: &[&str]) {
    assert!(CART.contains(right), "the fixture has no {right:?}");
    let mistakes = generate(&CART.replace(right, wrong)).unwrap_err();
    let found: Vec<_> = mistakes
        .0
        .iter()
        .map(|mistake| format!("{}: {}: {}", mistake.place, mistake.element, mistake.problem))
        .collect();
    assert_eq!(found, expected);
}

/// Another aggregate, to be put before a message.
fn other_aggregate(name: &str) -> String {
    let options = format!("name: \"{name}\" topic: \"shop-events\"");
    let state =
        format!("message OtherState {{ option (daybook.v1.aggregate) = {{ {options} }}; }}");
    format!("{state}\n// A cart was opened.")
}

#[test]
fn the_generated_code_is_the_one_on_record() {
    let generated = generate(CART).unwrap();
    for (name, code) in
        [("shop.v1.rs", &generated.packages["shop.v1"]), ("root.rs", &generated.root)]
    {
        let path =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixture/expected").join(name);
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            std::fs::write(&path, code).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap();
        assert!(
            *code == expected,
            "the code for {name} has changed; when that is meant, run the test with \
             UPDATE_EXPECTED=1 and read the difference in git"
        );
    }
}

#[test]
fn a_message_is_named_as_prost_names_it() {
    let generated = generate(&CART.replace("OpenCart", "openACart")).unwrap();
    assert!(generated.packages["shop.v1"].contains("OpenACart(crate::shop::v1::OpenACartRequest)"));
}

#[test]
fn a_file_without_a_package() {
    mistake(
        "package shop.v1;",
        "",
        &["shop/v1/cart.proto: shop/v1/cart.proto: has no package; add one after its directory, \
             such as bank.v1"],
    );
}

#[test]
fn a_hyphen_in_the_name_of_an_aggregate() {
    mistake(
        "shop.cart",
        "shop-cart",
        &["shop/v1/cart.proto:40: shop.v1.CartState: aggregate name \"shop-cart\" has a hyphen, \
             which separates it from the id in the name of a stream; use '.' or '_' instead"],
    );
}

#[test]
fn an_aggregate_with_capitals() {
    mistake(
        "shop.cart",
        "Shop.Cart",
        &["shop/v1/cart.proto:40: shop.v1.CartState: aggregate name \"Shop.Cart\" is not one; \
             use at most 63 characters: words of lower case letters, digits and '_' joined by \
             dots, such as bank.account"],
    );
}

#[test]
fn an_aggregate_without_a_topic() {
    mistake(
        r#"topic: "shop-events""#,
        r#"topic: """#,
        &["shop/v1/cart.proto:40: shop.v1.CartState: topic \"\" is not one; give it a Kafka \
             topic of letters, digits, '.', '_' and '-', such as bank-events"],
    );
}

#[test]
fn two_aggregates_of_one_name() {
    mistake(
        "// A cart was opened.",
        &other_aggregate("shop.cart"),
        &["shop/v1/cart.proto:50: shop.v1.OtherState: aggregate \"shop.cart\" has the state \
             shop.v1.CartState already; choose another name"],
    );
}

#[test]
fn two_aggregates_of_one_module() {
    mistake(
        "// A cart was opened.",
        &other_aggregate("other.cart"),
        &[
            "shop/v1/cart.proto:50: shop.v1.OtherState: aggregates \"shop.cart\" and \
             \"other.cart\" of one package both need the module cart; choose another last part",
            "shop/v1/cart.proto:50: shop.v1.OtherState: aggregate \"other.cart\" has no command; \
             declare one with (daybook.v1.command)",
            "shop/v1/cart.proto:50: shop.v1.OtherState: aggregate \"other.cart\" has no event; \
             declare one with (daybook.v1.event)",
        ],
    );
}

#[test]
fn an_aggregate_whose_module_is_taken() {
    mistake(
        "// A cart was opened.",
        "message Cart {\n  enum Inside {\n    INSIDE_UNSPECIFIED = 0;\n  }\n}\n// A cart was opened.",
        &["shop/v1/cart.proto:40: shop.v1.CartState: the module cart of aggregate \"shop.cart\" \
             is also that of what shop.v1.Cart declares inside; rename one of them or move the \
             inner declarations out"],
    );
}

#[test]
fn a_command_of_an_unknown_aggregate() {
    mistake(
        "aggregate: \"shop.cart\"\n      key: \"cart_id\"\n      generate_key",
        "aggregate: \"shop.kart\"\n      key: \"cart_id\"\n      generate_key",
        &["shop/v1/cart.proto:16: shop.v1.CommandService.OpenCart: there is no aggregate \
             \"shop.kart\"; known: shop.cart, shop.customer. Correct the name, or declare the aggregate by \
             (daybook.v1.aggregate) on the message of its state"],
    );
}

#[test]
fn a_command_without_its_key() {
    mistake(
        "key: \"cart_id\"\n      generate_key",
        "key: \"id\"\n      generate_key",
        &["shop/v1/cart.proto:105: shop.v1.OpenCartRequest: has no field \"id\", the key of \
             command OpenCart; add `string id` or correct `key`"],
    );
}

#[test]
fn a_command_whose_key_is_no_text() {
    mistake(
        "  // The cart.\n  string cart_id = 2 [(daybook.v1.rules).id = true];",
        "  // The cart.\n  uint64 cart_id = 2;",
        &["shop/v1/cart.proto:110: shop.v1.OpenCartRequest.cart_id: is the key of command \
             OpenCart but not a plain string; an id is text: make it `string cart_id`"],
    );
}

#[test]
fn a_command_without_context() {
    mistake(
        "OpenCartRequest {\n  // The context.\n  daybook.v1.CommandContext context = 1;",
        "OpenCartRequest {\n  // The context.\n  string context = 1;",
        &["shop/v1/cart.proto:105: shop.v1.OpenCartRequest: a command needs its context; add \
             `daybook.v1.CommandContext context = 1;`"],
    );
}

#[test]
fn a_command_with_its_own_answer() {
    mistake(
        "rpc OpenCart(OpenCartRequest) returns (daybook.v1.CommandReceipt)",
        "rpc OpenCart(OpenCartRequest) returns (WatchCartResponse)",
        &["shop/v1/cart.proto:16: shop.v1.CommandService.OpenCart: returns \
             shop.v1.WatchCartResponse; a command returns daybook.v1.CommandReceipt, so that it \
             can be repeated"],
    );
}

#[test]
fn a_command_that_is_a_stream() {
    mistake(
        "rpc OpenCart(OpenCartRequest)",
        "rpc OpenCart(stream OpenCartRequest)",
        &["shop/v1/cart.proto:16: shop.v1.CommandService.OpenCart: a command is one request \
             with one answer; take `stream` away; daybook.v1.CommandService/ExecuteStream is for \
             many"],
    );
}

#[test]
fn two_commands_with_one_request() {
    mistake(
        "rpc OpenCart(OpenCartRequest)",
        "rpc OpenCart(AddItemsRequest)",
        &["shop/v1/cart.proto:25: shop.v1.CommandService.AddItems: shop.v1.AddItemsRequest is \
             the request of two commands; give each command RPC its own request"],
    );
}

#[test]
fn an_rpc_that_is_no_command_among_commands() {
    mistake(
        "  // Puts things into a cart.",
        "  // Gets.\n  rpc Get(WatchCartRequest) returns (WatchCartResponse);\n\n  // Puts things into a cart.",
        &["shop/v1/cart.proto:25: shop.v1.CommandService.Get: not a command in a service of \
             commands; give it (daybook.v1.command) or move it to another service"],
    );
}

#[test]
fn an_event_of_no_aggregate() {
    mistake(
        "    aggregate: \"shop.cart\"\n    name: \"CartOpened\"",
        r#"    name: "CartOpened""#,
        &["shop/v1/cart.proto:51: shop.v1.CartOpened: the event has no aggregate; add \
             `aggregate` to (daybook.v1.event)"],
    );
}

#[test]
fn an_event_of_an_unknown_aggregate() {
    mistake(
        "    aggregate: \"shop.cart\"\n    name: \"CartOpened\"",
        "    aggregate: \"shop.kart\"\n    name: \"CartOpened\"",
        &["shop/v1/cart.proto:51: shop.v1.CartOpened: there is no aggregate \"shop.kart\"; \
             known: shop.cart, shop.customer. Correct the name, or declare the aggregate by \
             (daybook.v1.aggregate) on the message of its state"],
    );
}

#[test]
fn an_event_without_a_version() {
    mistake(
        "name: \"CartOpened\"\n    version: 1",
        r#"name: "CartOpened""#,
        &["shop/v1/cart.proto:51: shop.v1.CartOpened: the event has no version; versions are \
             counted from 1"],
    );
}

#[test]
fn an_event_with_a_name_that_is_no_type() {
    mistake(
        r#"name: "CartOpened""#,
        r#"name: "cart_opened""#,
        &["shop/v1/cart.proto:51: shop.v1.CartOpened: event name \"cart_opened\" is not one; \
             use UpperCamelCase in the past tense, such as MoneyDeposited"],
    );
}

#[test]
fn a_hole_in_the_versions_of_an_event() {
    mistake(
        "name: \"ItemAdded\"\n    version: 2",
        "name: \"ItemAdded\"\n    version: 4",
        &["shop/v1/cart.proto:72: shop.v1.ItemAddedV2: event \"ItemAdded\" has a version 3 but \
             no version 2; every version from 1 needs its message, because old records must stay \
             readable"],
    );
}

#[test]
fn two_events_of_one_version() {
    mistake(
        "name: \"ItemAdded\"\n    version: 2",
        "name: \"ItemAdded\"\n    version: 3",
        &["shop/v1/cart.proto:87: shop.v1.ItemAdded: version 3 of event \"ItemAdded\" is \
             shop.v1.ItemAddedV2 already; give one of them another version"],
    );
}

#[test]
fn a_rule_for_text_on_a_number() {
    mistake(
        "max: 99\n",
        "max_chars: 99\n",
        &["shop/v1/cart.proto:154: shop.v1.AddItemsRequest.Item.quantity: has a rule for text \
             (max_chars, id, uuid, email) but is not a string; take the rule away"],
    );
}

#[test]
fn a_rule_for_numbers_on_a_text() {
    mistake(
        "string session = 3 [(daybook.v1.rules).uuid = true];",
        "string session = 3 [(daybook.v1.rules).max = 3];",
        &["shop/v1/cart.proto:113: shop.v1.OpenCartRequest.session: has the rule max but is not \
             an integer; take the rule away"],
    );
}

#[test]
fn two_rules_for_one_text() {
    mistake(
        "string session = 3 [(daybook.v1.rules).uuid = true];",
        "string session = 3 [(daybook.v1.rules) = {\n    uuid: true\n    id: true\n  }];",
        &["shop/v1/cart.proto:113: shop.v1.OpenCartRequest.session: has more than one of \
             max_chars, id, uuid and email; the last three have a length already: keep one"],
    );
}

#[test]
fn a_required_member_of_a_oneof() {
    mistake(
        "string paper = 4;",
        "string paper = 4 [(daybook.v1.rules).required = true];",
        &["shop/v1/cart.proto:168: shop.v1.AddItemsRequest.Item.paper: is required inside a \
             oneof, where only one field is set; take the rule away and let the service check \
             that the oneof is set"],
    );
}

#[test]
fn a_required_bool() {
    mistake(
        "optional bool visible",
        "bool visible",
        &["shop/v1/cart.proto:116: shop.v1.OpenCartRequest.visible: is required but false is \
             the same as not set; make it `optional bool` or an enum"],
    );
}

#[test]
fn an_aggregate_with_nothing_to_do() {
    mistake(
        "// A cart was opened.",
        &other_aggregate("shop.other"),
        &[
            "shop/v1/cart.proto:50: shop.v1.OtherState: aggregate \"shop.other\" has no command; \
             declare one with (daybook.v1.command)",
            "shop/v1/cart.proto:50: shop.v1.OtherState: aggregate \"shop.other\" has no event; \
             declare one with (daybook.v1.event)",
        ],
    );
}

#[test]
fn all_mistakes_are_told_at_once() {
    mistake(
        "aggregate: \"shop.cart\"",
        "aggregate: \"shop.kart\"",
        &[
            "shop/v1/cart.proto:51: shop.v1.CartOpened: there is no aggregate \"shop.kart\"; \
             known: shop.cart, shop.customer. Correct the name, or declare the aggregate by \
             (daybook.v1.aggregate) on the message of its state",
            "shop/v1/cart.proto:60: shop.v1.ItemAddedV1: there is no aggregate \"shop.kart\"; \
             known: shop.cart, shop.customer. Correct the name, or declare the aggregate by \
             (daybook.v1.aggregate) on the message of its state",
            "shop/v1/cart.proto:72: shop.v1.ItemAddedV2: there is no aggregate \"shop.kart\"; \
             known: shop.cart, shop.customer. Correct the name, or declare the aggregate by \
             (daybook.v1.aggregate) on the message of its state",
            "shop/v1/cart.proto:87: shop.v1.ItemAdded: there is no aggregate \"shop.kart\"; \
             known: shop.cart, shop.customer. Correct the name, or declare the aggregate by \
             (daybook.v1.aggregate) on the message of its state",
            "shop/v1/cart.proto:16: shop.v1.CommandService.OpenCart: there is no aggregate \
             \"shop.kart\"; known: shop.cart, shop.customer. Correct the name, or declare the aggregate by \
             (daybook.v1.aggregate) on the message of its state",
            "shop/v1/cart.proto:25: shop.v1.CommandService.AddItems: there is no aggregate \
             \"shop.kart\"; known: shop.cart, shop.customer. Correct the name, or declare the aggregate by \
             (daybook.v1.aggregate) on the message of its state",
            "shop/v1/cart.proto:221: shop.v1.CustomerService.RenameCustomer: there is no aggregate \
             \"shop.kart\"; known: shop.cart, shop.customer. Correct the name, or declare the \
             aggregate by (daybook.v1.aggregate) on the message of its state",
            "shop/v1/cart.proto:40: shop.v1.CartState: aggregate \"shop.cart\" has no command; \
             declare one with (daybook.v1.command)",
            "shop/v1/cart.proto:40: shop.v1.CartState: aggregate \"shop.cart\" has no event; \
             declare one with (daybook.v1.event)",
        ],
    );
}

#[test]
fn a_command_that_reads_an_unknown_aggregate() {
    mistake(
        "aggregate: \"shop.cart\"\n        key: \"cart_id\"",
        "aggregate: \"shop.kart\"\n        key: \"cart_id\"",
        &["shop/v1/cart.proto:221: shop.v1.CustomerService.RenameCustomer: there is no aggregate \
             \"shop.kart\"; known: shop.cart, shop.customer. Correct the name, or declare the \
             aggregate by (daybook.v1.aggregate) on the message of its state"],
    );
}

#[test]
fn a_command_that_reads_by_a_field_it_does_not_have() {
    mistake(
        "key: \"friend\"",
        "key: \"fiend\"",
        &[
            "shop/v1/cart.proto:276: shop.v1.RenameCustomerRequest: has no field \"fiend\", the key \
             by which command RenameCustomer reads; add `string fiend` or correct `key`",
        ],
    );
}

#[test]
fn a_command_that_reads_by_what_is_no_text() {
    mistake(
        "string friend = 4;",
        "repeated string friend = 4;",
        &["shop/v1/cart.proto:287: shop.v1.RenameCustomerRequest.friend: is the key by which \
             command RenameCustomer reads but not a plain string; an id is text: make it `string \
             friend`"],
    );
}

#[test]
fn a_command_that_reads_two_states_of_one_name() {
    mistake(
        "key: \"friend\"",
        "key: \"cart_id\"",
        &["shop/v1/cart.proto:221: shop.v1.CustomerService.RenameCustomer: reads two states \
             called \"cart\"; give one of them another `name`"],
    );
}

#[test]
fn a_scope_without_a_name() {
    mistake(
        "scope: \"shop.badge\"",
        "scope: \"\"",
        &[
            "shop/v1/cart.proto:238: shop.v1.CustomerState: what is unique has no scope; give it a \
             name, such as users.email",
            "shop/v1/cart.proto:272: shop.v1.CustomerRenamed.badge: takes \"shop.badge\", which \
             aggregate \"shop.customer\" does not declare; add `unique` with this scope to its \
             (daybook.v1.aggregate) or correct the name",
        ],
    );
}

#[test]
fn a_scope_that_is_declared_twice() {
    mistake(
        "scope: \"shop.badge\"\n      reason: \"BADGE_TAKEN\"",
        "scope: \"shop.badge\"\n      reason: \"BADGE_TAKEN\"\n    }\n    unique: {\n      \
         scope: \"shop.name\"\n      reason: \"BADGE_TAKEN\"",
        &["shop/v1/cart.proto:238: shop.v1.CustomerState: the scope \"shop.name\" is declared \
             twice; choose another name for one of them"],
    );
}

#[test]
fn a_reason_that_is_no_rejection() {
    mistake(
        "reason: \"BADGE_TAKEN\"",
        "reason: \"BADGE_STOLEN\"",
        &["shop/v1/cart.proto:238: shop.v1.CustomerState: the reason \"BADGE_STOLEN\" of the \
             scope \"shop.badge\" is no rejection of shop.v1; add it to the enum of rejections, \
             such as USER_REJECTION_EMAIL_TAKEN for EMAIL_TAKEN"],
    );
}

#[test]
fn a_unique_field_that_is_no_text() {
    mistake(
        "string badge = 3",
        "uint64 badge = 3",
        &[
            "shop/v1/cart.proto:272: shop.v1.CustomerRenamed.badge: takes \"shop.badge\" but is not \
             a plain string; make it `string badge`",
        ],
    );
}

#[test]
fn a_field_of_no_event_that_frees() {
    mistake(
        "string cart_id = 3;",
        "string cart_id = 3 [(daybook.v1.frees) = \"shop.name\"];",
        &[
            "shop/v1/cart.proto:284: shop.v1.RenameCustomerRequest.cart_id: frees \"shop.name\" but \
             is no field of an event; only events take and free values",
        ],
    );
}

#[test]
fn a_claim_of_another_aggregate() {
    mistake(
        "  // The thing.\n  string name = 1;\n}",
        "  // The thing.\n  string name = 1 [(daybook.v1.takes) = \"shop.name\"];\n}",
        &["shop/v1/cart.proto:68: shop.v1.ItemAddedV1.name: takes \"shop.name\", which aggregate \
             \"shop.cart\" does not declare; add `unique` with this scope to its \
             (daybook.v1.aggregate) or correct the name"],
    );
}
