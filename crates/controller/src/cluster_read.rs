//! Reads the policies of a cluster once, with the caller's own rights.

use durward_api::catalog::{Catalog, CatalogChange};
use durward_api::compile::ClusterDomains;
use durward_api::field_error::FieldError;
use durward_api::resources::{AccessPolicy, Approval, IdentityProvider, Relationship};
use durward_api::translation::{self, CatalogResource, ObjectVersion, unverified_grant};
use durward_kubernetes::requests::RequestError;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::{ApiResource, PartialObjectMeta};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Objects per page of a listing.
const PAGE_SIZE: u32 = 500;

/// A kind of resource can't be listed.
#[derive(Debug, Error)]
#[error("can't list {kind}: {source}")]
pub struct ClusterReadError {
    /// Plural name of the kind.
    kind: &'static str,
    source: RequestError,
}

/// Reads all policies, relationships, approvals and the annotations of Namespaces. Returns the catalog and the problems
/// that were found.
///
/// Approvals are accepted without a check of their signatures: a caller has no key to verify them with.
///
/// # Errors
/// When the API server can't be reached or rejects a request.
pub async fn read(client: Client, domains: ClusterDomains) -> Result<(Catalog, Vec<String>), ClusterReadError> {
    let mut catalog = Catalog::new(domains);
    let mut changes = Vec::new();
    let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(client.clone());
    for namespace in list(&namespaces, "namespaces").await? {
        changes.extend(translation::namespace(&namespace.metadata));
    }
    changes.extend(changes_of::<AccessPolicy>(&client, "accesspolicies.durward.dev").await?);
    changes.extend(changes_of::<Relationship>(&client, "relationships.durward.dev").await?);
    let mut problems = Vec::new();
    // a user who may read policies may lack the right to read providers or approvals
    match changes_of::<IdentityProvider>(&client, "identityproviders.durward.dev").await {
        Ok(providers) => changes.extend(providers),
        Err(error) => {
            problems.push(format!("{error}; conditions that read a header with API keys are not reported as rejected"));
        }
    }
    let approvals: Api<DynamicObject> = Api::all_with(client, &ApiResource::erase::<Approval>(&()));
    match list(&approvals, "approvals.durward.dev").await {
        Ok(approvals) => {
            let approvals = approvals.into_iter().filter_map(|object| object.try_parse::<Approval>().ok());
            let granted = approvals.filter_map(|approval| unverified_grant(&approval));
            changes.extend(granted.flat_map(|granted| translation::approval(None, Some(granted))));
        }
        Err(error) => {
            problems.push(format!("{error}; approved operations are reported as waiting for approval"));
        }
    }
    let policies = catalog.apply(changes).into_iter().map(|(key, status)| (key.to_string(), status));
    let relationships =
        catalog.relationships().filter_map(|key| Some((key.to_string(), catalog.relationship_status(key)?)));
    problems.extend(policies.chain(relationships).flat_map(|(key, status)| {
        let errors: Vec<FieldError> = status.rejected.map(|rejection| rejection.errors).unwrap_or_default();
        errors.into_iter().map(move |error| format!("{key}: {error}"))
    }));
    Ok((catalog, problems))
}

/// The changes for all objects of a kind.
async fn changes_of<R>(client: &Client, kind: &'static str) -> Result<Vec<CatalogChange>, ClusterReadError>
where
    R: CatalogResource + Resource<DynamicType = ()>,
{
    let objects: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::erase::<R>(&()));
    let versions = list(&objects, kind).await?.into_iter().filter_map(ObjectVersion::<R>::from_dynamic);
    Ok(versions.flat_map(ObjectVersion::into_changes).collect())
}

async fn list<K>(api: &Api<K>, kind: &'static str) -> Result<Vec<K>, ClusterReadError>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut objects = Vec::new();
    let mut page = ListParams::default().limit(PAGE_SIZE);
    loop {
        let list = api.list(&page).await;
        let list = list.map_err(|error| ClusterReadError { kind, source: RequestError::Api(error) })?;
        objects.extend(list.items);
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(objects),
        }
    }
}
