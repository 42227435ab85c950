//! Durward installed by its chart on the shared node.

pub mod agent;
pub mod door;
pub mod people;
pub mod process;
pub mod rendered;
pub mod shared;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::{program, repository};
use durward_cluster::{Cluster, binaries, image};
use serde_json::{Value, json};

/// The namespace of the installation.
pub const NAMESPACE: &str = "durward-system";

/// Durward on the shared node, which holds one installation at a time.
pub struct Installed {
    pub cluster: Cluster,
}

impl Installed {
    /// Builds the image, loads it and installs the chart.
    pub fn new(values: &[&str]) -> Self {
        let cluster = Cluster::shared().unwrap_or_else(|error| panic!("{error}"));
        let image = image::durward().unwrap_or_else(|error| panic!("{error}"));
        cluster.load_image(&image).expect("loaded");
        if cluster.dir().is_none() {
            cluster.load_image(&image::busybox().expect("busybox")).expect("loaded");
        }
        let installed = Self { cluster };
        installed.uninstall();
        installed.prepare();
        installed.upgrade(&chart(), values);
        installed
    }

    /// Creates the namespace with the pod security standard `restricted`.
    pub fn prepare(&self) {
        self.kubectl(["create", "namespace", NAMESPACE]);
        self.kubectl(["label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted"]);
    }

    /// Installs or upgrades the release and waits until it is ready.
    pub fn upgrade(&self, chart: &Path, values: &[&str]) {
        self.release(chart, values, true);
    }

    /// Installs or upgrades the release.
    pub fn release(&self, chart: &Path, values: &[&str], wait: bool) {
        let (repository, tag) = image::DURWARD.rsplit_once(':').expect("a tag");
        let mut args = vec![
            "upgrade".to_owned(),
            "--install".to_owned(),
            "durward".to_owned(),
            chart.display().to_string(),
            format!("--namespace={NAMESPACE}"),
            if wait { "--wait" } else { "--wait=hookOnly" }.to_owned(),
            "--timeout=180s".to_owned(),
        ];
        let image =
            [format!("image.repository={repository}"), format!("image.tag={tag}"), "image.pullPolicy=Never".to_owned()];
        args.extend(
            image.iter().map(String::as_str).chain(values.iter().copied()).map(|value| format!("--set={value}")),
        );
        let output = helm(&self.cluster, &args);
        assert!(output.0, "{}\n{}", output.1, self.cluster.diagnostics());
    }

    /// Removes the release, its namespace and its custom resources.
    pub fn uninstall(&self) {
        let args = ["uninstall", "durward", "--namespace", NAMESPACE, "--ignore-not-found", "--wait", "--timeout=120s"];
        let output = helm(&self.cluster, &args);
        assert!(output.0, "{}", output.1);
        self.kubectl(["delete", "namespace", NAMESPACE, "--ignore-not-found"]);
        let crds = ["accesspolicies", "approvals", "identityproviders", "relationships"]
            .map(|name| format!("{name}.durward.dev"));
        self.kubectl(["delete", "crd", &crds[0], &crds[1], &crds[2], &crds[3], "--ignore-not-found"]);
    }

