//! Clients of the forward-auth door of an installation.

use std::fs;
use std::path::Path;
use std::process::Command;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Installed, NAMESPACE};

/// The forward-auth door behind the Service.
pub struct ForwardAuthDoor {
    address: String,
}

impl ForwardAuthDoor {
    pub fn of(installed: &Installed) -> Self {
        let args = ["get", "service", "durward", "-n", NAMESPACE, "-o", "jsonpath={.spec.clusterIP}"];
        Self { address: installed.kubectl(args) }
    }

    /// Sends a request to the door. Returns status, principal and assurance, or curl's error message without a response.
    /// `trust` is a file with the door's roots, `how` has further arguments of curl.
    pub fn ask(&self, trust: &Path, host: &str, [method, uri]: [&str; 2], how: &[&str]) -> String {
        let door = format!("durward.{NAMESPACE}.svc");
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "5", "--output", "/dev/null", "--cacert"])
            .arg(trust)
            .args(["--resolve", &format!("{door}:443:{}", self.address), "--header", &format!("Host: {host}")])
            .args(["--header", &format!("X-Original-Method: {method}"), "--header", &format!("X-Original-URI: {uri}")])
            .args(["--write-out", "%{http_code} %header{x-durward-principal} %header{x-durward-assurance}"])
            .args(how)
            .arg(format!("https://{door}/forward-auth"))
            .output()
            .expect("curl runs");
        let response = if output.status.success() { output.stdout } else { output.stderr };
        String::from_utf8_lossy(&response).trim().to_owned()
    }

    /// Like [`Self::ask`], from a proxy that forwards this certificate of its client, and has the same one itself.
    pub fn ask_for(&self, trust: &Path, host: &str, request: [&str; 2], chain: &Path, key: &Path) -> String {
        let pem = fs::read_to_string(chain).expect("a certificate chain");
        let certificates: String = pem
            .split_inclusive("-----END CERTIFICATE-----\n")
            .filter_map(|block| block.find("-----BEGIN CERTIFICATE-----").map(|start| &block[start..]))
            .collect();
        let encoded = utf8_percent_encode(&certificates, NON_ALPHANUMERIC);
        let header = format!("x-forwarded-client-cert: Chain=\"{encoded}\"");
        let [chain, key] = [chain, key].map(|path| path.display().to_string());
        self.ask(trust, host, request, &["--header", &header, "--cert", &chain, "--key", &key])
    }
}

/// Sends `GET uri` with a token to the door of one replica; returns status and principal.
pub fn ask_replica(address: &str, token: &str, host: &str, uri: &str) -> (String, String) {
    let output = Command::new("curl")
        .args(["--silent", "--insecure", "--max-time", "5", "--write-out", "%{http_code} %header{x-durward-principal}"])
        .args(["--header", &format!("Authorization: Bearer {token}"), "--header", &format!("Host: {host}")])
        .args(["--header", "X-Original-Method: GET", "--header", &format!("X-Original-URI: {uri}")])
        .args(["--output", "/dev/null", &format!("https://{address}:8143/forward-auth")])
        .output()
        .expect("curl runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (status, principal) = text.split_once(' ').unwrap_or((&text, ""));
    (status.to_owned(), principal.to_owned())
}
