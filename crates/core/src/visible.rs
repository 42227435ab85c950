//! Texts for people. Ids, hosts and paths can hold characters that can't be seen, or that turn the text around them, so
//! that a reader takes one for another.

use icu_properties::CodePointSetData;
use icu_properties::props::{BidiControl, DefaultIgnorableCodePoint};
use std::borrow::Cow;

/// The text, with each invisible or bidirectional character as `\uXXXX`, the escape of JSON.
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    if text.is_ascii() || !text.chars().any(is_invisible) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_invisible(c) {
            let units = c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect::<String>();
            escaped.push_str(&units);
        } else {
            escaped.push(c);
        }
    }
    escaped.into()
}

fn is_invisible(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}')
        || CodePointSetData::new::<BidiControl>().contains(c)
        || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_and_bidirectional_characters_are_escaped() {
        for (text, expected) in [
            ("user:corporate/alice", "user:corporate/alice"),
            ("user:corporate/älice 木", "user:corporate/älice 木"),
            ("user:corporate/\u{202e}ecila", "user:corporate/\\u202eecila"),
            ("al\u{200b}ice", "al\\u200bice"),
            ("al\u{ad}ice\u{2066}x\u{2069}", "al\\u00adice\\u2066x\\u2069"),
            ("a\u{2028}b\u{feff}", "a\\u2028b\\ufeff"),
            ("tag\u{e0041}", "tag\\udb40\\udc41"),
        ] {
            assert_eq!(visible(text), expected);
        }
    }

    #[test]
    fn an_escaped_text_within_json_is_the_same_value() {
        let id = "user:corporate/\u{202e}al\u{200b}ice\u{e0041}";
        let json = serde_json::to_string(id).unwrap();
        assert_eq!(serde_json::from_str::<String>(&visible(&json)).unwrap(), id);
    }
}
