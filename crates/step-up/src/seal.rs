//! Sealed state in the browser: forms and cookies that it can neither read nor change. All replicas share the keys.
//!
//! Keys rotate without ending a visit. A new key seals once every replica has read it. A former key opens until
//! everything that it sealed has expired.

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::{Duration, Instant};
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Length of a nonce, in bytes.
const NONCE: usize = 12;
/// Interval between new keys. A leaked key opens what was sealed in one day, and no more.
const ROTATION_INTERVAL: TimeDelta = TimeDelta::hours(24);
/// Age from which a replica reads the keys again.
const REFRESH_INTERVAL: Duration = Duration::from_secs(60);
/// Time for which a new key only opens: five refresh intervals, which allows for clocks that differ.
const PROPAGATION: TimeDelta = TimeDelta::minutes(5);
/// Time for which a former key still opens after a new one is added. It seals for 5 minutes of that, and a visit
/// lasts 15.
const RETENTION: TimeDelta = TimeDelta::hours(1);

/// The stored keys, newest first.
#[derive(Default, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct SealingKeys(Vec<SealingKey>);

#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct SealingKey {
    /// In base64.
    key: String,
    #[zeroize(skip)]
    since: DateTime<Utc>,
}

impl SealingKeys {
    /// Adds `new_key` if one is due, and drops the expired ones.
    pub(super) fn rotate(&mut self, new_key: &[u8; 32], now: DateTime<Utc>) {
        if self.0.first().is_none_or(|newest| now - newest.since >= ROTATION_INTERVAL) {
            self.0.insert(0, SealingKey { key: STANDARD.encode(new_key), since: now });
        }
        // a key expires once the one after it is older than the retention
        let last_needed = self.0.iter().position(|key| now - key.since >= RETENTION);
        self.0.truncate(last_needed.map_or(self.0.len(), |index| index + 1));
    }

    /// Index of the key that seals: the newest one that every replica has read.
    fn sealing_index(&self, now: DateTime<Utc>) -> usize {
        let propagated = self.0.iter().position(|key| now - key.since >= PROPAGATION);
        propagated.unwrap_or(self.0.len().saturating_sub(1))
    }
}

/// A stored sealing key can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a sealing key of the step-up page is not valid; delete the record `step-up-keys`, and a new key is created")]
pub struct SealingKeyError;

/// Seals and opens state, with AES-256-GCM and random nonces.
pub struct Sealer {
    keys: Vec<RandomizedNonceKey>,
    sealing_index: usize,
    read_at: Instant,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").finish_non_exhaustive()
    }
}

impl Sealer {
    pub(super) fn new(keys: &SealingKeys, now: DateTime<Utc>) -> Result<Self, SealingKeyError> {
        let parse = |key: &SealingKey| RandomizedNonceKey::new(&AES_256_GCM, &STANDARD.decode(&key.key).ok()?).ok();
        let parsed: Option<Vec<_>> = keys.0.iter().map(parse).collect();
        Ok(Self {
            keys: parsed.ok_or(SealingKeyError)?,
            sealing_index: keys.sealing_index(now),
            read_at: Instant::now(),
        })
    }

    /// Whether the keys are due to be read again.
    pub(super) fn is_old(&self) -> bool {
        self.read_at.elapsed() >= REFRESH_INTERVAL
    }

    /// Seals a value. It opens for the same `purpose` only.
    pub fn seal(&self, purpose: &str, value: &impl Serialize) -> Option<String> {
        let mut text = serde_json::to_vec(value).ok()?;
        let key = self.keys.get(self.sealing_index)?;
        let nonce = key.seal_in_place_append_tag(Aad::from(purpose.as_bytes()), &mut text).ok()?;
        let mut sealed = nonce.as_ref().to_vec();
        sealed.append(&mut text);
        Some(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// Opens a value that was sealed for the same purpose.
    pub fn open<T: DeserializeOwned>(&self, purpose: &str, sealed: &str) -> Option<T> {
        let sealed = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, text) = sealed.split_at_checked(NONCE)?;
        self.keys.iter().find_map(|key| {
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            // a failed attempt overwrites the buffer, so each key gets a copy
            let mut text = text.to_vec();
            let text = key.open_in_place(nonce, Aad::from(purpose.as_bytes()), &mut text).ok()?;
            serde_json::from_slice(text).ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + 60 * minutes, 0).unwrap_or_default()
    }

    fn sealer(key: u8) -> Sealer {
        let mut keys = SealingKeys::default();
        keys.rotate(&[key; 32], at(0));
        Sealer::new(&keys, at(0)).expect("a key")
    }

    #[test]
    fn sealed_values_open_unaltered_and_for_their_purpose_only() {
        let sealer = sealer(7);
        let sealed = sealer.seal("form", &"hello").expect("sealed");
        assert_eq!(sealer.open::<String>("form", &sealed).as_deref(), Some("hello"));
        assert_eq!(sealer.open::<String>("cookie", &sealed), None);
        assert_eq!(self::sealer(8).open::<String>("form", &sealed), None);
        for cut in 0..sealed.len() {
            assert_eq!(sealer.open::<String>("form", sealed.get(..cut).unwrap_or_default()), None);
        }
        assert_ne!(Some(sealed), sealer.seal("form", &"hello"), "nonces differ");
    }

    /// Two replicas run for three days. One reads the keys every minute, the other one minute later. Each opens the values
    /// that the other sealed in the last 15 minutes.
    #[test]
    fn rotation_ends_no_visit() {
        let mut keys = SealingKeys::default();
        let mut created = 0_u8;
        let mut sealed = Vec::new();
        let mut late: Option<Sealer> = None;
        for minute in 0..3 * 24 * 60 {
            let before = keys.0.len();
            keys.rotate(&[created; 32], at(minute));
            created += u8::from(keys.0.len() > before);
            assert!(keys.0.len() <= 2, "{minute}");
            let early = Sealer::new(&keys, at(minute)).expect("keys");
            for replica in late.iter().chain([&early]) {
                sealed.push((minute, replica.seal("form", &minute).expect("sealed")));
            }
            let recent = sealed.iter().rev().take_while(|(then, _)| minute - then <= 15);
            for (then, text) in recent.filter(|(then, _)| [0, 1, 14, 15].contains(&(minute - then))) {
                for replica in late.iter().chain([&early]) {
                    assert_eq!(replica.open("form", text), Some(*then), "sealed at {then}, opened at {minute}");
                }
            }
            late = Some(early);
        }
        assert_eq!(created, 3);
        // the first value has expired
        let last = late.expect("a replica");
        let first = &sealed.first().expect("a sealed value").1;
        assert_eq!(last.open::<i64>("form", first), None);
    }

    #[test]
    fn stored_keys_are_read_and_broken_ones_are_rejected() {
        let mut keys = SealingKeys::default();
        keys.rotate(&[1; 32], at(0));
        let text = serde_json::to_string(&keys).expect("JSON");
        let again: SealingKeys = serde_json::from_str(&text).expect("keys");
        let sealed = Sealer::new(&keys, at(0)).expect("a key").seal("form", &1).expect("sealed");
        assert_eq!(Sealer::new(&again, at(9)).expect("a key").open("form", &sealed), Some(1));
        let short = text.replace(&STANDARD.encode([1; 32]), &STANDARD.encode([1; 16]));
        assert!(Sealer::new(&serde_json::from_str(&short).expect("keys"), at(0)).is_err());
        assert!(Sealer::new(&SealingKeys::default(), at(0)).expect("no key").seal("form", &1).is_none());
    }
}
