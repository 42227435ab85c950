//! What a request shows beyond what it asks.
//!
//! Only conditions that say so read it, and it is read once for all of them. Nothing of it is kept: a record of a decision
//! holds what these conditions came to, never what they read.

use crate::condition::{Condition, Truth};
use serde_json::{Map, Value as Json};
use std::fmt;

/// What a door knows of a request. A condition that reads what nobody knows fails.
pub trait Evidence: fmt::Debug + Send + Sync {
    /// Hands over each header, as often as it was sent; one that conditions must not see comes without its value. Tells
    /// whether headers are known at all.
    fn headers(&self, each: &mut dyn FnMut(&str, Option<&[u8]>)) -> bool {
        let _ = each;
        false
    }

    /// The fields of `kubernetes`, `object` and `oldObject`, as far as the request has them.
    fn objects(&self) -> Option<Map<String, Json>> {
        None
    }

    /// The fields of `resource`: `type`, `id` and `properties` of the resource that an enforcement point asks about.
    fn resource(&self) -> Option<Map<String, Json>> {
        None
    }

    /// What the condition of a rule came to when the same request was decided before.
    fn recorded(&self, rule: &str, condition: &Condition) -> Option<Truth> {
        let _ = (rule, condition);
        None
    }
}

/// Nothing is known.
impl Evidence for () {}

/// What somebody says of a request who is believed: an enforcement point, or a person who asks what would be.
#[derive(Debug, Clone, Default)]
pub struct StatedEvidence {
    /// The headers, if they are known.
    pub headers: Option<Vec<(String, String)>>,
    /// `object` and `oldObject` of a request to the Kubernetes API, if they are known.
    pub objects: Option<Map<String, Json>>,
    /// `type`, `id` and `properties` of the resource, if it is known.
    pub resource: Option<Map<String, Json>>,
}

impl Evidence for StatedEvidence {
    fn headers(&self, each: &mut dyn FnMut(&str, Option<&[u8]>)) -> bool {
        let headers = self.headers.iter().flatten();
        headers.for_each(|(name, value)| each(name, Some(value.as_bytes())));
        self.headers.is_some()
    }

    fn objects(&self) -> Option<Map<String, Json>> {
        self.objects.clone()
    }

    fn resource(&self) -> Option<Map<String, Json>> {
        self.resource.clone()
    }
}
