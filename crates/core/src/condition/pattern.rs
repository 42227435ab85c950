//! Regular expressions of `matches`, compiled with the condition.

use cel::common::types::Type;
use cel::common::value::{StaticVal, Val};
use regex::{Regex, RegexBuilder};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Hir, HirKind};
use thiserror::Error;

/// Maximum number of patterns of one condition.
pub(super) const MAX_PATTERNS: usize = 8;
/// Maximum number of parts that a pattern describes, repetitions multiplied: `a{50}` has 51. A search takes at most so
/// many steps for each byte of the text.
const MAX_PATTERN_PARTS: u64 = 1000;
/// Maximum size of a compiled pattern in bytes. `\w` alone, which knows 140,000 letters, takes some 70 kB.
const MAX_COMPILED: usize = 1 << 20;
/// Maximum size of the tables that each thread keeps for a pattern, in bytes. A search that needs more is slower.
const MAX_TABLES: usize = 1 << 16;
/// Maximum depth of nested groups and repetitions.
const MAX_NESTING: u32 = 32;

/// A pattern is refused. The text continues "the pattern of `matches`".
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum ConditionPatternError {
    #[error("is invalid: {0}")]
    Syntax(String),
    #[error("describes {0} characters, repetitions multiplied; {MAX_PATTERN_PARTS} are possible")]
    Parts(u64),
    #[error("takes more than {MAX_COMPILED} bytes when compiled; use fewer classes such as `\\w`")]
    Compiled,
}

/// A compiled pattern, as a value that only the function behind `matches` accepts.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    regex: Regex,
    parts: u64,
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// If it is invalid or too large.
    pub(super) fn compile(pattern: &str) -> Result<Self, ConditionPatternError> {
        let hir = ParserBuilder::new().nest_limit(MAX_NESTING).build().parse(pattern).map_err(|error| {
            let message = error.to_string();
            // the message ends with the mistake, below the pattern and a mark
            let mistake = message.lines().last().unwrap_or_default();
            ConditionPatternError::Syntax(mistake.trim_start_matches("error: ").to_owned())
        })?;
        let parts = parts(&hir);
        if parts > MAX_PATTERN_PARTS {
            return Err(ConditionPatternError::Parts(parts));
        }
        let mut builder = RegexBuilder::new(pattern);
        builder.size_limit(MAX_COMPILED).dfa_size_limit(MAX_TABLES).nest_limit(MAX_NESTING);
        Ok(Self { regex: builder.build().map_err(|_| ConditionPatternError::Compiled)?, parts })
    }

    /// Whether it matches some part of a text.
    pub(super) fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// Units of work of a search in a text of this length. The worst engine visits each part for each byte, at some
    /// 5 ns; the usual one takes a nanosecond a byte.
    pub(super) fn work(&self, length: usize) -> u64 {
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        length.saturating_mul(self.parts).saturating_div(4).saturating_add(self.parts).saturating_add(20)
    }
}

/// The number of nodes of a pattern, repetitions multiplied.
fn parts(hir: &Hir) -> u64 {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) | HirKind::Class(_) => 1,
        HirKind::Literal(literal) => u64::try_from(literal.0.len()).unwrap_or(u64::MAX),
        HirKind::Repetition(repetition) => {
            let times = repetition.max.unwrap_or(repetition.min).max(1);
            parts(&repetition.sub).saturating_mul(times.into()).saturating_add(1)
        }
        HirKind::Capture(capture) => parts(&capture.sub).saturating_add(1),
        HirKind::Concat(all) | HirKind::Alternation(all) => {
            all.iter().map(parts).fold(1, |sum, parts| sum.saturating_add(parts))
        }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.regex.as_str() == other.regex.as_str()
    }
}

impl Val for Pattern {
    fn get_type(&self) -> &Type {
        <Self as Val>::cel_type()
    }

    fn cel_type() -> &'static Type {
        static TYPE: Type = Type::new_unspecified_type("durward.Pattern");
        &TYPE
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn std::any::Any> {
        Some(self)
    }
}

impl StaticVal for Pattern {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn useful_patterns_compile() {
        for pattern in [
            r"^/api/v[0-9]+/.*$",
            r"^\w+$",
            r"(?i)^(alice|bob)@example\.com$",
            r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
            r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}",
            r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
        ] {
            assert!(Pattern::compile(pattern).is_ok(), "{pattern}: {:?}", Pattern::compile(pattern));
        }
    }

    #[test]
    fn large_and_invalid_patterns_are_refused() {
        let error = |pattern: &str| Pattern::compile(pattern).expect_err(pattern);
        assert_eq!(error("(a{50}){50}b{50}"), ConditionPatternError::Parts(2653));
        assert!(matches!(error("((((a{1000}){1000}){1000}){1000}){1000}"), ConditionPatternError::Parts(_)));
        assert!(matches!(error(&"(|a){500}".repeat(2)), ConditionPatternError::Parts(_)));
        assert_eq!(error(r"(\w\W){200}"), ConditionPatternError::Compiled);
        assert!(error("(").to_string().contains("is invalid: unclosed group"), "{}", error("("));
        assert!(matches!(error(&"(".repeat(900)), ConditionPatternError::Syntax(_)));
    }

    #[test]
    fn the_work_of_a_search_grows_with_text_and_pattern() {
        let (small, large) =
            (Pattern::compile("^a").expect("valid"), Pattern::compile("(a{30}b?){20}").expect("valid"));
        assert!(small.work(10) < small.work(1000) && small.work(1000) < large.work(1000));
        assert_eq!(large.work(usize::MAX), u64::MAX / 4 + large.parts + 20);
    }
}
