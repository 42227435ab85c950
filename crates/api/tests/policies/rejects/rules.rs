//! Invalid roles, grants, denials, selectors, conditions and headers.

use super::{rejects, rejects_each};

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
fn headers_that_conditions_cannot_read() {
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
