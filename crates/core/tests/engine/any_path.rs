//! A path that two parsers could read differently is never allowed.
//!
//! Each reader below parses a path as some proxy, framework or file system does. If the engine allows a path, all
//! readers must agree with the engine.

use crate::any_route::Declared;
use crate::support::*;
use durward_core::path::RequestPath;
use durward_core::policy::{CompiledOperation, Policy};
use durward_core::snapshot::Snapshot;
use proptest::prelude::*;

const DECLARED: [&str; 9] = [
    "GET /orders",
    "GET /orders/{id}",
    "GET /orders/{id}/refund",
    "GET /admin/*",
    "GET /admin/users/{id}",
    "GET /{page}",
    "GET /{a}/{b}/{c}",
    "GET /{a}/x/*",
    "GET /public/*",
];

fn snapshot() -> Snapshot {
    let operations = DECLARED.map(|request| CompiledOperation {
        public: request.contains("/public"),
        ..operation(request, &[request], &["read"])
    });
    let grants = vec![grant("all", &["*"], &["read"])];
    world([Policy { operations: each(operations), grants: each(grants), ..policy("orders") }])
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let code = tail
            .get(..2)
            .and_then(|two| std::str::from_utf8(two).ok())
            .and_then(|two| u8::from_str_radix(two, 16).ok());
        match (byte, code) {
            (b'%', Some(code)) => {
                bytes.push(code);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn split(path: &str) -> Vec<String> {
    let rest = path.strip_prefix('/').unwrap_or(path);
    if rest.is_empty() { Vec::new() } else { rest.split('/').map(ToOwned::to_owned).collect() }
}

fn without_dots(segments: Vec<String>) -> Vec<String> {
    let mut kept = Vec::new();
    for segment in segments {
        match segment.as_str() {
            "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    kept
}

/// Compatibility forms of some characters, as in file systems and code pages.
fn ascii(text: &str) -> String {
    let form = |c| match c {
        '\u{ff0f}' | '\u{2044}' | '\u{2215}' => "/".to_owned(),
        '\u{ff0e}' => ".".to_owned(),
        '\u{2025}' => "..".to_owned(),
        '\u{ff3c}' => "\\".to_owned(),
        '\u{ff05}' => "%".to_owned(),
        '\u{ff1b}' | '\u{37e}' => ";".to_owned(),
        '\u{2100}' => "a/c".to_owned(),
        other => other.to_string(),
    };
    text.chars().map(form).collect()
}

type PathReader = (&'static str, fn(&str) -> Vec<String>);

/// Readers take the request target without its query, still encoded.
const READERS: [PathReader; 17] = [
    ("splits, then decodes", |path| split(path).iter().map(|segment| decoded(segment)).collect()),
    ("decodes, then splits", |path| split(&decoded(path))),
    ("decodes twice", |path| split(&decoded(&decoded(path)))),
    ("merges slashes", |path| split(&decoded(path)).into_iter().filter(|segment| !segment.is_empty()).collect()),
    ("resolves dots, then decodes", |path| without_dots(split(path)).iter().map(|segment| decoded(segment)).collect()),
    ("decodes, then resolves dots", |path| without_dots(split(&decoded(path)))),
    ("strips parameters, then decodes", |path| {
        split(path).iter().map(|segment| decoded(segment.split(';').next().unwrap_or_default())).collect()
    }),
    ("decodes, then strips parameters and resolves dots", |path| {
        let cut = |segment: String| segment.split(';').next().unwrap_or_default().to_owned();
        without_dots(split(&decoded(path)).into_iter().map(cut).collect())
    }),
    ("strips slashes at the end", |path| split(decoded(path).trim_end_matches('/'))),
    ("strips dots and spaces at the end of a name", |path| {
        split(&decoded(path)).iter().map(|segment| segment.trim_end_matches(['.', ' ']).to_owned()).collect()
    }),
    ("takes a backslash for a slash", |path| split(&decoded(path).replace('\\', "/"))),
    ("cuts off a fragment", |path| split(decoded(path).split('#').next().unwrap_or_default())),
    ("cuts off a query after decoding", |path| split(decoded(path).split('?').next().unwrap_or_default())),
    ("ends at a zero byte", |path| split(decoded(path).split('\0').next().unwrap_or_default())),
    ("drops tabs and line breaks", |path| split(&decoded(path).replace(['\t', '\n', '\r'], ""))),
    ("reads an authority", |path| match path.strip_prefix("//") {
        Some(rest) => split(&decoded(rest.split_once('/').unwrap_or_default().1)),
        None => {
            split(&decoded(path.split_once("://").map_or(path, |(_, rest)| rest.split_once('/').unwrap_or_default().1)))
        }
    }),
    ("knows ASCII only", |path| split(&ascii(&decoded(path)))),
];

/// Parts of a path, tricky ones among them.
fn piece() -> impl Strategy<Value = String> {
    let plain = prop::sample::select(vec![
        "/orders", "/admin", "/users", "/42", "/refund", "/public", "/x", "/a.b", "/a%20b", "/%C3%A4",
    ]);
    let tricky = prop::sample::select(vec![
        "/",
        "//",
        "/.",
        "/..",
        "/./",
        "/../",
        "/...",
        "%2f",
        "%2F",
        "%5c",
        "\\",
        ";",
        ";a=b",
        "%3b",
        "/..;",
        "/.;/",
        "%00",
        "%",
        "%2",
        "%25",
        "%252f",
        "%252e%252e",
        "%2e",
        "%2e%2e",
        ".",
        "%20",
        " ",
        "+",
        "#",
        "?",
        "?/../",
        "%23",
        "%3f",
        "%c0%af",
        "%ff",
        "%EF%BC%8F",
        "%EF%BC%8E",
        "%E2%80%A5",
        "%EF%BC%9B",
        "%CD%BE",
        "%E2%84%80",
        "\u{e4}",
        "/ORDERS",
        "/Admin",
        "/Users",
        "/%6frders",
        "%61",
        "\t",
        "\n",
        "%0a",
        "%09",
        "\u{0}",
        "http://x",
        "/:",
        "/*",
        "/{id}",
        "/~",
        "/%7e",
        "/admin%2fusers",
        "%u002f",
        "@",
        "/a:b",
    ]);
    prop_oneof![3 => plain, 1 => tricky].prop_map(ToOwned::to_owned)
}

/// A valid path with one character encoded, doubled or replaced.
fn mutated() -> impl Strategy<Value = String> {
    let valid =
        prop::sample::select(vec!["/orders", "/orders/42/refund", "/admin/users/7", "/public/site.css", "/a/x/y/z"]);
    (valid, any::<prop::sample::Index>(), 0..7usize, any::<char>()).prop_map(|(path, at, how, other)| {
        let at = at.index(path.len());
        let (before, after) = path.split_at(at);
        let (this, rest) = after.split_at(1);
        let byte = this.as_bytes()[0];
        let new = match how {
            0 => format!("%{byte:02x}"),
            1 => format!("%{byte:02X}"),
            2 => format!("%25{byte:02x}"),
            3 => this.repeat(2),
            4 => this.to_ascii_uppercase(),
            5 => other.to_string(),
            _ => other.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect(),
        };
        format!("{before}{new}{rest}")
    })
}

fn path() -> impl Strategy<Value = String> {
    prop_oneof![2 => proptest::collection::vec(piece(), 1..6).prop_map(|pieces| pieces.concat()), 1 => mutated()]
}

#[test]
fn plain_paths_are_allowed_and_every_reader_agrees() {
    for path in ["/orders", "/orders/42/refund", "/admin/users/7", "/public/site.css", "/a/x/y/z", "/a%20b", "/%C3%A4"]
    {
        assert!(ask(&snapshot(), Some(&alice()), &format!("GET {path}")).allowed(), "{path}");
        for (name, read) in READERS {
            assert_eq!(read(path), split(&decoded(path)), "{path}: a reader that {name}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4096) })]

    #[test]
    fn every_reader_agrees_on_an_allowed_path(path in path()) {
        let decision = ask(&snapshot(), Some(&alice()), &format!("GET {path}"));
        if decision.allowed() {
            let ours = RequestPath::parse(&path).unwrap();
            let raw = path.split('?').next().unwrap_or_default();
            for (name, read) in READERS {
                prop_assert_eq!(&read(raw), ours.segments(), "a reader that {}", name);
            }
            // a router that ignores case finds the same operation
            let lower: Vec<String> = ours.segments().iter().map(|segment| segment.to_lowercase()).collect();
            let declared = DECLARED.map(Declared::read);
            let theirs = Declared::most_specific(&declared, "GET", &lower).map(|number| DECLARED[number]);
            prop_assert_eq!(decision.operation.as_deref(), theirs);
        }
    }

    #[test]
    fn encoding_a_parsed_path_again_yields_the_path(path in path()) {
        // encoding the segments again yields the path, except for the case of hexadecimal digits
        if let Ok(ours) = RequestPath::parse(&path) {
            let raw = path.split('?').next().unwrap_or_default();
            let again: Vec<String> = split(raw).iter().map(|segment| decoded(segment)).collect();
            prop_assert_eq!(&again, ours.segments());
            prop_assert_eq!(raw.matches('/').count(), ours.segments().len().max(1));
        }
    }
}
