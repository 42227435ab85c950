//! `durward api-key`: which keys there are, another one in the place of one, and its end.

use crate::cli::controller::{block_on, client};
use crate::cli::mint::{lifetime, write_secret};
use crate::cli::output::{Format, columns, say};
use crate::cli::{Failure, Verdict};
use chrono::{TimeDelta, Utc};
use durward_api::compile::ClusterDomains;
use durward_api::resources::IdentityProvider;
use durward_authn::api_key;
use durward_authn::api_key::{CREATED, EXPIRES, FORMER_UNTIL, GROUPS, LABEL, NAME, NewApiKey, fields, secret_name};
use durward_controller::uses_name;
use durward_core::principal::{is_dns_label, is_dns_subdomain};
use durward_kubernetes::requests::brief;
use durward_manifests::load::{load, read_text};
use durward_runtime::random::random;
use durward_state::key_uses;
use durward_state::state::StateDirectory;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Longest time for which an old key counts beside the new one.
const LONGEST_OVERLAP: TimeDelta = TimeDelta::days(90);

#[derive(Debug, clap::Subcommand)]
pub(crate) enum ApiKeys {
    /// Tell which keys there are, and when each was last used
    List(List),
    /// Put another key in the place of one, which still counts for a while
    Rotate(Rotate),
    /// End a key at once
    Revoke(Revoke),
}

impl ApiKeys {
    pub(crate) fn run(self) -> Result<Verdict, Failure> {
        match self {
            Self::List(list) => list.run()?,
            Self::Rotate(rotate) => rotate.run()?,
            Self::Revoke(revoke) => revoke.run()?,
        }
        Ok(Verdict::Yes)
    }
}

/// Which key.
#[derive(Debug, clap::Args)]
pub(crate) struct Named {
    /// The IdentityProvider
    #[arg(long, value_name = "NAME")]
    pub(crate) provider: String,
    /// Name of the key
    #[arg(long, value_name = "NAME")]
    pub(crate) name: String,
}

/// The cluster of the kubeconfig.
#[derive(Debug, clap::Args)]
pub(crate) struct Cluster {
    /// Namespace of the keys: that of the installation, or another one that it reads
    #[arg(long, short, value_name = "NAME", env = "POD_NAMESPACE", default_value = "durward-system")]
    pub(crate) namespace: String,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kubectl durward api-key list\n  durward api-key list -p examples/orders -o json")]
pub(crate) struct List {
    /// Directory of manifests, instead of the cluster of the kubeconfig
    #[arg(long, short, value_name = "DIR")]
    policies: Option<PathBuf>,
    #[command(flatten)]
    state: StateDirectory,
    #[command(flatten)]
    cluster: Cluster,
    /// Namespace of the installation, if the keys are in another
    #[arg(long, value_name = "NAME")]
    installation: Option<String>,
    /// Service of the installation
    #[arg(long, value_name = "NAME", default_value = "durward")]
    service: String,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  kubectl durward api-key rotate --provider partners --name acme\n  durward api-key rotate --provider partners --name acme --file key-acme.yaml --overlap 1h"
)]
pub(crate) struct Rotate {
    #[command(flatten)]
    key: Named,
    /// For how long the old key still counts; `0s` ends it at once
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = overlap)]
    overlap: TimeDelta,
    /// Lifetime of the new key; without it, as long as that of the old one
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
    expires: Option<TimeDelta>,
    /// File with the key's Secret, instead of the cluster of the kubeconfig
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kubectl durward api-key revoke --provider partners --name acme")]
pub(crate) struct Revoke {
    #[command(flatten)]
    key: Named,
    /// File with the key's Secret, instead of the cluster of the kubeconfig
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    cluster: Cluster,
}

impl Named {
    /// # Errors
    /// When no key could be called so.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if !is_dns_subdomain(&self.provider) || !is_dns_label(&self.name) {
            return Err("provider and name are made of lower-case letters, digits and `-`".into());
        }
        Ok(())
    }

    /// Whether a Secret is that of this key.
    fn is(&self, secret: &Secret) -> bool {
        row(secret).is_ok_and(|row| row.provider == self.provider && row.name == self.name)
    }

    fn none(&self, place: &str) -> Failure {
        format!("there is no key `{}` of provider `{}` in {place}", self.name, self.provider).into()
    }
}

impl Cluster {
    async fn secrets(&self) -> Result<Api<Secret>, Failure> {
        Ok(Api::namespaced(client().await?, &self.namespace))
    }