    /// Runs kubectl, which must succeed.
    pub fn kubectl<S: AsRef<str>>(&self, args: impl IntoIterator<Item = S>) -> String {
        self.cluster.kubectl(args).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs kubectl, which must succeed; returns its output with warnings.
    pub fn kubectl_output<const N: usize>(&self, args: [&str; N]) -> String {
        let kubectl = binaries::path(binaries::KUBECTL).expect("kubectl");
        let mut command = Command::new(kubectl);
        let output = command.arg(format!("--kubeconfig={}", self.cluster.kubeconfig().display())).args(args).output();
        let output = output.expect("kubectl runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        text
    }

    /// The pods of the replicas.
    pub fn pods(&self) -> Vec<Value> {
        let selector = "app.kubernetes.io/name=durward,app.kubernetes.io/component!=uninstall";
        let list = self.kubectl(["get", "pods", "-n", NAMESPACE, "-l", selector, "-o", "json"]);
        let list: Value = serde_json::from_str(&list).expect("a list");
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// The leading replica. A terminating replica releases its Lease, so a moment without a leader is possible.
    pub fn leader(&self) -> String {
        self.until("a leader", || {
            let lease = self.cluster.kubectl(["get", "lease", "durward", "-n", NAMESPACE, "-o", "json"]).ok()?;
            let lease: Value = serde_json::from_str(&lease).ok()?;
            let pods = self.pods();
            let mut staying = pods.iter().map(|pod| &pod["metadata"]).filter(|pod| pod["deletionTimestamp"].is_null());
            let holder = lease["spec"]["holderIdentity"].as_str()?;
            staying.any(|pod| pod["name"] == holder).then(|| holder.to_owned())
        })
    }

    /// Addresses of the replicas.
    pub fn addresses(&self) -> Vec<String> {
        self.pods().iter().map(|pod| pod["status"]["podIP"].as_str().expect("an address").to_owned()).collect()
    }

    /// Waits until a policy is in force on every replica according to its status.
    pub fn in_force(&self, namespace: &str, name: &str) -> Value {
        self.until(&format!("policy {namespace}/{name} to be in force"), || {
            let policy = self.policy(namespace, name);
            let now = &policy["metadata"]["generation"];
            (condition(&policy, "Programmed") == ("True", "InForce") && policy["status"]["observedGeneration"] == *now)
                .then_some(policy)
        })
    }

    /// A policy from the API server.
    pub fn policy(&self, namespace: &str, name: &str) -> Value {
        let policy = self.kubectl(["get", "accesspolicy", name, "-n", namespace, "-o", "json"]);
        serde_json::from_str(&policy).expect("a policy")
    }

    /// The API server's counters of requests that write Durward's objects, except Leases.
    pub fn writes(&self) -> Vec<String> {
        let metrics = self.kubectl(["get", "--raw", "/metrics"]);
        let ours = [
            "accesspolicies",
            "approvals",
            "identityproviders",
            "relationships",
            "validatingwebhookconfigurations",
            "mutatingwebhookconfigurations",
            "events",
        ];
        let writes = metrics.lines().filter(|line| {
            line.starts_with("apiserver_request_total")
                && ["POST", "PUT", "PATCH", "APPLY", "DELETE"]
                    .iter()
                    .any(|verb| line.contains(&format!("verb=\"{verb}\"")))
                && ours.iter().any(|resource| line.contains(&format!("resource=\"{resource}\"")))
        });
        let mut writes: Vec<String> = writes.map(ToOwned::to_owned).collect();
        writes.sort();
        writes
    }

    /// Waits for `condition`.
    pub fn until<T>(&self, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
        let waited = self.cluster.until(what, Duration::from_secs(60), || Ok(condition()));
        waited.unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Installed {
    /// Runs `durward` against the cluster; returns its exit code and output.
    pub fn durward(&self, args: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(program()).args(args).env("KUBECONFIG", self.cluster.kubeconfig()).output();
        let output = output.expect("durward runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), text)
    }
}

/// Status and reason of a condition.
pub fn condition<'p>(policy: &'p Value, kind: &str) -> (&'p str, &'p str) {
    let conditions = policy["status"]["conditions"].as_array();
    let condition = conditions.and_then(|all| all.iter().find(|condition| condition["type"] == kind));
    condition.map_or(("", ""), |found| (found["status"].as_str().unwrap_or(""), found["reason"].as_str().unwrap_or("")))
}

/// The manifest of a policy.
pub fn policy(namespace: &str, name: &str, spec: Value) -> String {
    json!({
        "apiVersion": "durward.dev/v1alpha1", "kind": "AccessPolicy",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    })
    .to_string()
}

/// Runs helm; returns whether it succeeded, and its output.
pub fn helm<S: AsRef<str>>(cluster: &Cluster, args: &[S]) -> (bool, String) {
    let helm = binaries::path(binaries::HELM).expect("helm");
    let kubeconfig = format!("--kubeconfig={}", cluster.kubeconfig().display());
    let output = Command::new(helm).arg(kubeconfig).args(args.iter().map(AsRef::as_ref)).output().expect("helm runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

/// The `/version` of an API server.
pub fn version(cluster: &Cluster) -> Value {
    let version = cluster.kubectl(["get", "--raw", "/version"]).unwrap_or_else(|error| panic!("{error}"));
    serde_json::from_str(&version).expect("JSON")
}

/// Installs the CRDs and the namespace of a controller that runs without the chart.
pub fn prepare(cluster: &Cluster) {
    let crds = chart().join("files/crds").display().to_string();
    for args in [&["apply", "--server-side", "-f", &crds][..], &["create", "namespace", NAMESPACE]] {
        cluster.kubectl(args).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// The chart of this repository.
pub fn chart() -> PathBuf {
    repository("charts/durward")
}
