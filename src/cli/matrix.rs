//! Principals by operations.

use crate::cli::approvals::AskedFor;
use crate::cli::what_can::word;
use durward_core::rights::{AccessRight, CallerSet};
use durward_core::snapshot::Snapshot;
use durward_core::subject::SubjectMatcher;
use serde::Serialize;
use std::fmt;

/// Who may do what, as a table.
#[derive(Debug, Serialize)]
pub(crate) struct Matrix {
    /// `service operation`.
    operations: Vec<Column>,
    principals: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Column {
    service: String,
    operation: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    approval: Option<AskedFor>,
}

#[derive(Debug, Serialize)]
struct Row {
    principal: String,
    /// In the order of the operations: `yes`, `if` something holds, `no`.
    can: Vec<&'static str>,
    /// In the order of the operations: whether a denial may apply all the same.
    unless: Vec<bool>,
}

impl Matrix {
    /// Of these callers, or of everybody whom a rule names; of these operations, or of all.
    pub(crate) fn new(
        snapshot: &Snapshot,
        own: &str,
        who: Vec<CallerSet>,
        operation: Option<&str>,
        audience: Option<&str>,
    ) -> Self {
        let wanted = |right: &AccessRight| {
            operation.is_none_or(|wanted| *right.operation == *wanted)
                && audience.is_none_or(|wanted| *right.audience == *wanted)
        };
        let rights = |who: &CallerSet| snapshot.rights(who, own).into_iter().filter(wanted).collect::<Vec<_>>();
        let column = |right: &AccessRight| Column {
            service: right.audience.to_string(),
            operation: right.operation.to_string(),
            approval: right.approval.as_deref().map(AskedFor::of),
        };
        let operations = rights(&CallerSet::Anonymous).iter().map(column).collect();
        let who = if who.is_empty() {
            let mut subjects = snapshot.subjects();
            subjects.insert(SubjectMatcher::Authenticated);
            std::iter::once(CallerSet::Anonymous).chain(subjects.into_iter().map(CallerSet::Subject)).collect()
        } else {
            who
        };
        let principals = who.iter().map(|who| {
            let rights = rights(who);
            Row {
                principal: who.to_string(),
                can: rights.iter().map(|right| word(right.permission)).collect(),
                unless: rights.iter().map(|right| !right.unless.is_empty()).collect(),
            }
        });
        Self { operations, principals: principals.collect() }
    }
}

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // operations are numbered: their names across would be wider than any terminal
        for (number, column) in (1..).zip(&self.operations) {
            let asked = column.approval.as_ref().map(|asked| format!(", with {asked}")).unwrap_or_default();
            writeln!(f, "{number:>3}  {} of {}{asked}", column.operation, column.service)?;
        }
        let width = self.principals.iter().map(|row| row.principal.chars().count()).max().unwrap_or(0);
        write!(f, "\n{:width$}", "")?;
        (1..=self.operations.len()).try_for_each(|number| write!(f, " {number:>4}"))?;
        writeln!(f)?;
        for row in &self.principals {
            write!(f, "{:width$}", row.principal)?;
            for (can, unless) in row.can.iter().zip(&row.unless) {
                let mark = if *unless && *can != "no" { format!("{can}*") } else { (*can).to_owned() };
                write!(f, " {:>4}", if mark == "no" { "-" } else { &mark })?;
            }
            writeln!(f)?;
        }
        writeln!(f, "\nif: under a condition; *: unless a denial applies")
    }
}
