//! Request headers that conditions read.

use std::collections::BTreeMap;
use std::sync::Arc;
use thiserror::Error;

/// Maximum length of a header value that conditions read, in bytes.
pub const MAX_HEADER: usize = 1024;

/// Applications could read the value of a header differently, or it is secret. The text continues the name of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum HeaderValueError {
    #[error("was sent more than once")]
    Repeated,
    #[error("was sent in a spelling that applications can't tell from it")]
    Alike,
    #[error("is named by `Connection`, so that it goes no further")]
    HopByHop,
    #[error("carries credentials")]
    Secret,
    #[error("is longer than {MAX_HEADER} bytes")]
    TooLong,
    #[error("is not made of printable ASCII characters")]
    NotPrintable,
    #[error("has a comma, so that it may be several values")]
    Comma,
    #[error("begins or ends with a space")]
    OuterSpace,
}

/// Values of some headers of a request; for a header that can't be read, the reason.
#[derive(Debug)]
pub struct HeaderValues(BTreeMap<Arc<str>, Result<String, HeaderValueError>>);

impl HeaderValues {
    /// The headers of these names, which are in lower case; `None` if headers are unknown. A header that an
    /// application could read differently is refused: one that was sent twice, or whose spelling gateway interfaces
    /// confuse with the name.
    pub(crate) fn read(
        names: &[Arc<str>],
        visit: impl FnOnce(&mut dyn FnMut(&str, Option<&[u8]>)) -> bool,
    ) -> Option<Self> {
        let mut found: BTreeMap<Arc<str>, Result<String, HeaderValueError>> = BTreeMap::new();
        let known = visit(&mut |name, value| {
            let is_connection = name.eq_ignore_ascii_case("connection");
            for wanted in names {
                let value = if name.eq_ignore_ascii_case(wanted) {
                    if found.contains_key(wanted) { Err(HeaderValueError::Repeated) } else { text(value) }
                } else if is_alike(name, wanted) {
                    Err(HeaderValueError::Alike)
                } else if is_connection && value.is_some_and(|value| lists(value, wanted)) {
                    Err(HeaderValueError::HopByHop)
                } else {
                    continue;
                };
                found.insert(Arc::clone(wanted), value);
            }
        });
        known.then_some(Self(found))
    }

    /// The value of a header; `None` if it was not sent.
    pub(crate) fn get(&self, name: &str) -> Option<&Result<String, HeaderValueError>> {
        self.0.get(name)
    }
}

/// A value, if every parser reads it in the same way. Enforcement points behind a proxy receive several values as one,
/// separated by commas, so a value with a comma is always refused.
fn text(value: Option<&[u8]>) -> Result<String, HeaderValueError> {
    let value = value.ok_or(HeaderValueError::Secret)?;
    if value.len() > MAX_HEADER {
        return Err(HeaderValueError::TooLong);
    }
    if !value.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err(HeaderValueError::NotPrintable);
    }
    if value.contains(&b',') {
        return Err(HeaderValueError::Comma);
    }
    if value.starts_with(b" ") || value.ends_with(b" ") {
        return Err(HeaderValueError::OuterSpace);
    }
    Ok(String::from_utf8_lossy(value).into_owned())
}

/// Whether two names are equal once every character other than a letter or digit is a hyphen.
fn is_alike(name: &str, wanted: &str) -> bool {
    let same = |(a, b): (u8, u8)| a.eq_ignore_ascii_case(&b) || (b == b'-' && !a.is_ascii_alphanumeric());
    name.len() == wanted.len() && name.bytes().zip(wanted.bytes()).all(same)
}

fn lists(value: &[u8], wanted: &str) -> bool {
    value.split(|byte| *byte == b',').any(|name| name.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes()))
}
