//! `durward check`: what would be decided, and why.

use crate::cli::output::Format;
use crate::cli::policies::Policies;
use crate::cli::{Failure, Verdict};
use chrono::{DateTime, Utc};
use durward_core::decide::{Considered, Outcome};
use durward_core::decision::{Decision, Reason};
use durward_core::policy::Mode;
use durward_core::principal::{Identity, Principal, PrincipalId};
use durward_core::relations::Proof;
use durward_core::request::{Call, Request, Target};
use durward_core::risk::Assurance;
use durward_core::scope::Scope;
use durward_core::service::Captures;
use serde::Serialize;
use std::fmt::Write;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  durward check -p examples/orders --as spiffe://cluster.local/ns/billing/sa/billing GET \
                        http://orders.example.com/orders/42\n  durward check -p examples/orders --as key:partners/acme --operation \
                        order-status orders-api"
)]
pub(crate) struct Check {
    #[command(flatten)]
    policies: Policies,
    /// Who asks: `spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT`, `user:PROVIDER/SUBJECT` or `key:PROVIDER/NAME`; nobody if left out
    #[arg(long = "as", value_name = "PRINCIPAL")]
    principal: Option<PrincipalId>,
    /// The IdentityProvider that vouches for a SPIFFE ID of another trust domain
    #[arg(long, value_name = "NAME", requires = "principal")]
    provider: Option<String>,
    /// A group of the principal; may be repeated
    #[arg(long, value_name = "GROUP", requires = "principal")]
    group: Vec<String>,
    /// A scope that the principal's token carries; may be repeated
    #[arg(long, value_name = "SCOPE", requires = "principal", value_parser = |text: &str| Scope::parse(text))]
    scope: Vec<Scope>,
    /// An attribute of the principal, its value in JSON or plain text; may be repeated
    #[arg(long, value_name = "NAME=VALUE", requires = "principal", value_parser = attribute)]
    attribute: Vec<(String, serde_json::Value)>,
    /// How the principal proved itself: SharedSecret, Bearer, ProofOfPossession, MultiFactor, PhishingResistant
    #[arg(long, requires = "principal", value_parser = assurance)]
    assurance: Option<Assurance>,
    /// When the principal last authenticated, RFC 3339; for second factors
    #[arg(long, value_name = "TIME", requires = "principal")]
    authenticated_at: Option<DateTime<Utc>>,
    /// Time of the decision, RFC 3339; now if left out
    #[arg(long, value_name = "TIME")]
    at: Option<DateTime<Utc>>,
    /// Ask for an operation by its name instead of method and path
    #[arg(long, value_name = "NAME", conflicts_with = "url")]
    operation: Option<String>,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    /// HTTP method, or with --operation the audience of the service
    #[arg(value_name = "METHOD|AUDIENCE")]
    first: String,
    /// `http://HOST/PATH`
    #[arg(required_unless_present = "operation")]
    url: Option<String>,
}

/// A decision with its explanation.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Explained {
    allowed: bool,
    reason: Reason,
    mode: Mode,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<String>,
    #[serde(skip_serializing_if = "Captures::is_empty")]
    captures: Captures,
    #[serde(skip_serializing_if = "Option::is_none")]
    principal: Option<Identity>,
    required: Vec<Scope>,
    missing: Vec<Scope>,
    #[serde(skip_serializing_if = "Option::is_none")]
    enough: Option<String>,
    rules: Vec<Rule>,
    revision: String,
}

#[derive(Debug, Serialize)]
struct Rule {
    rule: String,
    outcome: String,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    relation: Vec<Proof>,
}

impl Check {
    pub(crate) fn run(self) -> Result<Verdict, Failure> {
        let snapshot = self.policies.snapshot()?;
        let (target, call) = self.question()?;
        let request = Request { target, call, source: None };
        let principal = self.identity()?.map(Principal::assumed);
        let now = self.at.unwrap_or_else(Utc::now);
        let route = snapshot.route(&request);
        let decision = route.decide(principal.as_ref(), now);
        let considered = principal.as_ref().map(|principal| route.considered(principal, now)).unwrap_or_default();
        let captures = route.captures().cloned().unwrap_or_default();
        let explained = explain(&decision, captures, principal.as_ref(), &considered);
        self.output.print(&explained, text)?;
        Ok(if decision.allowed() { Verdict::Yes } else { Verdict::No })
    }

    fn question(&self) -> Result<(Target<'_>, Call<'_>), Failure> {
        if let Some(operation) = &self.operation {
            return Ok((Target::Audience(&self.first), Call::Named { operation, captures: Captures::new() }));
        }
        let url = self.url.as_deref().unwrap_or_default();
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let slash = rest.find('/').ok_or_else(|| format!("`{url}` has no path; write http://HOST/PATH"))?;
        let (host, path) = rest.split_at(slash);
        Ok((Target::Host(host), Call::Http { method: &self.first, path }))
    }

