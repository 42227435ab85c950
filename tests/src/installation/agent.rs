//! An agent in a pod, and its clients.

use std::path::PathBuf;
use std::process::{Command, Output};

use durward_cluster::{Namespace, binaries, image};
use serde_json::json;

use super::NAMESPACE;

/// Standard output and standard error of a command.
pub fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A client by go-spiffe at this socket. Without an agent it waits forever.
pub fn client(socket: &str, args: &[&str]) -> Command {
    let mut client = Command::new(binaries::path(binaries::SPIFFE_CLIENT).expect("the client"));
    client.env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{socket}")).args(args);
    client
}

/// As [`client`], but gives up after a minute.
pub fn client_with_timeout(socket: &str, args: &[&str]) -> Command {
    let client = client(socket, args);
    let mut limited = Command::new("timeout");
    limited.args(["--foreground", "60"]).arg(client.get_program()).args(client.get_args());
    limited.envs(client.get_envs().filter_map(|(name, value)| Some((name, value?))));
    limited
}

/// An agent in a pod with its socket in a folder of this machine.
pub struct AgentPod {
    pub folder: tempfile::TempDir,
    /// The SPIFFE ID of its pod.
    pub id: String,
}

impl AgentPod {
    /// Starts an agent with the SVID hint `hint`.
    pub fn start(namespace: &Namespace<'_>, hint: &str, trust_domain: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "agent", "labels": {"app": "agent"}},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [{
                    "name": "agent", "image": image::DURWARD, "imagePullPolicy": "Never",
                    // the folder belongs to root of this machine
                    "securityContext": {"runAsUser": 0},
                    "args": ["agent", "--controller", format!("https://durward.{NAMESPACE}.svc:8145"), "--hint", hint,
                             "--tcp=127.0.0.1:8147"],
                    "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8146}, "periodSeconds": 1},
                    "volumeMounts": [
                        {"name": "socket", "mountPath": "/var/run/durward"},
                        {"name": "proof", "mountPath": "/var/run/secrets/durward", "readOnly": true},
                    ],
                }],
                "volumes": [
                    {"name": "socket", "hostPath": {"path": folder.path()}},
                    {"name": "proof", "projected": {"sources": [
                        {"serviceAccountToken": {"audience": "durward", "path": "token"}},
                        {"configMap": {"name": "durward-trust-bundle"}},
                    ]}},
                ],
            },
        });
        namespace.apply(&pod.to_string()).expect("applied");
        namespace.await_condition("pod/agent", "Ready").unwrap_or_else(|error| panic!("{error}"));
        Self { folder, id: format!("spiffe://{trust_domain}/ns/{}/sa/default", namespace.name()) }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    pub fn go(&self, args: &[&str]) -> Command {
        client(&self.socket().display().to_string(), args)
    }

    /// Runs the client, which must succeed, and returns its output.
    pub fn ask(&self, args: &[&str]) -> String {
        let output = self.go(args).output().expect("it runs");
        assert!(output.status.success(), "{args:?}: {}", printed(&output));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}
