//! `durward check`: what would be decided, why, and what would change it.

mod explain;
mod recorded;
mod remedy;
mod text;

use crate::cli::output::Format;
use crate::cli::policies::Policies;
use crate::cli::{Failure, Verdict};
use chrono::{DateTime, Utc};
use durward_core::evidence::StatedEvidence;
use durward_core::path::Captures;
use durward_core::principal::{Identity, Principal, PrincipalId};
use durward_core::relations::RelationAnswers;
use durward_core::request::{Call, Request, ServiceTarget};
use durward_core::risk::Assurance;
use durward_core::scope::Scope;
use durward_engine::audit::replay::as_then;
use explain::{Question, explain};
use recorded::Which;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  durward check -p examples/orders --as spiffe://cluster.local/ns/billing/sa/billing GET \
                        http://orders.example.com/orders/42\n  durward check -p examples/orders --as key:partners/acme --operation \
                        order-status orders-api\n  durward check -p examples/orders --record audit.log:17"
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
    /// A header of the request; may be repeated. With --operation headers count as unknown if none is given
    #[arg(long, value_name = "NAME:VALUE", value_parser = header, conflicts_with = "record")]
    header: Vec<(String, String)>,
    /// Ask again what an audit record says was asked: the record at a line, of a decision id, or the last of the file
    #[arg(long, value_name = "FILE[:LINE|:ID]", conflicts_with_all = ["principal", "operation", "first", "url"])]
    record: Option<Which>,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    /// HTTP method, or with --operation the audience of the service
    #[arg(value_name = "METHOD|AUDIENCE", required_unless_present = "record")]
    first: Option<String>,
    /// `http://HOST/PATH`
    #[arg(required_unless_present_any = ["operation", "record"])]
    url: Option<String>,
}

impl Check {
    pub(crate) fn run(self) -> Result<Verdict, Failure> {
        let snapshot = self.policies.snapshot()?;
        let line = self.record.as_ref().map(Which::find).transpose()?;
        let recorded = line.as_ref().map(|(number, line)| recorded::read(*number, line)).transpose()?;
        let known = self.operation.is_none() || !self.header.is_empty();
        let said = StatedEvidence { headers: known.then(|| self.header.clone()), ..StatedEvidence::default() };
        let snapshot = match &recorded {
            Some((_, record)) => as_then(record, snapshot),
            None => snapshot,
        };
        let question = match &recorded {
            Some((_, record)) => Question {
                request: record.question(),
                principal: record.caller(),
                at: self.at.unwrap_or(record.time),
                answers: record.answers(),
            },
            None => Question {
                request: self.question(&said)?,
                principal: self.identity()?.map(Principal::assumed),
                at: self.at.unwrap_or_else(Utc::now),
                answers: RelationAnswers::default(),
            },
        };
        let mut explained = explain(&snapshot, &question, self.policies.trust_domain());
        explained.recorded = recorded.as_ref().map(|(line, record)| recorded::compared(*line, record, &snapshot));
        self.output.print(&explained, text::tree)?;
        Ok(if explained.allowed { Verdict::Yes } else { Verdict::No })
    }

    fn question<'q>(&'q self, evidence: &'q StatedEvidence) -> Result<Request<'q>, Failure> {
        let first = self.first.as_deref().unwrap_or_default();
        if let Some(operation) = &self.operation {
            let call = Call::Named { operation, captures: Captures::new() };
            return Ok(Request { target: ServiceTarget::Audience(first), call, source: None, evidence });
        }
        let url = self.url.as_deref().unwrap_or_default();
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let slash = rest.find('/').ok_or_else(|| format!("`{url}` has no path; write http://HOST/PATH"))?;
        let (host, path) = rest.split_at(slash);
        Ok(Request {
            target: ServiceTarget::Host(host),
            call: Call::Http { method: first, path },
            source: None,
            evidence,
        })
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

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write NAME:VALUE")?;
    Ok((name.to_owned(), value.trim().to_owned()))
}

fn attribute(text: &str) -> Result<(String, serde_json::Value), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| value.into())))
}

fn assurance(text: &str) -> Result<Assurance, String> {
    serde_json::from_value(text.into())
        .map_err(|_| "one of SharedSecret, Bearer, ProofOfPossession, MultiFactor, PhishingResistant".to_owned())
}
