//! The label by which pods and namespaces ask for an identity.

/// Label of pods and namespaces.
pub const INJECTION_LABEL: &str = "durward.dev/inject";

/// What a pod asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InjectionMode {
    /// Certificate and trust bundle, as files.
    Identity,
    /// The agent as a sidecar: SPIFFE Workload API and Envoy's SDS.
    Agent,
    /// The gate in front of the application.
    Gate,
    /// Nothing, also if the namespace asks for something.
    None,
}

impl InjectionMode {
    /// The modes that inject something.
    pub const INJECTING: [Self; 3] = [Self::Identity, Self::Agent, Self::Gate];

    /// The value of the label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Agent => "agent",
            Self::Gate => "gate",
            Self::None => "none",
        }
    }

    pub(super) fn from_label(label: &str) -> Option<Self> {
        Self::INJECTING.into_iter().chain([Self::None]).find(|mode| mode.as_str() == label)
    }
}
