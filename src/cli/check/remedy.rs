//! What would allow a request: the smallest change, and never one that takes a denial, a condition or a risk away.

use super::explain::list;
use durward_core::decide::{ExplainedRule, RuleOutcome};
use durward_core::decision::{Decision, Reason};
use durward_core::principal::{Identity, PrincipalId};
use durward_core::request::{Call, Request};
use durward_core::scope::Scope;
use durward_doors::answer::approval_name;
use serde::Serialize;

/// What would allow it.
#[derive(Debug, Serialize)]
pub(super) struct Remedy {
    /// What to do, one thing a line.
    pub(super) advice: Vec<String>,
    /// Where the YAML belongs.
    #[serde(rename = "into", skip_serializing_if = "Option::is_none")]
    pub(super) place: Option<String>,
    /// To be pasted.
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
        Reason::NoPolicy if decision.policy.is_some() => Some(mend(decision)),
        Reason::NoPolicy => Some(Remedy::advice(
            "no policy has this host or audience: name it in `spec.service` of the policy that is to protect it",
        )),
        Reason::AmbiguousPath => Some(Remedy::advice(
            "nothing allows it: the client has to write the request in the one way that every parser reads alike",
        )),
        Reason::OperationUndeclared => Some(declare(decision, request)),
        Reason::Unauthenticated => {
            Some(Remedy::advice("say who asks, with --as; without a credential only public operations go"))
        }
        Reason::AssuranceTooLow => Some(prove(decision, caller)),
        Reason::Denied => {
            let rules = decision.rules.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
            Some(Remedy::advice(format!(
                "no grant helps against {rules}; whoever is responsible for that denial decides whether it is to apply here"
            )))
        }
        Reason::ApprovalRequired => {
            let name = decision.approval.as_ref().map(|approval| approval_name(&approval.subject));
            Some(Remedy::advice(format!(
                "the caller has all else; somebody whom the operation names in `approval.by` has to approve it: `durward approve {}`",
                name.unwrap_or_default()
            )))
        }
        Reason::InsufficientScope => Some(grant(decision, caller?, considered, trust_domain)),
    }
}

/// What opens a closed service again.
fn mend(decision: &Decision) -> Remedy {
    let policy = decision.policy.as_ref().map(ToString::to_string).unwrap_or_default();
    Remedy::advice(format!(
        "mend or remove AccessPolicy {policy}; its condition `Accepted` says what is wrong. Until then the service is closed \
         wherever the version that was last in force is not known: here, and on each replica that started since"
    ))
}

/// An operation for exactly this request.
fn declare(decision: &Decision, request: &Request<'_>) -> Remedy {
    let service = decision.service.as_ref().map_or("the service", |service| &service.audience);
    let mut remedy =
        Remedy::advice("declare the operation, if it is not one of those that are near; then grant its scope");
    if let Call::Http { method, path } = &request.call {
        let path = path.split_once('?').map_or(*path, |(path, _)| path);
        let name = name(&format!("{method}-{path}").to_ascii_lowercase());
        remedy.place = Some(format!("spec.operations of an AccessPolicy of {service}"));
        remedy.yaml = Some(format!("- name: {name}\n  http: [{{methods: [{method}], paths: [{}]}}]\n", quoted(path)));
    }
    remedy
}

fn prove(decision: &Decision, caller: Option<&Identity>) -> Remedy {
    let not_accepted = decision.detail.as_deref().is_some_and(|detail| detail.contains("way in"));
    let (Some(policy), Some(caller), true) = (&decision.policy, caller, not_accepted) else {
        return Remedy::advice(
            "the caller has to prove itself better; the policy's risk says how, and stays what it is",
        );
    };
    let (way, whom) = match caller.provider() {
        None => ("workload: {}".to_owned(), "workloads of this trust domain".to_owned()),
        Some(provider) => (format!("provider: {provider}"), format!("callers of provider {provider}")),
    };
    Remedy {
        advice: vec![format!("accept this way in; all {whom} can come then, and get what is granted to them")],
        place: Some(format!("AccessPolicy {policy}, spec.authentication")),
        yaml: Some(format!("- {way}\n")),
    }
}

/// A grant of just what is missing, to just this caller.
fn grant(decision: &Decision, caller: &Identity, considered: &[ExplainedRule], trust_domain: &str) -> Remedy {
    let mut advice = Vec::new();
    for considered in considered.iter().filter(|considered| considered.rule.contains("/grants/")) {
        match &considered.outcome {
            RuleOutcome::ConditionDoesNotHold => {
                advice.push(format!("{} is for this caller, once its condition holds", considered.rule));
            }
            RuleOutcome::ConditionFailed(_) => {
                advice.push(format!("{} is for this caller, once its condition can be evaluated", considered.rule));
            }
            RuleOutcome::TokenLacksScope(scopes) => {
                advice.push(format!(
                    "{} is for this caller, with a token that carries {}",
                    considered.rule,
                    list(scopes)
                ));
            }
            RuleOutcome::NotRelated(relation) => {
                advice.push(format!("{} is for this caller, once a Relationship makes it {relation}", considered.rule));
            }
            RuleOutcome::RelationFailed { .. } | RuleOutcome::NoObject { .. } => {
                advice.push(format!("{} is for this caller, once its relation can be told", considered.rule));
            }
            RuleOutcome::Applies(_) | RuleOutcome::OtherCallers => {}
        }
    }
    advice.push(if advice.is_empty() {
        "grant what is missing".to_owned()
    } else {
        "or grant what is missing, without any of that".to_owned()
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

/// A name as policies have them, made of some text.
fn name(text: &str) -> String {
    let fit = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' };
    let name: String = text.chars().map(fit).take(63).collect();
    let parts: Vec<&str> = name.split('-').filter(|part| !part.is_empty()).collect();
    if parts.is_empty() { "new".to_owned() } else { parts.join("-") }
}

/// A text as YAML reads it back: plain where that is beyond doubt.
fn scalar(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        && !matches!(
            text.to_ascii_lowercase().as_str(),
            "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n"
        );
    if plain { text.to_owned() } else { quoted(text) }
}

/// JSON's form of a text is one of YAML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
