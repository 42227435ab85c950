//! Labels of Kubernetes objects, and matchers over them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// Labels of a Kubernetes object, by key.
pub type Labels = BTreeMap<String, String>;

/// A label selector (`metav1.LabelSelector`), compiled. Without requirements it matches every object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LabelMatcher {
    /// Requirements that all have to hold.
    pub requirements: Vec<LabelRequirement>,
}

/// A requirement on one label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LabelRequirement {
    /// The label exists and has one of these values.
    In(Arc<str>, BTreeSet<Arc<str>>),
    /// The label does not exist, or has another value.
    NotIn(Arc<str>, BTreeSet<Arc<str>>),
    /// The label exists.
    Exists(Arc<str>),
    /// The label does not exist.
    DoesNotExist(Arc<str>),
}

impl LabelRequirement {
    /// The key of the label.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::In(key, _) | Self::NotIn(key, _) | Self::Exists(key) | Self::DoesNotExist(key) => key,
        }
    }
}

impl fmt::Display for LabelMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: &BTreeSet<Arc<str>>| values.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
        let texts = self.requirements.iter().map(|requirement| match requirement {
            LabelRequirement::In(key, values) => format!("{key} in ({})", list(values)),
            LabelRequirement::NotIn(key, values) => format!("{key} notin ({})", list(values)),
            LabelRequirement::Exists(key) => key.to_string(),
            LabelRequirement::DoesNotExist(key) => format!("!{key}"),
        });
        let texts: Vec<String> = texts.collect();
        f.write_str(if texts.is_empty() { "any labels" } else { "labels " })?;
        f.write_str(&texts.join(", "))
    }
}

impl LabelMatcher {
    /// Whether it matches an object with these labels.
    #[must_use]
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        let get = |key: &Arc<str>| labels.get(key.as_ref()).map(String::as_str);
        self.requirements.iter().all(|requirement| match requirement {
            LabelRequirement::In(key, values) => get(key).is_some_and(|value| values.contains(value)),
            LabelRequirement::NotIn(key, values) => get(key).is_none_or(|value| !values.contains(value)),
            LabelRequirement::Exists(key) => get(key).is_some(),
            LabelRequirement::DoesNotExist(key) => get(key).is_none(),
        })
    }
}
