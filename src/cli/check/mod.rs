//! `durward check`: explain a decision, and how to change it.

mod explain;
mod recorded;
mod remedy;
mod text;

use crate::cli::outcome::{CommandOutcome, CommandResult};
use crate::cli::output::OutputFormat;
use crate::cli::policies::PolicySourceArguments;
use chrono::{DateTime, Utc};
use durward_core::evidence::StatedEvidence;
use durward_core::path::Captures;
use durward_core::principal::{Identity, Principal, PrincipalId};
use durward_core::relations::RelationAnswers;
use durward_core::request::{Call, Request, ServiceTarget};
use durward_core::risk::Assurance;
use durward_core::scope::Scope;
use durward_engine::audit::replay::snapshot_for;
use explain::{CheckQuestion, explain};
use recorded::RecordSelector;
use thiserror::Error;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  durward check -p examples/orders --as spiffe://cluster.local/ns/billing/sa/billing GET \
                        http://orders.example.com/orders/42\n  durward check -p examples/orders --as key:partners/acme --operation \
                        order-status orders-api\n  durward check -p examples/orders --record audit.log:17"
)]
pub(crate) struct CheckCommand {
    #[command(flatten)]
    policies: PolicySourceArguments,
    /// Caller: `spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT`, `user:PROVIDER/SUBJECT` or `key:PROVIDER/NAME` [default: a caller
    /// without a credential]
    #[arg(long = "as", value_name = "PRINCIPAL")]
    principal: Option<PrincipalId>,
    /// IdentityProvider that vouches for a SPIFFE ID of another trust domain
    #[arg(long, value_name = "NAME", requires = "principal")]
    provider: Option<String>,
    /// Group of the principal. Repeatable
    #[arg(long, value_name = "GROUP", requires = "principal")]
    group: Vec<String>,
    /// Scope of the principal's token. Repeatable
    #[arg(long, value_name = "SCOPE", requires = "principal", value_parser = |text: &str| Scope::parse(text))]
    scope: Vec<Scope>,
    /// Attribute of the principal; the value is JSON or plain text. Repeatable
    #[arg(long, value_name = "NAME=VALUE", requires = "principal", value_parser = parse_attribute)]
    attribute: Vec<(String, serde_json::Value)>,
    /// Assurance of the authentication: SharedSecret, Bearer, ProofOfPossession, MultiFactor, PhishingResistant
    #[arg(long, requires = "principal", value_parser = parse_assurance)]
    assurance: Option<Assurance>,
    /// Time of the last authentication, RFC 3339; for second factors
    #[arg(long, value_name = "TIME", requires = "principal")]
    authenticated_at: Option<DateTime<Utc>>,
    /// Time of the decision, RFC 3339 [default: now]
    #[arg(long, value_name = "TIME")]
    at: Option<DateTime<Utc>>,
    /// Request an operation by its name instead of method and path
    #[arg(long, value_name = "NAME", conflicts_with = "url")]
    operation: Option<String>,
    /// Header of the request. Repeatable. With --operation and without --header, the headers are unknown
    #[arg(long, value_name = "NAME:VALUE", value_parser = parse_header, conflicts_with = "record")]
    header: Vec<(String, String)>,
    /// Decide a request of an audit log again: that at a line, that of a decision id, or the last of the file
    #[arg(long, value_name = "FILE[:LINE|:ID]", conflicts_with_all = ["principal", "operation", "first", "url"])]
    record: Option<RecordSelector>,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: OutputFormat,
    /// HTTP method, or with --operation the audience of the service
    #[arg(value_name = "METHOD|AUDIENCE", required_unless_present = "record")]
    first: Option<String>,
    /// `http://HOST/PATH`
    #[arg(required_unless_present_any = ["operation", "record"])]
    url: Option<String>,
}

