//! The policies of a cluster as they are now, read once with the rights of whoever asks.

use durward_api::catalog::{Catalog, CatalogChange};
use durward_api::compile::ClusterDomains;
use durward_api::field_error::FieldError;
use durward_api::resources::{AccessPolicy, Approval, IdentityProvider, Relationship};
use durward_api::translation::{self, CatalogResource, ObjectVersion, unverified_grant};
use durward_kubernetes::requests::brief;
use durward_runtime::Failure;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::{ApiResource, PartialObjectMeta};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;

/// Objects that are asked for at once.
const PAGE: u32 = 500;

/// Reads all policies, relationships, approvals and the annotations of Namespaces; returns them with the mistakes that were
/// found. Approvals are taken as their objects say: who reads them has no key by which to verify them.
///
/// # Errors
/// When the API server can't be asked, or refuses.
pub async fn read(client: Client, settings: ClusterDomains) -> Result<(Catalog, Vec<String>), Failure> {
    let mut catalog = Catalog::new(settings);
    let mut changes = Vec::new();
    let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(client.clone());
    for namespace in all(&namespaces, "namespaces").await? {
        changes.extend(translation::namespace(&namespace.metadata));
    }
    changes.extend(versions::<AccessPolicy>(&client, "accesspolicies.durward.dev").await?);
    changes.extend(versions::<Relationship>(&client, "relationships.durward.dev").await?);
    let mut problems = Vec::new();
    // a user who may read policies need not be allowed to read providers or approvals
    match versions::<IdentityProvider>(&client, "identityproviders.durward.dev").await {
        Ok(found) => changes.extend(found),
        Err(error) => {
            problems.push(format!("{error}; conditions that read a header with API keys are not reported as rejected"));
        }
    }
    let approvals: Api<DynamicObject> = Api::all_with(client, &ApiResource::erase::<Approval>(&()));
    match all(&approvals, "approvals.durward.dev").await {
        Ok(found) => {
            let found = found.into_iter().filter_map(|object| object.try_parse::<Approval>().ok());
            let granted = found.filter_map(|approval| unverified_grant(&approval));
            changes.extend(granted.flat_map(|granted| translation::approval(None, Some(granted))));
        }
        Err(error) => {
            problems.push(format!("{error}; an operation that was approved is told as one that waits for it"))
        }
    }
    let fates = catalog.apply(changes).into_iter().map(|(key, fate)| (key.to_string(), fate));
    let related = catalog.relationships().filter_map(|key| Some((key.to_string(), catalog.relationship_status(key)?)));
    problems.extend(fates.chain(related).flat_map(|(key, fate)| {
        let errors: Vec<FieldError> = fate.rejected.map(|rejection| rejection.errors).unwrap_or_default();
        errors.into_iter().map(move |error| format!("{key}: {error}"))
    }));
    Ok((catalog, problems))
}

/// The changes for all objects of a kind.
async fn versions<R>(client: &Client, what: &str) -> Result<Vec<CatalogChange>, Failure>
where
    R: CatalogResource + Resource<DynamicType = ()>,
{
    let objects: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::erase::<R>(&()));
    let versions = all(&objects, what).await?.into_iter().filter_map(ObjectVersion::<R>::from_dynamic);
    Ok(versions.flat_map(ObjectVersion::into_changes).collect())
}

async fn all<K>(api: &Api<K>, what: &str) -> Result<Vec<K>, Failure>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut found = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = api.list(&page).await.map_err(|error| format!("can't list {what}: {}", brief(&error)))?;
        found.extend(list.items);
        match list.metadata.continue_.filter(|more| !more.is_empty()) {
            Some(more) => page = page.continue_token(&more),
            None => return Ok(found),
        }
    }
}
