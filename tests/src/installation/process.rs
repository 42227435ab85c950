//! Durward's processes on this machine.

use std::process::{Child, Command, Stdio};

use durward_cluster::Cluster;

use super::NAMESPACE;
use crate::program;

/// A process that is killed when dropped.
pub struct ChildGuard(pub Child);

impl Drop for ChildGuard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the controller with the token listener at `tokens` and every other listener on a free port.
pub fn controller(cluster: &Cluster, tokens: &str) -> ChildGuard {
    let mut command = Command::new(program());
    command
        .args(["controller", "--namespace", NAMESPACE, "--pod-name", "test"])
        .env("KUBECONFIG", cluster.kubeconfig());
    for door in ["https", "grpcs", "webhooks", "admin"] {
        command.args([format!("--{door}"), "127.0.0.1:0".to_owned()]);
    }
    ChildGuard(command.args(["--tokens", tokens]).stdout(Stdio::null()).spawn().expect("it runs"))
}
