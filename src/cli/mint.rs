//! `durward mint`: credentials for local callers, signed by the keys of the state directory.

use crate::cli::api_key_secret::{ApiKeyError, ApiKeyName, ApiKeyNamespace, write_secret};
use crate::cli::arguments::{NamespacedArgument, parse_lifetime};
use crate::cli::cluster::block_on;
use crate::cli::outcome::{CommandOutcome, CommandResult};
use crate::cli::output::print_text;
use chrono::{TimeDelta, Utc};
use durward_authn::api_key::NewApiKey;
use durward_core::principal::PrincipalId;
use durward_core::scope::Scope;
use durward_pki::token::SigningAlgorithm;
use durward_runtime::Failure;
use durward_runtime::private_files::write_private;
use durward_runtime::random::random_bytes;
use durward_state::{LocalState, StateDirectory};
use serde_json::json;
use std::path::PathBuf;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum MintCommand {
    /// Issue an X.509-SVID: certificate, key and trust bundle
    X509(MintX509),
    /// Sign a JWT-SVID for an audience, optionally with scopes
    Jwt(MintJwt),
    /// Create an API key: print it once, and store its hash in a file or a cluster
    ApiKey(MintApiKey),
}

/// The keys that sign.
#[derive(Debug, clap::Args)]
struct LocalSigner {
    #[command(flatten)]
    state: StateDirectory,
    /// SPIFFE trust domain
    #[arg(long, value_name = "NAME", default_value = "cluster.local", env = "DURWARD_TRUST_DOMAIN")]
    trust_domain: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct MintX509 {
    /// Service account that the certificate identifies
    #[arg(long, value_name = "NAMESPACE/NAME")]
    service_account: NamespacedArgument,
    /// Additional DNS name of the certificate. Repeatable
    #[arg(long = "dns", value_name = "NAME")]
    dns_names: Vec<String>,
    /// Lifetime
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_lifetime)]
    ttl: TimeDelta,
    /// Directory for svid.pem, key.pem and bundle.pem
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    signer: LocalSigner,
}

#[derive(Debug, clap::Args)]
pub(crate) struct MintJwt {
    /// Service account that the token identifies
    #[arg(long, value_name = "NAMESPACE/NAME")]
    service_account: NamespacedArgument,
    /// Service that accepts the token. Repeatable
    #[arg(long, value_name = "AUDIENCE", required = true)]
    audience: Vec<String>,
    /// Scope of the token. Repeatable
    #[arg(long, value_name = "SCOPE", value_parser = |text: &str| Scope::parse(text))]
    scope: Vec<Scope>,
    /// Lifetime
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_lifetime)]
    ttl: TimeDelta,
    #[command(flatten)]
    signer: LocalSigner,
}

#[derive(Debug, clap::Args)]
pub(crate) struct MintApiKey {
    #[command(flatten)]
    key: ApiKeyName,
    /// Group of the key's holder. Repeatable
    #[arg(long, value_name = "GROUP")]
    group: Vec<String>,
    /// Lifetime [default: unlimited]
    #[arg(long, value_name = "TIME", value_parser = parse_lifetime)]
    expires: Option<TimeDelta>,
    /// File for the Secret that stores the hash, instead of the cluster of the kubeconfig
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    cluster: ApiKeyNamespace,
}

impl MintCommand {
    pub(crate) fn run(self) -> CommandResult {
        match self {
            Self::X509(x509) => x509.run()?,
            Self::Jwt(jwt) => jwt.run()?,
            Self::ApiKey(api_key) => api_key.run()?,
        }
        Ok(CommandOutcome::Success)
    }
}

impl LocalSigner {
    fn open(&self) -> Result<LocalState, Failure> {
        Ok(LocalState::open(&self.state.resolve()?, &self.trust_domain)?)
    }

    fn id(&self, account: &NamespacedArgument) -> Result<PrincipalId, Failure> {
        Ok(PrincipalId::workload(&self.trust_domain, &account.namespace, &account.name)?)
    }
}

impl MintX509 {
    fn run(self) -> Result<(), Failure> {
        let state = self.signer.open()?;
        let id = self.signer.id(&self.service_account)?.to_string();
        let issued = state.issue(&id, &self.dns_names, &[], self.ttl, Utc::now())?;
        std::fs::create_dir_all(&self.out).map_err(|error| format!("cannot create {}: {error}", self.out.display()))?;
        write_private(&self.out.join("key.pem"), &issued.key_pem)?;
        write_private(&self.out.join("svid.pem"), &issued.chain_pem)?;
        write_private(&self.out.join("bundle.pem"), state.authority.roots_pem())?;
        Ok(print_text(&format!("{id}\n{}\n", self.out.display()))?)
    }
}

impl MintJwt {
    fn run(self) -> Result<(), Failure> {
        let state = self.signer.open()?;
        let now = Utc::now();
        let id = hex::encode(random_bytes::<16>()?);
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
        let key = state.token_keys.signing_key(SigningAlgorithm::Rs256, now);
        let key = key.ok_or("the state directory has no valid token key")?;
        Ok(print_text(&(key.sign(&claims, "JWT")? + "\n"))?)
    }
}

impl MintApiKey {
    fn run(self) -> Result<(), Failure> {
        self.key.check()?;
        let ApiKeyName { provider, name } = &self.key;
        let new_key = NewApiKey::new(name, &random_bytes()?);
        let secret = new_key.secret(provider, name, &self.group, self.expires, Utc::now());
        let place = match &self.out {
            Some(file) if file.exists() => return Err(ApiKeyError::FileExists(file.clone()).into()),
            Some(file) => {
                write_secret(file, &secret)?;
                file.display().to_string()
            }
            None => {
                block_on(self.cluster.create(&self.key, &secret))??;
                format!("Secret {} in namespace {}", secret.metadata.name.unwrap_or_default(), self.cluster.namespace)
            }
        };
        print_text(&format!("{}\n", *new_key.key))?;
        eprintln!("the key is shown only once; {place} stores its hash");
        Ok(())
    }
}
