//! Helpers to write resources and to describe their status.

use durward_api::catalog::{Catalog, CatalogChange, PolicyStatus, RejectionReason};
use durward_api::compile::{ClusterDomains, compile};
use durward_api::field_error::FieldError;
use durward_api::resources::{ALLOWED_AUDIENCES, ALLOWED_HOSTS, AccessPolicy, LastGood};
use durward_core::decision::Decision;
use durward_core::namespaced_name::NamespacedName;
use durward_core::policy::Policy;
use durward_core::request::{Call, Request, ServiceTarget};
use durward_core::snapshot::Snapshot;
use std::collections::BTreeMap;

pub fn settings() -> ClusterDomains {
    ClusterDomains { trust_domain: "td.example".into(), cluster_domain: "cluster.local".into() }
}

/// The policy `shop/orders` with this spec, written in YAML.
pub fn resource(spec: &str) -> AccessPolicy {
    named("shop/orders", 0, spec)
}

/// A policy by namespace and name, created `age` seconds after the start of 2026.
pub fn named(key: &str, age: i64, spec: &str) -> AccessPolicy {
    let (namespace, name) = key.split_once('/').unwrap();
    let created = chrono::DateTime::from_timestamp(1_767_225_600 + age, 0).unwrap().to_rfc3339();
    let indented: String = spec.trim_end().lines().map(|line| format!("  {line}\n")).collect();
    let spec = if indented.trim().is_empty() { "spec: {}\n".to_owned() } else { format!("spec:\n{indented}") };
    let text = format!(
        "apiVersion: durward.dev/v1alpha1\nkind: AccessPolicy\nmetadata:\n  name: {name}\n  namespace: {namespace}\n  \
         creationTimestamp: \"{created}\"\n{spec}"
    );
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

pub fn key(text: &str) -> NamespacedName {
    let (namespace, name) = text.split_once('/').unwrap();
    NamespacedName { namespace: namespace.into(), name: name.into() }
}

pub fn compiled(spec: &str) -> Policy {
    compile(&resource(spec), &settings()).unwrap_or_else(|errors| panic!("{errors:#?}\n{spec}"))
}

/// Each mistake as `field: message`.
pub fn mistakes(policy: &AccessPolicy) -> Vec<String> {
    compile(policy, &settings()).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

/// A policy with one public operation at `GET /<path>` and these hosts.
pub fn serving(name: &str, age: i64, path: &str, hosts: &str) -> AccessPolicy {
    named(name, age, &spec(path, &format!("{{hosts: [{hosts}]}}")))
}

/// Same as [`serving`], with an audience.
pub fn serving_as(name: &str, age: i64, path: &str, audience: &str) -> AccessPolicy {
    named(name, age, &spec(path, &format!("{{audience: {audience}}}")))
}

fn spec(path: &str, service: &str) -> String {
    format!(
        "service: {service}\noperations:\n- {{name: {path}, http: [{{methods: [GET], paths: [/{path}]}}], public: true}}\n"
    )
}

/// A policy that does not compile.
pub fn invalid(name: &str, age: i64) -> AccessPolicy {
    named(name, age, "operations: [{name: nothing}]")
}

/// A catalog that describes the status of its policies as text.
pub struct World(pub Catalog);

impl World {
    pub fn new() -> Self {
        Self(Catalog::new(settings()))
    }

    pub fn of(policies: impl IntoIterator<Item = AccessPolicy>) -> Self {
        let mut world = Self::new();
        world.put(policies);
        world
    }

    pub fn apply(&mut self, changes: impl IntoIterator<Item = CatalogChange>) -> Vec<String> {
        let mut statuses: Vec<String> =
            self.0.apply(changes).iter().map(|(key, status)| describe(key, status)).collect();
        statuses.sort();
        statuses
    }

    pub fn put(&mut self, policies: impl IntoIterator<Item = AccessPolicy>) -> Vec<String> {
        self.apply(policies.into_iter().map(|policy| CatalogChange::PolicyApplied(Box::new(policy))))
    }

    pub fn take(&mut self, name: &str) -> Vec<String> {
        self.apply([CatalogChange::PolicyDeleted(key(name))])
    }

    pub fn annotate(&mut self, namespace: &str, hosts: &str, audiences: &str) -> Vec<String> {
        self.apply([annotated(namespace, hosts, audiences)])
    }

    pub fn statuses(&self) -> Vec<String> {
        let mut statuses: Vec<String> = self.0.policy_statuses().map(|(key, status)| describe(key, &status)).collect();
        statuses.sort();
        statuses
    }

    /// The mistakes for which a policy was rejected.
    pub fn errors(&self, name: &str) -> Vec<String> {
        let (_, status) = self.0.policy_statuses().find(|(found, _)| **found == key(name)).expect(name);
        status.rejected.into_iter().flat_map(|rejection| rejection.errors).map(|error| error.to_string()).collect()
    }

    pub fn snapshot(&self) -> &Snapshot {
        self.0.snapshot()
    }

    pub fn revision(&self) -> String {
        self.snapshot().revision().to_string()
    }

    /// The policy that answers `GET http://<host>/<path>`, or the reason why none does.
    pub fn answers(&self, host_and_path: &str) -> String {
        let decision = self.decides(host_and_path);
        decision.policy.map_or_else(|| decision.reason.to_string(), |key| key.to_string())
    }

    /// Why `GET http://<host>/<path>` is decided as it is.
    pub fn reason(&self, host_and_path: &str) -> String {
        self.decides(host_and_path).reason.to_string()
    }

    fn decides(&self, host_and_path: &str) -> Decision {
        let (host, path) = host_and_path.split_once('/').unwrap();
        let path = format!("/{path}");
        let request = Request {
            target: ServiceTarget::Host(host),
            call: Call::Http { method: "GET", path: &path },
            source: None,
            evidence: &(),
        };
        self.snapshot().decide(None, &request, chrono::DateTime::UNIX_EPOCH)
    }
}

pub fn annotated(namespace: &str, hosts: &str, audiences: &str) -> CatalogChange {
    let annotations = [(ALLOWED_HOSTS, hosts), (ALLOWED_AUDIENCES, audiences)];
    let annotations: BTreeMap<_, _> = annotations.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    CatalogChange::NamespaceAnnotations(namespace.to_owned(), Some(annotations))
}

/// The record of a policy's last good version; `age` as in [`named`].
pub fn last_good_record(name: &str, age: i64, good: LastGood) -> CatalogChange {
    CatalogChange::PolicyLastGood(key(name), 1_767_225_600 + age, Box::new(good))
}

pub fn undecodable(name: &str) -> CatalogChange {
    CatalogChange::PolicyUndecodable(
        key(name),
        FieldError { field: "spec".to_owned(), message: "can't be read".to_owned() },
    )
}

fn describe(key: &NamespacedName, status: &PolicyStatus) -> String {
    let rejected = status.rejected.as_ref().map(|rejection| rejection.reason);
    let state = match (rejected.map(RejectionReason::as_str), status.in_force) {
        (None, true) if status.closed => "in a closed service".to_owned(),
        (None, true) => "in force".to_owned(),
        (None, false) => "placeholder".to_owned(),
        (Some(reason), true) => format!("{reason}, an earlier version in force"),
        (Some(reason), false) if status.closed => format!("{reason}, closed"),
        (Some(reason), false) => format!("{reason}, nothing in force"),
    };
    format!("{key}: {state}")
}
