//! The certificate authority of a trust domain, and the X.509-SVIDs that it issues.

use crate::serial::CertificateSerial;
use crate::svid::{BACKDATE, SvidError, verify_client};
use chrono::{DateTime, TimeDelta, Utc};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use std::fmt;
use std::net::IpAddr;
use thiserror::Error;
use time::OffsetDateTime;
use zeroize::Zeroizing;

/// Lifetime of a root. Rotation replaces a root long before; the limit ends a root that is never rotated.
const ROOT_LIFETIME: TimeDelta = TimeDelta::days(365);

/// A certificate authority with its private key. An intermediate authority also holds the certificates up to its root.
pub struct CertificateAuthority {
    certificate: CertificateDer<'static>,
    /// Certificates to send after each leaf, the own certificate first; empty for a root.
    chain: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    issuer: Issuer<'static, KeyPair>,
}

/// Why an authority can't be created, loaded or used.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// The certificate library refused a name or a key.
    #[error("{0}")]
    Certificate(#[from] rcgen::Error),
    /// The PEM text holds no certificate, or no key.
    #[error("no certificate or no key (PKCS #8) in PEM form found")]
    Pem,
    /// The key is not the certificate's key.
    #[error("the key does not belong to the certificate")]
    OtherKey,
    /// Verifiers would refuse the certificates that the authority issues.
    #[error("certificates of this authority would not be valid: {0}")]
    InvalidIssue(#[from] SvidError),
    /// X.509 can't express an instant.
    #[error("a certificate can't be valid at `{0}`: use a time in the years 1 to 9999")]
    Time(DateTime<Utc>),
}

/// Content of an X.509-SVID to issue.
#[derive(Debug, Clone)]
pub struct SvidRequest<'a> {
    /// SPIFFE ID (SPIFFE-ID, section 2).
    pub id: &'a str,
    /// DNS names.
    pub dns_names: &'a [String],
    /// IP addresses.
    pub addresses: &'a [IpAddr],
    /// Start of the validity.
    pub not_before: DateTime<Utc>,
    /// End of the validity.
    pub not_after: DateTime<Utc>,
    /// Serial number, see [`crate::serial`].
    pub serial: CertificateSerial,
}

/// A new key with its certificate.
pub struct IssuedSvid {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// The certificate in PEM, followed by the intermediate certificates.
    pub chain_pem: String,
    /// The key in PEM (PKCS #8).
    pub key_pem: Zeroizing<String>,
}

