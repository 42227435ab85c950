//! Steps 1 and 2: routing from host, method and path to an operation, and captures.

use crate::support::*;
use durward_core::decision::Reason;
use durward_core::path::{HttpPattern, PathPattern};
use durward_core::policy::{CompiledOperation, Policy};
use durward_core::request::{Call, Request, ServiceTarget};
use durward_core::snapshot::Snapshot;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A service with one operation for each of these requests, named like the request.
fn declaring(requests: &[&str]) -> Snapshot {
    let operations = each(requests.iter().map(|request| operation(request, &[request], &["read"])));
    world([Policy { operations, ..policy("orders") }])
}

#[test]
fn the_most_specific_pattern_wins() {
    let all = declaring(&[
        "GET /orders",
        "GET /orders/{id}",
        "GET /orders/export",
        "GET /orders/{id}/lines",
        "GET /orders/{id}/{what}",
        "GET /orders/*",
        "* /orders/{id}",
        "* /*",
        "GET /",
    ]);
    for (request, expected) in [
        ("GET /", Some("GET /")),
        ("POST /", None),
        ("GET /orders", Some("GET /orders")),
        ("POST /orders", Some("* /*")),
        ("GET /orders/42", Some("GET /orders/{id}")),
        ("GET /orders/export", Some("GET /orders/export")),
        ("POST /orders/export", Some("* /orders/{id}")),
        ("POST /orders/42", Some("* /orders/{id}")),
        ("GET /orders/42/lines", Some("GET /orders/{id}/lines")),
        ("GET /orders/42/notes", Some("GET /orders/{id}/{what}")),
        ("GET /orders/42/notes/7", Some("GET /orders/*")),
        ("POST /orders/42/lines", Some("* /*")),
        ("HEAD /orders/42", Some("* /orders/{id}")),
        ("GET /invoices/1/2/3", Some("* /*")),
    ] {
        assert_eq!(operation_of(&all, request).as_deref(), expected, "{request}");
    }
}

#[test]
fn routing_falls_back_to_captures_and_then_to_wildcards() {
    let snapshot = declaring(&["GET /a/b/c", "GET /{x}/b/d", "GET /a/{y}/e", "GET /{x}/{y}/f", "GET /a/*"]);
    for (request, expected) in [
        ("GET /a/b/c", Some("GET /a/b/c")),
        ("GET /a/b/d", Some("GET /a/*")),
        ("GET /z/b/d", Some("GET /{x}/b/d")),
        ("GET /a/b/e", Some("GET /a/{y}/e")),
        ("GET /a/b/f", Some("GET /a/*")),
        ("GET /z/b/f", Some("GET /{x}/{y}/f")),
        ("GET /z/b/c", None),
        ("GET /a", None),
    ] {
        assert_eq!(operation_of(&snapshot, request).as_deref(), expected, "{request}");
    }
}

#[test]
fn a_wildcard_takes_one_segment_or_more() {
    let snapshot = declaring(&["GET /static/*"]);
    for (request, found) in
        [("GET /static", false), ("GET /static/a", true), ("GET /static/a/b/c", true), ("GET /statics/a", false)]
    {
        assert_eq!(operation_of(&snapshot, request).is_some(), found, "{request}");
    }
}

#[test]
fn a_stated_method_wins_over_any() {
    let snapshot = declaring(&["* /orders", "POST /orders"]);
    for (request, expected) in
        [("POST /orders", "POST /orders"), ("GET /orders", "* /orders"), ("PURGE /orders", "* /orders")]
    {
        assert_eq!(operation_of(&snapshot, request).as_deref(), Some(expected));
    }
}

#[test]
fn head_and_options_are_not_get() {
    let snapshot = declaring(&["GET /orders"]);
    for method in ["HEAD", "OPTIONS", "POST", "TRACE", "CONNECT"] {
        assert_eq!(ask(&snapshot, None, &format!("{method} /orders")).reason, Reason::OperationUndeclared);
    }
}

#[test]
fn another_case_of_a_declared_path_is_ambiguous_and_never_a_capture() {
    let snapshot = declaring(&["GET /admin/users", "GET /{page}/{part}", "GET /files/*", "GET /straße/x"]);
    for (request, expected) in [
        ("GET /admin/users", Reason::Unauthenticated),
        ("GET /Admin/users", Reason::AmbiguousPath),
        ("GET /ADMIN/users", Reason::AmbiguousPath),
        ("GET /admin/Users", Reason::AmbiguousPath),
        ("GET /FILES/x", Reason::AmbiguousPath),
        ("GET /files/X", Reason::Unauthenticated),
        ("GET /about/Us", Reason::Unauthenticated),
        ("GET /About/us", Reason::Unauthenticated),
        // the upper case of ſ is S, the lower case of the Kelvin sign is k
        ("GET /f%C5%BFles/x", Reason::Unauthenticated),
        ("GET /u%C5%BFers/x", Reason::Unauthenticated),
        ("GET /file%C5%BF/x", Reason::AmbiguousPath),
        ("GET /admin/u%C5%BFers", Reason::AmbiguousPath),
    ] {
        assert_eq!(ask(&snapshot, None, request).reason, expected, "{request}");
    }
}

