//! Conditions whose truth is known by construction.

use crate::world::{ModelCall, ModelRequest, ModelTarget, own_account};
use chrono::{DateTime, TimeZone, Utc};
use durward_core::principal::Identity;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What a condition reads, apart from the caller and the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConditionScope {
    /// Nothing else.
    Caller,
    /// The operation.
    Operation,
    /// Anything of the request.
    Request,
}

/// A condition, and when it holds: `None` if it fails.
#[derive(Debug)]
pub struct ModelCondition {
    pub text: &'static str,
    pub scope: ConditionScope,
    pub holds: fn(&ConditionInput<'_>) -> Option<bool>,
}

/// What a condition can read.
#[derive(Debug)]
pub struct ConditionInput<'i> {
    pub caller: &'i Identity,
    pub operation: &'i str,
    pub captures: &'i BTreeMap<String, String>,
    /// `None` where only the caller and the operation are known.
    pub request: Option<&'i ModelRequest>,
    pub now: DateTime<Utc>,
}

/// Headers as sent, and what a condition may read of them: `None` for a header that can't be read, and inside for one
/// that was not sent.
#[derive(Debug)]
pub struct HeaderCase {
    pub sent: &'static [(&'static str, &'static str)],
    pub tenant: Option<Option<&'static str>>,
    pub region: Option<Option<&'static str>>,
}

pub const HEADERS: [HeaderCase; 7] = [
    HeaderCase { sent: &[], tenant: Some(None), region: Some(None) },
    HeaderCase { sent: &[("X-Tenant", "acme")], tenant: Some(Some("acme")), region: Some(None) },
    HeaderCase {
        sent: &[("x-tenant", "other"), ("x-region", "us")],
        tenant: Some(Some("other")),
        region: Some(Some("us")),
    },
    HeaderCase { sent: &[("x-tenant", "acme"), ("X-TENANT", "acme")], tenant: None, region: Some(None) },
    HeaderCase { sent: &[("x_tenant", "acme"), ("x-region", "eu")], tenant: None, region: Some(Some("eu")) },
    HeaderCase { sent: &[("x-tenant", "acme"), ("x-region", "us, eu")], tenant: Some(Some("acme")), region: None },
    HeaderCase {
        sent: &[("connection", "close, X-Tenant"), ("x-region", "eu")],
        tenant: None,
        region: Some(Some("eu")),
    },
];

/// A condition that uses up the budget of a decision, unless the list is short.
const EXHAUSTING: &str = "principal.attributes.many.all(x, principal.attributes.many.all(y, x == y || true))";
const FEW: usize = 3;

use ConditionScope::{Caller, Operation, Request};

