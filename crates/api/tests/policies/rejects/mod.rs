//! Invalid policies, with the exact messages.

mod operations;
mod rules;

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
fn names_that_kubernetes_refuses() {
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
fn token_lifetimes_out_of_bounds() {
    for ttl in ["59s", "61m", "0s", "-5m", "soon", "5"] {
        rejects(
            &format!("tokens: {{ttl: '{ttl}'}}"),
            &[&format!("spec.tokens.ttl: `{ttl}` is not a duration from 1m to 1h, such as `5m`")],
        );
    }
}

#[test]
fn invalid_identities() {
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
fn authentication_methods() {
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
fn lists_above_their_limits() {
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
fn all_mistakes_are_reported_in_the_order_of_the_fields() {
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
fn unknown_fields() {
    for spec in
        ["{operation: []}", "{service: {host: a}}", "{grants: [{name: a, to: [], scope: [x]}]}", "{mode: Dryrun}"]
    {
        let text = format!("{{metadata: {{name: a, namespace: b}}, spec: {spec}}}");
        assert!(serde_saphyr::from_str::<AccessPolicy>(&text).is_err(), "{spec}");
    }
}

#[test]
fn a_message_is_one_line() {
    let nasty = "service: {hosts: [\"a\\nb\"]}\noperations: [{name: \"x\\ny\", http: [{methods: [\"G\\nET\"], paths: [\"/a\\nb\"]}]}]\n";
    let errors = compile(&resource(nasty), &settings()).unwrap_err();
    for error in errors {
        assert!(!error.to_string().contains('\n'), "{error:?}");
    }
}
