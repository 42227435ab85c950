//! The cluster of a kubeconfig, as kubectl finds it, or the one that this pod runs in.

use durward_runtime::Failure;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use std::env;
use std::path::{Path, PathBuf};

/// How to reach the cluster of `context` in `file`, or in the files that kubectl would read.
///
/// # Errors
/// With the file that can't be used, or when there is none and this is no pod.
pub async fn config(file: Option<&Path>, context: Option<&str>) -> Result<Config, Failure> {
    let files = file.map_or_else(usual, |file| vec![file.to_owned()]);
    if files.is_empty() && context.is_none() {
        let no_pod = |error| format!("there is no kubeconfig, and this is no pod: {error}");
        return Ok(Config::incluster().map_err(no_pod)?);
    }
    let mut merged = Kubeconfig::default();
    for file in &files {
        let failed =
            |error: KubeconfigError| format!("can't read the kubeconfig `{}`: {}", file.display(), unquoted(&error));
        merged = Kubeconfig::read_from(file).and_then(|next| merged.merge(next)).map_err(failed)?;
    }
    let options = KubeConfigOptions { context: context.map(ToOwned::to_owned), ..KubeConfigOptions::default() };
    Ok(Config::from_custom_kubeconfig(merged, &options).await?)
}

/// The error up to what it quotes: a value of a wrong type can be a key or a token.
fn unquoted(error: &KubeconfigError) -> String {
    error.to_string().split(['`', '"', '\'']).next().unwrap_or_default().trim_end().to_owned()
}

/// The files that exist of those that kubectl would read.
fn usual() -> Vec<PathBuf> {
    let named = env::var_os("KUBECONFIG").filter(|named| !named.is_empty());
    let files = match named {
        Some(named) => env::split_paths(&named).collect(),
        None => env::home_dir().map(|home| home.join(".kube/config")).into_iter().collect::<Vec<_>>(),
    };
    files.into_iter().filter(|file| file.is_file()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[tokio::test]
    async fn files_are_read_as_kubectl_does() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("config");
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
        fs::write(&file, text).expect("written");
        let config = Kubeconfig::read_from(&file).expect("read");
        let beside = |name: &str| Some(folder.path().join(name).to_string_lossy().into_owned());
        let user = |number: usize| config.auth_infos[number].auth_info.clone().expect("a user");
        assert_eq!(config.clusters[0].cluster.as_ref().expect("a cluster").certificate_authority, beside("ca.crt"));
        assert_eq!(user(0).token_file, beside("token"));
        assert_eq!(user(0).exec.expect("a command").command, beside("bin/login"));
        assert_eq!(user(1).exec.expect("a command").command.as_deref(), Some("aws"));
        for text in ["clusters: [{name: a, cluster: secret}]", "a: ["] {
            fs::write(&file, text).expect("written");
            let error = super::config(Some(&file), None).await.expect_err("no kubeconfig");
            assert!(error.to_string().contains("can't read the kubeconfig"), "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let missing = super::config(Some(&folder.path().join("none")), None).await.expect_err("missing");
        assert!(missing.to_string().contains("can't read the kubeconfig"), "{missing}");
    }
}
