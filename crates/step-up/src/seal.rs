//! What a browser keeps for us, and can neither read nor change: sealed with keys that all replicas share.
//!
//! The keys follow one another. A new one seals once every replica has read it, and a former one opens until what it has
//! sealed is over: no visit ends by it.

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::{Duration, Instant};
use zeroize::{Zeroize, ZeroizeOnDrop};

const NONCE: usize = 12;
/// How often there is a new key. Whoever has read one opens what was sealed in a day, and no more.
const EVERY: TimeDelta = TimeDelta::hours(24);
/// How old the keys may be that a replica has read.
const READ: Duration = Duration::from_secs(60);
/// How long a new key only opens: five times as long as it takes until everybody has it, for clocks that differ.
const SPREADS: TimeDelta = TimeDelta::minutes(5);
/// How long a former key opens after the new one came. It seals for five minutes of that, and visits last for fifteen.
const KEPT: TimeDelta = TimeDelta::hours(1);

/// The keys as they are stored, newest first.
#[derive(Default, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Ring(Vec<Key>);

#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct Key {
    key: String,
    #[zeroize(skip)]
    since: DateTime<Utc>,
}

impl Ring {
    /// Takes `fresh` in if a key is due, and lets go of those whose time is over.
    pub(super) fn turn(&mut self, fresh: &[u8; 32], now: DateTime<Utc>) {
        if self.0.first().is_none_or(|newest| now - newest.since >= EVERY) {
            self.0.insert(0, Key { key: STANDARD.encode(fresh), since: now });
        }
        let over = self.0.iter().position(|key| now - key.since >= KEPT);
        self.0.truncate(over.map_or(self.0.len(), |newer| newer + 1));
    }

    /// Which one seals: the newest that everybody has.
    fn sealing(&self, now: DateTime<Utc>) -> usize {
        let spread = self.0.iter().position(|key| now - key.since >= SPREADS);
        spread.unwrap_or(self.0.len().saturating_sub(1))
    }
}

/// Seals and opens, by AES-256-GCM with random nonces.
pub struct Sealer {
    keys: Vec<RandomizedNonceKey>,
    sealing: usize,
    read: Instant,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").finish_non_exhaustive()
    }
}

impl Sealer {
    pub(super) fn new(ring: &Ring, now: DateTime<Utc>) -> Result<Self, &'static str> {
        let key = |key: &Key| RandomizedNonceKey::new(&AES_256_GCM, &STANDARD.decode(&key.key).ok()?).ok();
        let keys: Option<Vec<_>> = ring.0.iter().map(key).collect();
        let keys = keys.ok_or("a key of the step-up page is no key; remove them, and a new one is made")?;
        Ok(Self { keys, sealing: ring.sealing(now), read: Instant::now() })
    }

    /// Whether the keys were read so long ago that there can be others.
    pub(super) fn is_old(&self) -> bool {
        self.read.elapsed() >= READ
    }

    /// Seals a value; `purpose` tells kinds of values apart.
    pub fn seal(&self, purpose: &str, value: &impl Serialize) -> Option<String> {
        let mut text = serde_json::to_vec(value).ok()?;
        let key = self.keys.get(self.sealing)?;
        let nonce = key.seal_in_place_append_tag(Aad::from(purpose.as_bytes()), &mut text).ok()?;
        let mut sealed = nonce.as_ref().to_vec();
        sealed.append(&mut text);
        Some(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// Opens what was sealed for the same purpose.
    pub fn open<T: DeserializeOwned>(&self, purpose: &str, sealed: &str) -> Option<T> {
        let sealed = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, text) = sealed.split_at_checked(NONCE)?;
        self.keys.iter().find_map(|key| {
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            // opening with another key leaves no text behind
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
        let mut ring = Ring::default();
        ring.turn(&[key; 32], at(0));
        Sealer::new(&ring, at(0)).expect("a key")
    }

    #[test]
    fn what_is_sealed_opens_for_its_purpose_alone_and_only_whole() {
        let sealer = sealer(7);
        let sealed = sealer.seal("form", &"hello").expect("sealed");
        assert_eq!(sealer.open::<String>("form", &sealed).as_deref(), Some("hello"));
        assert_eq!(sealer.open::<String>("cookie", &sealed), None);
        assert_eq!(self::sealer(8).open::<String>("form", &sealed), None);
        for cut in 0..sealed.len() {
            assert_eq!(sealer.open::<String>("form", sealed.get(..cut).unwrap_or_default()), None);
        }
        assert_ne!(Some(sealed), sealer.seal("form", &"hello"), "never the same twice");
    }

    /// Two replicas for three days: one reads the keys at each whole minute, the other as late as it may, and either opens
    /// whatever the other has sealed in the last quarter of an hour.
    #[test]
    fn keys_follow_one_another_and_no_visit_ends_by_it() {
        let (mut ring, mut made, mut sealed) = (Ring::default(), 0_u8, Vec::new());
        let mut late: Option<Sealer> = None;
        for minute in 0..3 * 24 * 60 {
            let before = ring.0.len();
            ring.turn(&[made; 32], at(minute));
            made += u8::from(ring.0.len() > before);
            assert!(ring.0.len() <= 2, "{minute}");
            let early = Sealer::new(&ring, at(minute)).expect("keys");
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
        assert_eq!(made, 3);
        // what is long over opens nowhere
        let (last, first) = (late.expect("a replica"), &sealed.first().expect("the first one").1);
        assert_eq!(last.open::<i64>("form", first), None);
    }

    #[test]
    fn what_is_stored_is_a_ring_of_keys_or_nothing_is_sealed() {
        let mut ring = Ring::default();
        ring.turn(&[1; 32], at(0));
        let text = serde_json::to_string(&ring).expect("JSON");
        let again: Ring = serde_json::from_str(&text).expect("a ring");
        let sealed = Sealer::new(&ring, at(0)).expect("a key").seal("form", &1).expect("sealed");
        assert_eq!(Sealer::new(&again, at(9)).expect("a key").open("form", &sealed), Some(1));
        let short = text.replace(&STANDARD.encode([1; 32]), &STANDARD.encode([1; 16]));
        assert!(Sealer::new(&serde_json::from_str(&short).expect("a ring"), at(0)).is_err());
        assert!(Sealer::new(&Ring::default(), at(0)).expect("no key").seal("form", &1).is_none());
    }
}
