//! The facts that conditions read: caller, request and evidence.

use super::route::{MatchedOperation, Route};
use crate::condition::{ConditionFacts, FactCache, HeaderValues, JsonFields};
use crate::host::Host;
use crate::labels::Labels;
use crate::principal::{Identity, PrincipalId};
use crate::relations::{RelationQuestion, RelationTarget};
use crate::request::{Call, ServiceTarget};
use crate::scope::Scope;
use crate::unknown_facts::UnknownFacts;
use cel::Value;
use chrono::{DateTime, Utc};
use serde_json::Map;
use std::borrow::Cow;
use std::sync::Arc;

/// The facts of one decision.
pub(super) struct RequestFacts<'f, 's> {
    pub(super) route: &'f Route<'s, 'f>,
    pub(super) matched: &'f MatchedOperation<'s, 'f>,
    pub(super) caller: Cow<'f, Identity>,
    pub(super) now: DateTime<Utc>,
    /// Whether conditions that only lack the object are assumed to favour the caller.
    pub(super) in_favour: bool,
    pub(super) cache: FactCache,
}

impl<'s> RequestFacts<'_, 's> {
    /// Labels of the caller's Namespace.
    pub(super) fn labels(&self) -> Option<&'s Labels> {
        self.route.snapshot.labels_of(&self.caller)
    }

    /// The relation that a grant requires; an error with the name of the capture that the request lacks.
    pub(super) fn question<'t>(&self, to: &'t RelationTarget) -> Result<RelationQuestion, &'t str> {
        let object = to.object(self.matched.captures())?.into();
        Ok(RelationQuestion { object, relation: Arc::clone(&to.relation) })
    }
}

impl ConditionFacts for RequestFacts<'_, '_> {
    fn cache(&self) -> &FactCache {
        &self.cache
    }

    fn principal(&self, field: &str) -> Option<Value> {
        principal_fact(&self.caller, field)
    }

    fn unknown(&self) -> Option<&UnknownFacts> {
        Some(&self.caller.unknown)
    }

    fn request(&self, field: &str) -> Option<Value> {
        let request = self.route.request;
        match (field, &request.call, request.target) {
            ("method", Call::Http { method, .. }, _) => Some(Value::from(*method)),
            ("path", Call::Http { path, .. }, _) => Some(path.split_once('?').map_or(*path, |(path, _)| path).into()),
            ("host", _, ServiceTarget::Host(authority)) => Some(Host::of_authority(authority).ok()?.as_str().into()),
            ("operation", ..) => Some(self.matched.operation.operation.name.as_ref().into()),
            ("captures", ..) => {
                let captures = self.matched.captures().iter();
                Some(cel_map(captures.map(|(name, text)| (name.as_ref().into(), text.as_ref().into()))))
            }
            ("time", ..) => Some(Value::Timestamp(self.now.fixed_offset())),
            ("sourceAddress", ..) => request.source.map(|address| address.to_string().into()),
            _ => None,
        }
    }

    fn headers(&self) -> Option<&HeaderValues> {
        let evidence = self.route.request.evidence;
        let read = self.route.service.map(|service| &*service.headers).unwrap_or_default();
        self.matched.headers.get_or_init(|| HeaderValues::read(read, |each| evidence.headers(each))).as_ref()
    }

    fn objects(&self) -> Option<&JsonFields> {
        let request = self.route.request;
        let read = self.route.service.map(|service| &*service.objects).unwrap_or_default();
        let of = || match request.call {
            Call::Kubernetes(_) => Some(JsonFields::of("kubernetes", read, &request.evidence.objects()?)),
            // the request certainly has no Kubernetes object
            _ => Some(JsonFields::of("kubernetes", &[], &Map::new())),
        };
        self.matched.objects.get_or_init(of).as_ref()
    }

    fn resource(&self) -> Option<&JsonFields> {
        let evidence = self.route.request.evidence;
        let read = self.route.service.map(|service| &*service.objects).unwrap_or_default();
        self.matched.resource.get_or_init(|| Some(JsonFields::of("resource", read, &evidence.resource()?))).as_ref()
    }
}

/// The path of a SPIFFE ID, which is the workload's name within its trust domain.
fn path(id: &PrincipalId) -> String {
    match id {
        PrincipalId::Workload { namespace, service_account, .. } => format!("/ns/{namespace}/sa/{service_account}"),
        PrincipalId::Spiffe { path, .. } => path.to_string(),
        PrincipalId::User { .. } | PrincipalId::Key { .. } | PrincipalId::Kube { .. } => String::new(),
    }
}

/// The value of `principal.<field>`.
pub(crate) fn principal_fact(caller: &Identity, field: &str) -> Option<Value> {
    let text = |text: &Arc<str>| Value::from(text.as_ref());
    let texts = |texts: &mut dyn Iterator<Item = &str>| Value::from(texts.map(Value::from).collect::<Vec<_>>());
    match (field, &caller.id) {
        ("id", id) => Some(id.to_string().into()),
        ("provider", _) => caller.provider().map(Value::from),
        ("trustDomain", id) => id.trust_domain().map(Value::from),
        // namespaces of another trust domain are not Kubernetes namespaces of this cluster
        ("namespace" | "serviceAccount", _) if !caller.is_own_workload() => None,
        ("namespace", PrincipalId::Workload { namespace, .. }) => Some(text(namespace)),
        ("serviceAccount", PrincipalId::Workload { service_account, .. }) => Some(text(service_account)),
        ("subject", id) if id.is_workload() && !caller.is_own_workload() => Some(path(id).into()),
        ("subject", PrincipalId::User { subject: name, .. })
        | ("subject", PrincipalId::Key { name, .. })
        | ("subject", PrincipalId::Kube { username: name }) => Some(text(name)),
        ("groups", _) => Some(texts(&mut caller.groups.iter().map(String::as_str))),
        ("attributes", _) => Some(json_object(&caller.attributes)),
        ("scopes", _) => Some(texts(&mut caller.scopes.iter().flatten().map(Scope::as_str))),
        ("assurance", _) => Some(caller.assurance.as_str().into()),
        ("authenticatedAt", _) => caller.authenticated_at.map(|at| Value::Timestamp(at.fixed_offset())),
        _ => None,
    }
}

fn cel_map(entries: impl Iterator<Item = (cel::objects::Key, Value)>) -> Value {
    Value::Map(cel::objects::Map { map: Arc::new(entries.collect()) })
}

fn json_object(object: &serde_json::Map<String, serde_json::Value>) -> Value {
    cel_map(object.iter().map(|(name, value)| (name.as_str().into(), json(value))))
}

/// A JSON value in CEL. Whole numbers become `int` and others `double`, as in CEL's own conversion from JSON.
fn json(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(truth) => Value::Bool(*truth),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Value::Int(whole),
            (None, Some(real)) => Value::Float(real),
            (None, None) => Value::Null,
        },
        serde_json::Value::String(text) => text.as_str().into(),
        serde_json::Value::Array(items) => items.iter().map(json).collect::<Vec<_>>().into(),
        serde_json::Value::Object(object) => json_object(object),
    }
}
