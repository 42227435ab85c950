//! Hosts, audiences and OpenFGA stores that a namespace may claim, so that no namespace can claim the names of another.

use crate::compile::ClusterDomains;
use crate::field_error::FieldError;
use crate::resources::{ALLOWED_AUDIENCES, ALLOWED_HOSTS, ALLOWED_OPENFGA_STORES};
use durward_core::host::Host;
use durward_core::policy::Policy;
use durward_core::relations::RelationBackend;
use std::collections::{BTreeMap, BTreeSet};

/// Audience of the admin listener. No annotation lets a namespace claim it: a token for it grants administration.
pub const ADMIN_AUDIENCE: &str = "durward-admin";

/// What a namespace may claim beyond its own names, set by cluster admins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowance {
    hosts: BTreeSet<String>,
    audiences: BTreeSet<String>,
    stores: BTreeSet<String>,
}

impl Allowance {
    /// Reads the annotations of a Namespace.
    #[must_use]
    pub fn from_annotations(annotations: Option<&BTreeMap<String, String>>) -> Self {
        let list = |name: &str| -> BTreeSet<String> {
            let text = annotations.and_then(|all| all.get(name)).map(String::as_str).unwrap_or_default();
            text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(ToOwned::to_owned).collect()
        };
        Self {
            hosts: list(ALLOWED_HOSTS).iter().map(|host| host.trim_end_matches('.').to_ascii_lowercase()).collect(),
            audiences: list(ALLOWED_AUDIENCES),
            stores: list(ALLOWED_OPENFGA_STORES),
        }
    }

    /// Whether the host is listed, or `*.` with its parent domain: the star stands for exactly one label.
    fn has_host(&self, host: &str) -> bool {
        self.hosts.contains(host)
            || host.split_once('.').is_some_and(|(_, parent)| self.hosts.contains(&format!("*.{parent}")))
    }
}

/// Mistakes for what the policy claims and its namespace does not own.
#[must_use]
pub fn unowned(policy: &Policy, allowance: &Allowance, domains: &ClusterDomains) -> Vec<FieldError> {
    let namespace = &policy.key.namespace;
    let mut errors = Vec::new();
    let hosts =
        policy.hosts.iter().map(Host::as_str).enumerate().map(|(i, host)| (format!("spec.service.hosts[{i}]"), host));
    // a certificate claims a name just as a policy does
    let names = policy.pods.iter().flat_map(|pods| &pods.dns_names).enumerate();
    let names = names.map(|(i, name)| (format!("spec.identity.dnsNames[{i}]"), name.as_ref()));
    for (field, host) in hosts.chain(names) {
        if !is_own_name(host, namespace, &domains.cluster_domain) && !allowance.has_host(host) {
            errors.push(FieldError {
                field,
                message: format!(
                    "namespace `{namespace}` does not own host `{host}`: use a name of its own (`NAME.{namespace}.svc`), or \
                     have a cluster admin annotate the Namespace with `{ALLOWED_HOSTS}: {host}`"
                ),
            });
        }
    }
    if &*policy.audience == ADMIN_AUDIENCE {
        let message = format!("`{ADMIN_AUDIENCE}` is reserved for Durward's own administration: use another audience");
        errors.push(FieldError { field: "spec.service.audience".to_owned(), message });
        return errors;
    }
    let default = format!("{}.{namespace}", policy.key.name);
    if *policy.audience != *default && !allowance.audiences.contains(policy.audience.as_ref()) {
        errors.push(FieldError {
            field: "spec.service.audience".to_owned(),
            message: format!(
                "namespace `{namespace}` does not own audience `{}`: remove it to get `{default}`, or have a cluster admin \
                 annotate the Namespace with `{ALLOWED_AUDIENCES}: {}`",
                policy.audience, policy.audience
            ),
        });
    }
    if let RelationBackend::OpenFga(reference) = &policy.relation_engine
        && !allowance.stores.contains(reference.store.as_str())
    {
        errors.push(FieldError {
            field: "spec.relationEngine.openfga.store".to_owned(),
            message: format!(
                "namespace `{namespace}` may not use store `{0}`: have a cluster admin annotate the Namespace with \
                 `{ALLOWED_OPENFGA_STORES}: {0}`",
                reference.store
            ),
        });
    }
    errors
}

/// Whether a host is a Service name of the namespace: `<service>.<ns>.svc` or `<service>.<ns>.svc.<cluster-domain>`.
/// `<service>.<ns>` is none: a namespace called `com` would own `google.com`.
pub(crate) fn is_own_name(host: &str, namespace: &str, cluster_domain: &str) -> bool {
    let rest = host.split_once('.').and_then(|(_, rest)| rest.strip_prefix(namespace)?.strip_prefix(".svc"));
    rest.is_some_and(|domain| domain.is_empty() || domain.strip_prefix('.') == Some(cluster_domain))
}
