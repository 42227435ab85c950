//! Users of the Kubernetes API, as the API server authenticated them.

use chrono::{DateTime, Utc};
use durward_core::principal::{Identity, Principal, PrincipalId};
use durward_core::risk::Assurance;
use k8s_openapi::api::authentication::v1::UserInfo;

/// Extra attribute in which the API server names the credential: `X509SHA256=…` for a client certificate, `JTI=…` for
/// a token (Kubernetes 1.32 and later, KEP-4193).
pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
/// Extra attribute with a person's second factor: `MultiFactor` or `PhishingResistant`. The cluster's structured
/// authentication configuration maps it from a claim of the person's token.
pub const FACTOR: &str = "durward.dev/assurance";
/// Extra attribute with the time of the second factor, in seconds since 1970 (the claim `auth_time`).
pub const FACTOR_TIME: &str = "durward.dev/auth-time";
/// Name of callers that are not authenticated.
const ANONYMOUS: &str = "system:anonymous";
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// The principal of a user of the Kubernetes API; `None` for an anonymous user.
///
/// Extra attributes are as trustworthy as the API server's configuration, and the users with rights to impersonate.
#[must_use]
pub fn kubernetes_user(trust_domain: &str, user: &UserInfo) -> Option<Principal> {
    let name = user.username.as_deref().filter(|name| !name.is_empty() && *name != ANONYMOUS)?;
    let service_account = name.strip_prefix(SERVICE_ACCOUNT).and_then(|name| name.split_once(':'));
    let id = match service_account {
        Some((namespace, name)) => PrincipalId::workload(trust_domain, namespace, name),
        None => PrincipalId::kube(name),
    };
    let (assurance, authenticated_at) = assurance(user);
    let id = id.ok()?;
    Some(Principal::authenticated(Identity {
        groups: user.groups.iter().flatten().cloned().collect(),
        authenticated_at,
        ..Identity::new(id, assurance)
    }))
}

fn assurance(user: &UserInfo) -> (Assurance, Option<DateTime<Utc>>) {
    let extra = |name: &str| match user.extra.as_ref().and_then(|extra| extra.get(name)).map(Vec::as_slice) {
        // with several values, it is unknown which one is the caller's
        Some([only]) => Some(only.as_str()),
        _ => None,
    };
    let factor = match extra(FACTOR) {
        Some("PhishingResistant") => Some(Assurance::PhishingResistant),
        Some("MultiFactor") => Some(Assurance::MultiFactor),
        _ => None,
    };
    let at = extra(FACTOR_TIME).and_then(|text| DateTime::from_timestamp(text.parse().ok()?, 0));
    match (factor, extra(CREDENTIAL_ID)) {
        (Some(factor), _) => (factor, at),
        (None, Some(credential)) if credential.starts_with("X509SHA256=") => (Assurance::ProofOfPossession, None),
        (None, _) => (Assurance::Bearer, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, extra: &[(&str, &[&str])]) -> Option<Principal> {
        let extra =
            extra.iter().map(|(name, values)| ((*name).to_owned(), values.iter().map(|v| (*v).to_owned()).collect()));
        kubernetes_user(
            "cluster.local",
            &UserInfo {
                username: Some(name.to_owned()),
                groups: Some(vec!["dev".to_owned()]),
                extra: Some(extra.collect()),
                ..UserInfo::default()
            },
        )
    }

    fn assurance_of(extra: &[(&str, &[&str])]) -> Assurance {
        user("alice", extra).expect("a principal").identity().assurance
    }

    #[test]
    fn users_have_the_ids_that_policies_name() {
        let id = |name| user(name, &[]).map(|principal| principal.identity().id.to_string());
        assert_eq!(id("alice").as_deref(), Some("kube:alice"));
        assert_eq!(
            id("system:serviceaccount:shop:orders").as_deref(),
            Some("spiffe://cluster.local/ns/shop/sa/orders")
        );
        assert_eq!(id("system:anonymous"), None);
        assert_eq!(id(""), None);
        assert_eq!(id("system:serviceaccount:../..:orders"), None, "a namespace can't contain path segments");
    }

    #[test]
    fn extra_attributes_determine_the_assurance() {
        assert_eq!(assurance_of(&[]), Assurance::Bearer);
        assert_eq!(assurance_of(&[(CREDENTIAL_ID, &["X509SHA256=ab"])]), Assurance::ProofOfPossession);
        assert_eq!(assurance_of(&[(CREDENTIAL_ID, &["JTI=ab"])]), Assurance::Bearer);
        assert_eq!(assurance_of(&[(FACTOR, &["MultiFactor"])]), Assurance::MultiFactor);
        let both: &[&str] = &["MultiFactor", "PhishingResistant"];
        assert_eq!(assurance_of(&[(FACTOR, both)]), Assurance::Bearer, "two values are ignored");
        assert_eq!(assurance_of(&[(FACTOR, &["multifactor"])]), Assurance::Bearer);
    }
}