    /// All Secrets with keys.
    async fn all(&self, secrets: &Api<Secret>) -> Result<Vec<Secret>, Failure> {
        let listed = secrets.list(&ListParams::default().labels(LABEL)).await;
        listed.map(|list| list.items).map_err(|error| self.failed("can't be listed", &error))
    }

    async fn one(&self, secrets: &Api<Secret>, key: &Named) -> Result<Secret, Failure> {
        let all = self.all(secrets).await?;
        all.into_iter()
            .find(|secret| key.is(secret))
            .ok_or_else(|| key.none(&format!("namespace `{}`", self.namespace)))
    }

    fn failed(&self, what: &str, error: &kube::Error) -> Failure {
        format!("the keys in namespace `{}` {what}: {}", self.namespace, brief(error)).into()
    }

    /// Stores a new key where Durward reads it, if its provider takes it.
    pub(crate) async fn store(&self, key: &Named, secret: &Secret) -> Result<(), Failure> {
        let client = client().await?;
        match Api::<IdentityProvider>::all(client.clone()).get_opt(&key.provider).await {
            Ok(None) => return Err(format!("there is no IdentityProvider `{}`; create it first", key.provider).into()),
            Ok(Some(provider)) => {
                let takes = provider.spec.api_key.as_ref();
                if !takes.is_some_and(|keys| api_key::selects(&keys.selector, secret)) {
                    let wants = format!("`{LABEL}: {}`", key.provider);
                    return Err(format!(
                        "IdentityProvider `{}` takes no Secrets labelled {wants}; say so in its `apiKey.selector`",
                        key.provider
                    )
                    .into());
                }
            }
            // who may make keys need not be able to read providers
            Err(error) => {
                eprintln!("whether provider `{}` takes the key is not known: {}", key.provider, brief(&error))
            }
        }
        match Api::<Secret>::namespaced(client, &self.namespace).create(&PostParams::default(), secret).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => Err(format!(
                "there is a key `{}` of provider `{}` already; `durward api-key rotate` makes another in its place",
                key.name, key.provider
            )
            .into()),
            Err(error) => Err(self.failed("can't be added to", &error)),
        }
    }
}

/// What is told of a key.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    provider: String,
    name: String,
    groups: Vec<String>,
    created: Option<String>,
    expires: Option<String>,
    last_used: Option<String>,
    /// Until when the key before it counts.
    former_until: Option<String>,
}

fn row(secret: &Secret) -> Result<Row, String> {
    let mut fields = fields(secret)?;
    let labels = secret.metadata.labels.as_ref();
    let made = secret.metadata.creation_timestamp.as_ref().map(|at| at.0.to_string());
    Ok(Row {
        provider: labels.and_then(|labels| labels.get(LABEL)).cloned().unwrap_or_default(),
        name: fields.remove(NAME).or(secret.metadata.name.clone()).unwrap_or_default(),
        groups: fields.remove(GROUPS).unwrap_or_default().split_whitespace().map(ToOwned::to_owned).collect(),
        created: fields.remove(CREATED).or(made),
        expires: fields.remove(EXPIRES),
        last_used: None,
        former_until: fields
            .remove(FORMER_UNTIL)
            .filter(|until| until.parse().is_ok_and(|end: chrono::DateTime<Utc>| end > Utc::now())),
    })
}

impl List {
    fn run(self) -> Result<(), Failure> {
        let (secrets, uses) = match &self.policies {
            Some(directory) => self.of_directory(directory)?,
            None => block_on(self.of_cluster())?,
        };
        let mut rows = Vec::new();
        for secret in &secrets {
            let name = secret.metadata.name.as_deref().unwrap_or_default();
            match row(secret) {
                Ok(mut row) => {
                    row.last_used = uses.get(&durward_authn::key_uses::entry_name(&row.provider, &row.name)).cloned();
                    rows.push(row);
                }
                Err(why) => eprintln!("Secret {name}: {why}"),
            }
        }
        rows.sort_unstable();
        self.output.print(&rows, |rows| table(rows))
    }