impl CheckCommand {
    pub(crate) fn run(self) -> CommandResult {
        let snapshot = self.policies.snapshot()?;
        let line = self.record.as_ref().map(RecordSelector::find).transpose()?;
        let recorded = line.as_ref().map(|(number, line)| recorded::read(*number, line)).transpose()?;
        let headers_known = self.operation.is_none() || !self.header.is_empty();
        let evidence =
            StatedEvidence { headers: headers_known.then(|| self.header.clone()), ..StatedEvidence::default() };
        let snapshot = match &recorded {
            Some((_, record)) => snapshot_for(record, snapshot),
            None => snapshot,
        };
        let question = match &recorded {
            Some((_, record)) => CheckQuestion {
                request: record.to_request(),
                principal: record.to_principal(),
                at: self.at.unwrap_or(record.time),
                answers: record.answers(),
            },
            None => CheckQuestion {
                request: self.request(&evidence)?,
                principal: self.identity()?.map(Principal::assumed),
                at: self.at.unwrap_or_else(Utc::now),
                answers: RelationAnswers::default(),
            },
        };
        let mut explained = explain(&snapshot, &question, self.policies.trust_domain());
        explained.recorded = recorded.as_ref().map(|(line, record)| recorded::compared(*line, record, &snapshot));
        self.output.print(&explained, text::text)?;
        self.policies.conclude(CommandOutcome::from_success(explained.allowed))
    }

    fn request<'q>(&'q self, evidence: &'q StatedEvidence) -> Result<Request<'q>, CheckArgumentError> {
        let first = self.first.as_deref().unwrap_or_default();
        if let Some(operation) = &self.operation {
            let call = Call::Named { operation, captures: Captures::new() };
            return Ok(Request { target: ServiceTarget::Audience(first), call, source: None, evidence });
        }
        let url = self.url.as_deref().unwrap_or_default();
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let slash = rest.find('/').ok_or_else(|| CheckArgumentError::Url(url.to_owned()))?;
        let (host, path) = rest.split_at(slash);
        Ok(Request {
            target: ServiceTarget::Host(host),
            call: Call::Http { method: first, path },
            source: None,
            evidence,
        })
    }

    fn identity(&self) -> Result<Option<Identity>, CheckArgumentError> {
        let Some(id) = self.principal.clone() else { return Ok(None) };
        let foreign = id.trust_domain().is_some_and(|of| of != self.policies.trust_domain());
        match (&self.provider, foreign) {
            (None, true) => return Err(CheckArgumentError::NoProvider(id)),
            (Some(_), false) => return Err(CheckArgumentError::Provider(id)),
            _ => {}
        }
        let default_assurance = match id {
            PrincipalId::Key { .. } => Assurance::SharedSecret,
            _ => Assurance::Bearer,
        };
        Ok(Some(Identity {
            federation: self.provider.as_deref().map(Into::into),
            groups: self.group.iter().cloned().collect(),
            attributes: self.attribute.iter().cloned().collect(),
            scopes: (!self.scope.is_empty()).then(|| self.scope.iter().cloned().collect()),
            authenticated_at: self.authenticated_at,
            ..Identity::new(id, self.assurance.unwrap_or(default_assurance))
        }))
    }
}

/// An argument that `durward check` does not accept.
#[derive(Debug, Error)]
enum CheckArgumentError {
    #[error("`{0}` has no path; write http://HOST/PATH")]
    Url(String),
    #[error("`{0}` is of another trust domain; name the IdentityProvider that vouches for it with --provider")]
    NoProvider(PrincipalId),
    #[error("--provider is for workloads of other trust domains, not for `{0}`")]
    Provider(PrincipalId),
    #[error("write NAME:VALUE")]
    Header,
    #[error("write NAME=VALUE")]
    Attribute,
    #[error("write one of SharedSecret, Bearer, ProofOfPossession, MultiFactor, PhishingResistant")]
    Assurance,
}

fn parse_header(text: &str) -> Result<(String, String), CheckArgumentError> {
    let (name, value) = text.split_once(':').ok_or(CheckArgumentError::Header)?;
    Ok((name.to_owned(), value.trim().to_owned()))
}

fn parse_attribute(text: &str) -> Result<(String, serde_json::Value), CheckArgumentError> {
    let (name, value) = text.split_once('=').ok_or(CheckArgumentError::Attribute)?;
    Ok((name.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| value.into())))
}

fn parse_assurance(text: &str) -> Result<Assurance, CheckArgumentError> {
    serde_json::from_value(text.into()).map_err(|_| CheckArgumentError::Assurance)
}
