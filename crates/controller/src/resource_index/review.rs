//! Reviews a resource for the admission webhook: the errors and warnings that it would have if it were stored now.

use super::ResourceIndex;
use durward_api::field_error::FieldError;
use durward_api::lint::lint;
use durward_api::resources::{AccessPolicy, IdentityProvider, Relationship};
use durward_api::translation::decode_spec;
use durward_core::principal::KUBERNETES;
use durward_doors::admission::ReviewFindings;
use kube::api::DynamicObject;

impl ResourceIndex {
    pub(super) fn review(&self, kind: &str, object: &DynamicObject) -> ReviewFindings {
        if !self.unsynced.is_empty() {
            let message = "durward has not read all resources yet; try again".to_owned();
            return ReviewFindings {
                errors: vec![FieldError { field: "metadata".to_owned(), message }],
                warnings: Vec::new(),
            };
        }
        let reviewed = match kind {
            "AccessPolicy" => self.review_policy(object),
            "IdentityProvider" => self.review_provider(object),
            "Relationship" => self.review_relationship(object),
            _ => Ok(ReviewFindings::default()),
        };
        reviewed.unwrap_or_else(|error| ReviewFindings { errors: vec![error], warnings: Vec::new() })
    }

    fn review_policy(&self, object: &DynamicObject) -> Result<ReviewFindings, FieldError> {
        let policy = AccessPolicy { metadata: object.metadata.clone(), spec: decode_spec(object)?, status: None };
        let mut errors = self.catalog.review(&policy).err().map(|rejection| rejection.errors).unwrap_or_default();
        errors.extend(self.unknown_providers(&policy));
        let findings = lint(&policy, &[]).into_iter().filter(|finding| finding.silenced.is_none());
        let warnings = findings.map(Into::into).chain(self.missing_services(&policy)).collect();
        Ok(ReviewFindings { errors, warnings })
    }

    fn review_provider(&self, object: &DynamicObject) -> Result<ReviewFindings, FieldError> {
        let provider = IdentityProvider { metadata: object.metadata.clone(), spec: decode_spec(object)?, status: None };
        let others: Vec<_> =
            self.valid_providers().filter(|other| other.metadata.name != provider.metadata.name).collect();
        let errors = durward_authn::check_provider(&provider, &others, self.catalog.trust_domain());
        Ok(ReviewFindings { errors, warnings: Vec::new() })
    }

    fn review_relationship(&self, object: &DynamicObject) -> Result<ReviewFindings, FieldError> {
        let relationship = Relationship { metadata: object.metadata.clone(), spec: decode_spec(object)?, status: None };
        Ok(match self.catalog.review_relationship(&relationship) {
            Ok(warnings) => ReviewFindings { errors: Vec::new(), warnings },
            Err(errors) => ReviewFindings { errors, warnings: Vec::new() },
        })
    }

    /// Warns of hosts that name a Service which does not exist.
    fn missing_services(&self, policy: &AccessPolicy) -> Vec<FieldError> {
        let namespace = policy.metadata.namespace.as_deref().unwrap_or("default");
        let hosts = policy.spec.service.hosts.iter().enumerate();
        let missing = hosts.filter_map(|(i, host)| {
            let (service, rest) = host.split_once('.')?;
            let in_own_namespace = rest.strip_prefix(namespace)?.starts_with(".svc");
            let exists = self.services.contains(&(namespace.to_owned(), service.to_owned()));
            let message = format!("there is no Service `{service}` in namespace `{namespace}` yet");
            (in_own_namespace && !exists).then(|| FieldError { field: format!("spec.service.hosts[{i}]"), message })
        });
        missing.collect()
    }

    fn unknown_providers(&self, policy: &AccessPolicy) -> Vec<FieldError> {
        let referenced = policy.spec.providers().into_iter();
        let unknown = referenced.filter(|(_, name)| *name != KUBERNETES && !self.providers.contains_key(*name));
        unknown
            .map(|(field, name)| {
                let existing: Vec<&str> = self.providers.keys().map(String::as_str).collect();
                let existing = if existing.is_empty() {
                    "there is none yet".to_owned()
                } else {
                    format!("there are {}", existing.join(", "))
                };
                let message = format!("no IdentityProvider is called `{name}`; create it first ({existing})");
                FieldError { field, message }
            })
            .collect()
    }
}
