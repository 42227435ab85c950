//! The state directory: the embedded authority and the key of the audit log, made once, and the keys of tokens.

use crate::token_keys::KeyFolder;
use chrono::{DateTime, TimeDelta, Utc};
use durward_identity::Ring;
use durward_pki::authority::{AuthorityError, CertificateAuthority, IssuedSvid, SvidRequest};
use durward_pki::serial::CertificateSerial;
use durward_pki::svid::BACKDATE;
use durward_pki::token::{SigningAlgorithm, TokenKey};
use durward_runtime::private_files::{PrivateFileError, check_mode, create_directory, io_error, write_private};
use durward_runtime::random::{NoRandomness, random};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use thiserror::Error;
use zeroize::Zeroizing;

/// Lifetime of the doors' own certificate; made anew at each start.
const SERVER_CERTIFICATE: TimeDelta = TimeDelta::days(90);

/// The name in a ring of the one key of the audit log.
const AUDIT_KEY: &str = "es256-0.pem";

/// What `durward up` and `durward mint` share.
#[derive(Debug)]
pub struct State {
    /// Issues certificates.
    pub authority: CertificateAuthority,
    /// Sign tokens.
    pub token_keys: Ring,
    /// Sign the audit log.
    pub audit_keys: Ring,
}

/// The state can't be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// No place to put it.
    #[error("there is no home directory for the state; name a directory with --state")]
    Nowhere,
    /// A file or the directory can't be used.
    #[error(transparent)]
    Files(#[from] PrivateFileError),
    /// The authority is not usable.
    #[error(
        "the authority in `{path}` can't be used: {source}; move the directory away to begin anew, which ends every certificate"
    )]
    Authority {
        /// The directory.
        path: String,
        /// Why.
        source: AuthorityError,
    },
    /// The authority is of another trust domain.
    #[error(
        "the authority in `{path}` is of another trust domain than `{wanted}`; use the same --trust-domain, or another --state"
    )]
    OtherTrustDomain {
        /// The directory.
        path: String,
        /// The wanted one.
        wanted: String,
    },
    /// A key of tokens or of the audit log is not usable.
    #[error("a key in `{path}` can't be used: {message}")]
    TokenKey {
        /// The directory.
        path: String,
        /// Why.
        message: String,
    },
    /// No randomness.
    #[error(transparent)]
    Random(#[from] NoRandomness),
}

/// Where the state is.
#[derive(Debug, Clone, clap::Args)]
pub struct StateDirectory {
    /// Directory of the embedded CA and keys [default: durward in the user's state directory]
    #[arg(long = "state", value_name = "DIR", env = "DURWARD_STATE")]
    pub path: Option<PathBuf>,
}

impl StateDirectory {
    /// The directory.
    ///
    /// # Errors
    /// When none is named and the user has no home.
    pub fn resolve(&self) -> Result<PathBuf, StateError> {
        let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        self.path
            .clone()
            .or_else(|| set("XDG_STATE_HOME").map(|state| state.join("durward")))
            .or_else(|| set("HOME").map(|home| home.join(".local/state/durward")))
            .ok_or(StateError::Nowhere)
    }
}

impl State {
    /// Opens the state, and makes what is missing. Two processes that do so at once end with the same state.
    ///
    /// # Errors
    /// When the directory or a file in it can't be used.
    pub fn open(path: &Path, trust_domain: &str) -> Result<Self, StateError> {
        create_directory(path)?;
        let shown = || path.display().to_string();
        let authority_error = |source| StateError::Authority { path: shown(), source };
        let key_error = |message| StateError::TokenKey { path: shown(), message };
        // key and certificate are one file, so that no crash can part them
        let pem = read_or_make(&path.join("ca.pem"), || {
            let authority =
                CertificateAuthority::create(trust_domain, chrono::Utc::now(), CertificateSerial::unbound(random()?))
                    .map_err(authority_error)?;
            Ok(Zeroizing::new(format!("{}{}", authority.certificate_pem(), *authority.key_pem())))
        })?;
        // a key of its own: logs are verified for years, tokens for minutes
        let audit = read_or_make(&path.join("audit-key.pem"), || {
            TokenKey::generate(SigningAlgorithm::Es256)
                .map(|key| key.to_pem())
                .map_err(|error| key_error(error.to_string()))
        })?;
        let authority = CertificateAuthority::from_pem(&pem, &pem, None).map_err(authority_error)?;
        if authority.trust_domain().as_deref() != Some(trust_domain) {
            return Err(StateError::OtherTrustDomain { path: shown(), wanted: trust_domain.to_owned() });
        }
        let audit_keys = Ring::read([(AUDIT_KEY, audit.as_bytes())]).map_err(|error| key_error(error.to_string()))?;
        Ok(Self { authority, token_keys: KeyFolder::new(path).renew(Utc::now())?, audit_keys })
    }

    /// A certificate for the doors on this host.
    ///
    /// # Errors
    /// When it can't be issued.
    pub fn server_certificate(&self, trust_domain: &str, now: DateTime<Utc>) -> Result<IssuedSvid, StateError> {
        let names = ["localhost".to_owned()];
        let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let id = format!("spiffe://{trust_domain}/ns/durward-system/sa/durward");
        self.issue(&id, &names, &addresses, SERVER_CERTIFICATE, now)
    }

    /// A certificate for a fresh key, valid from a minute ago.
    ///
    /// # Errors
    /// When it can't be issued.
    pub fn issue(
        &self,
        id: &str,
        dns_names: &[String],
        addresses: &[IpAddr],
        ttl: TimeDelta,
        now: DateTime<Utc>,
    ) -> Result<IssuedSvid, StateError> {
        let request = SvidRequest {
            id,
            dns_names,
            addresses,
            not_before: now - TimeDelta::seconds(BACKDATE),
            not_after: now + ttl,
            serial: CertificateSerial::unbound(random()?),
        };
        self.authority.issue(&request).map_err(|source| StateError::Authority { path: String::new(), source })
    }
}

/// The file's text; if it is not there, what `make` makes, unless somebody else was faster.
fn read_or_make(
    path: &Path,
    make: impl FnOnce() -> Result<Zeroizing<String>, StateError>,
) -> Result<Zeroizing<String>, StateError> {
    if !path.exists() {
        let text = make()?;
        let suffix = hex::encode(random::<8>()?);
        let fresh = path.with_extension(suffix);
        write_private(&fresh, text.as_bytes())?;
        // a hard link never replaces a file, so the first one stays
        let linked = fs::hard_link(&fresh, path);
        fs::remove_file(&fresh).map_err(io_error(&fresh))?;
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io_error(path)(error).into()),
            _ => {}
        }
    }
    check_mode(path, 0o600)?;
    Ok(fs::read_to_string(path).map(Zeroizing::new).map_err(io_error(path))?)
}
