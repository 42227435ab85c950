//! Candidates for searches of objects or subjects. Each candidate still has to be decided.

use super::tuple::kind_of;
use super::tuples::{PRINCIPAL, TupleIndex};
use crate::principal::PrincipalId;
use std::collections::BTreeSet;

impl TupleIndex {
    /// Every object of a type that some tuple contains, in order.
    #[must_use]
    pub fn objects_of(&self, kind: &str) -> Vec<&str> {
        let mut found: Vec<&str> =
            self.names.all().map(|(text, _)| text).filter(|text| text.contains(':') && kind_of(text) == kind).collect();
        found.sort_unstable();
        found
    }

    /// Every principal that some tuple contains, in order.
    #[must_use]
    pub fn principals(&self) -> Vec<PrincipalId> {
        let named: BTreeSet<_> = self.index.keys().filter(|key| key.kind == PRINCIPAL).map(|key| key.subject).collect();
        let mut found: Vec<PrincipalId> =
            named.into_iter().filter_map(|name| self.names.text(name).parse().ok()).collect();
        found.sort_unstable();
        found
    }
}
