//! Recovery codes, for people who lose their authenticator app or key.
//!
//! A code is 80 random bits. A thief of its hash would have to try 2⁷⁹ codes, so a slow hash adds nothing.
//! The hash is bound to the person: a code is valid for one person only.

use durward_core::principal::PrincipalId;
use durward_runtime::random::{RandomnessUnavailable, random_bytes};
use subtle::ConstantTimeEq;
use totp_rs::Secret;

/// Codes in one set.
pub(super) const CODES: usize = 10;
/// Random bytes in a code.
const BYTES: usize = 10;

/// A new set of codes, as people read them: four groups of four letters and digits.
pub(super) fn new_codes() -> Result<Vec<String>, RandomnessUnavailable> {
    let code = |_| {
        let bytes: [u8; BYTES] = random_bytes()?;
        // base32 (RFC 4648), as in the secrets of authenticator apps
        let text = Secret::from(bytes.to_vec()).to_base32().to_lowercase();
        Ok(text.as_bytes().chunks(4).map(String::from_utf8_lossy).collect::<Vec<_>>().join("-"))
    };
    (0..CODES).map(code).collect()
}

/// The hash under which a code is stored. Case and separators of the typed code don't matter.
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

/// Index of a code's hash. All hashes are compared, so that the time doesn't depend on the index.
pub(super) fn find(hashes: &[String], hash: &str) -> Option<usize> {
    let index_if_equal =
        |(index, other): (usize, &String)| bool::from(other.as_bytes().ct_eq(hash.as_bytes())).then_some(index);
    hashes.iter().enumerate().map(index_if_equal).fold(None, Option::or)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_long_and_accepted_in_any_spelling() {
        let codes = new_codes().expect("random numbers");
        assert_eq!(codes.len(), CODES);
        assert!(
            codes.iter().all(|code| code.len() == 19 && code.split('-').all(|group| group.len() == 4)),
            "{codes:?}"
        );
        let alice = PrincipalId::user("corporate", "alice").expect("a name");
        let bob = PrincipalId::user("corporate", "bob").expect("a name");
        let hashes: Vec<_> = codes.iter().map(|code| hash(&alice, code)).collect();
        let typed = codes.get(3).map(|code| code.to_uppercase().replace('-', " ")).unwrap_or_default();
        assert_eq!(find(&hashes, &hash(&alice, &typed)), Some(3));
        assert_eq!(find(&hashes, &hash(&bob, &typed)), None);
        assert_eq!(find(&hashes, &hash(&alice, "")), None);
    }
}
