//! The facts that conditions read.

use super::headers::HeaderValues;
use super::json::JsonFields;
use crate::unknown_facts::UnknownFacts;
use cel::Value;

/// The facts that conditions read. Each field is requested at most once per evaluation, and only if the condition
/// reads it.
pub trait ConditionFacts: Send + Sync {
    /// The value of `principal.<field>`, if the principal has it.
    fn principal(&self, field: &str) -> Option<Value>;
    /// The facts about the principal that are unknown, if any.
    fn unknown(&self) -> Option<&UnknownFacts> {
        None
    }
    /// The value of `request.<field>`, if the request has it; headers are separate.
    fn request(&self, field: &str) -> Option<Value>;
    /// The headers that conditions of the service read, if they are known.
    fn headers(&self) -> Option<&HeaderValues> {
        None
    }
    /// The fields of `kubernetes`, if they are known.
    fn objects(&self) -> Option<&JsonFields> {
        None
    }
    /// The fields of `resource`, if they are known.
    fn resource(&self) -> Option<&JsonFields> {
        None
    }
}
