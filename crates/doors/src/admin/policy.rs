//! The policy of the admin listener.

use durward_api::compile::{ClusterDomains, compile};
use durward_api::ownership::ADMIN_AUDIENCE;
use durward_core::authentication::AuthenticationMethod;
use durward_core::policy::{CompiledOperation, EnforcementMode, Policy};
use durward_core::risk::RiskLevel;
use durward_core::service::PolicyUnion;
use durward_core::snapshot::Snapshot;
use durward_manifests::files::read_text;
use durward_manifests::manifest::{self, ManifestContents, ManifestResource};
use std::path::Path;
use std::sync::Arc;
use thiserror::Error;

const BUILT_IN: &str = include_str!("policy.yaml");

/// The policy of the admin listener. It belongs to no namespace, so no user of the cluster can change it.
#[derive(Debug, Clone)]
pub struct AdminPolicy(pub(super) Arc<Snapshot>);

/// The admin listener's policy is unusable.
#[derive(Debug, Error)]
#[error("the admin listener's policy in {origin} can't be used: {problem}")]
pub struct AdminPolicyError {
    /// The file, or the built-in policy.
    origin: String,
    problem: AdminPolicyProblem,
}

#[derive(Debug, Error)]
enum AdminPolicyProblem {
    #[error("it {0}")]
    Unreadable(String),
    #[error("{0}")]
    Malformed(String),
    #[error("the file must hold one AccessPolicy and nothing else")]
    NotOnePolicy,
    #[error("{0}")]
    Invalid(String),
    #[error("`spec.service.audience` has to be `{ADMIN_AUDIENCE}`")]
    Audience,
    #[error("`spec.authentication` has to be `[{{workload: {{}}}}]`: certificates and service-account tokens")]
    AuthenticationMethods,
    #[error("`spec.mode` has to be `Enforce`")]
    Mode,
    #[error("operation `{0}` is public, or changes something without `risk: High`")]
    UnsafeOperation(String),
}

impl AdminPolicy {
    /// Reads the policy from a file, or the built-in one.
    ///
    /// # Errors
    /// The file can't be read or compiled, or the policy would admit callers that must not administer.
    pub fn read(file: Option<&Path>, domains: &ClusterDomains) -> Result<Self, AdminPolicyError> {
        let origin = file.map_or("the built-in policy".to_owned(), |file| file.display().to_string());
        match read(file, &origin, domains) {
            Ok(snapshot) => Ok(Self(Arc::new(snapshot))),
            Err(problem) => Err(AdminPolicyError { origin, problem }),
        }
    }
}

fn read(file: Option<&Path>, origin: &str, domains: &ClusterDomains) -> Result<Snapshot, AdminPolicyProblem> {
    let text = match file {
        None => BUILT_IN.to_owned(),
        Some(file) => read_text(file).map_err(|error| AdminPolicyProblem::Unreadable(error.to_string()))?,
    };
    let ManifestContents { mut documents, problems, .. } = manifest::read(origin, &text);
    if let Some(problem) = problems.first() {
        return Err(AdminPolicyProblem::Malformed(problem.to_string()));
    }
    let resource = match (documents.pop().map(|document| document.resource), documents.len()) {
        (Some(ManifestResource::Policy(policy)), 0) => policy,
        _ => return Err(AdminPolicyProblem::NotOnePolicy),
    };
    let policy = compile(&resource, domains).map_err(|errors| {
        AdminPolicyProblem::Invalid(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    })?;
    check(&policy)?;
    let digest = policy.digest;
    let mut union = PolicyUnion::default();
    union.add(Arc::new(policy)).map_err(|conflict| AdminPolicyProblem::Invalid(conflict.to_string()))?;
    let mut snapshot = Snapshot::default();
    union.unite().into_iter().for_each(|service| snapshot.put(service));
    snapshot.record("AccessPolicy", Some(digest));
    snapshot.update_revision();
    Ok(snapshot)
}

/// Checks that the policy admits workloads alone, and that changes need a second factor.
fn check(policy: &Policy) -> Result<(), AdminPolicyProblem> {
    if &*policy.audience != ADMIN_AUDIENCE {
        return Err(AdminPolicyProblem::Audience);
    }
    if *policy.authentication_methods != [AuthenticationMethod::Workload] {
        return Err(AdminPolicyProblem::AuthenticationMethods);
    }
    if policy.mode != EnforcementMode::Enforce {
        return Err(AdminPolicyProblem::Mode);
    }
    match policy.operations.iter().find(|operation| is_unsafe(operation)) {
        Some(operation) => Err(AdminPolicyProblem::UnsafeOperation(operation.name.to_string())),
        None => Ok(()),
    }
}

fn is_unsafe(operation: &CompiledOperation) -> bool {
    let only_reads =
        operation.matches.iter().all(|one| one.method.as_ref().is_some_and(|method| method.as_str() == "GET"));
    operation.public || !(only_reads || operation.risk == RiskLevel::High)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn read(text: &str) -> Result<(), String> {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        let domains =
            ClusterDomains { trust_domain: "cluster.local".to_owned(), cluster_domain: "cluster.local".to_owned() };
        AdminPolicy::read(Some(file.path()), &domains).map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn admin_policies_for_other_callers_are_rejected() {
        let good = BUILT_IN;
        assert!(read(good).is_ok());
        let changed = |from: &str, to: &str| {
            assert!(good.contains(from), "{from}");
            good.replacen(from, to, 1)
        };
        for (text, why) in [
            (changed("audience: durward-admin", "audience: orders"), "has to be `durward-admin`"),
            (changed("[{workload: {}}]", "[{workload: {}}, {provider: corporate}]"), "service-account tokens"),
            (changed("[{workload: {}}]", "[]"), "service-account tokens"),
            (changed("spec:", "spec:\n  mode: Audit"), "has to be `Enforce`"),
            (changed("methods: [GET], paths: [/snapshot]", "methods: [POST], paths: [/snapshot]"), "`read-snapshot`"),
            (changed("methods: [GET], paths: [/snapshot]", "methods: [\"*\"], paths: [/snapshot]"), "`read-snapshot`"),
            (changed("scopes: [admin.read]}", "public: true}"), "`read-snapshot`"),
            (changed("kind: AccessPolicy", "sort: AccessPolicy"), "can't be used"),
            ("{".to_owned(), "can't be used"),
        ] {
            let error = read(&text).expect_err(why);
            assert!(error.contains(why), "{why}: {error}");
        }
        assert!(
            read(&changed("methods: [GET], paths: [/snapshot]}], ", "methods: [POST], paths: [/x]}], risk: High, "))
                .is_ok()
        );
    }
}
