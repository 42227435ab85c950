//! The volume with certificate and trust bundle, as files that kubelet keeps up to date.

use crate::admission::injection::pod::{InjectionRefusal, MOUNT_PATH, VOLUME, add_volume, equip_all};
use durward_identity::SIGNER_NAME;
use serde_json::{Value, json};

/// Key and certificate chain in one file, as kubelet writes them.
const CREDENTIAL_FILE: &str = "credential-bundle.pem";
/// Roots of the trust domain.
const ROOTS_FILE: &str = "trust-bundle.pem";
/// The variables of containers, and the files that they name.
const VARIABLES: [(&str, &str); 2] =
    [("DURWARD_CREDENTIAL_BUNDLE", CREDENTIAL_FILE), ("DURWARD_TRUST_BUNDLE", ROOTS_FILE)];

/// Adds the volume, its mounts and variables.
pub(super) fn inject(spec: &mut Value) -> Result<(), InjectionRefusal> {
    add_volume(spec, volume(), has_both_files)?;
    equip_all(spec, &VARIABLES.map(|(name, file)| (name, format!("{MOUNT_PATH}/{file}"))))
}

pub(super) fn volume() -> Value {
    json!({"name": VOLUME, "projected": {"sources": [
        {"podCertificate": {
            "signerName": SIGNER_NAME, "keyType": "ECDSAP256", "credentialBundlePath": CREDENTIAL_FILE,
        }},
        {"clusterTrustBundle": {"signerName": SIGNER_NAME, "labelSelector": {}, "path": ROOTS_FILE}},
    ]}})
}

/// Whether a volume contains the files that the variables name.
fn has_both_files(volume: &Value) -> bool {
    let sources = volume.pointer("/projected/sources").and_then(Value::as_array);
    let has = |kind: &str, key: &str, path: &str| {
        let mut all = sources.into_iter().flatten().map(|source| &source[kind]);
        all.any(|source| source["signerName"] == SIGNER_NAME && source[key] == path)
    };
    has("podCertificate", "credentialBundlePath", CREDENTIAL_FILE) && has("clusterTrustBundle", "path", ROOTS_FILE)
}
