//! The trust bundles that an agent follows.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Where agents follow the bundles.
pub const BUNDLES_PATH: &str = "/bundles";

/// Bundles of every trust domain that counts, each as SPIFFE has it, by the domain's SPIFFE ID.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bundles {
    pub digest: String,
    pub bundles: BTreeMap<String, Value>,
}