#[test]
fn a_capture_never_takes_a_lookalike_of_a_literal() {
    let snapshot = declaring(&[
        "GET /orders/export",
        "GET /orders/feed.json",
        "GET /orders/v1.2",
        "GET /orders/{id}",
        "GET /orders/{id}/lines",
        "GET /lang/c",
        "GET /lang/{name}",
        "GET /*",
    ]);
    for (path, declared) in [
        ("/orders/export", true),
        ("/orders/42", true),
        ("/orders/exports", true),
        ("/orders/42.json", true),
        ("/orders/.export", true),
        ("/orders/%C3%A9xport", true),
        ("/orders/v1.3", true),
        ("/orders/export.json/lines", true),
        ("/reports/export.json", true),
        ("/export", true),
        ("/orders/export.json", false),
        ("/orders/EXPORT.json", false),
        ("/orders/export.tar.gz", false),
        ("/orders/feed", false),
        ("/orders/feed.xml", false),
        ("/orders/FEED.json", false),
        ("/orders/v1.2.json", false),
        ("/orders/%20export", false),
        ("/orders/%C2%A0export", false),
        ("/orders/%E3%80%80export", false),
        ("/orders/+export", false),
        ("/orders/%EF%BD%85%EF%BD%98%EF%BD%90%EF%BD%8F%EF%BD%92%EF%BD%94", false),
        ("/orders/ex%E2%80%8Bport", false),
        ("/orders/ex%C2%ADport", false),
        ("/orders/%EF%BB%BFexport", false),
        ("/orders/export%E2%80%8E", false),
        ("/orders/export%E2%80%8B.json", false),
        ("/orders.json", false),
        ("/%20orders/42", false),
        ("/lang/c++", false),
    ] {
        let expected = if declared { Reason::Unauthenticated } else { Reason::AmbiguousPath };
        assert_eq!(ask(&snapshot, None, &format!("GET {path}")).reason, expected, "{path}");
    }
}

#[test]
fn a_query_that_names_another_method_is_ambiguous() {
    let snapshot = declaring(&["POST /orders/{id}"]);
    for (query, declared) in [
        ("", true),
        ("?", true),
        ("?method=DELETE", true),
        ("?a=_method=DELETE", true),
        ("?_method=POST", true),
        ("?_method=post", true),
        ("?payment_method=card", true),
        ("?_method=DELETE", false),
        ("?a=1&_method=DELETE", false),
        ("?a=1;_method=DELETE", false),
        ("?_method=POST&_method=DELETE", false),
        ("?_method", false),
        ("?%5Fmethod=DELETE", false),
        ("?%5fMETHOD=DELETE", false),
        ("?+_method=DELETE", false),
        ("?.method=DELETE", false),
        ("?_method%00x=DELETE", false),
        ("?_method[]=DELETE", false),
        ("?X-HTTP-Method-Override=DELETE", false),
        ("?x_http_method=DELETE", false),
        ("?_HttpMethod=DELETE", false),
        ("?$httpMethod=DELETE", false),
    ] {
        let expected = if declared { Reason::Unauthenticated } else { Reason::AmbiguousPath };
        assert_eq!(ask(&snapshot, None, &format!("POST /orders/7{query}")).reason, expected, "{query}");
    }
}

#[test]
fn a_policy_can_declare_both_cases() {
    let snapshot = declaring(&["GET /a", "POST /A"]);
    assert_eq!(operation_of(&snapshot, "GET /a").as_deref(), Some("GET /a"));
    assert_eq!(operation_of(&snapshot, "POST /A").as_deref(), Some("POST /A"));
    assert_eq!(ask(&snapshot, None, "POST /a").reason, Reason::OperationUndeclared);
}

