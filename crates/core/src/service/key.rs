//! The key of a service.

use std::sync::Arc;

/// Namespace and audience of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// `aud` of tokens for the service.
    pub audience: Arc<str>,
}
