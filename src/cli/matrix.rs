//! The matrix of principals and operations.

use crate::cli::permissions::{ApprovalTerms, permission_word};
use comfy_table::{CellAlignment, Table, presets};
use durward_core::rights::{AccessRight, CallerSet};
use durward_core::snapshot::Snapshot;
use durward_core::subject::SubjectMatcher;
use serde::Serialize;
use std::fmt;

/// What each principal may call.
#[derive(Debug, Serialize)]
pub(crate) struct PermissionMatrix {
    operations: Vec<MatrixOperation>,
    principals: Vec<MatrixRow>,
}

#[derive(Debug, Serialize)]
struct MatrixOperation {
    service: String,
    operation: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    approval: Option<ApprovalTerms>,
}

#[derive(Debug, Serialize)]
struct MatrixRow {
    principal: String,
    /// `yes`, `if` (under a condition) or `no`, in the order of the operations.
    can: Vec<&'static str>,
    /// Whether a denial may apply, in the order of the operations.
    unless: Vec<bool>,
}

impl PermissionMatrix {
    /// The matrix of these callers, or of all callers that a rule names. `operation` and `audience` restrict the columns.
    pub(crate) fn new(
        snapshot: &Snapshot,
        trust_domain: &str,
        callers: Vec<CallerSet>,
        operation: Option<&str>,
        audience: Option<&str>,
    ) -> Self {
        let included = |right: &AccessRight| {
            operation.is_none_or(|name| *right.operation == *name)
                && audience.is_none_or(|name| *right.audience == *name)
        };
        let rights = |callers: &CallerSet| {
            snapshot.rights(callers, trust_domain).into_iter().filter(included).collect::<Vec<_>>()
        };
        let column = |right: &AccessRight| MatrixOperation {
            service: right.audience.to_string(),
            operation: right.operation.to_string(),
            approval: right.approval.as_deref().map(ApprovalTerms::from),
        };
        let operations = rights(&CallerSet::Anonymous).iter().map(column).collect();
        let callers = if callers.is_empty() {
            let mut subjects = snapshot.subjects();
            subjects.insert(SubjectMatcher::Authenticated);
            std::iter::once(CallerSet::Anonymous).chain(subjects.into_iter().map(CallerSet::Subject)).collect()
        } else {
            callers
        };
        let principals = callers.iter().map(|callers| {
            let rights = rights(callers);
            MatrixRow {
                principal: callers.to_string(),
                can: rights.iter().map(|right| permission_word(right.permission)).collect(),
                unless: rights.iter().map(|right| !right.unless.is_empty()).collect(),
            }
        });
        Self { operations, principals: principals.collect() }
    }
}

impl fmt::Display for PermissionMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // columns have numbers, because operation names as headers would be wider than a terminal
        for (number, operation) in (1..).zip(&self.operations) {
            let MatrixOperation { service, operation, approval } = operation;
            let approval = approval.as_ref().map(|approval| format!(", with {approval}")).unwrap_or_default();
            writeln!(f, "{number:>3}  {operation} of {service}{approval}")?;
        }
        writeln!(f, "\n{}\n\nif: under a condition; *: unless a denial applies", self.table().trim_fmt())
    }
}

impl PermissionMatrix {
    fn table(&self) -> Table {
        let mut table = Table::new();
        let numbers = (1..=self.operations.len()).map(|number| format!("{number:>4}"));
        table.load_style(presets::NOTHING).set_header(std::iter::once(String::new()).chain(numbers));
        for row in &self.principals {
            let marks = row.can.iter().zip(&row.unless).map(|(can, unless)| match (*can, unless) {
                ("no", _) => "-".to_owned(),
                (can, true) => format!("{can}*"),
                (can, false) => can.to_owned(),
            });
            table.add_row(std::iter::once(row.principal.clone()).chain(marks));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 1));
            if column.index > 0 {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }
}
