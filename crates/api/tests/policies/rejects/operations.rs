//! Invalid operations.

use super::{GET, rejects, rejects_each};

#[test]
fn operations() {
    const NO_METHOD: &str = "list at least one, such as `[GET]`; `[\"*\"]` means any";
    rejects_each(&[
        (
            "operations: [{name: a}]",
            "spec.operations[0]: the operation matches no requests: set `http`, `grpc` or `kubernetes`",
        ),
        (
            "operations: [{name: a, http: [{methods: [], paths: [/a]}]}]",
            &format!("spec.operations[0].http[0].methods: {NO_METHOD}"),
        ),
        (
            "operations: [{name: a, http: [{methods: [GET, '*'], paths: [/a]}]}]",
            "spec.operations[0].http[0].methods: `*` means any method: remove the others",
        ),
        (
            "operations: [{name: a, http: [{methods: [GET, get], paths: [/a]}]}]",
            "spec.operations[0].http[0].methods[1]: `get` is not a method in upper case, such as `GET`",
        ),
        (
            "operations: [{name: a, http: [{methods: [GET], paths: []}]}]",
            "spec.operations[0].http[0].paths: list at least one, such as `[\"/orders\", \"/orders/{id}\"]`",
        ),
        (
            &format!("operations: [{{name: a, scopes: [b, a b], {GET}}}]"),
            "spec.operations[0].scopes[1]: ` ` can't be part of a scope: use printable ASCII without space, `\"` and `\\`",
        ),
        (
            &format!("operations: [{{name: a, scopes: [''], {GET}}}]"),
            "spec.operations[0].scopes[0]: a scope can't be empty",
        ),
        (
            &format!("operations: [{{name: a, scopes: [{}], {GET}}}]", "x".repeat(129)),
            "spec.operations[0].scopes[0]: a scope can't be longer than 128 bytes",
        ),
        (
            &format!("operations: [{{name: a, public: true, scopes: [b], {GET}}}]"),
            "spec.operations[0].public: a public operation can't require scopes, high risk, step-up or approval",
        ),
        (
            &format!("operations: [{{name: a, public: true, risk: High, {GET}}}]"),
            "spec.operations[0].public: a public operation can't require scopes, high risk, step-up or approval",
        ),
        (
            &format!("operations: [{{name: a, stepUp: {{maxAge: 5m}}, {GET}}}]"),
            "spec.operations[0].stepUp: a step-up needs `risk: High`: set it, or remove `stepUp`",
        ),
        (
            &format!("operations: [{{name: a, risk: Low, stepUp: {{}}, {GET}}}]"),
            "spec.operations[0].stepUp: a step-up needs `risk: High`: set it, or remove `stepUp`",
        ),
    ]);
    for age in ["''", "5", "0s", "-5m", "25h", "24h1s", "five minutes", "1y", "999999999999999h", "500ms"] {
        let text = age.trim_matches('\'');
        rejects(
            &format!("operations: [{{name: a, risk: High, stepUp: {{maxAge: '{text}'}}, {GET}}}]"),
            &[&format!("spec.operations[0].stepUp.maxAge: `{text}` is not a duration from 1s to 24h, such as `5m`")],
        );
    }
}

#[test]
fn paths() {
    for (path, why) in [
        ("orders", "no request can match it: the path does not begin with `/`"),
        ("''", "no request can match it: the path does not begin with `/`"),
        ("/orders/", "no request can match it: the path has an empty segment or ends with `/`"),
        ("/a//b", "no request can match it: the path has an empty segment or ends with `/`"),
        (
            "/a/../b",
            "no request can match it: the path has a dot segment, or a segment that ends with a dot or a space",
        ),
        ("'/a%2fb'", "no request can match it: the path encodes a character that decoders and non-decoders tell apart"),
        ("'/a;v=1'", "no request can match it: the path has a parameter (`;`)"),
        ("/a?b", "no request can match it: the path has a fragment (`#`)"),
        ("/a\\b", "no request can match it: the path has a backslash"),
        ("/a b", "no request can match it: the path has a character that must be encoded, or is not UTF-8"),
        ("'/a%'", "no request can match it: the path has a broken percent-encoding"),
        ("'/a/*/b'", "`*` has to be the whole last segment; it matches one or more segments"),
        ("'/a*'", "`*` has to be the whole last segment; it matches one or more segments"),
        (
            "'/a/{id}.json'",
            "a capture is a whole segment, `{name}`, its name of letters, digits and `_`, not beginning with a digit",
        ),
        (
            "'/a/{1}'",
            "a capture is a whole segment, `{name}`, its name of letters, digits and `_`, not beginning with a digit",
        ),
        ("'/{a}/{a}'", "the capture `{a}` occurs twice"),
    ] {
        let text = path.trim_matches('\'');
        rejects(
            &format!("operations: [{{name: a, http: [{{methods: [GET], paths: [/ok, {path}]}}]}}]"),
            &[&format!("spec.operations[0].http[0].paths[1]: `{text}` is not a valid path pattern: {why}")],
        );
    }
}