pub const CONDITIONS: [ModelCondition; 26] = [
    ModelCondition { text: "true", scope: Caller, holds: |_| Some(true) },
    ModelCondition { text: "false", scope: Caller, holds: |_| Some(false) },
    ModelCondition { text: "principal.attributes.level > 2", scope: Caller, holds: |i| Some(level(i)? > 2) },
    // a side that decides alone hides the failure of the other, but nothing hides an attribute that is unknown
    ModelCondition {
        text: "principal.attributes.level > 2 || true",
        scope: Caller,
        holds: |i| known_attribute(i, "level").map(|_| true),
    },
    ModelCondition {
        text: "principal.attributes.level > 2 && false",
        scope: Caller,
        holds: |i| known_attribute(i, "level").map(|_| false),
    },
    ModelCondition {
        text: "has(principal.attributes.level)",
        scope: Caller,
        holds: |i| Some(known_attribute(i, "level")?.is_some()),
    },
    ModelCondition {
        text: "principal.attributes.department == 'finance'",
        scope: Caller,
        holds: |i| Some(known_attribute(i, "department")?? == "finance"),
    },
    ModelCondition {
        text: EXHAUSTING,
        scope: Caller,
        holds: |i| known_attribute(i, "many")??.as_array().filter(|items| items.len() <= FEW).map(|_| true),
    },
    ModelCondition { text: "'dev' in principal.groups", scope: Caller, holds: |i| Some(groups(i)?.contains(&"dev")) },
    ModelCondition {
        text: "principal.groups.all(x, x == 'dev')",
        scope: Caller,
        holds: |i| Some(groups(i)?.iter().all(|group| *group == "dev")),
    },
    ModelCondition {
        text: "principal.scopes.exists(s, s == 'r')",
        scope: Caller,
        holds: |i| Some(i.caller.scopes.iter().flatten().any(|scope| scope.as_str() == "r")),
    },
    ModelCondition {
        text: "principal.namespace == 'shop'",
        scope: Caller,
        holds: |i| Some(own_account(i.caller)?.0 == "shop"),
    },
    ModelCondition {
        text: "has(principal.namespace) && principal.serviceAccount == 'cart'",
        scope: Caller,
        holds: |i| Some(own_account(i.caller).is_some_and(|(_, name)| name == "cart")),
    },
    ModelCondition {
        text: "principal.assurance == 'MultiFactor'",
        scope: Caller,
        holds: |i| Some(i.caller.assurance.as_str() == "MultiFactor"),
    },
    ModelCondition {
        text: "principal.authenticatedAt > timestamp('2026-07-01T06:25:00Z')",
        scope: Caller,
        holds: |i| Some(i.caller.authenticated_at? > Utc.with_ymd_and_hms(2026, 7, 1, 6, 25, 0).unwrap()),
    },
    ModelCondition {
        text: "request.time > timestamp('2026-07-01T06:00:00Z')",
        scope: Caller,
        holds: |i| Some(i.now > Utc.with_ymd_and_hms(2026, 7, 1, 6, 0, 0).unwrap()),
    },
    ModelCondition {
        text: "request.operation.endsWith('0')",
        scope: Operation,
        holds: |i| Some(i.operation.ends_with('0')),
    },
    ModelCondition {
        text: "request.captures.x == 'a'",
        scope: Request,
        holds: |i| i.request.and(i.captures.get("x")).map(|x| x == "a"),
    },
    ModelCondition {
        text: "request.method == 'GET'",
        scope: Request,
        holds: |i| match &i.request?.call {
            ModelCall::Http(method, ..) => Some(*method == "GET"),
            _ => None,
        },
    },
    ModelCondition {
        text: "request.path.startsWith('/a')",
        scope: Request,
        holds: |i| Some(i.request?.path()?.starts_with("/a")),
    },
    ModelCondition {
        text: "request.host == 'orders.shop.svc'",
        scope: Request,
        holds: |i| match &i.request?.service {
            ModelTarget::Host(_, host) => Some((*host)? == "orders.shop.svc"),
            ModelTarget::Audience(_) => None,
        },
    },
    ModelCondition {
        text: "cidr('10.0.0.0/8').containsIP(request.sourceAddress)",
        scope: Request,
        holds: |i| match i.request?.source? {
            IpAddr::V4(address) => Some(address.octets()[0] == 10),
            IpAddr::V6(_) => Some(false),
        },
    },
    ModelCondition {
        text: "request.headers['x-tenant'] == 'acme'",
        scope: Request,
        holds: |i| Some(i.request?.headers?.tenant?? == "acme"),
    },
    ModelCondition {
        text: "'x-region' in request.headers && request.headers['x-region'] != 'eu'",
        scope: Request,
        holds: |i| Some(i.request?.headers?.region?.is_some_and(|region| region != "eu")),
    },
    ModelCondition {
        text: "kubernetes.object.spec.replicas < 5",
        scope: Request,
        holds: |i| Some(objects(i)?.get("object")?.get("spec")?.get("replicas")?.as_i64()? < 5),
    },
    ModelCondition {
        text: "has(kubernetes.oldObject) || resource.properties.total < 10",
        scope: Request,
        // both are read before anything is evaluated
        holds: |i| {
            let old = objects(i)?.contains_key("oldObject");
            let resource = i.request?.resource.as_ref()?;
            if old { Some(true) } else { Some(resource.get("properties")?.get("total")?.as_i64()? < 10) }
        },
    },
];

/// An attribute that the condition names; `None` inside if the caller has none, and outside if it is unknown.
fn known_attribute<'i>(i: &ConditionInput<'i>, name: &str) -> Option<Option<&'i Value>> {
    if i.caller.unknown.attributes.contains_key(name) { None } else { Some(i.caller.attributes.get(name)) }
}

fn level(i: &ConditionInput<'_>) -> Option<i64> {
    known_attribute(i, "level")??.as_i64()
}

fn groups<'i>(i: &ConditionInput<'i>) -> Option<Vec<&'i str>> {
    if i.caller.unknown.groups.is_some() { None } else { Some(i.caller.groups.iter().map(String::as_str).collect()) }
}

/// A request that is not for the Kubernetes API certainly has no object.
fn objects(i: &ConditionInput<'_>) -> Option<serde_json::Map<String, Value>> {
    let request = i.request?;
    match request.call {
        ModelCall::Kubernetes(_) => request.objects.clone(),
        _ => Some(serde_json::Map::new()),
    }
}

/// Whether a condition holds; without one, it does.
#[must_use]
pub fn holds(when: Option<&str>, input: &ConditionInput<'_>) -> Option<bool> {
    let Some(text) = when else { return Some(true) };
    (condition(text).holds)(input)
}

/// Whether a condition uses up the budget of a decision. It fails then, and so does every further one.
#[must_use]
pub fn exhausts(when: Option<&str>, input: &ConditionInput<'_>) -> bool {
    let many = known_attribute(input, "many").flatten().and_then(Value::as_array);
    when == Some(EXHAUSTING) && many.is_some_and(|items| items.len() > FEW)
}

/// The condition of this text.
#[must_use]
pub fn condition(text: &str) -> &'static ModelCondition {
    CONDITIONS.iter().find(|one| one.text == text).unwrap_or_else(|| panic!("no condition `{text}`"))
}
