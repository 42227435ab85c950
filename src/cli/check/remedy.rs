//! The smallest change that allows a request. It never removes a denial or a condition, and never lowers a risk.

use durward_core::decide::{ExplainedRule, METHOD_NOT_ACCEPTED, RuleOutcome};
use durward_core::decision::{Decision, Reason};
use durward_core::principal::{Identity, PrincipalId};
use durward_core::request::{Call, Request};
use durward_core::scope::Scope;
use durward_doors::answer::approval_name;
use serde::Serialize;

/// A change that allows a request.
#[derive(Debug, Serialize)]
pub(super) struct Remedy {
    /// What to do, one step per line.
    pub(super) advice: Vec<String>,
    /// The field for the YAML.
    #[serde(rename = "into", skip_serializing_if = "Option::is_none")]
    pub(super) place: Option<String>,
    /// YAML to paste.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) yaml: Option<String>,
}

impl Remedy {
    fn advice(advice: impl Into<String>) -> Self {
        Self { advice: vec![advice.into()], place: None, yaml: None }
    }
}

pub(super) fn remedy(
    decision: &Decision,
    request: &Request<'_>,
    caller: Option<&Identity>,
    considered: &[ExplainedRule],
    trust_domain: &str,
) -> Option<Remedy> {
    match decision.reason {
        Reason::Public | Reason::Granted => None,
        Reason::NoPolicy if decision.policy.is_some() => Some(fix_policy(decision)),
        Reason::NoPolicy => Some(Remedy::advice(
            "no policy has this host or audience: add it to `spec.service` of the policy that protects it",
        )),
        Reason::AmbiguousPath => Some(Remedy::advice(
            "no change of policies allows this request: the client must send one that every parser reads alike",
        )),
        Reason::OperationUndeclared => Some(declare_operation(decision, request)),
        Reason::Unauthenticated => {
            Some(Remedy::advice("name the caller with --as; without a credential only public operations are allowed"))
        }
        Reason::AssuranceTooLow => Some(authenticate(decision, caller)),
        Reason::Denied => {
            let rules = decision.rules.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
            Some(Remedy::advice(format!(
                "a grant can't override {rules}; the owner of that denial decides whether it applies here"
            )))
        }
        Reason::ApprovalRequired => {
            let name = decision.approval.as_ref().map(|approval| approval_name(&approval.subject));
            Some(Remedy::advice(format!(
                "only the approval is missing: an approver in `approval.by` of the operation must run `durward approve {}`",
                name.unwrap_or_default()
            )))
        }
        Reason::InsufficientScope => Some(grant_scopes(decision, caller?, considered, trust_domain)),
    }
}

/// How to open a closed service again.
fn fix_policy(decision: &Decision) -> Remedy {
    let policy = decision.policy.as_ref().map(ToString::to_string).unwrap_or_default();
    Remedy::advice(format!(
        "fix or remove AccessPolicy {policy}; its condition `Accepted` names the error. Until then the service is closed \
         wherever the last valid version is unknown: here, and on each replica that started since"
    ))
}

/// An operation that matches exactly this request.
fn declare_operation(decision: &Decision, request: &Request<'_>) -> Remedy {
    let service = decision.service.as_ref().map_or("the service", |service| &service.audience);
    let mut remedy =
        Remedy::advice("declare the operation, unless the request should match one that is near; then grant its scope");
    if let Call::Http { method, path } = &request.call {
        let path = path.split_once('?').map_or(*path, |(path, _)| path);
        let name = name(&format!("{method}-{path}").to_ascii_lowercase());
        remedy.place = Some(format!("spec.operations of an AccessPolicy of {service}"));
        remedy.yaml = Some(format!("- name: {name}\n  http: [{{methods: [{method}], paths: [{}]}}]\n", quoted(path)));
    }
    remedy
}

