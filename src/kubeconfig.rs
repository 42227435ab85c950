//! The cluster of a kubeconfig, as kubectl finds it, or the one that this pod runs in.
//!
//! kube reads such files too, but by a YAML reader that is built anew for each of their types, which would be a fiftieth of
//! the program.

use crate::process::Failure;
use crate::standalone::manifest::yaml_options;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use std::path::{MAIN_SEPARATOR, Path, PathBuf};
use std::{env, fs};

/// How to reach the cluster of `context` in `file`, or in the files that kubectl would read.
///
/// # Errors
/// With the file that can't be used, or when there is none and this is no pod.
pub(crate) async fn config(file: Option<&Path>, context: Option<&str>) -> Result<Config, Failure> {
    let files = file.map_or_else(usual, |file| vec![file.to_owned()]);
    if files.is_empty() && context.is_none() {
        let no_pod = |error| format!("there is no kubeconfig, and this is no pod: {error}");
        return Ok(Config::incluster().map_err(no_pod)?);
    }
    let mut all = Kubeconfig::default();
    for file in &files {
        let failed = |error: &dyn std::fmt::Display| format!("can't read the kubeconfig `{}`: {error}", file.display());
        let read = read(file).map_err(|error| failed(&error))?;
        // what stands in the first counts
        all = all.merge(read).map_err(|error| failed(&error))?;
    }
    let options = KubeConfigOptions { context: context.map(ToOwned::to_owned), ..KubeConfigOptions::default() };
    Ok(Config::from_custom_kubeconfig(all, &options).await?)
}

/// The files that are there of those that kubectl would read.
fn usual() -> Vec<PathBuf> {
    let named = env::var_os("KUBECONFIG").filter(|named| !named.is_empty());
    let files = match named {
        Some(named) => env::split_paths(&named).collect(),
        None => env::home_dir().map(|home| home.join(".kube/config")).into_iter().collect::<Vec<_>>(),
    };
    files.into_iter().filter(|file| file.is_file()).collect()
}

fn read(file: &Path) -> Result<Kubeconfig, Failure> {
    let text = fs::read_to_string(file)?;
    let value: Option<serde_json::Value> = serde_saphyr::from_str_with_options(&text, yaml_options())?;
    // what is wrong may be next to a key, so only the place is told
    let mistyped =
        |error: serde_json::Error| format!("it is none: {}", error.to_string().split('`').next().unwrap_or(""));
    let mut config: Kubeconfig = value.map(serde_json::from_value).transpose().map_err(mistyped)?.unwrap_or_default();
    let folder = file.parent().unwrap_or(Path::new(""));
    let beside = |path: &mut Option<String>| {
        if let Some(path) = path {
            *path = folder.join(&*path).to_string_lossy().into_owned();
        }
    };
    for cluster in config.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        beside(&mut cluster.certificate_authority);
    }
    for user in config.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        [&mut user.client_certificate, &mut user.client_key, &mut user.token_file].into_iter().for_each(beside);
        // a bare name is looked for along PATH
        let exec =
            user.exec.as_mut().filter(|exec| exec.command.as_ref().is_some_and(|it| it.contains(MAIN_SEPARATOR)));
        if let Some(exec) = exec {
            beside(&mut exec.command);
        }
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let config = read(&file).expect("read");
        let beside = |name: &str| Some(folder.path().join(name).to_string_lossy().into_owned());
        let user = |number: usize| config.auth_infos[number].auth_info.clone().expect("a user");
        assert_eq!(config.clusters[0].cluster.as_ref().expect("a cluster").certificate_authority, beside("ca.crt"));
        assert_eq!(user(0).token_file, beside("token"));
        assert_eq!(user(0).exec.expect("a command").command, beside("bin/login"));
        assert_eq!(user(1).exec.expect("a command").command.as_deref(), Some("aws"));
        for (text, why) in [("clusters: [1]", "it is none"), ("a: [", "kubeconfig")] {
            fs::write(&file, text).expect("written");
            let error = super::config(Some(&file), None).await.expect_err("no kubeconfig");
            assert!(error.to_string().contains(why), "{error}");
        }
        let missing = super::config(Some(&folder.path().join("none")), None).await.expect_err("missing");
        assert!(missing.to_string().contains("can't read the kubeconfig"), "{missing}");
    }
}