#[test]
fn a_grpc_call_is_a_post_to_its_service_and_method() {
    let path = |method| PathPattern::grpc("shop.v1.Orders", method).unwrap();
    let post = |path| HttpPattern { method: pattern("POST /").method, path };
    let one = CompiledOperation { matches: vec![post(path(Some("Watch")))], ..operation("watch", &[], &["read"]) };
    let any = CompiledOperation { matches: vec![post(path(None))], ..operation("any", &[], &["read"]) };
    let snapshot = world([Policy { operations: each([one, any]), ..policy("orders") }]);
    for (request, expected) in [
        ("POST /shop.v1.Orders/Watch", Some("watch")),
        ("POST /shop.v1.Orders/List", Some("any")),
        ("GET /shop.v1.Orders/Watch", None),
        ("POST /shop.v1.Orders", None),
        ("POST /shop.v1.Orders/Watch/x", None),
        ("POST /shop.v2.Orders/Watch", None),
        ("POST /shop.v1.orders/Watch", None),
        ("POST /shop.v1.Orders/watch", None),
    ] {
        assert_eq!(operation_of(&snapshot, request).as_deref(), expected, "{request}");
    }
}

#[test]
fn captures_are_decoded_and_named_by_the_matching_pattern() {
    let snapshot = declaring(&["GET /{shop}/orders/{id}", "POST /{tenant}/orders/{number}", "GET /{x}/*"]);
    for (request, expected) in [
        ("GET /s1/orders/42?id=9", &[("id", "42"), ("shop", "s1")][..]),
        ("GET /a%20b/orders/%C3%A4", &[("id", "ä"), ("shop", "a b")]),
        ("POST /s1/orders/42", &[("number", "42"), ("tenant", "s1")]),
        ("GET /s1/else/where", &[("x", "s1")]),
    ] {
        let request = http(request);
        let route = snapshot.route(&request);
        let captures: Vec<(&str, &str)> =
            route.captures().unwrap().iter().map(|(name, text)| (name.as_ref(), text.as_ref())).collect();
        assert_eq!(captures, expected, "{request:?}");
    }
}

fn named<'a>(operation: &'a str, captures: BTreeMap<Arc<str>, Arc<str>>) -> Request<'a> {
    Request {
        target: ServiceTarget::Audience("orders.shop"),
        call: Call::Named { operation, captures },
        source: None,
        evidence: &(),
    }
}

#[test]
fn an_operation_can_be_called_by_name() {
    let guarded = grant_when("mine", &["*"], &["refund"], "request.captures.id == '42' && !has(request.path)");
    let grants = vec![guarded, grant("read", &["*"], &["read"])];
    let snapshot = world([Policy { grants: each(grants), ..orders() }]);
    for (id, reason) in [("42", Reason::Granted), ("43", Reason::InsufficientScope)] {
        let request = named("refund", [("id".into(), id.into())].into());
        let decision = decide(&snapshot, Some(&alice()), &request, now());
        assert_eq!((decision.reason, decision.operation.as_deref()), (reason, Some("refund")));
    }
    let reason = |name| decide(&snapshot, None, &named(name, BTreeMap::new()), now()).reason;
    assert_eq!(reason("health"), Reason::Public);
    assert_eq!(reason("list"), Reason::Unauthenticated);
    for unknown in ["", "List", "shop/orders/list", "GET /orders"] {
        assert_eq!(reason(unknown), Reason::OperationUndeclared, "{unknown:?}");
    }
}

#[test]
fn a_host_is_found_in_every_spelling_and_no_other_host_is() {
    let snapshot = world([orders()]);
    let reason = |host| {
        decide(&snapshot, None, &Request { target: ServiceTarget::Host(host), ..http("GET /healthz") }, now()).reason
    };
    for host in [HOST, "ORDERS.shop.SVC", "orders.shop.svc.", "orders.shop.svc:8080", "Orders.Shop.Svc.:1"] {
        assert_eq!(reason(host), Reason::Public, "{host}");
    }
    for host in [
        "",
        "orders.shop",
        "shop.svc",
        "x.orders.shop.svc",
        "orders.shop.svc..",
        "orders.shop.svc:",
        "orders.shop.svc:http",
        "user@orders.shop.svc",
        "orders.shop.svc, evil",
        "orders.shop.svc/",
        " orders.shop.svc",
        "orders.shop.svc\0",
    ] {
        assert_eq!(reason(host), Reason::NoPolicy, "{host:?}");
    }
}

#[test]
fn accepted_methods_are_returned_only_if_the_caller_matters() {
    let snapshot = world([orders()]);
    for (request, expected) in [
        ("GET /orders", Some("orders.shop")),
        ("GET /healthz", None),
        ("GET /nothing", None),
        ("GET /orders/../healthz", None),
    ] {
        let request = http(request);
        let route = snapshot.route(&request);
        assert_eq!(route.accepted_methods().map(|(audience, _)| audience), expected, "{request:?}");
        assert_eq!(route.audience(), Some("orders.shop"));
    }
    let request = Request { target: ServiceTarget::Host("other"), ..http("GET /orders") };
    assert_eq!(snapshot.route(&request).audience(), None);
}
