//! The cluster of the kubeconfig, and the runtime of commands that wait for a server.

use durward_kubernetes::kubeconfig::{ClusterConfigError, cluster_config};
use kube::Client;
use std::path::Path;
use thiserror::Error;

/// The API server can't be used.
#[derive(Debug, Error)]
pub(crate) enum ConnectError {
    #[error("cannot connect to the API server: {source}; {advice}")]
    Config { source: ClusterConfigError, advice: &'static str },
    #[error("cannot connect to the API server: {source}; {advice}")]
    Client { source: kube::Error, advice: &'static str },
}

/// Connects to the API server of this pod, or of the kubeconfig.
pub(crate) async fn connect() -> Result<Client, ConnectError> {
    connect_with(None, None, "run the command in a pod, or set KUBECONFIG").await
}

/// Connects to the API server of a kubeconfig and a context; `advice` is what to do if that fails.
pub(crate) async fn connect_with(
    kubeconfig: Option<&Path>,
    context: Option<&str>,
    advice: &'static str,
) -> Result<Client, ConnectError> {
    let config = cluster_config(kubeconfig, context).await;
    let config = config.map_err(|source| ConnectError::Config { source, advice })?;
    Client::try_from(config).map_err(|source| ConnectError::Client { source, advice })
}

/// Waits for a future on a new runtime.
///
/// # Errors
/// When the runtime can't be started.
pub(crate) fn block_on<F: Future>(work: F) -> std::io::Result<F::Output> {
    // kube and reqwest take the crypto provider of the process
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work))
}
