//! Likely mistakes in valid policies: one engine for warnings at admission and for `durward lint`.
//!
//! Each finding has a code with a page in `docs/lint`. An annotation of the policy silences one, with a reason:
//! `lint.durward.dev/DW004: …` everywhere in the policy, `lint.durward.dev/DW004.NAME: …` for one operation, grant or
//! denial.

mod policy;
mod service;

pub use service::lint_services;

use crate::field_error::FieldError;
use crate::resources::AccessPolicy;
use std::collections::BTreeMap;
use std::fmt;

/// Prefix of annotations that silence a code.
pub const SILENCE: &str = "lint.durward.dev/";

/// Kind of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LintCode {
    /// An annotation that silences without a reason, or silences nothing.
    Silence,
    /// An operation needs a scope that no grant gives.
    Ungranted,
    /// A grant gives nothing that an operation needs.
    Unneeded,
    /// A rule applies to callers that can't authenticate.
    CannotAuthenticate,
    /// An irreversible operation states no risk.
    UnstatedRisk,
    /// A request with the same effect as a governed one is not governed.
    Bypass,
    /// A grant gives every operation.
    ServiceWide,
    /// Other operations take all requests of an operation.
    Shadowed,
    /// A condition is always true or always false.
    Constant,
    /// An administrative operation is on a host for users.
    AdminOnUserHost,
    /// No caller can call an operation.
    Uncallable,
    /// An operation of high risk has no scope of its own.
    SharedScopes,
}

impl LintCode {
    /// All codes.
    pub const ALL: [Self; 12] = [
        Self::Silence,
        Self::Ungranted,
        Self::Unneeded,
        Self::CannotAuthenticate,
        Self::UnstatedRisk,
        Self::Bypass,
        Self::ServiceWide,
        Self::Shadowed,
        Self::Constant,
        Self::AdminOnUserHost,
        Self::Uncallable,
        Self::SharedScopes,
    ];

    /// The code in messages and annotations.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Silence => "DW000",
            Self::Ungranted => "DW001",
            Self::Unneeded => "DW002",
            Self::CannotAuthenticate => "DW003",
            Self::UnstatedRisk => "DW004",
            Self::Bypass => "DW005",
            Self::ServiceWide => "DW006",
            Self::Shadowed => "DW007",
            Self::Constant => "DW008",
            Self::AdminOnUserHost => "DW009",
            Self::Uncallable => "DW010",
            Self::SharedScopes => "DW011",
        }
    }

    /// The title of the code.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Silence => "an annotation that silences without a reason, or silences nothing",
            Self::Ungranted => "a scope that no grant gives",
            Self::Unneeded => "a grant that no operation needs",
            Self::CannotAuthenticate => "a rule for callers that can't authenticate",
            Self::UnstatedRisk => "no risk stated for an irreversible operation",
            Self::Bypass => "an ungoverned request with the effect of a governed one",
            Self::ServiceWide => "a grant of every operation",
            Self::Shadowed => "an operation that no request reaches",
            Self::Constant => "a condition that is always true or false",
            Self::AdminOnUserHost => "administration on a host for users",
            Self::Uncallable => "an operation that no caller can call",
            Self::SharedScopes => "high risk without a scope of its own",
        }
    }
}

impl fmt::Display for LintCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A likely mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LintFinding {
    /// Kind of the finding.
    pub code: LintCode,
    /// Path of the field, such as `spec.operations[2].risk`.
    pub field: String,
    /// Name of the operation, grant or denial that it is about.
    pub about: String,
    /// The likely mistake, and what to do.
    pub message: String,
    /// The author's reason to silence the finding.
    pub silenced: Option<String>,
}

impl LintFinding {
    fn new(code: LintCode, field: impl Into<String>, about: &str, message: impl Into<String>) -> Self {
        Self { code, field: field.into(), about: about.to_owned(), message: message.into(), silenced: None }
    }
}

impl fmt::Display for LintFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.field, self.message, self.code)
    }
}

impl From<LintFinding> for FieldError {
    fn from(finding: LintFinding) -> Self {
        Self { message: format!("{} ({})", finding.message, finding.code), field: finding.field }
    }
}

/// Findings of a policy, in the order of the fields, including silenced ones. `others` are the other known policies of
/// its service.
#[must_use]
pub fn lint(policy: &AccessPolicy, others: &[&AccessPolicy]) -> Vec<LintFinding> {
    policy::lint(policy, others)
}

/// Marks the findings that the policy's annotations silence, and adds findings about the annotations.
pub fn silence(policy: &AccessPolicy, findings: &mut Vec<LintFinding>) {
    let none = BTreeMap::new();
    let annotations = policy.metadata.annotations.as_ref().unwrap_or(&none);
    let mut invalid = Vec::new();
    for (key, reason) in annotations {
        let Some(named) = key.strip_prefix(SILENCE) else { continue };
        let (code, about) = named.split_once('.').map_or((named, None), |(code, about)| (code, Some(about)));
        let field = format!("metadata.annotations.{key}");
        let Some(code) = LintCode::ALL.into_iter().find(|known| known.as_str() == code && *known != LintCode::Silence)
        else {
            invalid.push(LintFinding::new(
                LintCode::Silence,
                field,
                named,
                format!("`{code}` is not a code that can be silenced"),
            ));
            continue;
        };
        let mut silenced: Vec<&mut LintFinding> = findings
            .iter_mut()
            .filter(|finding| finding.code == code && about.is_none_or(|about| finding.about == about))
            .collect();
        if reason.trim().is_empty() {
            invalid.push(LintFinding::new(
                LintCode::Silence,
                field,
                named,
                format!("give a reason to silence {named}"),
            ));
        } else if silenced.is_empty() && code != LintCode::Uncallable {
            // uncallable operations are found only with all policies together
            invalid.push(LintFinding::new(
                LintCode::Silence,
                field,
                named,
                format!("{named} silences nothing; remove it"),
            ));
        }
        silenced.iter_mut().for_each(|finding| finding.silenced = (!reason.trim().is_empty()).then(|| reason.clone()));
    }
    findings.extend(invalid);
}
