//! Evidence: what a request carries besides its method and path.
//!
//! Only conditions read it, and only if the policy says so; it is read once for all of them. Records of a decision
//! hold the outcomes of these conditions, never the evidence.

use crate::condition::{Condition, Truth};
use crate::work::WorkBudget;
use serde_json::{Map, Value as Json};
use std::fmt;

/// The evidence of a request, as an enforcement point sees it. A condition that reads unknown evidence fails.
pub trait Evidence: fmt::Debug + Send + Sync {
    /// Visits each header, as often as it was sent. A header that conditions must not see comes without its value.
    /// Returns whether headers are known at all.
    fn headers(&self, each: &mut dyn FnMut(&str, Option<&[u8]>)) -> bool {
        let _ = each;
        false
    }

    /// The fields of `kubernetes`, `object` and `oldObject`, if the request has them.
    fn objects(&self) -> Option<Map<String, Json>> {
        None
    }

    /// The fields of `resource`: `type`, `id` and `properties`. `None` if the resource is unknown.
    fn resource(&self) -> Option<Map<String, Json>> {
        None
    }

    /// The recorded outcome of a rule's condition, when a recorded request is replayed.
    fn recorded(&self, rule: &str, condition: &Condition) -> Option<Truth> {
        let _ = (rule, condition);
        None
    }

    /// The budget of the decision. It ends where the recorded one ended, when a recorded request is replayed.
    fn budget(&self) -> WorkBudget {
        WorkBudget::default()
    }
}

/// Nothing is known.
impl Evidence for () {}

/// Evidence that a trusted party states: an enforcement point, or the person who asks for an explanation.
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
