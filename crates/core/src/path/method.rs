//! Request methods.

use super::ambiguity::Ambiguity;
use std::sync::Arc;

/// A method that no pattern contains.
pub(crate) const ANY_METHOD: &str = "ANY-OTHER";

/// A request method (RFC 9110 section 9.1), in upper case as every registered method is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Method(pub(crate) Arc<str>);

impl Method {
    /// Parses a method.
    ///
    /// # Errors
    /// [`Ambiguity::Method`] when it is not a token in upper case: servers differ in whether `get` is `GET`.
    pub fn parse(text: &str) -> Result<Self, Ambiguity> {
        if is_method(text) { Ok(Self(text.into())) } else { Err(Ambiguity::Method) }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether every server reads `text` as the same method.
#[must_use]
pub fn is_method(text: &str) -> bool {
    !text.is_empty() && text.len() <= 32 && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-')
}

/// Names of query parameters, without everything but letters and digits, that frameworks take for the method.
const METHOD_PARAMETERS: [&str; 6] =
    ["method", "httpmethod", "xhttpmethod", "xhttpmethodoverride", "xmethodoverride", "methodoverride"];

/// Whether the query has a parameter that some framework takes for another method than this one: `_method` in Rack,
/// Symfony, Laravel and Spring. Older frameworks separate parameters by `;`.
#[must_use]
pub fn overrides_method(target: &str, method: &str) -> bool {
    let Some((_, query)) = target.split_once('?') else { return false };
    query.split(['&', ';']).any(|pair| {
        let parameters = url::form_urlencoded::parse(pair.as_bytes());
        parameters.into_iter().any(|(name, value)| is_method_parameter(&name) && !value.eq_ignore_ascii_case(method))
    })
}

/// Languages such as PHP fold some characters in names, and end a name at a zero byte. `method` itself is an ordinary
/// name, and is read by no framework.
fn is_method_parameter(name: &str) -> bool {
    let name = name.split('\0').next().unwrap_or_default();
    let folded = || name.bytes().filter(u8::is_ascii_alphanumeric).map(|byte| byte.to_ascii_lowercase());
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let mut names = METHOD_PARAMETERS.iter().filter(|known| !plain || **known != "method");
    names.any(|known| folded().eq(known.bytes()))
}
