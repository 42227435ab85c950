//! Conditions on headers: the values that they read. A failed condition never allows a request.

use crate::support::*;
use durward_core::condition::Condition;
use durward_core::condition::MAX_HEADER;
use durward_core::decision::{Decision, Reason};
use durward_core::evidence::StatedEvidence;
use durward_core::policy::{CompiledDenial, CompiledGrant, Policy};
use durward_core::request::Request;
use proptest::prelude::*;
use std::sync::Arc;

const TENANT: &str = "request.headers['x-tenant'] == 'acme'";

fn reading(source: &str) -> Result<Arc<Condition>, String> {
    let listed: Vec<Arc<str>> = ["x-tenant", "x-trial"].map(Into::into).to_vec();
    Condition::compile_reading(source, &listed).map(Arc::new).map_err(|error| error.to_string())
}

fn evidence_of(headers: &[(&str, &str)]) -> StatedEvidence {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    StatedEvidence { headers: Some(headers), ..StatedEvidence::default() }
}

/// The decision about `GET /orders` by Alice. The grant requires `grant`, and `denial` is the condition of a denial.
fn decided(grant: Option<&str>, denial: Option<&str>, evidence: &StatedEvidence) -> Decision {
    let when = |source: Option<&str>| source.map(|source| reading(source).expect(source));
    let grants = each([CompiledGrant { when: when(grant), ..super::support::grant("a", &["*"], &["read"]) }]);
    let denials =
        denial.map(|source| CompiledDenial { when: when(Some(source)), ..super::support::denial("b", &["*"]) });
    let snapshot = world([Policy { grants, denials: each(denials), ..orders() }]);
    decide(&snapshot, Some(&alice()), &Request { evidence, ..http("GET /orders") }, now())
}

fn holds(source: &str, headers: &[(&str, &str)]) -> bool {
    decided(Some(source), None, &evidence_of(headers)).allowed()
}

#[test]
fn conditions_read_headers_as_they_were_sent() {
    let sent = [("x-tenant", "acme"), ("X-Trial", "a b"), ("x-other", "1")];
    for source in [
        TENANT,
        "request.headers['x-trial'] == 'a b'",
        "'x-tenant' in request.headers",
        "request.headers == {'x-tenant': 'acme', 'x-trial': 'a b'}",
        "request.headers.all(name, name.startsWith('x-t'))",
        "has(request.headers) && size(request.headers) == 2",
        "['x-tenant'].all(name, request.headers[name] == 'acme')",
        "!('x-other' in request.headers.map(name, name))",
    ] {
        assert!(holds(source, &sent), "{source}");
    }
    assert!(holds("!('x-trial' in request.headers)", &sent[..1]), "a header that was not sent is absent");
    assert!(!holds("request.headers['x-trial'] != 'x'", &sent[..1]), "an absent header has no value");
    assert!(!holds("request.headers['x-tenant'] != 'x'", &[]));
}

#[test]
fn only_listed_headers_can_be_read() {
    for (source, message) in [
        (
            "request.headers['x-other'] == ''",
            "header `x-other` is not listed in `spec.headers`, which lists x-tenant, x-trial (line 1, column",
        ),
        ("request.headers['X-Tenant'] == ''", "header `X-Tenant` is not listed"),
        (
            "true ||\n 'authorization' in request.headers",
            "header `authorization` is not listed in `spec.headers`, which lists x-tenant, x-trial (line 2, column",
        ),
        ("has(request.headers.cookie)", "header `cookie` is not listed"),
        ("request.headers['x-tenant'] == 1", "values of type string and int are never equal"),
        ("request.headers == 'a'", "values of type map of strings and string are never equal"),
    ] {
        let error = reading(source).expect_err(source);
        assert!(error.contains(message), "{source}: {error}");
    }
    let error = Condition::compile("request.headers.size() == 0").expect_err("nothing is listed");
    assert!(error.to_string().contains("lists in `spec.headers`, and it lists none"), "{error}");
}

#[test]
fn headers_that_parsers_could_read_differently_fail() {
    let long = "a".repeat(MAX_HEADER + 1);
    for (headers, why) in [
        (vec![("x-tenant", "acme"), ("x-tenant", "acme")], "was sent more than once"),
        (vec![("x-tenant", "acme"), ("X-TENANT", "b")], "was sent more than once"),
        (vec![("x-tenant", "acme"), ("x_tenant", "acme")], "a spelling that"),
        (vec![("x_tenant", "acme")], "a spelling that"),
        (vec![("x.tenant", "acme")], "a spelling that"),
        (vec![("x-tenant", "acme"), ("Connection", "close, X-Tenant ")], "named by `Connection`"),
        (vec![("connection", "x-tenant"), ("x-tenant", "acme")], "was sent more than once"),
        (vec![("x-tenant", "acme,b")], "has a comma"),
        (vec![("x-tenant", &long)], "longer than 1024 bytes"),
        (vec![("x-tenant", "acm\u{e9}")], "printable ASCII"),
        (vec![("x-tenant", "ac\tme")], "printable ASCII"),
        (vec![("x-tenant", "acme ")], "begins or ends with a space"),
        (vec![("x-tenant", " acme")], "begins or ends with a space"),
    ] {
        // every condition on such a header fails, even `in`
        for source in [TENANT, "request.headers['x-tenant'] != 'b'", "true || 'x-tenant' in request.headers"] {
            assert_eq!(
                decided(Some(source), None, &evidence_of(&headers)).reason,
                Reason::InsufficientScope,
                "{headers:?}"
            );
            let denied = decided(None, Some(&format!("!({source})")), &evidence_of(&headers));
            assert_eq!(denied.reason, Reason::Denied, "{headers:?}");
            assert!(denied.detail.as_deref().unwrap_or_default().contains(why), "{headers:?}: {denied:?}");
        }
        // conditions on other headers are not affected
        assert!(holds("!('x-trial' in request.headers)", &headers), "{headers:?}");
    }
    assert!(holds(
        &format!("size({}) == 1024", "request.headers['x-tenant']"),
        &[("x-tenant", &"a".repeat(MAX_HEADER))]
    ));
}