impl CertificateAuthority {
    /// Creates a root for a trust domain: ECDSA P-256, self-signed.
    ///
    /// # Errors
    /// When the crypto library can't generate the key, or the trust domain can't be part of a URI.
    pub fn create(trust_domain: &str, now: DateTime<Utc>, serial: CertificateSerial) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("Durward {trust_domain}"));
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(format!("spiffe://{trust_domain}"))?)];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(SerialNumber::from_slice(serial.bytes()));
        params.not_before = certificate_time(now - TimeDelta::seconds(BACKDATE))?;
        params.not_after = certificate_time(now + ROOT_LIFETIME)?;
        let certificate = params.self_signed(&key)?.der().clone();
        let roots = vec![certificate.clone()];
        Ok(Self { certificate, chain: Vec::new(), roots, issuer: Issuer::new(params, key) })
    }

    /// Loads an authority from PEM: its certificate, the certificates up to the root if there are any, and its key.
    ///
    /// `roots_pem` holds the roots where they are stored separately (`ca.crt` of a cert-manager Secret). Without it,
    /// the last certificate of the chain is the root.
    ///
    /// # Errors
    /// When a part is unreadable, or the key is not the certificate's key.
    pub fn from_pem(chain_pem: &str, key_pem: &str, roots_pem: Option<&str>) -> Result<Self, AuthorityError> {
        let mut chain = certificates(chain_pem)?;
        let certificate = chain.first().cloned().ok_or(AuthorityError::Pem)?;
        let roots = match roots_pem {
            Some(pem) => certificates(pem)?,
            None => chain.last().cloned().into_iter().collect(),
        };
        chain.retain(|certificate| !roots.contains(certificate));
        let key = PrivatePkcs8KeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| AuthorityError::Pem)?;
        let key = KeyPair::try_from(&key)?;
        let own = x509_parser::parse_x509_certificate(&certificate).map_err(|_| AuthorityError::Pem)?;
        if own.1.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
            return Err(AuthorityError::OtherKey);
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self { certificate, chain, roots, issuer })
    }

    /// Checks that verifiers who trust the roots accept a certificate issued `now`: the chain fits together, and its
    /// constraints allow the trust domain.
    ///
    /// # Errors
    /// When such a certificate would not be valid.
    pub fn check(&self, trust_domain: &str, now: DateTime<Utc>) -> Result<(), AuthorityError> {
        let request = SvidRequest {
            id: &format!("spiffe://{trust_domain}/ns/check/sa/check"),
            dns_names: &[],
            addresses: &[],
            not_before: now,
            not_after: now + TimeDelta::minutes(1),
            serial: CertificateSerial::unbound([0; 15]),
        };
        let leaf = self.issue(&request)?.certificate;
        verify_client(&self.with_chain(leaf), &self.roots, now.timestamp())?;
        Ok(())
    }

    /// The certificate of the authority.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The roots that verify its certificates.
    #[must_use]
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// A leaf, followed by the intermediate certificates.
    #[must_use]
    pub fn with_chain(&self, leaf: CertificateDer<'static>) -> Vec<CertificateDer<'static>> {
        [leaf].into_iter().chain(self.chain.iter().cloned()).collect()
    }

    /// Same as [`CertificateAuthority::with_chain`], in PEM.
    #[must_use]
    pub fn chain_pem(&self, leaf: &CertificateDer<'_>) -> String {
        self.chain.iter().fold(pem(leaf), |text, certificate| text + &pem(certificate))
    }

    /// Start and end of its validity, in Unix seconds.
    #[must_use]
    pub fn validity(&self) -> (i64, i64) {
        x509_parser::parse_x509_certificate(&self.certificate).map_or((0, 0), |(_, certificate)| {
            let validity = certificate.validity();
            (validity.not_before.timestamp(), validity.not_after.timestamp())
        })
    }

    /// The trust domain that its certificate names.
    #[must_use]
    pub fn trust_domain(&self) -> Option<String> {
        let (_, certificate) = x509_parser::parse_x509_certificate(&self.certificate).ok()?;
        let names = certificate.subject_alternative_name().ok().flatten()?;
        names.value.general_names.iter().find_map(|name| match name {
            x509_parser::extensions::GeneralName::URI(uri) => uri.strip_prefix("spiffe://").map(ToOwned::to_owned),
            _ => None,
        })
    }

    /// Its certificate in PEM, followed by the intermediate certificates. A root yields its own certificate.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        let chain = self.chain.iter().map(pem).collect::<String>();
        if chain.is_empty() { pem(&self.certificate) } else { chain }
    }

    /// Its roots in PEM.
    #[must_use]
    pub fn roots_pem(&self) -> String {
        self.roots.iter().map(pem).collect()
    }

    /// Its key in PEM (PKCS #8).
    #[must_use]
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.issuer.key().serialize_pem())
    }

    /// Issues an X.509-SVID (SPIFFE X509-SVID, sections 3 and 4) for a new key.
    ///
    /// # Errors
    /// When a name can't be written into a certificate, or the crypto library fails.
    pub fn issue(&self, request: &SvidRequest<'_>) -> Result<IssuedSvid, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = self.certify(request, &key)?;
        let key_pem = Zeroizing::new(key.serialize_pem());
        Ok(IssuedSvid { chain_pem: self.chain_pem(&certificate), certificate, key_pem })
    }

    /// Certifies a public key. The caller has verified who holds it.
    ///
    /// # Errors
    /// Same as [`CertificateAuthority::issue`].
    pub fn certify(
        &self,
        request: &SvidRequest<'_>,
        key: &impl PublicKeyData,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let mut params = CertificateParams::default();
        // with an empty subject the alternative names are critical, as the profile requires
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(request.id)?)];
        for name in request.dns_names {
            params.subject_alt_names.push(SanType::DnsName(Ia5String::try_from(name.as_str())?));
        }
        params.subject_alt_names.extend(request.addresses.iter().copied().map(SanType::IpAddress));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(SerialNumber::from_slice(request.serial.bytes()));
        params.not_before = certificate_time(request.not_before)?;
        params.not_after = certificate_time(request.not_after)?;
        Ok(params.signed_by(key, &self.issuer)?.der().clone())
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority").finish_non_exhaustive()
    }
}

impl fmt::Debug for IssuedSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedSvid").finish_non_exhaustive()
    }
}

/// An instant for the certificate library, which counts in whole seconds.
fn certificate_time(at: DateTime<Utc>) -> Result<OffsetDateTime, AuthorityError> {
    OffsetDateTime::from_unix_timestamp(at.timestamp()).map_err(|_| AuthorityError::Time(at))
}

/// All certificates in a PEM text.
///
/// # Errors
/// When there is none, or one is unreadable.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    all.ok().filter(|all| !all.is_empty()).ok_or(AuthorityError::Pem)
}

/// A certificate in PEM.
#[must_use]
pub fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at_checked(64).unwrap_or((rest, ""));
        pem.push_str(line);
        pem.push('\n');
        rest = tail;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}