    fn identity(&self) -> Result<Option<Identity>, Failure> {
        let Some(id) = self.principal.clone() else { return Ok(None) };
        let foreign = id.trust_domain().is_some_and(|of| of != self.policies.trust_domain());
        match (&self.provider, foreign) {
            (None, true) => {
                return Err(format!("`{id}` is of another trust domain; say who vouches for it with --provider").into());
            }
            (Some(_), false) => {
                return Err(format!("--provider is for workloads of other trust domains, not for `{id}`").into());
            }
            _ => {}
        }
        let usual = match id {
            PrincipalId::Key { .. } => Assurance::SharedSecret,
            _ => Assurance::Bearer,
        };
        Ok(Some(Identity {
            federation: self.provider.as_deref().map(Into::into),
            groups: self.group.iter().cloned().collect(),
            attributes: self.attribute.iter().cloned().collect(),
            scopes: (!self.scope.is_empty()).then(|| self.scope.iter().cloned().collect()),
            authenticated_at: self.authenticated_at,
            ..Identity::new(id, self.assurance.unwrap_or(usual))
        }))
    }
}

fn attribute(text: &str) -> Result<(String, serde_json::Value), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| value.into())))
}

fn assurance(text: &str) -> Result<Assurance, String> {
    serde_json::from_value(text.into())
        .map_err(|_| "one of SharedSecret, Bearer, ProofOfPossession, MultiFactor, PhishingResistant".to_owned())
}

fn explain(
    decision: &Decision,
    captures: Captures,
    principal: Option<&Principal>,
    considered: &[Considered],
) -> Explained {
    let rules = considered.iter().map(|considered| Rule {
        rule: considered.rule.to_string(),
        relation: considered.relation.clone(),
        outcome: match &considered.outcome {
            Outcome::Applies(scopes) if scopes.is_empty() => "applies".to_owned(),
            Outcome::Applies(scopes) => format!("applies: gives {}", list(scopes)),
            Outcome::OtherCallers => "is for other callers".to_owned(),
            Outcome::ConditionDoesNotHold => "its condition does not hold".to_owned(),
            Outcome::ConditionFailed(why) => format!("its condition could not be evaluated: {why}"),
            Outcome::NotRelated(relation) => format!("the caller is not {relation}"),
            Outcome::RelationFailed { relation, why } => {
                format!("nobody can tell whether the caller is {relation}: {why}")
            }
            Outcome::NoObject { object, capture } => format!("the request has no `{capture}` for {object}"),
            Outcome::TokenLacksScope(scopes) => format!("the caller's token does not carry {}", list(scopes)),
        },
    });
    let enough = decision.challenge.map(|challenge| match challenge.max_age {
        Some(age) => format!("{} or better, not older than {} s", challenge.assurance, age.num_seconds()),
        None => format!("{} or better", challenge.assurance),
    });
    Explained {
        allowed: decision.allowed(),
        reason: decision.reason,
        mode: decision.mode,
        detail: decision.detail.clone(),
        service: decision.service.as_ref().map(|service| service.audience.to_string()),
        policy: decision.policy.as_ref().map(ToString::to_string),
        operation: decision.operation.as_ref().map(ToString::to_string),
        captures,
        principal: principal.map(|principal| principal.identity().clone()),
        required: decision.required.to_vec(),
        missing: decision.missing.clone(),
        enough,
        rules: rules.collect(),
        revision: decision.revision.to_string(),
    }
}

fn list(scopes: &[Scope]) -> String {
    scopes.iter().map(Scope::as_str).collect::<Vec<_>>().join(", ")
}

fn text(explained: &Explained) -> String {
    let mut text = String::new();
    let verdict = if explained.allowed { "ALLOW" } else { "DENY" };
    let audit = if explained.mode == Mode::Audit && !explained.allowed { " (let through: mode Audit)" } else { "" };
    let _ = writeln!(text, "{verdict}  {}{audit}", explained.reason);
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<11} {value}");
    };
    let dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    row("service", &dash(&explained.service));
    row("operation", &dash(&explained.operation));
    row("policy", &dash(&explained.policy));
    for (name, value) in &explained.captures {
        row("captured", &format!("{name} = {value}"));
    }
    match &explained.principal {
        Some(principal) => row("principal", &format!("{} ({})", principal.id, principal.assurance)),
        None => row("principal", "nobody"),
    }
    if !explained.required.is_empty() {
        row("required", &list(&explained.required));
    }
    if !explained.missing.is_empty() {
        row("missing", &list(&explained.missing));
    }
    if let Some(detail) = &explained.detail {
        row("because", detail);
    }
    if let Some(enough) = &explained.enough {
        row("enough is", enough);
    }
    row("revision", &explained.revision);
    if !explained.rules.is_empty() {
        text.push_str("  rules considered\n");
    }
    for rule in &explained.rules {
        let _ = writeln!(text, "    {}: {}", rule.rule, rule.outcome);
        for step in &rule.relation {
            let _ = writeln!(text, "      {step}");
        }
    }
    text
}
