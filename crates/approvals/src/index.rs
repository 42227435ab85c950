//! Which approvals exist, and what a change of one means for decisions.

use crate::ApprovalSeal;
use durward_api::catalog::CatalogChange;
use durward_api::resources::Approval;
use durward_core::approval::ApprovalSubject;
use std::sync::Arc;

/// Namespace and name of an `Approval`.
pub type ApprovalKey = (String, String);
/// All objects that exist. Clones share the entries.
pub type ApprovalObjects = imbl::OrdMap<ApprovalKey, Arc<Approval>>;
/// The objects with a valid signature of a grant, expired ones included. Clones share the entries.
pub type GrantedApprovals = imbl::OrdMap<ApprovalKey, (ApprovalSubject, Arc<Approval>)>;

/// The approvals that exist, and the grants among them.
#[derive(Debug)]
pub struct ApprovalIndex {
    seal: ApprovalSeal,
    objects: ApprovalObjects,
    grants: GrantedApprovals,
}

impl ApprovalIndex {
    pub fn new(seal: ApprovalSeal) -> Self {
        Self { seal, objects: ApprovalObjects::new(), grants: GrantedApprovals::new() }
    }

    pub fn objects(&self) -> &ApprovalObjects {
        &self.objects
    }

    pub fn grants(&self) -> &GrantedApprovals {
        &self.grants
    }

    /// Adds or replaces an object.
    pub fn insert(&mut self, key: ApprovalKey, approval: Approval) -> Option<CatalogChange> {
        if self.objects.get(&key).is_some_and(|current| **current == approval) {
            return None;
        }
        let grant = self.seal.grant(&approval);
        let signed = approval.status.as_ref().is_some_and(|status| status.signature.is_some());
        if grant.is_none() && signed && !self.seal.verifies(&approval) {
            tracing::warn!(
                namespace = key.0,
                name = key.1,
                "the signature of an Approval is not valid; ignoring its decision"
            );
        }
        let approval = Arc::new(approval);
        self.objects.insert(key.clone(), Arc::clone(&approval));
        match grant {
            Some((subject, granted)) => {
                self.grants.insert(key, (subject.clone(), approval));
                Some(CatalogChange::Approval(subject, Some(granted)))
            }
            None => self.remove_grant(&key),
        }
    }

    /// Removes an object.
    pub fn remove(&mut self, key: &ApprovalKey) -> Option<CatalogChange> {
        self.objects.remove(key);
        self.remove_grant(key)
    }

    fn remove_grant(&mut self, key: &ApprovalKey) -> Option<CatalogChange> {
        self.grants.remove(key).map(|(subject, _)| CatalogChange::Approval(subject, None))
    }

    /// Replaces all objects.
    pub fn replace(&mut self, all: Vec<Approval>) -> Vec<CatalogChange> {
        let key = |approval: &Approval| {
            let meta = &approval.metadata;
            Some((meta.namespace.clone()?, meta.name.clone()?))
        };
        let present: ApprovalObjects =
            all.iter().filter_map(|approval| Some((key(approval)?, Arc::new(approval.clone())))).collect();
        let removed: Vec<ApprovalKey> =
            self.objects.keys().filter(|key| !present.contains_key(*key)).cloned().collect();
        let removals: Vec<CatalogChange> = removed.iter().filter_map(|key| self.remove(key)).collect();
        let insertions = all.into_iter().filter_map(|approval| self.insert(key(&approval)?, approval));
        insertions.chain(removals).collect()
    }
}
