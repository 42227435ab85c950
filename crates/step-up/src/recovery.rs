//! Recovery codes: for the day on which the authenticator app is lost.
//!
//! A code is 80 random bits, so that whoever has read its hash would try 2⁷⁹ of them: no slow hash is needed, nor could it
//! add anything. The hash is bound to the person, so that nobody's code is another's.

use durward_core::principal::PrincipalId;
use durward_runtime::random::random;
use subtle::ConstantTimeEq;
use totp_rs::Secret;

/// Codes that are given at once.
pub(super) const CODES: usize = 10;
const BYTES: usize = 10;

/// New codes, as people read them: four groups of four letters and digits.
pub(super) fn codes() -> Result<Vec<String>, String> {
    let code = |_| {
        let bytes: [u8; BYTES] = random().map_err(|error| error.to_string())?;
        // Base32 (RFC 4648), as of the secrets of authenticator apps
        let text = Secret::from(bytes.to_vec()).to_base32().to_lowercase();
        Ok(text.as_bytes().chunks(4).map(String::from_utf8_lossy).collect::<Vec<_>>().join("-"))
    };
    (0..CODES).map(code).collect()
}

/// What is stored of a code.
pub(super) fn hash(id: &PrincipalId, code: &str) -> String {
    let typed = code.chars().filter(|c| c.is_ascii_alphanumeric()).map(|c| c.to_ascii_lowercase());
    let typed: String = typed.take(2 * BYTES).collect();
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for part in ["durward recovery code", &id.to_string(), &typed] {
        context.update(part.as_bytes());
        context.update(&[0]);
    }
    hex::encode(context.finish())
}

/// Where a code's hash is among others; all of them are looked at.
pub(super) fn find(hashes: &[String], hash: &str) -> Option<usize> {
    let same =
        |(number, other): (usize, &String)| bool::from(other.as_bytes().ct_eq(hash.as_bytes())).then_some(number);
    hashes.iter().enumerate().map(same).fold(None, Option::or)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_long_and_counted_however_they_are_typed() {
        let codes = codes().expect("random numbers");
        assert_eq!(codes.len(), CODES);
        assert!(
            codes.iter().all(|code| code.len() == 19 && code.split('-').all(|group| group.len() == 4)),
            "{codes:?}"
        );
        let (alice, bob) = (
            PrincipalId::user("corporate", "alice").expect("a name"),
            PrincipalId::user("corporate", "bob").expect("a name"),
        );
        let hashes: Vec<_> = codes.iter().map(|code| hash(&alice, code)).collect();
        let typed = codes.get(3).map(|code| code.to_uppercase().replace('-', " ")).unwrap_or_default();
        assert_eq!(find(&hashes, &hash(&alice, &typed)), Some(3));
        assert_eq!(find(&hashes, &hash(&bob, &typed)), None);
        assert_eq!(find(&hashes, &hash(&alice, "")), None);
    }
}
