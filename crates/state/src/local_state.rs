//! The built-in CA and the audit key, which are created once, and the token keys, which rotate.

use crate::error::StateError;
use crate::token_keys::TokenKeyFolder;
use chrono::{DateTime, TimeDelta, Utc};
use durward_identity::{TokenKeyFileError, TokenKeyRing};
use durward_pki::authority::{CertificateAuthority, IssuedSvid, SvidRequest};
use durward_pki::serial::CertificateSerial;
use durward_pki::svid::BACKDATE;
use durward_pki::token::{SigningAlgorithm, TokenKey};
use durward_runtime::private_files::{check_mode, create_directory, io_error, write_private};
use durward_runtime::random::random_bytes;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use zeroize::Zeroizing;

/// Lifetime of the listeners' own certificate. Each start of the process issues a new one.
const SERVER_CERTIFICATE_LIFETIME: TimeDelta = TimeDelta::days(90);

/// File of the audit key in the state directory.
const AUDIT_KEY_FILE: &str = "audit-key.pem";
/// Name of the audit key in its key ring.
const AUDIT_KEY: &str = "es256-0.pem";

/// The CA and the keys of a state directory, which several commands share.
#[derive(Debug)]
pub struct LocalState {
    /// Issues certificates.
    pub authority: CertificateAuthority,
    /// Keys that sign tokens.
    pub token_keys: TokenKeyRing,
    /// The key that signs the audit log.
    pub audit_keys: TokenKeyRing,
}

impl LocalState {
    /// Opens the state directory, and creates what is missing. Two processes that do so at once get the same state.
    ///
    /// # Errors
    /// When the directory or a file in it can't be used.
    pub fn open(path: &Path, trust_domain: &str) -> Result<Self, StateError> {
        create_directory(path)?;
        let display_path = || path.display().to_string();
        let authority_error = |source| StateError::Authority { path: display_path(), source };
        // the certificate and its key are one file, so that a crash can't separate them
        let pem = read_or_create(&path.join("ca.pem"), || {
            let serial = CertificateSerial::unbound(random_bytes()?);
            let authority = CertificateAuthority::create(trust_domain, Utc::now(), serial).map_err(authority_error)?;
            Ok(Zeroizing::new(format!("{}{}", authority.certificate_pem(), *authority.key_pem())))
        })?;
        // the audit log has a key of its own: its signatures are verified for years, those of tokens for minutes
        let audit_pem = read_or_create(&path.join(AUDIT_KEY_FILE), || {
            TokenKey::generate(SigningAlgorithm::Es256)
                .map(|key| key.to_pem())
                .map_err(|source| StateError::KeyGeneration { path: display_path(), source })
        })?;
        let authority = CertificateAuthority::from_pem(&pem, &pem, None).map_err(authority_error)?;
        if authority.trust_domain().as_deref() != Some(trust_domain) {
            return Err(StateError::OtherTrustDomain { path: display_path(), requested: trust_domain.to_owned() });
        }
        let audit_keys =
            TokenKeyRing::from_files([(AUDIT_KEY, audit_pem.as_bytes())]).map_err(|error| match error {
                TokenKeyFileError::Key { source, .. } => {
                    StateError::AuditKey { path: path.join(AUDIT_KEY_FILE).display().to_string(), source }
                }
                source => StateError::KeyFile { path: display_path(), source },
            })?;
        Ok(Self { authority, token_keys: TokenKeyFolder::new(path).renew(Utc::now())?, audit_keys })
    }

    /// Issues a certificate for the listeners on this host.
    ///
    /// # Errors
    /// When it can't be issued.
    pub fn server_certificate(&self, trust_domain: &str, now: DateTime<Utc>) -> Result<IssuedSvid, StateError> {
        let names = ["localhost".to_owned()];
        let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let id = format!("spiffe://{trust_domain}/ns/durward-system/sa/durward");
        self.issue(&id, &names, &addresses, SERVER_CERTIFICATE_LIFETIME, now)
    }

    /// Issues a certificate for a new key. It is valid from one minute before `now`, for clocks that differ.
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
            serial: CertificateSerial::unbound(random_bytes()?),
        };
        self.authority.issue(&request).map_err(StateError::Issue)
    }
}

/// The text of a file. If the file is missing, `create` provides its text, unless another process creates the file
/// first.
fn read_or_create(
    path: &Path,
    create: impl FnOnce() -> Result<Zeroizing<String>, StateError>,
) -> Result<Zeroizing<String>, StateError> {
    if !path.exists() {
        let text = create()?;
        let suffix = hex::encode(random_bytes::<8>()?);
        let new_file = path.with_extension(suffix);
        write_private(&new_file, text.as_bytes())?;
        // a hard link never replaces a file, so the first writer wins
        let linked = fs::hard_link(&new_file, path);
        fs::remove_file(&new_file).map_err(io_error(&new_file))?;
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io_error(path)(error).into()),
            _ => {}
        }
    }
    check_mode(path, 0o600)?;
    Ok(fs::read_to_string(path).map(Zeroizing::new).map_err(io_error(path))?)
}
