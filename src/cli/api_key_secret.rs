//! The Secrets that store the hashes of API keys, in a cluster or in files.

use crate::cli::cluster::{ConnectError, connect};
use chrono::{DateTime, Utc};
use durward_api::resources::IdentityProvider;
use durward_authn::api_key;
use durward_authn::api_key::{ApiKeySecretError, CREATED, EXPIRES, FORMER_UNTIL, GROUPS, LABEL, NAME, fields};
use durward_core::principal::{is_dns_label, is_dns_subdomain};
use durward_kubernetes::requests::redacted;
use durward_manifests::files::read_text;
use durward_runtime::private_files::{PrivateFileError, write_private};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ListParams, PostParams};
use serde::Serialize;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The Secret of an API key can't be found, read or written.
#[derive(Debug, Error)]
pub(crate) enum ApiKeyError {
    #[error("provider and name consist of lower-case letters, digits and `-`")]
    Name,
    #[error("there is no key `{name}` of provider `{provider}` in {place}")]
    NotFound { provider: String, name: String, place: String },
    #[error("there is no IdentityProvider `{0}`; create it first")]
    NoProvider(String),
    #[error(
        "IdentityProvider `{0}` does not select Secrets with label `{LABEL}: {0}`; add it to its `apiKey.selector`"
    )]
    NotSelected(String),
    #[error("there is already a key `{name}` of provider `{provider}`; replace it with `durward api-key rotate`")]
    Exists { provider: String, name: String },
    #[error("{} exists already; a key file is never overwritten", .0.display())]
    FileExists(PathBuf),
    #[error("cannot {action} the keys in namespace `{namespace}`: {reason}")]
    Request { action: &'static str, namespace: String, reason: String },
    #[error("{} {reason}", .path.display())]
    Read { path: PathBuf, reason: String },
    #[error("{} must hold one Secret and nothing else: {reason}", .path.display())]
    Content { path: PathBuf, reason: String },
    #[error("cannot write the Secret: {0}")]
    Json(#[from] serde_json::Error),
    #[error("cannot write the Secret: {0}")]
    Yaml(#[from] serde_saphyr::ser::Error),
    #[error(transparent)]
    Write(#[from] PrivateFileError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// The arguments that name a key.
#[derive(Debug, clap::Args)]
pub(crate) struct ApiKeyName {
    /// IdentityProvider of the key
    #[arg(long, value_name = "NAME")]
    pub(crate) provider: String,
    /// Name of the key
    #[arg(long, value_name = "NAME")]
    pub(crate) name: String,
}

/// The arguments that name the place of keys in a cluster.
#[derive(Debug, clap::Args)]
pub(crate) struct ApiKeyNamespace {
    /// Namespace of the keys: the installation's own, or another that it reads
    #[arg(long, short, value_name = "NAME", env = "POD_NAMESPACE", default_value = "durward-system")]
    pub(crate) namespace: String,
}

impl ApiKeyName {
    /// # Errors
    /// When no key can have this name.
    pub(crate) fn check(&self) -> Result<(), ApiKeyError> {
        if !is_dns_subdomain(&self.provider) || !is_dns_label(&self.name) {
            return Err(ApiKeyError::Name);
        }
        Ok(())
    }

    /// Whether a Secret stores this key.
    fn matches(&self, secret: &Secret) -> bool {
        ApiKeyRow::read(secret).is_ok_and(|row| row.provider == self.provider && row.name == self.name)
    }

    fn not_found(&self, place: String) -> ApiKeyError {
        ApiKeyError::NotFound { provider: self.provider.clone(), name: self.name.clone(), place }
    }

    /// Reads the Secret of this key from a file, which must hold nothing else.
    pub(crate) fn read_file(&self, file: &Path) -> Result<Secret, ApiKeyError> {
        let text =
            read_text(file).map_err(|error| ApiKeyError::Read { path: file.to_owned(), reason: error.to_string() })?;
        let secret: Secret = serde_saphyr::from_str(&text)
            .map_err(|error| ApiKeyError::Content { path: file.to_owned(), reason: error.to_string() })?;
        if self.matches(&secret) { Ok(secret) } else { Err(self.not_found(file.display().to_string())) }
    }
}

/// Writes a Secret to a file that only its owner can read.
pub(crate) fn write_secret(path: &Path, secret: &Secret) -> Result<(), ApiKeyError> {
    write_private(path, serde_saphyr::to_string(&serde_json::to_value(secret)?)?)?;
    Ok(())
}

impl ApiKeyNamespace {
    pub(crate) async fn secrets(&self) -> Result<Api<Secret>, ApiKeyError> {
        Ok(Api::namespaced(connect().await?, &self.namespace))
    }

    /// All Secrets with keys.
    pub(crate) async fn list(&self, secrets: &Api<Secret>) -> Result<Vec<Secret>, ApiKeyError> {
        let listed = secrets.list(&ListParams::default().labels(LABEL)).await;
        listed.map(|list| list.items).map_err(|error| self.failed("list", &error))
    }

    pub(crate) async fn find(&self, secrets: &Api<Secret>, key: &ApiKeyName) -> Result<Secret, ApiKeyError> {
        let all = self.list(secrets).await?;
        let found = all.into_iter().find(|secret| key.matches(secret));
        found.ok_or_else(|| key.not_found(format!("namespace `{}`", self.namespace)))
    }

    pub(crate) fn failed(&self, action: &'static str, error: &kube::Error) -> ApiKeyError {
        ApiKeyError::Request { action, namespace: self.namespace.clone(), reason: redacted(error) }
    }

    /// Stores a new key, if its provider selects its Secret.
    pub(crate) async fn create(&self, key: &ApiKeyName, secret: &Secret) -> Result<(), ApiKeyError> {
        let client = connect().await?;
        match Api::<IdentityProvider>::all(client.clone()).get_opt(&key.provider).await {
            Ok(None) => return Err(ApiKeyError::NoProvider(key.provider.clone())),
            Ok(Some(provider)) => {
                if !api_key::provider_selects(&provider.spec, secret) {
                    return Err(ApiKeyError::NotSelected(key.provider.clone()));
                }
            }
            // a user who may create keys need not be allowed to read providers
            Err(error) => eprintln!(
                "cannot read IdentityProvider `{}`: {}; storing the key without checking that the provider selects it",
                key.provider,
                redacted(&error)
            ),
        }
        match Api::<Secret>::namespaced(client, &self.namespace).create(&PostParams::default(), secret).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                Err(ApiKeyError::Exists { provider: key.provider.clone(), name: key.name.clone() })
            }
            Err(error) => Err(self.failed("add to", &error)),
        }
    }
}

/// A key as `durward api-key list` prints it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ApiKeyRow {
    pub(crate) provider: String,
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
    pub(crate) created: Option<String>,
    pub(crate) expires: Option<String>,
    pub(crate) last_used: Option<String>,
    /// End of the validity of the key that this one replaced.
    pub(crate) former_until: Option<String>,
}

impl ApiKeyRow {
    /// Reads a key from its Secret. The error names the field that is wrong.
    pub(crate) fn read(secret: &Secret) -> Result<Self, ApiKeySecretError> {
        let mut fields = fields(secret)?;
        let labels = secret.metadata.labels.as_ref();
        let created = secret.metadata.creation_timestamp.as_ref().map(|at| at.0.to_string());
        let is_future = |until: &String| until.parse().is_ok_and(|end: DateTime<Utc>| end > Utc::now());
        Ok(Self {
            provider: labels.and_then(|labels| labels.get(LABEL)).cloned().unwrap_or_default(),
            name: fields.remove(NAME).or(secret.metadata.name.clone()).unwrap_or_default(),
            groups: fields.remove(GROUPS).unwrap_or_default().split_whitespace().map(ToOwned::to_owned).collect(),
            created: fields.remove(CREATED).or(created),
            expires: fields.remove(EXPIRES),
            last_used: None,
            former_until: fields.remove(FORMER_UNTIL).filter(is_future),
        })
    }
}