    fn of_directory(&self, directory: &Path) -> Result<(Vec<Secret>, BTreeMap<String, String>), Failure> {
        let domains =
            ClusterDomains { trust_domain: "cluster.local".to_owned(), cluster_domain: "cluster.local".to_owned() };
        let labelled =
            |secret: &Secret| secret.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(LABEL));
        let secrets = load(directory, &domains)?.secrets().into_iter().filter(labelled).collect();
        Ok((secrets, key_uses::read(&self.state.resolve()?)))
    }

    async fn of_cluster(&self) -> Result<(Vec<Secret>, BTreeMap<String, String>), Failure> {
        let secrets = self.cluster.all(&self.cluster.secrets().await?).await?;
        let namespace = self.installation.as_deref().unwrap_or(&self.cluster.namespace);
        let maps: Api<ConfigMap> = Api::namespaced(client().await?, namespace);
        let uses = maps.get_opt(&uses_name(&self.service)).await.unwrap_or_else(|error| {
            eprintln!("when keys were last used can't be read: {}", brief(&error));
            None
        });
        Ok((secrets, uses.and_then(|map| map.data).unwrap_or_default()))
    }
}

fn table(rows: &[Row]) -> String {
    let head = ["PROVIDER", "NAME", "GROUPS", "CREATED", "EXPIRES", "LAST USED", "OLD KEY UNTIL"].map(str::to_owned);
    let or = |text: &Option<String>, none: &str| text.clone().unwrap_or_else(|| none.to_owned());
    let lines = rows.iter().map(|row| {
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
    columns(&[head].into_iter().chain(lines).collect::<Vec<_>>())
}

impl Rotate {
    fn run(self) -> Result<(), Failure> {
        self.key.check()?;
        let fresh = NewApiKey::new(&self.key.name, &random()?);
        let replace = |secret: &mut Secret| {
            let replaced = fresh.replace(secret, self.overlap, self.expires, Utc::now());
            replaced.map_err(|why| format!("the key can't be replaced: {why}"))
        };
        let secret = match &self.file {
            Some(file) => {
                let mut secret = from_file(file, &self.key)?;
                replace(&mut secret)?;
                write_secret(file, &secret)?;
                secret
            }
            None => block_on(async {
                let secrets = self.cluster.secrets().await?;
                let mut secret = self.cluster.one(&secrets, &self.key).await?;
                replace(&mut secret)?;
                let name = secret.metadata.name.clone().unwrap_or_default();
                // only in the place of what was read
                let replaced = secrets.replace(&name, &PostParams::default(), &secret).await;
                replaced.map_err(|error| self.cluster.failed("can't be changed", &error))?;
                Ok(secret)
            })?,
        };
        say(&format!("{}\n", *fresh.key))?;
        let until = fields(&secret).ok().and_then(|mut fields| fields.remove(FORMER_UNTIL));
        let old =
            until.map_or("the old one counts no more".to_owned(), |until| format!("the old one counts until {until}"));
        eprintln!("the key is shown this once; {old}");
        Ok(())
    }
}

impl Revoke {
    fn run(self) -> Result<(), Failure> {
        self.key.check()?;
        match &self.file {
            Some(file) => {
                from_file(file, &self.key)?;
                std::fs::remove_file(file).map_err(|error| format!("can't remove {}: {error}", file.display()))?;
            }
            None => block_on(async {
                let secrets = self.cluster.secrets().await?;
                let secret = self.cluster.one(&secrets, &self.key).await?;
                let name = secret.metadata.name.unwrap_or_else(|| secret_name(&self.key.provider, &self.key.name));
                let deleted = secrets.delete(&name, &DeleteParams::default()).await;
                deleted.map(drop).map_err(|error| self.cluster.failed("can't be removed", &error))
            })?,
        }
        say(&format!("key `{}` of provider `{}` counts no more\n", self.key.name, self.key.provider))
    }
}

/// The Secret of a key, which is all that a file holds.
fn from_file(file: &Path, key: &Named) -> Result<Secret, Failure> {
    let text = read_text(file).map_err(|why| format!("{} {why}", file.display()))?;
    let secret: Secret = serde_saphyr::from_str(&text)
        .map_err(|error| format!("{} is not one Secret and nothing else: {error}", file.display()))?;
    if key.is(&secret) { Ok(secret) } else { Err(key.none(&file.display().to_string())) }
}

fn overlap(text: &str) -> Result<TimeDelta, String> {
    if text == "0" || text == "0s" {
        return Ok(TimeDelta::zero());
    }
    lifetime(text).ok().filter(|overlap| *overlap <= LONGEST_OVERLAP).ok_or("write a time from 0s to 90d".to_owned())
}
