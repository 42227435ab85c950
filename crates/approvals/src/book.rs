//! Which approvals are known, and what a change of one means for decisions.

use crate::Seal;
use durward_api::catalog::CatalogChange;
use durward_api::resources::Approval;
use durward_core::approval::ApprovalSubject;
use std::sync::Arc;

/// Namespace and name.
pub type Name = (String, String);
/// All objects that are known. Clones share it.
pub type Known = imbl::OrdMap<Name, Arc<Approval>>;
/// Those that were given here, whether they still count or not. Clones share it.
pub type Given = imbl::OrdMap<Name, (ApprovalSubject, Arc<Approval>)>;

/// The approvals that there are.
#[derive(Debug)]
pub struct Book {
    seal: Seal,
    known: Known,
    given: Given,
}

impl Book {
    pub fn new(seal: Seal) -> Self {
        Self { seal, known: Known::new(), given: Given::new() }
    }

    pub fn known(&self) -> &Known {
        &self.known
    }

    pub fn given(&self) -> &Given {
        &self.given
    }

    /// An object is there, new or changed.
    pub fn put(&mut self, name: Name, approval: Approval) -> Option<CatalogChange> {
        if self.known.get(&name).is_some_and(|known| **known == approval) {
            return None;
        }
        let given = self.seal.given(&approval);
        if given.is_none()
            && approval.status.as_ref().is_some_and(|status| status.signature.is_some())
            && !self.seal.holds(&approval)
        {
            tracing::warn!(
                namespace = name.0,
                name = name.1,
                "an Approval says what was not decided here; it counts for nothing"
            );
        }
        let approval = Arc::new(approval);
        self.known.insert(name.clone(), Arc::clone(&approval));
        match given {
            Some((matter, given)) => {
                self.given.insert(name, (matter.clone(), approval));
                Some(CatalogChange::Approval(matter, Some(given)))
            }
            None => self.given.remove(&name).map(|(matter, _)| CatalogChange::Approval(matter, None)),
        }
    }

    /// An object is gone.
    pub fn gone(&mut self, name: &Name) -> Option<CatalogChange> {
        self.known.remove(name);
        self.given.remove(name).map(|(matter, _)| CatalogChange::Approval(matter, None))
    }

    /// What is known is exactly this.
    pub fn replace(&mut self, all: Vec<Approval>) -> Vec<CatalogChange> {
        let name = |approval: &Approval| {
            let meta = &approval.metadata;
            Some((meta.namespace.clone()?, meta.name.clone()?))
        };
        let present: Known =
            all.iter().filter_map(|approval| Some((name(approval)?, Arc::new(approval.clone())))).collect();
        let gone: Vec<Name> = self.known.keys().filter(|name| !present.contains_key(*name)).cloned().collect();
        let gone: Vec<CatalogChange> = gone.iter().filter_map(|name| self.gone(name)).collect();
        let put = all.into_iter().filter_map(|approval| self.put(name(&approval)?, approval));
        put.chain(gone).collect()
    }
}
