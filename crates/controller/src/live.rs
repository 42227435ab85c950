//! The policies of a cluster as they are now, read once with the rights of whoever asks.

use crate::decode;
use durward_api::catalog::{Catalog, Change, key_of};
use durward_api::compile::{FieldError, Settings};
use durward_api::relationships::RelationshipKey;
use durward_api::resources::{AccessPolicy, Approval, Relationship};
use durward_approvals::stated;
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
pub async fn read(client: Client, settings: Settings) -> Result<(Catalog, Vec<String>), Failure> {
    let mut catalog = Catalog::new(settings);
    let mut changes = Vec::new();
    let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(client.clone());
    for namespace in all(&namespaces, "namespaces").await? {
        let name = namespace.metadata.name.unwrap_or_default();
        changes.push(Change::NamespaceLabels(name.clone(), Some(namespace.metadata.labels.unwrap_or_default())));
        changes.push(Change::Namespace(name, Some(namespace.metadata.annotations.unwrap_or_default())));
    }
    let policies: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::erase::<AccessPolicy>(&()));
    for object in all(&policies, "accesspolicies.durward.dev").await? {
        let Some(key) = key_of(&object.metadata) else { continue };
        let remembered = decode::remembered(&key, &object);
        changes.push(match decode::spec(&object) {
            Ok(spec) => Change::Policy(Box::new(AccessPolicy { metadata: object.metadata, spec, status: None })),
            Err(error) => Change::Unreadable(key, error),
        });
        changes.extend(remembered);
    }
    let relationships: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::erase::<Relationship>(&()));
    for object in all(&relationships, "relationships.durward.dev").await? {
        let Some(key) = RelationshipKey::of(&object.metadata) else { continue };
        let remembered = decode::remembered_tuples(&key, &object);
        changes.push(match decode::spec(&object) {
            Ok(spec) => Change::Relationship(Box::new(Relationship { metadata: object.metadata, spec, status: None })),
            Err(error) => Change::UnreadableRelationship(key, error),
        });
        changes.extend(remembered);
    }
    let approvals: Api<DynamicObject> = Api::all_with(client, &ApiResource::erase::<Approval>(&()));
    let mut problems = Vec::new();
    match all(&approvals, "approvals.durward.dev").await {
        Ok(found) => {
            let found = found.into_iter().filter_map(|object| object.try_parse::<Approval>().ok());
            let given = found.filter_map(|approval| stated(&approval));
            changes.extend(given.map(|(matter, given)| Change::Approval(matter, Some(given))));
        }
        // who may read policies need not see who approved what
        Err(error) => {
            problems.push(format!("{error}; an operation that was approved is told as one that waits for it"))
        }
    }
    let fates = catalog.apply(changes).into_iter().map(|(key, fate)| (key.to_string(), fate));
    let related = catalog.relationships().filter_map(|key| Some((key.to_string(), catalog.relationship_fate(key)?)));
    problems.extend(fates.chain(related).flat_map(|(key, fate)| {
        let errors: Vec<FieldError> = fate.rejected.map(|rejection| rejection.errors).unwrap_or_default();
        errors.into_iter().map(move |error| format!("{key}: {error}"))
    }));
    Ok((catalog, problems))
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
