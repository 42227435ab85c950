//! What is allowed in a policy and still seems wrong: one engine for warnings at admission and for `durward lint`.
//!
//! Each finding has a code with a page in `docs/lint`. An annotation of the policy silences one, with a reason:
//! `lint.durward.dev/DW004: …` everywhere in the policy, `lint.durward.dev/DW004.NAME: …` for one operation, grant or denial.

mod policy;
mod service;

pub use service::lint_services;

use crate::field_error::FieldError;
use crate::resources::AccessPolicy;
use std::collections::BTreeMap;
use std::fmt;

/// Prefix of annotations that silence a code.
pub const SILENCE: &str = "lint.durward.dev/";

/// A kind of finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LintCode {
    /// A silence without a reason, or that silences nothing.
    Silence,
    /// An operation needs a scope that no grant gives.
    Ungranted,
    /// A grant gives nothing that an operation needs.
    Unneeded,
    /// A rule is for callers that have no way in.
    NoWayIn,
    /// An operation that can't be taken back states no risk.
    Risk,
    /// A request that comes to the same as a governed one is not.
    WayAround,
    /// A grant gives every operation.
    ServiceWide,
    /// Other operations take all requests of an operation.
    Shadowed,
    /// A condition is always true or always false.
    Constant,
    /// Administration is served where users are.
    AdminAmongUsers,
    /// Nobody can call an operation.
    NobodyCan,
    /// Scopes can't tell an operation of high risk from others.
    SharedScopes,
}

impl LintCode {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Silence,
        Self::Ungranted,
        Self::Unneeded,
        Self::NoWayIn,
        Self::Risk,
        Self::WayAround,
        Self::ServiceWide,
        Self::Shadowed,
        Self::Constant,
        Self::AdminAmongUsers,
        Self::NobodyCan,
        Self::SharedScopes,
    ];

    /// The code as it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Silence => "DW000",
            Self::Ungranted => "DW001",
            Self::Unneeded => "DW002",
            Self::NoWayIn => "DW003",
            Self::Risk => "DW004",
            Self::WayAround => "DW005",
            Self::ServiceWide => "DW006",
            Self::Shadowed => "DW007",
            Self::Constant => "DW008",
            Self::AdminAmongUsers => "DW009",
            Self::NobodyCan => "DW010",
            Self::SharedScopes => "DW011",
        }
    }

    /// What it is about, in a few words.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Silence => "a silence without a reason, or that silences nothing",
            Self::Ungranted => "a scope that no grant gives",
            Self::Unneeded => "a grant that gives nothing needed",
            Self::NoWayIn => "a rule for callers without a way in",
            Self::Risk => "no risk stated for what can't be taken back",
            Self::WayAround => "a way around a governed request",
            Self::ServiceWide => "a grant of every operation",
            Self::Shadowed => "an operation that no request reaches",
            Self::Constant => "a condition that is always true or false",
            Self::AdminAmongUsers => "administration among users",
            Self::NobodyCan => "an operation that nobody can call",
            Self::SharedScopes => "high risk without a scope of its own",
        }
    }
}

impl fmt::Display for LintCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Something that seems wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LintFinding {
    /// What kind of thing.
    pub code: LintCode,
    /// Path of the field, such as `spec.operations[2].risk`.
    pub field: String,
    /// Name of the operation, grant or denial that it is about.
    pub about: String,
    /// What seems wrong and what to do.
    pub message: String,
    /// Why the policy's author wants it so.
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

/// Findings of a policy, in the order of the fields, silenced ones too. `others` are the other policies of its service, as
/// far as they are known.
#[must_use]
pub fn lint(policy: &AccessPolicy, others: &[&AccessPolicy]) -> Vec<LintFinding> {
    policy::lint(policy, others)
}

/// Notes what the annotations of a policy silence, and adds what is wrong with them.
pub fn silence(policy: &AccessPolicy, findings: &mut Vec<LintFinding>) {
    let none = BTreeMap::new();
    let annotations = policy.metadata.annotations.as_ref().unwrap_or(&none);
    let mut wrong = Vec::new();
    for (key, reason) in annotations {
        let Some(named) = key.strip_prefix(SILENCE) else { continue };
        let (code, about) = named.split_once('.').map_or((named, None), |(code, about)| (code, Some(about)));
        let field = format!("metadata.annotations.{key}");
        let Some(code) = LintCode::ALL.into_iter().find(|known| known.as_str() == code && *known != LintCode::Silence)
        else {
            wrong.push(LintFinding::new(
                LintCode::Silence,
                field,
                named,
                format!("`{code}` is no code that can be silenced"),
            ));
            continue;
        };
        let mut meant: Vec<&mut LintFinding> = findings
            .iter_mut()
            .filter(|finding| finding.code == code && about.is_none_or(|about| finding.about == about))
            .collect();
        if reason.trim().is_empty() {
            wrong.push(LintFinding::new(LintCode::Silence, field, named, format!("say why {named} is to be silent")));
        } else if meant.is_empty() && code != LintCode::NobodyCan {
            // what nobody can call shows only with all policies together
            wrong.push(LintFinding::new(
                LintCode::Silence,
                field,
                named,
                format!("{named} silences nothing; remove it"),
            ));
        }
        meant.iter_mut().for_each(|finding| finding.silenced = (!reason.trim().is_empty()).then(|| reason.clone()));
    }
    findings.extend(wrong);
}
