//! Namespace and name of a Kubernetes object.

use std::fmt;
use std::sync::Arc;

/// Namespace and name of a namespaced Kubernetes object; the kind follows from where the name is used.
///
/// The order is by namespace, then by name. The text is `<namespace>/<name>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespacedName {
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Name of the object.
    pub name: Arc<str>,
}

impl NamespacedName {
    /// The object `name` in `namespace`.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
