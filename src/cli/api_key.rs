//! `durward api-key`: list, rotate and revoke API keys.

use crate::cli::api_key_secret::{ApiKeyError, ApiKeyName, ApiKeyNamespace, ApiKeyRow, write_secret};
use crate::cli::arguments::{parse_lifetime, parse_overlap};
use crate::cli::cluster::{block_on, connect};
use crate::cli::outcome::{CommandOutcome, CommandResult};
use crate::cli::output::{OutputFormat, print_text, table};
use chrono::{TimeDelta, Utc};
use durward_api::compile::ClusterDomains;
use durward_authn::api_key::{FORMER_UNTIL, LABEL, NewApiKey, fields, secret_name};
use durward_authn::key_uses::entry_name;
use durward_controller::key_uses_config_map;
use durward_kubernetes::requests::redacted;
use durward_manifests::load::load;
use durward_runtime::Failure;
use durward_runtime::random::random_bytes;
use durward_state::StateDirectory;
use durward_state::key_uses;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, DeleteParams, PostParams};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum ApiKeyCommand {
    /// List the keys, with the time of their last use
    List(ListApiKeys),
    /// Replace a key; the old one stays valid for a while
    Rotate(RotateApiKey),
    /// Revoke a key immediately
    Revoke(RevokeApiKey),
}

impl ApiKeyCommand {
    pub(crate) fn run(self) -> CommandResult {
        match self {
            Self::List(list) => list.run()?,
            Self::Rotate(rotate) => rotate.run()?,
            Self::Revoke(revoke) => revoke.run()?,
        }
        Ok(CommandOutcome::Success)
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kubectl durward api-key list\n  durward api-key list -p examples/orders -o json")]
pub(crate) struct ListApiKeys {
    /// Directory of manifests, instead of the cluster of the kubeconfig
    #[arg(long, short, value_name = "DIR")]
    policies: Option<PathBuf>,
    #[command(flatten)]
    state: StateDirectory,
    #[command(flatten)]
    cluster: ApiKeyNamespace,
    /// Namespace of the installation, if it differs from that of the keys
    #[arg(long, value_name = "NAME")]
    installation: Option<String>,
    /// Service of the installation
    #[arg(long, value_name = "NAME", default_value = "durward")]
    service: String,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: OutputFormat,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  kubectl durward api-key rotate --provider partners --name acme\n  durward api-key rotate --provider partners --name acme --file key-acme.yaml --overlap 1h"
)]
pub(crate) struct RotateApiKey {
    #[command(flatten)]
    key: ApiKeyName,
    /// Time for which the old key stays valid; `0s` revokes it immediately
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_overlap)]
    overlap: TimeDelta,
    /// Lifetime of the new key [default: that of the old key]
    #[arg(long, value_name = "TIME", value_parser = parse_lifetime)]
    expires: Option<TimeDelta>,
    /// File with the key's Secret, instead of the cluster of the kubeconfig
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    cluster: ApiKeyNamespace,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kubectl durward api-key revoke --provider partners --name acme")]
pub(crate) struct RevokeApiKey {
    #[command(flatten)]
    key: ApiKeyName,
    /// File with the key's Secret, instead of the cluster of the kubeconfig
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    cluster: ApiKeyNamespace,
}

/// The Secrets with keys, and the time of last use by key.
type KeysAndUses = (Vec<Secret>, BTreeMap<String, String>);

impl ListApiKeys {
    fn run(self) -> Result<(), Failure> {
        let (secrets, uses) = match &self.policies {
            Some(directory) => self.read_directory(directory)?,
            None => block_on(self.read_cluster())??,
        };
        let mut rows = Vec::new();
        for secret in &secrets {
            match ApiKeyRow::read(secret) {
                Ok(mut row) => {
                    row.last_used = uses.get(&entry_name(&row.provider, &row.name)).cloned();
                    rows.push(row);
                }
                Err(reason) => eprintln!("Secret {}: {reason}", secret.metadata.name.as_deref().unwrap_or_default()),
            }
        }
        rows.sort_unstable();
        Ok(self.output.print(&rows, |rows| text(rows))?)
    }

