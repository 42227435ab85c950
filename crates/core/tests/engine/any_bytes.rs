//! Arbitrary input never causes a panic.

use crate::support::*;
use durward_core::condition::Condition;
use durward_core::host::Host;
use durward_core::path::{Method, PathPattern, RequestPath};
use durward_core::policy::Policy;
use durward_core::principal::PrincipalId;
use durward_core::request::{Call, Request, ServiceTarget};
use durward_core::scope::Scope;
use proptest::prelude::*;

/// Texts of all kinds, with many of the characters that parsers treat specially.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[a-zA-Z0-9./%;:@#?\\\\{}*\\[\\]_ -]{0,40}",
        "(/[a-z%.]{0,4}){0,70}",
        proptest::collection::vec(any::<u8>(), 0..60).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
    ]
}

/// Paths of a policy, most of them valid: plain characters, and encoded ones that need encoding.
fn pattern() -> impl Strategy<Value = String> {
    let encoded = |c: char| c.to_string().bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
    let character = prop_oneof![
        "[a-zäß.:=]",
        prop::sample::select(vec![' ', '"', '<', '>', '^', '`', '{', '|', '}', 'ä', '€']).prop_map(encoded),
    ];
    let literal = proptest::collection::vec(character, 1..4).prop_map(|characters| characters.concat());
    let segment = prop_oneof![4 => literal, 1 => "\\{[a-c]\\}", 1 => Just("*".to_owned())];
    proptest::collection::vec(segment, 0..4).prop_map(|segments| format!("/{}", segments.join("/")))
}

/// Parts of conditions in any order. Most are invalid, some compile.
fn expression() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "principal",
        "request",
        ".id",
        ".time",
        ".groups",
        ".attributes",
        ".captures",
        ".path",
        "[0]",
        "['a']",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "'",
        "\"",
        "'''",
        "r'",
        "b'",
        "\\",
        "//",
        "\n",
        "1",
        "1u",
        "1.5",
        "-",
        "!",
        "9223372036854775807",
        "'a'",
        "true",
        "null",
        " && ",
        " || ",
        " == ",
        " < ",
        " in ",
        " + ",
        " * ",
        " / ",
        " % ",
        " ? ",
        " : ",
        ",",
        ".all(x, ",
        ".exists(x, ",
        ".map(x, x)",
        ".filter(x, true)",
        "has(",
        "size(",
        "x",
        ".matches('",
        ".getHours('UTC')",
        ".contains(",
        "duration('1h')",
        "timestamp(",
        "int(",
        "string(",
        "dyn(",
        "type(",
        "ä",
        "\u{0}",
        "0x",
        "1e999",
        ".?",
        "?.",
        "e",
    ]);
    prop_oneof![
        any::<String>(),
        proptest::collection::vec(piece.clone(), 0..24).prop_map(|pieces| pieces.concat()),
        // valid expressions, so that evaluation is reached, too
        (term(), prop::sample::select(vec!["==", "<", "&&", "||", "+", "-", "*", "/", "%", "in", "? 1 :"]), term())
            .prop_map(|(left, operator, right)| format!("{left} {operator} {right}")),
        (piece, 1..400usize).prop_map(|(piece, times)| piece.repeat(times)),
    ]
}

fn term() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "principal",
        "request",
        "principal.id",
        "principal.groups",
        "principal.attributes",
        "request.time",
        "request.captures",
        "request.path",
        "1",
        "-1",
        "0",
        "9223372036854775807",
        "(-9223372036854775807 - 1)",
        "0u",
        "1.5",
        "'a'",
        "'ä€'",
        "b'a'",
        "null",
        "true",
        "[]",
        "[1, 'a']",
        "{}",
        "duration('1h')",
        "timestamp('2026-01-01T00:00:00Z')",
    ])
    .prop_map(ToOwned::to_owned);
    leaf.prop_recursive(3, 12, 2, |inner| {
        let method = prop::sample::select(vec![
            "size()",
            "startsWith('a')",
            "matches('a+')",
            "getHours('UTC')",
            "getFullYear()",
            "map(x, x)",
            "exists(x, x == 1)",
            "all(x, x)",
            "filter(x, true)",
            "a",
            "contains('')",
            "getMilliseconds()",
            "join()",
            "trim()",
        ]);
        let function = prop::sample::select(vec![
            "int", "uint", "double", "string", "size", "bytes", "type", "dyn", "duration", "!", "-",
        ]);
        prop_oneof![
            (inner.clone(), method).prop_map(|(on, method)| format!("{on}.{method}")),
            (function, inner.clone()).prop_map(|(function, on)| format!("{function}({on})")),
            (inner.clone(), prop::sample::select(vec!["+", "-", "*", "/", "%"]), inner.clone())
                .prop_map(|(left, operator, right)| format!("({left} {operator} {right})")),
            (inner.clone(), inner).prop_map(|(on, at)| format!("{on}[{at}]")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn no_request_breaks_a_decision(host in text(), method in text(), path in text(), known in any::<bool>()) {
        let snapshot = world([orders()]);
        let (host, path) = (if known { HOST.to_owned() } else { host }, if known { format!("/{path}") } else { path });
        let method = if known { "GET".to_owned() } else { method };
        for target in [ServiceTarget::Host(&host), ServiceTarget::Audience(&host)] {
            for call in [
                Call::Http { method: &method, path: &path },
                Call::Named { operation: &path, captures: [(path.as_str().into(), method.as_str().into())].into() },
            ] {
                let _ =
                    decide(&snapshot, Some(&alice()), &Request { target, call, source: None, evidence: &() }, now());
            }
        }
    }

    #[test]
    fn no_text_breaks_a_parser(text in text()) {
        if let Ok(path) = RequestPath::parse(&text) {
            prop_assert!(text.starts_with('/') && path.segments().iter().all(|segment| !segment.is_empty()));
        }
        if let Ok(pattern) = PathPattern::parse(&text) {
            prop_assert_eq!(PathPattern::parse(&pattern.to_string()), Ok(pattern));
        }
        if let Ok(host) = Host::of_authority(&text) {
            prop_assert_eq!(Host::parse(host.as_str()), Ok(host));
        }
        if let Ok(id) = text.parse::<PrincipalId>() {
            prop_assert_eq!(id.to_string(), text.clone());
        }
        let _ = (Scope::parse(&text), Method::parse(&text));
    }

    #[test]
    fn a_pattern_round_trips_through_its_text(path in pattern()) {
        if let Ok(pattern) = PathPattern::parse(&path) {
            prop_assert_eq!(PathPattern::parse(&pattern.to_string()), Ok(pattern));
        }
    }

    #[test]
    fn no_expression_breaks_the_compiler_or_a_decision(source in expression()) {
        if let Ok(condition) = Condition::compile(&source) {
            let when = Some(std::sync::Arc::new(condition));
            let grants = vec![durward_core::policy::CompiledGrant { when, ..grant("when", &["*"], &["read"]) }];
            let snapshot = world([Policy { grants: each(grants), ..orders() }]);
            let first = ask(&snapshot, Some(&alice()), "GET /orders/42");
            prop_assert_eq!(first, ask(&snapshot, Some(&alice()), "GET /orders/42"));
        }
    }
}
