//! Request headers that conditions read.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Longest value of a header that conditions read, in bytes.
pub const MAX_HEADER: usize = 1024;

/// What some headers of a request say, or why nobody can tell.
#[derive(Debug)]
pub struct HeaderValues(BTreeMap<Arc<str>, Result<String, &'static str>>);

impl HeaderValues {
    /// The headers of these names, which are in lower case; `None` where headers are not known. One that an application
    /// could read otherwise than a condition is not told: sent twice, or spelled with what gateway interfaces can't tell
    /// from a hyphen.
    pub(crate) fn read(
        names: &[Arc<str>],
        visit: impl FnOnce(&mut dyn FnMut(&str, Option<&[u8]>)) -> bool,
    ) -> Option<Self> {
        let mut found: BTreeMap<Arc<str>, Result<String, &'static str>> = BTreeMap::new();
        let known = visit(&mut |name, value| {
            let is_connection = name.eq_ignore_ascii_case("connection");
            for wanted in names {
                let told = if name.eq_ignore_ascii_case(wanted) {
                    if found.contains_key(wanted) { Err("was sent more than once") } else { text(value) }
                } else if is_alike(name, wanted) {
                    Err("was sent in a spelling that applications can't tell from it")
                } else if is_connection && value.is_some_and(|value| lists(value, wanted)) {
                    Err("is named by `Connection`, so that it goes no further")
                } else {
                    continue;
                };
                found.insert(Arc::clone(wanted), told);
            }
        });
        known.then_some(Self(found))
    }

    /// What a header says; nothing if it was not sent.
    pub(crate) fn get(&self, name: &str) -> Option<&Result<String, &'static str>> {
        self.0.get(name)
    }
}

/// A value, if every parser reads the same of it. Doors that are told headers by a proxy get several values as one, with
/// commas between them, so that none with a comma counts anywhere.
fn text(value: Option<&[u8]>) -> Result<String, &'static str> {
    let value = value.ok_or("carries credentials")?;
    if value.len() > MAX_HEADER {
        return Err("is longer than 1024 bytes");
    }
    if !value.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err("is not made of printable ASCII characters");
    }
    if value.contains(&b',') {
        return Err("has a comma, so that it may be several values");
    }
    if value.starts_with(b" ") || value.ends_with(b" ") {
        return Err("begins or ends with a space");
    }
    Ok(String::from_utf8_lossy(value).into_owned())
}

/// Whether a name is the other once all that is no letter or digit is a hyphen.
fn is_alike(name: &str, wanted: &str) -> bool {
    let same = |(a, b): (u8, u8)| a.eq_ignore_ascii_case(&b) || (b == b'-' && !a.is_ascii_alphanumeric());
    name.len() == wanted.len() && name.bytes().zip(wanted.bytes()).all(same)
}

fn lists(value: &[u8], wanted: &str) -> bool {
    value.split(|byte| *byte == b',').any(|name| name.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes()))
}