#[test]
fn conditions_on_unknown_headers_fail() {
    for source in [TENANT, "!('x-tenant' in request.headers)", "true || request.headers == {}"] {
        assert_eq!(
            decided(Some(source), None, &StatedEvidence::default()).reason,
            Reason::InsufficientScope,
            "{source}"
        );
        assert_eq!(
            decided(None, Some(&format!("!({source})")), &StatedEvidence::default()).reason,
            Reason::Denied,
            "{source}"
        );
    }
    assert!(
        decided(None, Some("!has(request.method)"), &StatedEvidence::default()).allowed(),
        "a condition without headers can be evaluated"
    );
}

#[test]
fn a_failure_reveals_no_value() {
    for source in [
        "int(request.headers['x-tenant']) > 1",
        "duration(request.headers['x-tenant']) > duration('1s')",
        "{'a': 1}[request.headers['x-tenant']] == 1",
        "principal.attributes[request.headers['x-tenant']] == 1",
        "dyn(request.headers['x-tenant']) > 1",
        "[1][int(request.headers['x-tenant'])] == 1",
        "timestamp(request.headers['x-tenant']) > request.time",
        "quantity(request.headers['x-tenant']).sign() == 1",
        "dyn(request.headers['x-tenant'])",
        "dyn(request.headers) + 1 == 2",
    ] {
        for value in ["hush(", "40960"] {
            let decision = decided(None, Some(source), &evidence_of(&[("x-tenant", value)]));
            let text = format!("{:?} {:?}", decision.detail, decision.evaluated);
            assert!(!text.replace(source, "").contains(value), "{text}");
        }
    }
}

#[test]
fn outcomes_are_recorded_and_replace_headers_in_a_replay() {
    let decision = decided(
        Some(TENANT),
        Some("request.headers['x-trial'] == 'yes'"),
        &evidence_of(&[("x-tenant", "acme"), ("x-trial", "no")]),
    );
    let noted: Vec<(&str, String)> =
        decision.evaluated.iter().map(|evaluated| (&*evaluated.rule, format!("{:?}", evaluated.truth))).collect();
    let expected = [("shop/orders/denials/b", "False".to_owned()), ("shop/orders/grants/a", "True".to_owned())];
    assert_eq!((noted, decision.reason), (expected.to_vec(), Reason::Granted));
    assert_eq!(
        decided(Some("request.method == 'GET'"), None, &evidence_of(&[])).evaluated,
        [],
        "outcomes without evidence are not recorded"
    );
}

/// Headers that resemble those of the conditions, with values that are almost valid.
fn any_headers() -> impl Strategy<Value = Vec<(String, String)>> {
    let name = prop::sample::select(vec![
        "x-tenant",
        "X-Tenant",
        "x_tenant",
        "x-trial",
        "x_trial",
        "x-trial ",
        "x-other",
        "connection",
        "tenant",
    ]);
    let value = prop_oneof!["acme|b|yes|no|", "acme, ?b", " ?acme ?", "x-(tenant|trial)", "[ -~]{0,6}", "\\PC{0,4}"];
    prop::collection::vec((name.prop_map(ToOwned::to_owned), value), 0..5)
}

const SOURCES: [&str; 7] = [
    TENANT,
    "request.headers['x-tenant'] != 'acme'",
    "'x-trial' in request.headers",
    "!('x-trial' in request.headers)",
    "'x-trial' in request.headers && request.headers['x-trial'] != 'no'",
    "request.headers.exists(name, request.headers[name] == 'yes')",
    "int(request.headers['x-trial']) > 0 || true",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    /// A condition on a grant, or a further denial, never allows a request that was denied.
    #[test]
    fn a_further_condition_never_allows_more(
        headers in prop::option::of(any_headers()),
        grant in prop::option::of(prop::sample::select(&SOURCES[..])),
        denial in prop::sample::select(&SOURCES[..]),
    ) {
        let evidence = StatedEvidence { headers, ..StatedEvidence::default() };
        let without = decided(grant, None, &evidence);
        let with = decided(grant, Some(denial), &evidence);
        prop_assert!(!with.allowed() || without.allowed());
        prop_assert!(evidence.headers.is_some() || !with.allowed(), "unknown headers deny");
        prop_assert!(evidence.headers.is_some() || grant.is_none() || !without.allowed(), "grants with unknown headers do not apply");
        // a condition and its negation never both allow
        let not = format!("!({denial})");
        prop_assert!(
            !decided(Some(denial), None, &evidence).allowed() || !decided(Some(&not), None, &evidence).allowed()
        );
    }

    /// A grant depends on the only value that was sent.
    #[test]
    fn an_ambiguous_header_grants_nothing(headers in any_headers()) {
        let evidence = StatedEvidence { headers: Some(headers.clone()), ..StatedEvidence::default() };
        if decided(Some(TENANT), None, &evidence).allowed() {
            let alike: Vec<_> =
                headers.iter().filter(|(name, _)| name.to_lowercase().replace('_', "-") == "x-tenant").collect();
            prop_assert_eq!(alike.len(), 1);
            prop_assert_eq!(&alike[0].1, "acme");
        }
    }
}
