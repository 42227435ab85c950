//! What is allowed in a policy and still seems wrong.

use crate::compile::FieldError;
use crate::resources::{AccessPolicy, AccessPolicySpec, Grant, Operation, Risk, Subject};
use durward_core::principal::PrincipalId;
use std::collections::BTreeSet;

/// Requests that get around a governed one: who is kept from the first can do the second instead.
const WAYS_AROUND: [(&str, &str, &str); 4] = [
    ("pods/exec", "CONNECT", "pods/attach"),
    ("pods/exec", "CONNECT", "pods/ephemeralcontainers"),
    ("pods", "DELETE", "pods/eviction"),
    ("deployments", "UPDATE", "deployments/scale"),
];

/// The warnings of a policy, in the order of the fields.
#[must_use]
pub fn lint(policy: &AccessPolicy) -> Vec<FieldError> {
    let spec = &policy.spec;
    let mut warnings = Vec::new();
    let granted: BTreeSet<&str> = spec.grants.iter().flat_map(|grant| scopes(spec, grant)).collect();
    for (i, operation) in spec.operations.iter().enumerate().filter(|(_, operation)| !operation.public) {
        let field = format!("spec.operations[{i}]");
        for scope in required(operation).filter(|scope| !granted.contains(scope)) {
            warnings.push(warning(
                format!("{field}.scopes"),
                format!(
                    "no grant of this policy gives `{scope}`, so unless another of the service does, nobody can `{}`",
                    operation.name
                ),
            ));
        }
        if operation.risk.is_none() && deletes(operation) {
            let message = format!(
                "`{}` deletes and states no risk; say `risk: High`, or `Standard` if that is meant",
                operation.name
            );
            warnings.push(warning(format!("{field}.risk"), message));
        }
        if shares_its_scopes(spec, operation) {
            let message = format!(
                "`{}` is of high risk and needs no scope of its own, so access tokens of callers who may only do the rest carry \
                 none of its scopes; give it one",
                operation.name
            );
            warnings.push(warning(format!("{field}.scopes"), message));
        }
        warnings.extend(ways_around(spec, operation).map(|message| warning(format!("{field}.kubernetes"), message)));
    }
    let wanted: BTreeSet<&str> = spec.operations.iter().flat_map(required).collect();
    for (i, grant) in spec.grants.iter().enumerate() {
        let field = format!("spec.grants[{i}]");
        if !spec.operations.is_empty() && scopes(spec, grant).all(|scope| !wanted.contains(scope)) {
            let message = format!("no operation of this policy needs a scope of `{}`", grant.name);
            warnings.push(warning(format!("{field}.scopes"), message));
        }
        for (j, subject) in grant.to.iter().enumerate().filter(|(_, subject)| !can_come(spec, subject)) {
            let message = format!(
                "`{}` can never apply to {}: `spec.authentication` has no way in for them",
                grant.name,
                describe(subject)
            );
            warnings.push(warning(format!("{field}.to[{j}]"), message));
        }
    }
    warnings
}

fn warning(field: String, message: String) -> FieldError {
    FieldError { field, message }
}

fn required(operation: &Operation) -> impl Iterator<Item = &str> {
    let own = (operation.scopes.is_empty() && !operation.public).then_some(operation.name.as_str());
    operation.scopes.iter().map(String::as_str).chain(own)
}

fn scopes<'s>(spec: &'s AccessPolicySpec, grant: &'s Grant) -> impl Iterator<Item = &'s str> {
    let of_roles = grant.roles.iter().flat_map(|role| spec.scopes_of_role(role));
    grant.scopes.iter().map(String::as_str).chain(of_roles)
}

fn deletes(operation: &Operation) -> bool {
    operation.http.iter().any(|http| http.methods.iter().any(|method| method == "DELETE"))
        || operation.kubernetes.iter().any(|api| api.verbs.iter().any(|verb| verb == "DELETE"))
}

/// Whether scopes can't tell an operation of high risk from others.
fn shares_its_scopes(spec: &AccessPolicySpec, operation: &Operation) -> bool {
    let risky = |operation: &Operation| operation.risk == Some(Risk::High);
    let by_token = |operation: &Operation| !(operation.http.is_empty() && operation.grpc.is_empty());
    let others = spec.operations.iter().filter(|other| !risky(other) && by_token(other));
    let others: BTreeSet<&str> = others.flat_map(required).collect();
    risky(operation) && by_token(operation) && required(operation).all(|scope| others.contains(scope))
}

/// Requests that would do what this operation is there to control, and that the policy leaves open.
fn ways_around<'s>(spec: &'s AccessPolicySpec, operation: &'s Operation) -> impl Iterator<Item = String> + 's {
    let declares = |operation: &Operation, resource: &str, verb: Option<&str>| {
        let any = resource.split_once('/').map(|(resource, _)| format!("{resource}/*"));
        operation.kubernetes.iter().any(|api| {
            let named =
                api.resources.iter().any(|given| given == resource || given == "*/*" || Some(given) == any.as_ref());
            named && verb.is_none_or(|verb| api.verbs.iter().any(|given| given == verb || given == "*"))
        })
    };
    WAYS_AROUND.iter().filter_map(move |(resource, verb, around)| {
        let open = declares(operation, resource, Some(verb))
            && !spec.operations.iter().any(|other| declares(other, around, None));
        open.then(|| {
            format!("`{}` governs `{resource}`, but `{around}` comes to the same and is not declared", operation.name)
        })
    })
}

/// Whether such a caller can get in at all.
fn can_come(spec: &AccessPolicySpec, subject: &Subject) -> bool {
    let kubernetes = spec.operations.iter().any(|operation| !operation.kubernetes.is_empty());
    let workload = kubernetes || spec.authentication.iter().any(|way| way.workload.is_some());
    let provider = |name: &str| {
        (kubernetes && name == durward_core::principal::KUBERNETES)
            || spec.authentication.iter().any(|way| way.provider.as_deref() == Some(name))
    };
    if subject.namespace.is_some() || subject.namespace_selector.is_some() {
        return workload;
    }
    match (&subject.service_account, &subject.principal, &subject.provider) {
        (Some(_), ..) => workload,
        (None, Some(id), _) => match id.parse::<PrincipalId>() {
            // whose trust domain it is of is not known here
            Ok(id) if id.is_workload() => workload || spec.authentication.iter().any(|way| way.provider.is_some()),
            Ok(id) => id.provider().is_some_and(provider),
            // a mistake of its own
            Err(_) => true,
        },
        (None, None, Some(name)) => provider(name),
        (None, None, None) => true,
    }
}

fn describe(subject: &Subject) -> String {
    match (&subject.service_account, &subject.principal, &subject.provider) {
        (Some(account), ..) => format!("service account {}/{}", account.namespace, account.name),
        (None, Some(id), _) => format!("`{id}`"),
        _ if subject.namespace.is_some() || subject.namespace_selector.is_some() => "service accounts".to_owned(),
        (None, None, provider) => format!("callers of provider `{}`", provider.as_deref().unwrap_or_default()),
    }
}
