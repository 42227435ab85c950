//! The example `documents`: the same decisions from every relation engine.

use crate::UpProcess;
use serde_json::json;

/// Person, groups, action, document, and the expected decision.
pub const WHO_MAY: [(&str, &[&str], &str, &str, bool); 10] = [
    ("carol", &[], "read", "budget", true),
    ("carol", &[], "write", "budget", true),
    ("dave", &[], "read", "budget", true),
    ("dave", &[], "write", "budget", false),
    ("erin", &["finance"], "read", "budget", true),
    ("erin", &["sales"], "read", "budget", false),
    ("mallory", &["finance"], "read", "budget", false),
    ("erin", &[], "read", "menu", true),
    ("erin", &[], "write", "menu", false),
    ("carol", &[], "read", "nothing", false),
];

/// The decision of the AuthZEN door about a person and a document.
pub fn may(up: &UpProcess, person: &str, groups: &[&str], action: &str, document: &str) -> bool {
    let question = json!({
        "subject": {"type": "user", "id": person, "properties": {"provider": "corporate", "groups": groups}},
        "action": {"name": action},
        "resource": {"type": "documents.office", "id": document},
    });
    let (status, answer) = up.authzen("/access/v1/evaluation", &question);
    assert_eq!(status, 200, "{answer}");
    answer["decision"].as_bool().unwrap()
}
