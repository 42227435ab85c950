//! The manifests that the chart renders, checked by an API server.

use std::path::PathBuf;

use durward_cluster::Cluster;

use super::{chart, helm, version};

/// API groups that the test cluster does not have.
const FOREIGN: [&str; 2] = ["monitoring.coreos.com/", "cert-manager.io/"];

fn value_files() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(chart().join("ci")).expect("value files");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

/// Asserts that the API server accepts all rendered objects, with each file of values. Needs the CRDs.
pub fn assert_accepted(cluster: &Cluster) {
    let version = format!("--kube-version={}", version(cluster)["gitVersion"].as_str().expect("a version"));
    for values in value_files() {
        let values = format!("--values={}", values.display());
        let chart = chart().display().to_string();
        let (good, output) = helm(cluster, &["lint", "--strict", &chart, &values]);
        assert!(good && output.contains("0 chart(s) failed") && !output.contains("[WARNING]"), "{output}");
        let args = ["template", "durward-checked", &chart, "--namespace=default", &version, &values];
        let (good, rendered) = helm(cluster, &args);
        assert!(good, "{rendered}");
        // neither kinds of other operators nor objects in a namespace that does not exist
        let ours: Vec<&str> = rendered
            .split("\n---\n")
            .filter(|document| {
                document.contains("kind:")
                    && !FOREIGN.iter().any(|group| document.contains(group))
                    && !document.contains("namespace: partners")
            })
            .collect();
        assert!(ours.len() > 10, "{} documents", ours.len());
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(&file, ours.join("\n---\n")).expect("written");
        let file = file.path().display().to_string();
        let strictly = ["--dry-run=server", "--server-side", "--force-conflicts", "--validate=strict"];
        let output = cluster.kubectl(["apply"].into_iter().chain(strictly).chain(["-f", &file]));
        let output = output.unwrap_or_else(|error| panic!("{error}"));
        assert!(output.contains("deployment.apps/durward-checked"), "{output}");
    }
}
