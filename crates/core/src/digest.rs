//! Digests of content, and the revision of a snapshot.

use aws_lc_rs::digest::{Context, SHA256};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// SHA-256 of some content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of these parts. Each part is delimited by its length.
    #[must_use]
    pub fn of<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> Self {
        let mut context = Context::new(&SHA256);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut bytes = [0; 32];
        for (to, from) in bytes.iter_mut().zip(context.finish().as_ref()) {
            *to = *from;
        }
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    /// The first half in hexadecimal: 128 bits, enough to rule out collisions by accident or on purpose.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (half, _) = self.0.as_chunks::<16>();
        let number = half.first().map_or(0, |half| u128::from_be_bytes(*half));
        write!(f, "{number:032x}")
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// Number of buckets of [`ContentDigests`] less one. A change rehashes one bucket and the list of buckets. At 100,000
/// entries a bucket holds 400, about 30 kB, and the list 8 kB; both take microseconds.
const BUCKETS: u8 = 255;

/// Digests of named contents and their joint digest, which does not depend on the order of insertion.
#[derive(Debug, Clone)]
pub struct ContentDigests(Vec<Arc<Bucket>>);

#[derive(Debug, Clone, Default)]
struct Bucket {
    entries: BTreeMap<Arc<str>, Digest>,
    /// `None` after a change.
    digest: Option<Digest>,
}

impl Default for ContentDigests {
    fn default() -> Self {
        Self((0..=BUCKETS).map(|_| Arc::new(Bucket::default())).collect())
    }
}

impl ContentDigests {
    /// Inserts or replaces one content.
    pub fn insert(&mut self, name: &str, digest: Digest) {
        self.change(name, |entries| {
            entries.insert(name.into(), digest);
        });
    }

    /// Removes one content.
    pub fn remove(&mut self, name: &str) {
        self.change(name, |entries| {
            entries.remove(name);
        });
    }

    /// The digest of everything.
    pub fn digest(&mut self) -> Digest {
        let buckets: Vec<Digest> = self.0.iter_mut().map(Bucket::up_to_date_digest).collect();
        Digest::of(buckets.iter().map(|digest| digest.as_bytes().as_slice()))
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut BTreeMap<Arc<str>, Digest>)) {
        let slot = usize::from(*Digest::of([name.as_bytes()]).as_bytes().first().unwrap_or(&0));
        if let Some(bucket) = self.0.get_mut(slot) {
            let bucket = Arc::make_mut(bucket);
            change(&mut bucket.entries);
            bucket.digest = None;
        }
    }
}

impl Bucket {
    fn up_to_date_digest(bucket: &mut Arc<Self>) -> Digest {
        if let Some(digest) = bucket.digest {
            return digest;
        }
        let digest = Digest::of(
            bucket.entries.iter().flat_map(|(name, digest)| [name.as_bytes(), digest.as_bytes().as_slice()]),
        );
        Arc::make_mut(bucket).digest = Some(digest);
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_depend_on_content_and_not_on_order() {
        let names: Vec<String> = (0..1000).map(|i| format!("policy-{i}")).collect();
        let (mut forth, mut back) = (ContentDigests::default(), ContentDigests::default());
        names.iter().for_each(|name| forth.insert(name, Digest::of([name.as_bytes()])));
        names.iter().rev().for_each(|name| back.insert(name, Digest::of([name.as_bytes()])));
        let whole = forth.digest();
        assert_eq!(whole, back.digest());
        back.insert("policy-7", Digest::of([b"other".as_slice()]));
        assert_ne!(whole, back.digest());
        back.insert("policy-7", Digest::of([b"policy-7".as_slice()]));
        assert_eq!(whole, back.digest());
        back.remove("policy-7");
        assert_ne!(whole, back.digest());
    }

    #[test]
    fn parts_are_delimited() {
        assert_ne!(Digest::of([b"ab".as_slice(), b"c"]), Digest::of([b"a".as_slice(), b"bc"]));
    }
}
