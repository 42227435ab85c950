//! URL-encoded forms, as OAuth 2.0 endpoints and browsers send them.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use std::borrow::Cow;
use std::collections::BTreeMap;
use thiserror::Error;

/// Most parameters of a request; a token exchange has nine.
const MAX_PARAMETERS: usize = 32;
const MEDIA_TYPE: &str = "application/x-www-form-urlencoded";

/// A body, unless it was too large.
pub(crate) type FormBody = Result<Bytes, BytesRejection>;

/// The parameters of a form by name.
pub(crate) type FormParameters<'b> = BTreeMap<Cow<'b, str>, Cow<'b, str>>;

/// A request has no readable form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{}", self.description())]
pub(crate) enum FormError {
    Query,
    MediaType,
    Body,
    NotUtf8,
    TooMany,
    Repeated,
}

impl FormError {
    /// What is wrong, as the `error_description` of OAuth 2.0.
    pub(crate) const fn description(self) -> &'static str {
        match self {
            Self::Query => "parameters belong in the body",
            Self::MediaType => "the body has to be application/x-www-form-urlencoded",
            Self::Body => "the body is too large, or was cut off",
            Self::NotUtf8 => "the body is not UTF-8",
            Self::TooMany => "there are too many parameters",
            Self::Repeated => "a parameter is there more than once",
        }
    }
}

/// Reads the parameters of a request. Each may be present once (RFC 6749, section 3.2); empty ones are omitted.
pub(crate) fn parse<'b>(uri: &Uri, headers: &HeaderMap, body: &'b FormBody) -> Result<FormParameters<'b>, FormError> {
    if uri.query().is_some() {
        return Err(FormError::Query);
    }
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    if !types.next().is_some_and(is_form) || types.next().is_some() {
        return Err(FormError::MediaType);
    }
    let body = body.as_ref().map_err(|_| FormError::Body)?;
    let mut form = FormParameters::new();
    for (name, value) in url::form_urlencoded::parse(body) {
        // the parser replaces bytes that are not UTF-8 by this character
        if name.contains('\u{fffd}') || value.contains('\u{fffd}') {
            return Err(FormError::NotUtf8);
        }
        if form.len() == MAX_PARAMETERS {
            return Err(FormError::TooMany);
        }
        if form.insert(name, value).is_some() {
            return Err(FormError::Repeated);
        }
    }
    form.retain(|_, value| !value.is_empty());
    Ok(form)
}

fn is_form(content_type: &HeaderValue) -> bool {
    let media_type = content_type.to_str().ok().and_then(|value| value.split(';').next());
    media_type.is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case(MEDIA_TYPE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Vec<(String, String)>, FormError> {
        let mut headers = HeaderMap::new();
        let media_type = HeaderValue::from_static("application/x-www-form-urlencoded; charset=UTF-8");
        headers.insert(header::CONTENT_TYPE, media_type);
        let body = Ok(Bytes::copy_from_slice(body.as_bytes()));
        let form = parse(&Uri::from_static("/token"), &headers, &body)?;
        Ok(form.into_iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    #[test]
    fn repeated_parameters_and_invalid_bodies_are_refused() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(read("b=x+y%20z&a=1&c="), Ok(vec![pair("a", "1"), pair("b", "x y z")]));
        for bad in ["a=1&a=1", "a=&a=1", "a=1&%61=2", "a=%ff", &"a=1&".repeat(40)] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let many: String = (0..=MAX_PARAMETERS).map(|i| format!("p{i}=1&")).collect();
        assert!(read(&many).is_err());
    }
}