    fn read_directory(&self, directory: &Path) -> Result<KeysAndUses, Failure> {
        let domains =
            ClusterDomains { trust_domain: "cluster.local".to_owned(), cluster_domain: "cluster.local".to_owned() };
        let is_key = |secret: &Secret| secret.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(LABEL));
        let secrets = load(directory, &domains)?.secrets().into_iter().filter(is_key).collect();
        Ok((secrets, key_uses::read(&self.state.resolve()?)))
    }

    async fn read_cluster(&self) -> Result<KeysAndUses, ApiKeyError> {
        let secrets = self.cluster.list(&self.cluster.secrets().await?).await?;
        let namespace = self.installation.as_deref().unwrap_or(&self.cluster.namespace);
        let maps: Api<ConfigMap> = Api::namespaced(connect().await?, namespace);
        let uses = maps.get_opt(&key_uses_config_map(&self.service)).await.unwrap_or_else(|error| {
            eprintln!("cannot read the times of last use: {}; listing the keys without them", redacted(&error));
            None
        });
        Ok((secrets, uses.and_then(|map| map.data).unwrap_or_default()))
    }
}

fn text(rows: &[ApiKeyRow]) -> String {
    let or = |text: &Option<String>, missing: &str| text.clone().unwrap_or_else(|| missing.to_owned());
    let cells = rows.iter().map(|row| {
        let groups = if row.groups.is_empty() { "-".to_owned() } else { row.groups.join(",") };
        [
            row.provider.clone(),
            row.name.clone(),
            groups,
            or(&row.created, "-"),
            or(&row.expires, "never"),
            or(&row.last_used, "never"),
            or(&row.former_until, "-"),
        ]
    });
    table(["PROVIDER", "NAME", "GROUPS", "CREATED", "EXPIRES", "LAST USED", "OLD KEY UNTIL"], cells)
}

impl RotateApiKey {
    fn run(self) -> Result<(), Failure> {
        self.key.check()?;
        let new_key = NewApiKey::new(&self.key.name, &random_bytes()?);
        let secret = match &self.file {
            Some(file) => {
                let mut secret = self.key.read_file(file)?;
                self.replace(&new_key, &mut secret)?;
                write_secret(file, &secret)?;
                secret
            }
            None => block_on(self.replace_in_cluster(&new_key))??,
        };
        print_text(&format!("{}\n", *new_key.key))?;
        let until = fields(&secret).ok().and_then(|mut fields| fields.remove(FORMER_UNTIL));
        let old_key = match until {
            Some(until) => format!("the old key is valid until {until}"),
            None => "the old key is revoked".to_owned(),
        };
        eprintln!("the new key is shown only once; {old_key}");
        Ok(())
    }

    fn replace(&self, new_key: &NewApiKey, secret: &mut Secret) -> Result<(), Failure> {
        let replaced = new_key.replace(secret, self.overlap, self.expires, Utc::now());
        replaced.map_err(|error| format!("cannot replace the key: {error}").into())
    }

    async fn replace_in_cluster(&self, new_key: &NewApiKey) -> Result<Secret, Failure> {
        let secrets = self.cluster.secrets().await?;
        let mut secret = self.cluster.find(&secrets, &self.key).await?;
        self.replace(new_key, &mut secret)?;
        let name = secret.metadata.name.clone().unwrap_or_default();
        // the Secret carries its resourceVersion, so a concurrent change makes this fail
        let replaced = secrets.replace(&name, &PostParams::default(), &secret).await;
        replaced.map_err(|error| self.cluster.failed("change", &error))?;
        Ok(secret)
    }
}

impl RevokeApiKey {
    fn run(self) -> Result<(), Failure> {
        self.key.check()?;
        match &self.file {
            Some(file) => {
                self.key.read_file(file)?;
                std::fs::remove_file(file).map_err(|error| format!("cannot remove {}: {error}", file.display()))?;
            }
            None => block_on(self.delete_from_cluster())??,
        }
        let ApiKeyName { provider, name } = &self.key;
        Ok(print_text(&format!("key `{name}` of provider `{provider}` is revoked\n"))?)
    }

    async fn delete_from_cluster(&self) -> Result<(), ApiKeyError> {
        let secrets = self.cluster.secrets().await?;
        let secret = self.cluster.find(&secrets, &self.key).await?;
        let name = secret.metadata.name.unwrap_or_else(|| secret_name(&self.key.provider, &self.key.name));
        let deleted = secrets.delete(&name, &DeleteParams::default()).await;
        deleted.map(drop).map_err(|error| self.cluster.failed("remove", &error))
    }
}
