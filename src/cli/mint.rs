//! `durward mint`: credentials for local callers, signed by the keys of the state directory.

use crate::cli::api_key::{Cluster, Named};
use crate::cli::controller::block_on;
use crate::cli::output::say;
use crate::cli::{Failure, Verdict};
use chrono::{TimeDelta, Utc};
use durward_authn::api_key::Fresh;
use durward_core::principal::PrincipalId;
use durward_core::scope::Scope;
use durward_pki::token::SigningAlgorithm;
use durward_runtime::duration::duration;
use durward_runtime::private_files::write_private;
use durward_runtime::random::random;
use durward_state::state::{State, StateDirectory};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Longest lifetime of what is minted by hand.
const LONGEST: TimeDelta = TimeDelta::days(366);

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Mint {
    /// An X.509-SVID: certificate, key and trust bundle
    X509(X509),
    /// A JWT: a JWT-SVID for an audience, with scopes if asked for
    Jwt(Jwt),
    /// An API key: prints it once, and stores its hash in a file or a cluster
    ApiKey(ApiKey),
}

#[derive(Debug, clap::Args)]
struct Signer {
    #[command(flatten)]
    state: StateDirectory,
    /// SPIFFE trust domain
    #[arg(long, value_name = "NAME", default_value = "cluster.local", env = "DURWARD_TRUST_DOMAIN")]
    trust_domain: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct X509 {
    /// Whom it is for, as NAMESPACE/NAME
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = service_account)]
    service_account: (String, String),
    /// A DNS name that it carries too; may be repeated
    #[arg(long = "dns", value_name = "NAME")]
    dns_names: Vec<String>,
    /// Lifetime
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = lifetime)]
    ttl: TimeDelta,
    /// Directory for svid.pem, key.pem and bundle.pem
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    signer: Signer,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Jwt {
    /// Whom it is for, as NAMESPACE/NAME
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = service_account)]
    service_account: (String, String),
    /// Service that it is for; may be repeated
    #[arg(long, value_name = "AUDIENCE", required = true)]
    audience: Vec<String>,
    /// A scope that it carries; may be repeated
    #[arg(long, value_name = "SCOPE", value_parser = |text: &str| Scope::parse(text))]
    scope: Vec<Scope>,
    /// Lifetime
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = lifetime)]
    ttl: TimeDelta,
    #[command(flatten)]
    signer: Signer,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ApiKey {
    #[command(flatten)]
    key: Named,
    /// A group of its holder; may be repeated
    #[arg(long, value_name = "GROUP")]
    group: Vec<String>,
    /// Lifetime; without end if left out
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
    expires: Option<TimeDelta>,
    /// File for the Secret that stores its hash, instead of the cluster of the kubeconfig
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    cluster: Cluster,
}

impl Mint {
    pub(crate) fn run(self) -> Result<Verdict, Failure> {
        match self {
            Self::X509(x509) => x509.run()?,
            Self::Jwt(jwt) => jwt.run()?,
            Self::ApiKey(api_key) => api_key.run()?,
        }
        Ok(Verdict::Yes)
    }
}

impl Signer {
    fn open(&self) -> Result<State, Failure> {
        Ok(State::open(&self.state.resolve()?, &self.trust_domain)?)
    }

    fn id(&self, (namespace, name): &(String, String)) -> Result<PrincipalId, Failure> {
        Ok(PrincipalId::workload(&self.trust_domain, namespace, name)?)
    }
}

impl X509 {
    fn run(self) -> Result<(), Failure> {
        let state = self.signer.open()?;
        let id = self.signer.id(&self.service_account)?.to_string();
        let issued = state.issue(&id, &self.dns_names, &[], self.ttl, Utc::now())?;
        std::fs::create_dir_all(&self.out).map_err(|error| format!("can't make {}: {error}", self.out.display()))?;
        write_private(&self.out.join("key.pem"), &issued.key_pem)?;
        write_private(&self.out.join("svid.pem"), &issued.chain_pem)?;
        write_private(&self.out.join("bundle.pem"), state.authority.roots_pem())?;
        say(&format!("{id}\n{}\n", self.out.display()))
    }
}

impl Jwt {
    fn run(self) -> Result<(), Failure> {
        let state = self.signer.open()?;
        let now = Utc::now();
        let id = hex::encode(random::<16>()?);
        let mut claims = json!({
            "iss": format!("https://{}", self.signer.trust_domain),
            "sub": self.signer.id(&self.service_account)?,
            "aud": self.audience,
            "iat": now.timestamp(),
            "exp": (now + self.ttl).timestamp(),
            "jti": id,
        });
        if let (false, Some(claims)) = (self.scope.is_empty(), claims.as_object_mut()) {
            let scopes: Vec<_> = self.scope.iter().map(Scope::as_str).collect();
            claims.insert("scope".to_owned(), scopes.join(" ").into());
        }
        let key = state.token_keys.signing_key(SigningAlgorithm::Rs256, now).ok_or("there is no token key")?;
        say(&(key.sign(&claims, "JWT")? + "\n"))
    }
}

impl ApiKey {
    fn run(self) -> Result<(), Failure> {
        self.key.check()?;
        let Named { provider, name } = &self.key;
        let fresh = Fresh::new(name, &random()?);
        let secret = fresh.secret(provider, name, &self.group, self.expires, Utc::now());
        let place = match &self.out {
            Some(file) if file.exists() => {
                return Err(format!("{} is there already; a key is never overwritten", file.display()).into());
            }
            Some(file) => {
                write_secret(file, &secret)?;
                file.display().to_string()
            }
            None => {
                block_on(self.cluster.store(&self.key, &secret))?;
                format!("Secret {} in namespace {}", secret.metadata.name.unwrap_or_default(), self.cluster.namespace)
            }
        };
        say(&format!("{}\n", *fresh.key))?;
        eprintln!("the key is shown this once; {place} stores its hash");
        Ok(())
    }
}

pub(crate) fn write_secret(path: &Path, secret: &k8s_openapi::api::core::v1::Secret) -> Result<(), Failure> {
    Ok(write_private(path, &serde_saphyr::to_string(&serde_json::to_value(secret)?)?)?)
}

pub(crate) fn service_account(text: &str) -> Result<(String, String), String> {
    let (namespace, name) = text.split_once('/').ok_or("write NAMESPACE/NAME")?;
    Ok((namespace.to_owned(), name.to_owned()))
}

pub(crate) fn lifetime(text: &str) -> Result<TimeDelta, String> {
    // days are no fixed time to the library, but they are to certificates
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u64>().ok());
    let seconds = match days {
        Some(days) => days.saturating_mul(24 * 3600),
        None => duration(text).map_err(|_| "write a time such as `5m`, `1h` or `30d`".to_owned())?.as_secs(),
    };
    let ttl = i64::try_from(seconds).ok().and_then(TimeDelta::try_seconds).unwrap_or(TimeDelta::MAX);
    if ttl <= TimeDelta::zero() || ttl > LONGEST { Err("write a time from 1s to 366d".to_owned()) } else { Ok(ttl) }
}
