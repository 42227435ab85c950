//! Serial numbers that identify the holder of a certificate.
//!
//! The SPIFFE ID names a service account. It names neither the pod nor one of several service accounts that had the name one
//! after the other. The serial number identifies both, so a verifier that knows the live pods and service accounts can refuse
//! the certificate of a deleted one, without a list of all certificates.
//!
//! ```text
//! byte   0      1..6     6..11             11..20
//!        kind   pod      service account   random
//! ```

/// The first byte: the kind of holder.
const UNBOUND: u8 = 0x01;
const POD: u8 = 0x02;

/// The UID of a Kubernetes object, shortened to the first five bytes of its SHA-256 digest.
///
/// If two objects share a tag, the certificate of a deleted one stays valid as long as the other one exists. No user can
/// choose a UID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct UidTag([u8; 5]);

impl UidTag {
    /// The tag of a UID.
    #[must_use]
    pub fn from_uid(uid: &str) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, uid.as_bytes());
        let mut tag = [0; 5];
        tag.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
        Self(tag)
    }
}

/// Hexadecimal, as in tokens.
impl std::fmt::Display for UidTag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Why a text is not a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a tag is ten hexadecimal digits")]
pub struct UidTagError;

impl std::str::FromStr for UidTag {
    type Err = UidTagError;

    fn from_str(text: &str) -> Result<Self, UidTagError> {
        let number = u64::from_str_radix(text, 16).map_err(|_| UidTagError)?;
        let [0, 0, 0, bytes @ ..] = number.to_be_bytes() else { return Err(UidTagError) };
        let tag = Self(bytes);
        // refuses a sign, upper case, and fewer digits
        if tag.to_string() == text { Ok(tag) } else { Err(UidTagError) }
    }
}

/// A serial number of 20 bytes, positive (RFC 5280, section 4.1.2.2), at least 72 bits of it random.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CertificateSerial([u8; 20]);

/// The pod and the service account that must exist for a certificate to be valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CertificateHolder {
    /// Tag of the pod.
    pub pod: UidTag,
    /// Tag of the pod's service account.
    pub service_account: UidTag,
}

impl CertificateSerial {
    /// For a certificate that depends on no pod: an authority, Durward's own listeners, a certificate made by hand.
    #[must_use]
    pub fn unbound(random: [u8; 15]) -> Self {
        let mut bytes = [0; 20];
        bytes.iter_mut().zip([UNBOUND].iter().chain(&random)).for_each(|(to, from)| *to = *from);
        Self(bytes)
    }

    /// For a pod's certificate.
    #[must_use]
    pub fn for_pod(holder: CertificateHolder, random: [u8; 9]) -> Self {
        let mut bytes = [0; 20];
        let parts = [POD].into_iter().chain(holder.pod.0).chain(holder.service_account.0).chain(random);
        bytes.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
        Self(bytes)
    }

    /// The bytes, most significant first.
    #[must_use]
    pub const fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The holder that must exist for a certificate with this serial number to be valid; `None` if it depends on no
    /// pod.
    #[must_use]
    pub fn holder(bytes: &[u8]) -> Option<CertificateHolder> {
        let [POD, a, b, c, d, e, f, g, h, i, j, random @ ..] = bytes else { return None };
        (random.len() == 9).then_some(CertificateHolder {
            pod: UidTag([*a, *b, *c, *d, *e]),
            service_account: UidTag([*f, *g, *h, *i, *j]),
        })
    }
}

impl std::fmt::Display for CertificateSerial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_round_trip_and_malformed_texts_are_refused() {
        let tag = UidTag::from_uid("pod");
        assert_eq!(tag.to_string().parse(), Ok(tag));
        for bad in ["", "0", "+123456789", "012345678", "0123456789a", "012345678G", "ABCDEFABCD"] {
            assert_eq!(bad.parse::<UidTag>(), Err(UidTagError), "{bad:?}");
        }
    }

    #[test]
    fn only_a_pods_serial_number_names_a_holder() {
        let holder = CertificateHolder { pod: UidTag::from_uid("pod"), service_account: UidTag::from_uid("account") };
        let serial = CertificateSerial::for_pod(holder, [0xff; 9]);
        assert_eq!(CertificateSerial::holder(serial.bytes()), Some(holder));
        assert_eq!(serial.bytes().len(), 20);
        for other in [CertificateSerial::unbound([2; 15]).bytes(), &[POD; 19], &[POD; 21], &[], &[0x82; 20]] {
            assert_eq!(CertificateSerial::holder(other), None, "{other:?}");
        }
    }
}
