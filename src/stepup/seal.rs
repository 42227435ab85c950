//! What a browser keeps for us, and can neither read nor change: sealed with a key that all replicas share.

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop};

const NONCE: usize = 12;

/// The key as it is stored.
#[derive(Default, Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
pub(super) struct Key(String);

impl Key {
    /// The key that is there; `fresh` where there is none.
    pub(super) fn get_or_set(&mut self, fresh: &[u8; 32]) -> Result<[u8; 32], &'static str> {
        if self.0.is_empty() {
            self.0 = STANDARD.encode(fresh);
        }
        let bytes = STANDARD.decode(&self.0).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.ok_or("the key of the step-up page is no key; remove it, and a new one is made")
    }
}

/// Seals and opens, by AES-256-GCM with random nonces.
pub(crate) struct Sealer(RandomizedNonceKey);

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").finish_non_exhaustive()
    }
}

impl Sealer {
    pub(super) fn new(key: &[u8; 32]) -> Result<Self, &'static str> {
        RandomizedNonceKey::new(&AES_256_GCM, key).map(Self).map_err(|_| "the key of the step-up page is no key")
    }

    /// Seals a value; `purpose` tells kinds of values apart.
    pub(crate) fn seal(&self, purpose: &str, value: &impl Serialize) -> Option<String> {
        let mut text = serde_json::to_vec(value).ok()?;
        let nonce = self.0.seal_in_place_append_tag(Aad::from(purpose.as_bytes()), &mut text).ok()?;
        let mut sealed = nonce.as_ref().to_vec();
        sealed.append(&mut text);
        Some(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// Opens what was sealed for the same purpose.
    pub(crate) fn open<T: DeserializeOwned>(&self, purpose: &str, sealed: &str) -> Option<T> {
        let mut sealed = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, text) = sealed.split_at_mut_checked(NONCE)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let text = self.0.open_in_place(nonce, Aad::from(purpose.as_bytes()), text).ok()?;
        serde_json::from_slice(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_for_its_purpose_alone_and_only_whole() {
        let sealer = Sealer::new(&[7; 32]).expect("a key");
        let sealed = sealer.seal("form", &"hello").expect("sealed");
        assert_eq!(sealer.open::<String>("form", &sealed).as_deref(), Some("hello"));
        assert_eq!(sealer.open::<String>("cookie", &sealed), None);
        assert_eq!(Sealer::new(&[8; 32]).expect("a key").open::<String>("form", &sealed), None);
        for cut in 0..sealed.len() {
            assert_eq!(sealer.open::<String>("form", sealed.get(..cut).unwrap_or_default()), None);
        }
        assert_ne!(Some(sealed), sealer.seal("form", &"hello"), "never the same twice");
    }
}
