//! Texts that some frameworks take for one another, so that one of them must not pass where a rule names the other.

use icu_normalizer::ComposingNormalizerBorrowed;
use icu_properties::CodePointSetData;
use icu_properties::props::DefaultIgnorableCodePoint;
use std::borrow::Cow;

/// A segment in the form in which look-alikes are equal: without upper case, compatibility forms (Unicode NFKC, such
/// as full-width letters), characters of no width, and spaces around it. `+` is a space to form decoders.
pub(crate) fn folded(segment: &str) -> Cow<'_, str> {
    if segment.is_ascii() {
        if !segment.bytes().any(|byte| byte.is_ascii_uppercase() || matches!(byte, b' ' | b'+')) {
            return segment.into();
        }
        return trimmed(&segment.to_ascii_lowercase()).into();
    }
    let invisible = CodePointSetData::new::<DefaultIgnorableCodePoint>();
    let visible: String = segment.chars().filter(|c| !invisible.contains(*c)).collect();
    let compatible = ComposingNormalizerBorrowed::new_nfkc();
    // upper case comes first: `ſ` is `S` there, and the Kelvin sign is `k` only in lower case
    let cased: String =
        compatible.normalize(&visible).chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect();
    trimmed(&compatible.normalize(&cased)).into()
}

fn trimmed(text: &str) -> String {
    text.replace('+', " ").trim().to_owned()
}

/// The beginnings of a segment that a framework could route by, taking the rest for a format: `export` of `export.json`.
pub(crate) fn without_formats(segment: &str) -> impl Iterator<Item = &str> {
    segment.match_indices('.').filter_map(|(dot, _)| segment.get(..dot)).filter(|stem| !stem.is_empty())
}

/// The text before a format such as `.json`, if the segment ends with one; a version such as `v1.2` does not.
pub(crate) fn before_format(segment: &str) -> Option<&str> {
    let (stem, format) = segment.rsplit_once('.')?;
    (!stem.is_empty() && format.starts_with(|c: char| c.is_ascii_alphabetic())).then_some(stem)
}
