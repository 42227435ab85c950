//! The keys that sign tokens at one time, and their files.

use chrono::{DateTime, Utc};
use durward_pki::rotation::{TokenKeySchedule, TokenKeyTerm, signing_key, token_key_changes};
use durward_pki::token::{Jwk, SigningAlgorithm, TokenKey, TokenKeyError, jwks};
use std::collections::BTreeMap;
use thiserror::Error;
use zeroize::Zeroizing;

/// A file is not a token key.
#[derive(Debug, Error)]
pub enum TokenKeyFileError {
    /// The name is not that of a token key.
    #[error("`{0}` is not a name of a token key: use ALGORITHM-UNIXTIME.pem, such as es256-1800000000.pem")]
    Name(String),
    /// The file is not text.
    #[error("`{0}` is not PEM")]
    Text(String),
    /// The key is not valid.
    #[error("`{name}`: {source}")]
    Key {
        /// Name of the file.
        name: String,
        /// What is wrong with the key.
        source: TokenKeyError,
    },
}

/// The token keys at one time.
#[derive(Debug, Default)]
pub struct TokenKeyRing(BTreeMap<TokenKeyTerm, TokenKey>);

impl TokenKeyRing {
    /// Reads keys from files, given by name and content.
    ///
    /// # Errors
    /// If a name or a key is not valid.
    pub fn from_files<'f>(files: impl IntoIterator<Item = (&'f str, &'f [u8])>) -> Result<Self, TokenKeyFileError> {
        let mut ring = BTreeMap::new();
        for (name, pem) in files {
            let term = parse_file_name(name).ok_or_else(|| TokenKeyFileError::Name(name.to_owned()))?;
            let pem = std::str::from_utf8(pem).map_err(|_| TokenKeyFileError::Text(name.to_owned()))?;
            let key = TokenKey::from_pem(term.algorithm, pem);
            ring.insert(term, key.map_err(|source| TokenKeyFileError::Key { name: name.to_owned(), source })?);
        }
        Ok(Self(ring))
    }

    /// The names and contents of the files.
    pub fn files(&self) -> impl Iterator<Item = (String, Zeroizing<String>)> {
        self.0.iter().map(|(term, key)| (file_name(*term), key.to_pem()))
    }

    /// The key that signs at `now`.
    pub fn signing_key(&self, algorithm: SigningAlgorithm, now: DateTime<Utc>) -> Option<&TokenKey> {
        self.0.get(&signing_key(self.0.keys().copied(), algorithm, now.timestamp())?)
    }

    /// The public keys as a JWK set (RFC 7517, section 5).
    pub fn jwks(&self) -> String {
        jwks(self.public_keys())
    }

    /// The public keys.
    pub fn public_keys(&self) -> impl Iterator<Item = &Jwk> {
        self.0.values().map(TokenKey::jwk)
    }

    /// A number that grows when a key is added or removed.
    pub fn sequence(&self) -> i64 {
        let starts = || self.0.keys().map(|term| term.from);
        starts().max().unwrap_or_default().saturating_add(starts().min().unwrap_or_default())
    }

    /// Whether a key is to be generated or removed at `now`.
    pub(crate) fn is_due(&self, schedule: &TokenKeySchedule, now: DateTime<Utc>) -> bool {
        let (added, removed) = token_key_changes(&self.terms(), schedule, now.timestamp());
        !(added.is_empty() && removed.is_empty())
    }

    /// Generates the keys that are due and removes the expired ones. Returns whether there were any.
    ///
    /// # Errors
    /// If a key can't be generated.
    pub fn renew(&mut self, schedule: &TokenKeySchedule, now: DateTime<Utc>) -> Result<bool, TokenKeyError> {
        let (added, removed) = token_key_changes(&self.terms(), schedule, now.timestamp());
        for term in &removed {
            self.0.remove(term);
        }
        for term in &added {
            self.0.insert(*term, TokenKey::generate(term.algorithm)?);
        }
        Ok(!(added.is_empty() && removed.is_empty()))
    }

    fn terms(&self) -> Vec<TokenKeyTerm> {
        self.0.keys().copied().collect()
    }
}

/// The file name of a key: its algorithm, and the start of its term in Unix seconds.
fn file_name(term: TokenKeyTerm) -> String {
    format!("{}-{}.pem", term.algorithm.as_str().to_ascii_lowercase(), term.from)
}

fn parse_file_name(name: &str) -> Option<TokenKeyTerm> {
    let (algorithm, from) = name.strip_suffix(".pem")?.split_once('-')?;
    let algorithm = SigningAlgorithm::ALL.into_iter().find(|one| one.as_str().eq_ignore_ascii_case(algorithm))?;
    Some(TokenKeyTerm { algorithm, from: from.parse().ok()? })
}
