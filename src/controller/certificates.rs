//! The installation's own certificate authority, in a Secret, and the certificate of this replica's listeners.

use crate::authn::tls::ServerCertificate;
use crate::controller::api_server::brief;
use crate::metrics::Metrics;
use crate::process::Failure;
use crate::random::random;
use durward_pki::authority::{Authority, Issued, Request};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PostParams};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// Keys of a Secret of type `kubernetes.io/tls`.
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// What the certificate is dated back by, for clocks that differ.
const BACKDATE: Duration = Duration::from_secs(60);

/// Where the authority comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Origin {
    /// Made once, by the first replica.
    #[default]
    Generated,
    /// Put into the Secret by somebody else.
    Provided,
}

/// How often it is looked whether the authority is there.
const PROVIDED_PAUSE: Duration = Duration::from_secs(2);

/// Reads the authority from its Secret, or makes it: the API server lets only one be created, whoever asks first. One
/// that somebody else provides, such as cert-manager, is waited for.
pub(crate) async fn authority(
    secrets: &Api<Secret>,
    name: &str,
    trust_domain: &str,
    origin: Origin,
) -> Result<Authority, Failure> {
    loop {
        if let Some(secret) = secrets.get_opt(name).await.map_err(|error| failed(name, &error))? {
            return from_secret(name, &secret, trust_domain);
        }
        if origin == Origin::Provided {
            tracing::info!(secret = name, "waiting for the CA that somebody else provides");
            sleep(PROVIDED_PAUSE).await;
            continue;
        }
        let authority = Authority::create(trust_domain, OffsetDateTime::now_utc(), random()?)?;
        let data = BTreeMap::from([
            (CERTIFICATE.to_owned(), ByteString(authority.certificate_pem().into_bytes())),
            (KEY.to_owned(), ByteString(authority.key_pem().as_bytes().to_vec())),
        ]);
        let secret = Secret {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            type_: Some("kubernetes.io/tls".to_owned()),
            data: Some(data),
            ..Secret::default()
        };
        match secrets.create(&PostParams::default(), &secret).await {
            Ok(_) => return Ok(authority),
            // another replica was quicker: its authority is the one
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(failed(name, &error)),
        }
    }
}

fn failed(name: &str, error: &kube::Error) -> Failure {
    format!("the CA in Secret `{name}` can't be read or made: {}", brief(error)).into()
}

fn from_secret(name: &str, secret: &Secret, trust_domain: &str) -> Result<Authority, Failure> {
    let text = |key: &str| -> Result<Zeroizing<String>, Failure> {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key));
        let bytes = bytes.ok_or_else(|| format!("Secret `{name}` has no `{key}`"))?;
        Ok(String::from_utf8(bytes.0.clone())
            .map(Zeroizing::new)
            .map_err(|_| format!("`{key}` of Secret `{name}` is no PEM"))?)
    };
    let authority = Authority::from_pem(&text(CERTIFICATE)?, &text(KEY)?)
        .map_err(|error| format!("the CA in Secret `{name}` can't be used: {error}"))?;
    match authority.trust_domain() {
        Some(other) if other != trust_domain => {
            Err(format!("the CA in Secret `{name}` is of trust domain `{other}`, not of `{trust_domain}`: set trustDomain back, or remove the Secret to begin anew").into())
        }
        _ => Ok(authority),
    }
}

/// The certificate of this replica's listeners.
pub(crate) struct Leaf {
    pub(crate) authority: Arc<Authority>,
    /// SPIFFE ID of this installation.
    pub(crate) id: String,
    /// Names under which the Service is called.
    pub(crate) dns_names: Vec<String>,
    pub(crate) lifetime: Duration,
    pub(crate) metrics: Arc<Metrics>,
}

impl Leaf {
    /// A fresh key and certificate.
    pub(crate) fn issue(&self) -> Result<Issued, Failure> {
        let now = OffsetDateTime::now_utc();
        let not_after = now + self.lifetime;
        let issued = self.authority.issue(&Request {
            id: &self.id,
            dns_names: &self.dns_names,
            addresses: &[],
            not_before: now - BACKDATE,
            not_after,
            serial: random()?,
        })?;
        self.metrics.certificate_ends(not_after.unix_timestamp());
        Ok(issued)
    }

    /// Replaces the certificate at half of its lifetime, with some jitter, until `shutdown`.
    pub(crate) async fn renew(
        self,
        certificate: Arc<ServerCertificate>,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        loop {
            let [dice] = random::<1>()?;
            // between 45 % and 55 %, so that replicas don't do it at once
            let pause = self.lifetime.mul_f64(0.45 + 0.1 * f64::from(dice) / 255.0);
            tokio::select! {
                () = sleep(pause) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
            let issued = self.issue()?;
            certificate.replace(&issued.certificate_pem, &issued.key_pem)?;
        }
    }
}