#[test]
fn grpc_methods() {
    for (service, method) in
        [("''", "Get"), ("shop/v1", "Get"), ("shop.v1.Orders", "a-b"), ("shop..v1", "Get"), ("1shop", "Get")]
    {
        let name = service.trim_matches('\'');
        rejects(
            &format!("operations: [{{name: a, grpc: [{{service: {service}, methods: [{method}]}}]}}]"),
            &[&format!(
                "spec.operations[0].grpc[0].methods[0]: `{name}/{method}` is not a gRPC method: write the full service name, such as \
                 `shop.v1.Orders`"
            )],
        );
    }
    rejects(
        "operations: [{name: a, grpc: [{service: s, methods: []}]}]",
        &["spec.operations[0].grpc[0].methods: list at least one, such as `[Get]`; `[\"*\"]` means any"],
    );
}

#[test]
fn requests_that_match_two_operations() {
    rejects_each(&[
        (
            "operations: [{name: a, http: [{methods: [GET], paths: ['/{x}']}]}, {name: b, http: [{methods: [GET], paths: ['/{y}']}]}]",
            "spec.operations[1]: operations `a` and `b` both match `GET /{y}`; a request must match one operation only",
        ),
        (
            "operations: [{name: a, http: [{methods: [GET, GET], paths: [/x]}]}]",
            "spec.operations[0]: operation `a` matches `GET /x` twice; remove one",
        ),
        (
            "operations: [{name: a, http: [{methods: ['*'], paths: [/x/*]}]}, {name: b, http: [{methods: ['*'], paths: [/x/*]}]}]",
            "spec.operations[1]: operations `a` and `b` both match `* /x/*`; a request must match one operation only",
        ),
        (
            "operations: [{name: a, grpc: [{service: s.v1.X, methods: [Get]}]}, {name: b, http: [{methods: [POST], paths: [/s.v1.X/Get]}]}]",
            "spec.operations[1]: operations `a` and `b` both match `POST /s.v1.X/Get`; a request must match one operation only",
        ),
    ]);
}

/// A service account comes to the API server with a bearer token, so it never gets as far as an approval there.
#[test]
fn approvals_that_no_caller_can_use() {
    const WHY: &str = "spec.operations[0].approval: no caller can use the approval: the grants name service accounts \
                       alone, whose tokens never suffice for `risk: High` at the API server; grant the scope to people, \
                       or lower the risk and remove `approval`";
    let policy = |to: &str, also: &str| {
        let kubernetes = "kubernetes: [{apiGroups: [''], resources: [pods/exec], verbs: [CONNECT]}]";
        let approval = "risk: High, approval: {by: [{provider: corporate}]}";
        format!(
            "operations: [{{name: a, {kubernetes}, {approval}{also}}}]\ngrants: [{{name: g, to: [{to}], scopes: [a]}}]"
        )
    };
    let account = "{serviceAccount: {namespace: ci, name: deployer}}";
    for to in [account, "{namespace: ci}", &format!("{account}, {{namespace: ci}}")] {
        rejects(&policy(to, ""), &[WHY]);
    }
    let people = format!("{account}, {{provider: corporate}}");
    for usable in [policy("{principal: 'kube:ada'}", ""), policy(&people, ""), policy(account, &format!(", {GET}"))] {
        rejects(&usable, &[]);
    }
}
