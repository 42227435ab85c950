use super::ambiguity::MAX_PATH;
use super::*;

fn segments(path: &str) -> Vec<String> {
    RequestPath::parse(path).expect(path).segments().iter().map(ToString::to_string).collect()
}

#[test]
fn plain_paths_parse() {
    assert_eq!(segments("/"), Vec::<String>::new());
    assert_eq!(segments("/orders/42?x=/../&y"), ["orders", "42"]);
    assert_eq!(segments("/v1/items:batch,a=b@c!"), ["v1", "items:batch,a=b@c!"]);
    assert_eq!(segments("/a%20b/%C3%A4"), ["a b", "ä"]);
    assert_eq!(segments("/file.tar.gz/.hidden"), ["file.tar.gz", ".hidden"]);
}

#[test]
fn ambiguous_paths_are_refused() {
    use Ambiguity::*;
    for (path, why) in [
        ("", NotAbsolute),
        ("*", NotAbsolute),
        ("orders", NotAbsolute),
        ("http://host/orders", NotAbsolute),
        ("//host/orders", EmptySegment),
        ("/orders//42", EmptySegment),
        ("/orders/", EmptySegment),
        ("/./orders", DotSegment),
        ("/a/../orders", DotSegment),
        ("/orders.", DotSegment),
        ("/orders%20", DotSegment),
        ("/orders/...", DotSegment),
        ("/%2e%2e/orders", NeedlessEncoding),
        ("/%2E/orders", NeedlessEncoding),
        ("/a%2Forders", NeedlessEncoding),
        ("/a%2forders", NeedlessEncoding),
        ("/a%252forders", NeedlessEncoding),
        ("/%6Frders", NeedlessEncoding),
        ("/items%3Abatch", NeedlessEncoding),
        ("/a%3Bb", NeedlessEncoding),
        ("/a\\b", Backslash),
        ("/a%5Cb", Backslash),
        ("/a;v=1/b", Parameter),
        ("/a#b", Fragment),
        ("/a%00b", Control),
        ("/a\u{0}b", Control),
        ("/a\tb", Control),
        ("/a%0d%0ab", Control),
        ("/a%", BrokenEncoding),
        ("/a%2", BrokenEncoding),
        ("/a%zz", BrokenEncoding),
        ("/a%+1", BrokenEncoding),
        ("/a%u002f", BrokenEncoding),
        ("/a b", Character),
        ("/ä", Character),
        ("/a<b", Character),
        ("/a%ff", Character),
        ("/a%c0%af", Character),
        ("/a%EF%BC%8Fb", Lookalike),
        ("/a%E2%80%A5", Lookalike),
        ("/a%EF%BC%9Bb", Lookalike),
        ("/a%CD%BEb", Lookalike),
        ("/%E2%84%80", Lookalike),
        ("/a%C2%85", Control),
    ] {
        assert_eq!(RequestPath::parse(path), Err(why), "{path:?}");
    }
    assert_eq!(RequestPath::parse(&format!("/{}", "a".repeat(MAX_PATH))), Err(TooLong));
    assert_eq!(RequestPath::parse(&"/a".repeat(65)), Err(TooLong));
}

#[test]
fn patterns_round_trip_through_their_text() {
    for text in ["/", "/orders", "/orders/{id}/refund", "/static/*", "/{a}/{b}", "/a.b/c:d"] {
        assert_eq!(PathPattern::parse(text).expect(text).to_string(), text);
    }
}

#[test]
fn misleading_patterns_are_refused() {
    for text in [
        "",
        "orders",
        "/orders/",
        "//orders",
        "/*/orders",
        "/orders*",
        "/**",
        "/{id}x",
        "/{}",
        "/{1}",
        "/{a}/{a}",
        "/a?b",
        "/a#b",
        "/../a",
        "/%2e%2e",
        "/a;b",
        "/a\\b",
        "/{a-b}",
        "/a b",
    ] {
        assert!(PathPattern::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn grpc_is_a_post_path() {
    assert_eq!(PathPattern::grpc("shop.v1.Orders", Some("Watch")).expect("good").to_string(), "/shop.v1.Orders/Watch");
    assert_eq!(PathPattern::grpc("shop.v1.Orders", None).expect("good").to_string(), "/shop.v1.Orders/{method}");
    for (service, method) in [("", "A"), ("a/b", "A"), ("a", "A/B"), ("a..b", "A"), ("a", ""), ("a", "*")] {
        assert!(PathPattern::grpc(service, Some(method)).is_err(), "{service}/{method}");
    }
}
