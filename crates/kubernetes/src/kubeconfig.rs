//! Finds the cluster to connect to: in a kubeconfig, as kubectl does, or the cluster that this pod runs in.

use kube::Config;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use std::env;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why no cluster was found.
#[derive(Debug, Error)]
pub enum ClusterConfigError {
    /// There is no kubeconfig, and the process runs in no pod.
    #[error("there is no kubeconfig, and this process does not run in a pod: {0}")]
    NotFound(#[source] InClusterError),
    /// A kubeconfig can't be read.
    #[error("can't read the kubeconfig `{}`: {message}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why, without any value of the file.
        message: String,
    },
    /// The context does not exist, or can't be used.
    #[error("the kubeconfig can't be used: {0}")]
    Unusable(#[source] KubeconfigError),
}

/// How to connect to the cluster of `context` in `file`. Without `file`, kubectl's files are read; without those, the
/// cluster is that of this pod.
///
/// # Errors
/// When a file can't be used, or when there is none and the process does not run in a pod.
pub async fn cluster_config(file: Option<&Path>, context: Option<&str>) -> Result<Config, ClusterConfigError> {
    let files = file.map_or_else(default_files, |file| vec![file.to_owned()]);
    if files.is_empty() && context.is_none() {
        return Config::incluster().map_err(ClusterConfigError::NotFound);
    }
    let mut merged = Kubeconfig::default();
    for file in &files {
        let unreadable =
            |error: KubeconfigError| ClusterConfigError::Unreadable { path: file.clone(), message: unquoted(&error) };
        merged = Kubeconfig::read_from(file).and_then(|next| merged.merge(next)).map_err(unreadable)?;
    }
    let options = KubeConfigOptions { context: context.map(ToOwned::to_owned), ..KubeConfigOptions::default() };
    Config::from_custom_kubeconfig(merged, &options).await.map_err(ClusterConfigError::Unusable)
}

/// The first line of the error message, up to its first quotation. A quoted value of a wrong type can be a key or a
/// token, and the lines that follow show the source.
fn unquoted(error: &KubeconfigError) -> String {
    error.to_string().split(['`', '"', '\'', '\n']).next().unwrap_or_default().trim_end().to_owned()
}

/// The files that kubectl reads by default, as far as they exist.
fn default_files() -> Vec<PathBuf> {
    let configured = env::var_os("KUBECONFIG").filter(|paths| !paths.is_empty());
    let files = match configured {
        Some(paths) => env::split_paths(&paths).collect(),
        None => env::home_dir().map(|home| home.join(".kube/config")).into_iter().collect::<Vec<_>>(),
    };
    files.into_iter().filter(|file| file.is_file()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[tokio::test]
    async fn paths_are_relative_to_the_file_and_errors_quote_no_values() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("config");
        let text = "
apiVersion: v1
kind: Config
current-context: one
clusters:
  - {name: a, cluster: {server: 'https://a.example:6443', certificate-authority: ca.crt}}
users:
  - {name: u, user: {tokenFile: token, exec: {apiVersion: client.authentication.k8s.io/v1, command: bin/login}}}
  - {name: v, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: aws}}}
contexts:
  - {name: one, context: {cluster: a, user: u, namespace: shop}}
  - {name: two, context: {cluster: b, user: u}}
";
        fs::write(&file, text).expect("the file is written");
        let config = Kubeconfig::read_from(&file).expect("the file is read");
        let path_beside = |name: &str| Some(directory.path().join(name).to_string_lossy().into_owned());
        let user = |number: usize| config.auth_infos[number].auth_info.clone().expect("the entry has a user");
        assert_eq!(
            config.clusters[0].cluster.as_ref().expect("the entry has a cluster").certificate_authority,
            path_beside("ca.crt")
        );
        assert_eq!(user(0).token_file, path_beside("token"));
        assert_eq!(user(0).exec.expect("the user has a command").command, path_beside("bin/login"));
        assert_eq!(user(1).exec.expect("the user has a command").command.as_deref(), Some("aws"));
        for text in ["clusters: [{name: a, cluster: secret}]", "a: ["] {
            fs::write(&file, text).expect("the file is written");
            let error = cluster_config(Some(&file), None).await.expect_err("the file is not a kubeconfig");
            assert!(error.to_string().contains("can't read the kubeconfig"), "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let missing =
            cluster_config(Some(&directory.path().join("none")), None).await.expect_err("the file does not exist");
        assert!(missing.to_string().contains("can't read the kubeconfig"), "{missing}");
    }
}
