//! Every mistake that a policy can hold, and the words in which it is told.

use crate::support::*;
use durward_api::compile::compile;
use durward_api::resources::AccessPolicy;

/// Checks that a spec has exactly these mistakes.
fn rejects(spec: &str, expected: &[&str]) {
    assert_eq!(mistakes(&resource(spec)), expected, "{spec}");
}

/// Checks a table of fragments and the one mistake of each.
fn rejects_each(table: &[(&str, &str)]) {
    for (spec, expected) in table {
        rejects(spec, &[expected]);
    }
}

#[test]
fn names_of_policies_that_kubernetes_would_refuse() {
    for (namespace, name, expected) in [
        ("shop", "Orders", "metadata.name: a policy needs a name of lower-case letters, digits, `-` and `.`"),
        ("shop", "a_b", "metadata.name: a policy needs a name of lower-case letters, digits, `-` and `.`"),
        ("shop", "", "metadata.name: a policy needs a name of lower-case letters, digits, `-` and `.`"),
        ("Shop", "orders", "metadata.namespace: a namespace is made of lower-case letters, digits and `-`"),
        ("a.b", "orders", "metadata.namespace: a namespace is made of lower-case letters, digits and `-`"),
    ] {
        let mut policy = resource("");
        policy.metadata.name = Some(name.to_owned());
        policy.metadata.namespace = Some(namespace.to_owned());
        assert_eq!(mistakes(&policy), [expected], "{namespace}/{name}");
    }
    let mut nameless = resource("");
    nameless.metadata.name = None;
    assert_eq!(mistakes(&nameless).len(), 1);
}

#[test]
fn lifetimes_that_no_token_can_have() {
    for ttl in ["59s", "61m", "0s", "-5m", "soon", "5"] {
        rejects(
            &format!("tokens: {{ttl: '{ttl}'}}"),
            &[&format!("spec.tokens.ttl: `{ttl}` is not a duration from 1m to 1h, such as `5m`")],
        );
    }
}

#[test]
fn identities_that_nobody_can_be_minted() {
    rejects_each(&[
        ("identity: {}", "spec.identity: an identity needs the pods of the service: set `spec.service.podSelector`"),
        (
            "service: {podSelector: {}}\nidentity: {ttl: 4m}",
            "spec.identity.ttl: `4m` is not a duration from 5m to 24h, such as `1h`",
        ),
        (
            "service: {podSelector: {}}\nidentity: {ttl: 25h}",
            "spec.identity.ttl: `25h` is not a duration from 5m to 24h, such as `1h`",
        ),
        (
            "service: {podSelector: {matchExpressions: [{key: app, operator: In}]}}",
            "spec.service.podSelector.matchExpressions[0]: this operator needs `values`",
        ),
        (
            "service: {podSelector: {matchExpressions: [{key: app, operator: Exists, values: [a]}]}}",
            "spec.service.podSelector.matchExpressions[0]: remove `values`: this operator takes none",
        ),
        (
            "service: {podSelector: {matchExpressions: [{key: app, operator: Like, values: [a]}]}}",
            "spec.service.podSelector.matchExpressions[0]: `Like` is not an operator: use `In`, `NotIn`, `Exists` or `DoesNotExist`",
        ),
    ]);
    let error = &mistakes(&resource("service: {podSelector: {}}\nidentity: {dnsNames: ['*.shop.svc']}"))[0];
    assert!(error.starts_with("spec.identity.dnsNames[0]: `*.shop.svc` is not a host name"), "{error}");
}

#[test]
fn services() {
    const AUDIENCE: &str = "spec.service.audience: an audience is 1 to 253 printable ASCII characters without spaces";
    const NO_HOST: &str = "is not a host name: write a DNS name in ASCII (for other scripts its `xn--` form) or an IP address, \
                           without port";
    rejects_each(&[
        ("service: {audience: ''}", AUDIENCE),
        ("service: {audience: 'a b'}", AUDIENCE),
        ("service: {audience: ä}", AUDIENCE),
    ]);
    rejects(&format!("service: {{audience: {}}}", "a".repeat(254)), &[AUDIENCE]);
    for host in ["'*.shop'", "'a:80'", "''", "münchen.de", "http://a", "a..b", "a/b", "1.2.3"] {
        let expected = format!("spec.service.hosts[1]: `{}` {NO_HOST}", host.trim_matches('\''));
        rejects(&format!("service: {{hosts: [a.shop, {host}]}}"), &[&expected]);
    }
}

