//! The trust bundles that agents and gates follow.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Path under which the controller serves the bundles.
pub const BUNDLES_PATH: &str = "/bundles";

/// The bundles of all trusted trust domains.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bundles {
    /// Identifies this version of the bundles; a client sends it to wait for the next version.
    pub digest: String,
    /// Bundles in the SPIFFE format, by the SPIFFE ID of the trust domain.
    pub bundles: BTreeMap<String, Value>,
}
