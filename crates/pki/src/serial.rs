//! Serial numbers, which tell for whom a certificate was issued.
//!
//! A certificate says which service account it is of, not which pod, nor which of several service accounts that bore the
//! name one after the other. Its serial number does, so that whoever knows what lives can tell whether it still counts,
//! without a list of all certificates.
//!
//! ```text
//! byte   0      1..6     6..11             11..20
//!        kind   pod      service account   random
//! ```

/// For whom the certificate was issued.
const OWN: u8 = 0x01;
const POD: u8 = 0x02;

/// What a UID leaves in a serial number: the first five bytes of its digest. Two living pods that share it only make a dead
/// one count for longer; nobody can choose a UID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Tag([u8; 5]);

impl Tag {
    /// Of the UID of a Kubernetes object.
    #[must_use]
    pub fn of(uid: &str) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, uid.as_bytes());
        let mut tag = [0; 5];
        tag.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
        Self(tag)
    }
}

/// In hexadecimal, as tokens carry it.
impl std::fmt::Display for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text is no tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a tag is ten hexadecimal digits")]
pub struct TagError;

impl std::str::FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        let number = u64::from_str_radix(text, 16).map_err(|_| TagError)?;
        let [0, 0, 0, bytes @ ..] = number.to_be_bytes() else { return Err(TagError) };
        let tag = Self(bytes);
        // neither signs nor fewer digits
        if tag.to_string() == text { Ok(tag) } else { Err(TagError) }
    }
}

/// A serial number of 20 bytes, positive (RFC 5280, section 4.1.2.2), at least 72 bits of it random.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serial([u8; 20]);

/// Who lives as long as the certificate counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The pod.
    pub pod: Tag,
    /// Its service account.
    pub service_account: Tag,
}

impl Serial {
    /// Of a certificate that depends on no pod: an authority, a listener of Durward's own, one that a person made.
    #[must_use]
    pub fn own(random: [u8; 15]) -> Self {
        let mut bytes = [0; 20];
        bytes.iter_mut().zip([OWN].iter().chain(&random)).for_each(|(to, from)| *to = *from);
        Self(bytes)
    }

    /// Of a pod's certificate.
    #[must_use]
    pub fn of_pod(holder: Holder, random: [u8; 9]) -> Self {
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

    /// Who has to live for a certificate with this serial number to count; `None` when that is nobody.
    #[must_use]
    pub fn holder(bytes: &[u8]) -> Option<Holder> {
        let [POD, a, b, c, d, e, f, g, h, i, j, random @ ..] = bytes else { return None };
        (random.len() == 9)
            .then_some(Holder { pod: Tag([*a, *b, *c, *d, *e]), service_account: Tag([*f, *g, *h, *i, *j]) })
    }
}

impl std::fmt::Display for Serial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_survives_its_text_and_nothing_else_is_one() {
        let tag = Tag::of("pod");
        assert_eq!(tag.to_string().parse(), Ok(tag));
        for bad in ["", "0", "+123456789", "012345678", "0123456789a", "012345678G", "ABCDEFABCD"] {
            assert_eq!(bad.parse::<Tag>(), Err(TagError), "{bad:?}");
        }
    }

    #[test]
    fn a_serial_number_tells_its_holder_and_nothing_else_does() {
        let holder = Holder { pod: Tag::of("pod"), service_account: Tag::of("account") };
        let serial = Serial::of_pod(holder, [0xff; 9]);
        assert_eq!(Serial::holder(serial.bytes()), Some(holder));
        assert_eq!(serial.bytes().len(), 20);
        for other in [Serial::own([2; 15]).bytes(), &[POD; 19], &[POD; 21], &[], &[0x82; 20]] {
            assert_eq!(Serial::holder(other), None, "{other:?}");
        }
    }
}