#[test]
fn ways_in() {
    const ONE_OF: &str = "spec.authentication[0]: set exactly one of `workload` and `provider`";
    rejects_each(&[
        ("authentication: [{}]", ONE_OF),
        ("authentication: [{workload: {}, provider: corporate}]", ONE_OF),
        (
            "authentication: [{workload: {}}, {provider: Corporate}]",
            "spec.authentication[1].provider: `Corporate` is not a valid IdentityProvider name",
        ),
        (
            "authentication: [{provider: ''}]",
            "spec.authentication[0].provider: `` is not a valid IdentityProvider name",
        ),
    ]);
}

const GET: &str = "http: [{methods: [GET], paths: [/a]}]";

#[test]
fn names_within_a_policy() {
    rejects_each(&[
        (
            &format!("operations: [{{name: '', scopes: [a], {GET}}}]"),
            "spec.operations[0].name: `` is not a valid name: use 1 to 63 letters, digits, `-`, `_` and `.`",
        ),
        (
            &format!("operations: [{{name: a b, scopes: [a], {GET}}}]"),
            "spec.operations[0].name: `a b` is not a valid name: use 1 to 63 letters, digits, `-`, `_` and `.`",
        ),
        (
            &format!("operations: [{{name: {}, scopes: [a], {GET}}}]", "x".repeat(64)),
            &format!(
                "spec.operations[0].name: `{}` is not a valid name: use 1 to 63 letters, digits, `-`, `_` and `.`",
                "x".repeat(64)
            ),
        ),
        (
            &format!("operations: [{{name: a, {GET}}}, {{name: a, http: [{{methods: [GET], paths: [/b]}}]}}]"),
            "spec.operations[1].name: `a` occurs twice",
        ),
        (
            "roles: [{name: a/b, scopes: [a]}]",
            "spec.roles[0].name: `a/b` is not a valid name: use 1 to 63 letters, digits, `-`, `_` and `.`",
        ),
        ("roles: [{name: a, scopes: [a]}, {name: a, scopes: [b]}]", "spec.roles[1].name: `a` occurs twice"),
        (
            "grants: [{name: ä, to: [{authenticated: true}], scopes: [a]}]",
            "spec.grants[0].name: `ä` is not a valid name: use 1 to 63 letters, digits, `-`, `_` and `.`",
        ),
        (
            "grants: [{name: a, to: [{authenticated: true}], scopes: [a]}, {name: a, to: [{authenticated: true}], scopes: [a]}]",
            "spec.grants[1].name: `a` occurs twice",
        ),
        (
            "denials: [{name: a, to: [{authenticated: true}]}, {name: a, to: [{authenticated: true}]}]",
            "spec.denials[1].name: `a` occurs twice",
        ),
    ]);
}

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
fn requests_that_two_operations_claim() {
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

#[test]
fn roles_and_grants() {
    rejects_each(&[
        (
            "roles: [{name: a, scopes: []}]",
            "spec.roles[0].scopes: the role has no scopes: set `scopes` or `includes`, or remove the role",
        ),
        (
            "roles: [{name: a, scopes: [b, 'c\"']}]",
            "spec.roles[0].scopes[1]: `\"` can't be part of a scope: use printable ASCII without space, `\"` and `\\`",
        ),
        (
            "grants: [{name: a, to: [{authenticated: true}]}]",
            "spec.grants[0]: the grant gives nothing: set `scopes` or `roles`",
        ),
        (
            "grants: [{name: a, to: [{authenticated: true}], roles: [clerk]}]",
            "spec.grants[0].roles[0]: this policy has no role `clerk`; it has none",
        ),
        (
            "{roles: [{name: b, scopes: [x]}, {name: a, scopes: [x]}], grants: [{name: a, to: [{authenticated: true}], roles: [a, c]}]}",
            "spec.grants[0].roles[1]: this policy has no role `c`; it has a, b",
        ),
        (
            "grants: [{name: a, to: [], scopes: [x]}]",
            "spec.grants[0].to: an empty list matches no caller; for every authenticated caller, use `[{authenticated: true}]`",
        ),
        (
            "grants: [{name: a, to: [{authenticated: true}], scopes: [x, ä]}]",
            "spec.grants[0].scopes[1]: `ä` can't be part of a scope: use printable ASCII without space, `\"` and `\\`",
        ),
        (
            "denials: [{name: a, to: []}]",
            "spec.denials[0].to: an empty list matches no caller; for every authenticated caller, use `[{authenticated: true}]`",
        ),
    ]);
}

#[test]
fn subjects() {
    const ONE_OF: &str = "set exactly one of `serviceAccount`, `namespace`, `namespaceSelector`, `spiffe`, `principal`, `provider` (with or without `group` and \
         `claims`) and `authenticated`";
    const SHAPES: &str = "write `spiffe://DOMAIN/ns/NAMESPACE/sa/SERVICEACCOUNT`, `user:PROVIDER/SUBJECT`, `key:PROVIDER/NAME` or \
                          `kube:USERNAME`";
    for (subject, expected) in [
        ("{}", format!(": {ONE_OF}")),
        ("{principal: 'kube:a', authenticated: true}", format!(": {ONE_OF}")),
        ("{serviceAccount: {namespace: a, name: b}, provider: p}", format!(": {ONE_OF}")),
        ("{group: g}", ".group: a group needs its `provider`".to_owned()),
        ("{group: g, authenticated: true}", format!(": {ONE_OF}")),
        ("{authenticated: false}", ".authenticated: only `true` is allowed: remove `authenticated`".to_owned()),
        ("{provider: A}", ".provider: `A` is not a valid IdentityProvider name".to_owned()),
        ("{provider: A, group: g}", ".provider: `A` is not a valid IdentityProvider name".to_owned()),
        ("{principal: alice}", format!(".principal: `alice` is no principal: it has no `KIND:`; {SHAPES}")),
        (
            "{principal: 'spiffe://td.example/spire/agent'}",
            ".principal: `spiffe://td.example/spire/agent` matches no caller: workloads of this trust domain are named `/ns/NAMESPACE/sa/SERVICEACCOUNT`"
                .to_owned(),
        ),
        (
            "{serviceAccount: {namespace: A, name: b}}",
            format!(
                ".serviceAccount: `spiffe://td.example/ns/A/sa/b` is no principal: the namespace is not a DNS label; {SHAPES}"
            ),
        ),
        (
            "{serviceAccount: {namespace: a, name: ''}}",
            format!(
                ".serviceAccount: `spiffe://td.example/ns/a/sa/` is no principal: the service account is not a DNS name; {SHAPES}"
            ),
        ),
    ] {
        for list in ["grants", "denials"] {
            let scopes = if list == "grants" { ", scopes: [x]" } else { "" };
            let spec = format!("{list}: [{{name: a, to: [{{authenticated: true}}, {subject}]{scopes}}}]");
            rejects(&spec, &[&format!("spec.{list}[0].to[1]{expected}")]);
        }
    }
}

#[test]
fn conditions() {
    for (when, expected) in [
        (
            "principl.id == 'x'",
            "`principl` does not exist; a condition can read `principal`, `request`, `kubernetes` and `resource` (line 1, column 1 of the expression)",
        ),
        (
            "true && request.verb == 'x'",
            "`request` has no field `verb`; its fields are method, path, host, operation, captures, headers, time, sourceAddress (line 1, column \
             16 of the expression)",
        ),
        ("((((((((((true))))))))))", "brackets or `?:` are nested deeper than 8 (line 1, column 1 of the expression)"),
    ] {
        rejects(
            &format!("grants: [{{name: a, to: [{{authenticated: true}}], scopes: [x], when: \"{when}\"}}]"),
            &[&format!("spec.grants[0].when: {expected}")],
        );
        rejects(
            &format!("denials: [{{name: a, to: [{{authenticated: true}}], when: \"{when}\"}}]"),
            &[&format!("spec.denials[0].when: {expected}")],
        );
    }
}

#[test]
fn headers_that_no_condition_reads() {
    let credential = "identifies the caller; conditions read the verified caller as `principal`";
    let of_proxies = "can be changed by proxies, so the application may read another value";
    let no_name = "is not a header name in lower case: use 1 to 64 letters, digits and `-`, such as `x-tenant`";
    let long = "a".repeat(65);
    for (name, why) in [
        ("authorization", credential),
        ("proxy-authorization", credential),
        ("cookie", credential),
        ("x-api-key", credential),
        ("dpop", credential),
        ("x-forwarded-client-cert", credential),
        ("x-durward-principal", credential),
        ("x-durward-anything", credential),
        ("host", "is read as `request.host`"),
        ("connection", of_proxies),
        ("content-length", of_proxies),
        ("x-forwarded-for", of_proxies),
        ("x-original-uri", of_proxies),
        ("x-http-method-override", of_proxies),
        ("forwarded", of_proxies),
        ("X-Tenant", no_name),
        ("x_tenant", no_name),
        ("x tenant", no_name),
        ("", no_name),
        (&long, no_name),
    ] {
        rejects(&format!("headers: ['{name}']"), &[&format!("spec.headers[0]: `{name}` {why}")]);
    }
    rejects("headers: [x-a, x-b, x-a]", &["spec.headers[2]: `x-a` occurs twice"]);
    let many = (0..17).map(|i| format!("x-{i}")).collect::<Vec<_>>().join(", ");
    rejects(&format!("headers: [{many}]"), &["spec.headers: at most 16 are allowed"]);
    rejects(
        "headers: [x-tenant]\ngrants: [{name: a, to: [{authenticated: true}], scopes: [x], when: \"request.headers['x-tenan'] == 'a'\"}]",
        &[
            "spec.grants[0].when: header `x-tenan` is not listed in `spec.headers`, which lists x-tenant (line 1, column 16 of the \
           expression)",
        ],
    );
    rejects(
        "denials: [{name: a, to: [{authenticated: true}], when: \"'x-tenant' in request.headers\"}]",
        &[
            "spec.denials[0].when: conditions can only read headers that the policy lists in `spec.headers`, and it lists none (line 1, \
           column 12 of the expression)",
        ],
    );
}

#[test]
fn more_than_one_policy_can_hold() {
    let many = |n: usize, item: &dyn Fn(usize) -> String| (0..n).map(item).collect::<Vec<_>>().join(", ");
    let operation = |i: usize| format!("{{name: o{i}, http: [{{methods: [GET], paths: [/o{i}]}}]}}");
    let grant = |i: usize| format!("{{name: g{i}, to: [{{authenticated: true}}], scopes: [x]}}");
    let denial = |i: usize| format!("{{name: d{i}, to: [{{authenticated: true}}]}}");
    let role = |i: usize| format!("{{name: r{i}, scopes: [x]}}");
    let subject = |i: usize| format!("{{principal: 'user:p/{i}'}}");
    let subjects = |n| format!("grants: [{{name: a, to: [{}], scopes: [x]}}]", many(n, &subject));
    let scopes = |n| format!("operations: [{{name: a, {GET}, scopes: [{}]}}]", many(n, &|i| format!("s{i}")));
    let matches = |n| {
        format!("operations: [{{name: a, http: [{{methods: [GET], paths: [{}]}}]}}]", many(n, &|i| format!("/p{i}")))
    };
    for (most, spec, expected) in [
        (
            512,
            &(|n| format!("operations: [{}]", many(n, &operation))) as &dyn Fn(usize) -> String,
            "spec.operations: at most 512 are allowed in one policy: split the policy",
        ),
        (
            1000,
            &|n| format!("grants: [{}]", many(n, &grant)),
            "spec.grants: at most 1000 are allowed in one policy: split the policy",
        ),
        (
            256,
            &|n| format!("denials: [{}]", many(n, &denial)),
            "spec.denials: at most 256 are allowed in one policy: split the policy",
        ),
        (
            256,
            &|n| format!("roles: [{}]", many(n, &role)),
            "spec.roles: at most 256 are allowed in one policy: split the policy",
        ),
        (64, &subjects, "spec.grants[0].to: at most 64 are allowed: use a group, or split the rule"),
        (64, &scopes, "spec.operations[0].scopes: an operation can require at most 64 scopes"),
        (
            64,
            &matches,
            "spec.operations[0]: more than 64 combinations of method and path, or of group, resource and verb: split the operation",
        ),
    ] {
        rejects(&spec(most), &[]);
        rejects(&spec(most + 1), &[expected]);
    }
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_fields() {
    rejects(
        "service: {hosts: ['*']}\n\
         authentication: [{}]\n\
         operations: [{name: a}]\n\
         grants: [{name: a, to: [], scopes: [x]}]\n\
         denials: [{name: '', to: [{authenticated: true}]}]\n",
        &[
            "spec.service.hosts[0]: `*` is not a host name: write a DNS name in ASCII (for other scripts its `xn--` form) or an IP \
             address, without port",
            "spec.authentication[0]: set exactly one of `workload` and `provider`",
            "spec.operations[0]: the operation matches no requests: set `http`, `grpc` or `kubernetes`",
            "spec.grants[0].to: an empty list matches no caller; for every authenticated caller, use `[{authenticated: true}]`",
            "spec.denials[0].name: `` is not a valid name: use 1 to 63 letters, digits, `-`, `_` and `.`",
        ],
    );
}

#[test]
fn fields_that_do_not_exist() {
    for spec in
        ["{operation: []}", "{service: {host: a}}", "{grants: [{name: a, to: [], scope: [x]}]}", "{mode: Dryrun}"]
    {
        let text = format!("{{metadata: {{name: a, namespace: b}}, spec: {spec}}}");
        assert!(serde_saphyr::from_str::<AccessPolicy>(&text).is_err(), "{spec}");
    }
}

#[test]
fn a_mistake_is_one_line() {
    let nasty = "service: {hosts: [\"a\\nb\"]}\noperations: [{name: \"x\\ny\", http: [{methods: [\"G\\nET\"], paths: [\"/a\\nb\"]}]}]\n";
    let errors = compile(&resource(nasty), &settings()).unwrap_err();
    for error in errors {
        assert!(!error.to_string().contains('\n'), "{error:?}");
    }
}