/// How the caller can authenticate well enough.
fn authenticate(decision: &Decision, caller: Option<&Identity>) -> Remedy {
    let not_accepted = decision.detail.as_deref() == Some(METHOD_NOT_ACCEPTED);
    let (Some(policy), Some(caller), true) = (&decision.policy, caller, not_accepted) else {
        return Remedy::advice(
            "the caller must authenticate with more assurance; keep the risk of the operation as it is",
        );
    };
    let (method, callers) = match caller.provider() {
        None => ("workload: {}".to_owned(), "workloads of this trust domain".to_owned()),
        Some(provider) => (format!("provider: {provider}"), format!("callers of provider {provider}")),
    };
    Remedy {
        advice: vec![format!("accept this authentication method; then all {callers} can use what is granted to them")],
        place: Some(format!("AccessPolicy {policy}, spec.authentication")),
        yaml: Some(format!("- {method}\n")),
    }
}

/// A grant of exactly the missing scopes, to exactly this caller.
fn grant_scopes(decision: &Decision, caller: &Identity, considered: &[ExplainedRule], trust_domain: &str) -> Remedy {
    let mut advice = Vec::new();
    for considered in considered.iter().filter(|considered| considered.rule.contains("/grants/")) {
        match &considered.outcome {
            RuleOutcome::ConditionDoesNotHold => {
                advice.push(format!("{} applies to this caller when its condition holds", considered.rule));
            }
            RuleOutcome::MembershipUnknown(_) => {
                advice.push(format!(
                    "{} applies to this caller when its groups and attributes are known",
                    considered.rule
                ));
            }
            RuleOutcome::ConditionFailed(_) => {
                advice.push(format!("{} applies to this caller when its condition can be evaluated", considered.rule));
            }
            RuleOutcome::TokenLacksScope(scopes) => {
                advice.push(format!(
                    "{} applies to this caller with a token that carries {}",
                    considered.rule,
                    scope_list(scopes)
                ));
            }
            RuleOutcome::NotRelated(relation) => {
                advice.push(format!(
                    "{} applies to this caller when a Relationship makes it {relation}",
                    considered.rule
                ));
            }
            RuleOutcome::RelationFailed { .. } | RuleOutcome::NoObject { .. } => {
                advice.push(format!("{} applies to this caller when its relation can be determined", considered.rule));
            }
            RuleOutcome::Applies(_) | RuleOutcome::OtherCallers => {}
        }
    }
    advice.push(if advice.is_empty() {
        "grant the missing scopes".to_owned()
    } else {
        "or grant the missing scopes unconditionally".to_owned()
    });
    let operation = decision.operation.as_deref().unwrap_or_default();
    let name = name(&format!("{}-{operation}", short(&caller.id)));
    let scopes = decision.missing.iter().map(Scope::as_str).map(scalar).collect::<Vec<_>>().join(", ");
    let to = subject(&caller.id, trust_domain);
    Remedy {
        advice,
        place: decision.policy.as_ref().map(|policy| format!("AccessPolicy {policy}, spec.grants")),
        yaml: Some(format!("- name: {name}\n  to: [{{{to}}}]\n  scopes: [{scopes}]\n")),
    }
}

fn subject(id: &PrincipalId, own: &str) -> String {
    match id {
        PrincipalId::Workload { trust_domain, namespace, service_account } if **trust_domain == *own => {
            format!("serviceAccount: {{namespace: {namespace}, name: {}}}", scalar(service_account))
        }
        id => format!("principal: {}", quoted(&id.to_string())),
    }
}

fn short(id: &PrincipalId) -> &str {
    match id {
        PrincipalId::Workload { service_account: name, .. }
        | PrincipalId::User { subject: name, .. }
        | PrincipalId::Key { name, .. }
        | PrincipalId::Kube { username: name }
        | PrincipalId::Spiffe { path: name, .. } => name,
    }
}

/// A valid name in a policy, made from any text.
fn name(text: &str) -> String {
    let fit = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' };
    let name: String = text.chars().map(fit).take(63).collect();
    let parts: Vec<&str> = name.split('-').filter(|part| !part.is_empty()).collect();
    if parts.is_empty() { "new".to_owned() } else { parts.join("-") }
}

/// A YAML scalar of the text: plain if that is unambiguous, else quoted.
fn scalar(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        && !matches!(
            text.to_ascii_lowercase().as_str(),
            "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n"
        );
    if plain { text.to_owned() } else { quoted(text) }
}

/// A quoted YAML scalar. A JSON string is one.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Scopes with commas between them.
pub(super) fn scope_list(scopes: &[Scope]) -> String {
    scopes.iter().map(Scope::as_str).collect::<Vec<_>>().join(", ")
}
