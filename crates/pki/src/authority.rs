//! The certificate authority of a trust domain, and the X.509-SVIDs that it issues.

use crate::serial::Serial;
use crate::svid::{SvidError, verify};
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

/// Lifetime of a root: it is replaced long before, and one that is forgotten does not count for ever.
const ROOT_DAYS: i64 = 365;

/// A certificate authority with its key. One that is not a root itself sends the certificates between along.
pub struct Authority {
    certificate: CertificateDer<'static>,
    /// What goes with each leaf, the own certificate first; empty for a root.
    chain: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate, a key or a request is not what it has to be.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// The library refused.
    #[error("{0}")]
    Certificate(#[from] rcgen::Error),
    /// PEM without a certificate or without a key.
    #[error("no certificate or no key (PKCS #8) in PEM form found")]
    Pem,
    /// The key is another one than the certificate's.
    #[error("the key does not belong to the certificate")]
    OtherKey,
    /// What it would issue is not valid.
    #[error("what it issues is not valid: {0}")]
    Useless(#[from] SvidError),
}

/// What a certificate is to say.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// SPIFFE ID (SPIFFE-ID, section 2).
    pub id: &'a str,
    /// DNS names.
    pub dns_names: &'a [String],
    /// IP addresses.
    pub addresses: &'a [IpAddr],
    /// Beginning of its validity.
    pub not_before: OffsetDateTime,
    /// End of its validity.
    pub not_after: OffsetDateTime,
    /// Serial number, see [`crate::serial`].
    pub serial: Serial,
}

/// A fresh key and its certificate.
pub struct Issued {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// The certificate in PEM, and after it those between it and the root.
    pub chain_pem: String,
    /// The key in PEM (PKCS #8).
    pub key_pem: Zeroizing<String>,
}

impl Authority {
    /// Makes a new root for a trust domain: ECDSA P-256, self-signed.
    ///
    /// # Errors
    /// When the crypto library can't make the key, or the trust domain can't be part of a URI.
    pub fn create(trust_domain: &str, now: OffsetDateTime, serial: Serial) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("Durward {trust_domain}"));
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(format!("spiffe://{trust_domain}"))?)];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(SerialNumber::from_slice(serial.bytes()));
        params.not_before = now - time::Duration::minutes(1);
        params.not_after = now + time::Duration::days(ROOT_DAYS);
        let certificate = params.self_signed(&key)?.der().clone();
        let roots = vec![certificate.clone()];
        Ok(Self { certificate, chain: Vec::new(), roots, issuer: Issuer::new(params, key) })
    }

    /// Takes over an authority from its PEM files: its certificate, followed by those up to the root if it has any,
    /// and its key. `roots_pem` are the roots where they are kept apart (`ca.crt` of a Secret of cert-manager); otherwise
    /// the last certificate is the root.
    ///
    /// # Errors
    /// When one is not readable, or the key is not the certificate's.
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

    /// Checks that what it issues `now` is valid for whoever trusts its roots: the certificates belong together and
    /// their constraints allow the trust domain.
    ///
    /// # Errors
    /// When it is not.
    pub fn check(&self, trust_domain: &str, now: OffsetDateTime) -> Result<(), AuthorityError> {
        let request = Request {
            id: &format!("spiffe://{trust_domain}/ns/check/sa/check"),
            dns_names: &[],
            addresses: &[],
            not_before: now,
            not_after: now + time::Duration::minutes(1),
            serial: Serial::own([0; 15]),
        };
        let leaf = self.issue(&request)?.certificate;
        verify(&self.with_chain(leaf), &self.roots, now.unix_timestamp())?;
        Ok(())
    }

    /// Its own certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The roots by which what it issues is verified.
    #[must_use]
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// A leaf, and after it the certificates between it and the root.
    #[must_use]
    pub fn with_chain(&self, leaf: CertificateDer<'static>) -> Vec<CertificateDer<'static>> {
        [leaf].into_iter().chain(self.chain.iter().cloned()).collect()
    }

    /// As [`Authority::with_chain`], in PEM.
    #[must_use]
    pub fn chain_pem(&self, leaf: &CertificateDer<'_>) -> String {
        self.chain.iter().fold(pem(leaf), |text, certificate| text + &pem(certificate))
    }

    /// Beginning and end of its validity, in seconds since 1970.
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

    /// Its certificate in PEM, and after it those up to the root, that one included when it is its own.
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

    /// Issues an X.509-SVID (SPIFFE X509-SVID, sections 3 and 4) for a fresh key.
    ///
    /// # Errors
    /// When a name can't be written into a certificate, or the crypto library fails.
    pub fn issue(&self, request: &Request<'_>) -> Result<Issued, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = self.certify(request, &key)?;
        let key_pem = Zeroizing::new(key.serialize_pem());
        Ok(Issued { chain_pem: self.chain_pem(&certificate), certificate, key_pem })
    }

    /// Certifies a public key whose owner is already known.
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub fn certify(
        &self,
        request: &Request<'_>,
        key: &impl PublicKeyData,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let mut params = CertificateParams::default();
        // an empty subject makes the alternative names critical, as the profile asks
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
        params.not_before = request.not_before;
        params.not_after = request.not_after;
        Ok(params.signed_by(key, &self.issuer)?.der().clone())
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").finish_non_exhaustive()
    }
}

/// All certificates in a PEM text.
///
/// # Errors
/// When there is none, or one is not readable.
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
