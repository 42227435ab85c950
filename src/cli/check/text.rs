//! An explained decision as a tree.

use super::explain::ExplainedDecision;
use super::recorded::RecordedDecision;
use super::remedy::scope_list;
use crate::cli::tree::{TextTree, text_tree};
use chrono::{DateTime, Utc};
use durward_core::policy::EnforcementMode;

pub(super) fn text(explained: &ExplainedDecision) -> String {
    let mut tree = text_tree(headline(explained));
    if let Some(detail) = &explained.detail {
        tree.push(format!("because    {detail}"));
    }
    tree.push(format!("request    {}", explained.request));
    tree.extend(explained.recorded.as_ref().map(recorded));
    tree.push(format!("service    {}", explained.service.as_deref().unwrap_or("-")));
    tree.push(operation(explained));
    tree.push(principal(explained));
    tree.extend(rules(explained, "denials"));
    tree.extend(rules(explained, "grants"));
    tree.extend(near_operations(explained));
    tree.push(format!("revision   {}", explained.revision));
    tree.to_string() + &remedy(explained)
}

fn headline(explained: &ExplainedDecision) -> String {
    let verdict = if explained.allowed { "ALLOW" } else { "DENY" };
    let audited = explained.mode == EnforcementMode::Audit && !explained.allowed;
    let note = if audited { " (let through: mode Audit)" } else { "" };
    format!("{verdict}  {}{note}", explained.reason)
}

fn seconds(time: DateTime<Utc>) -> impl std::fmt::Display {
    time.format("%Y-%m-%dT%H:%M:%SZ")
}

fn recorded(recorded: &RecordedDecision) -> TextTree {
    let mut tree = text_tree(format!(
        "recorded   line {}, decision {}, {}: {} {}",
        recorded.line,
        recorded.id,
        seconds(recorded.time),
        recorded.verdict,
        recorded.reason
    ));
    if let Some(cause) = &recorded.cause {
        tree.push(format!("authentication failed: {cause}"));
    }
    for (field, then, now) in &recorded.differences {
        tree.push(format!("{field} was `{then}`, is `{now}`"));
    }
    tree
}

fn operation(explained: &ExplainedDecision) -> TextTree {
    let Some(operation) = &explained.operation else { return text_tree("operation  -") };
    let risk = explained.risk.as_ref().map_or(", public".to_owned(), |risk| format!(", risk {risk}"));
    let policy = explained.policy.as_deref().unwrap_or("-");
    let mut tree = text_tree(format!("operation  {operation} (policy {policy}{risk})"));
    for (name, value) in &explained.captures {
        tree.push(format!("captured {name} = {value}"));
    }
    if !explained.required.is_empty() {
        tree.push(format!("needs {}", scope_list(&explained.required)));
    }
    if !explained.missing.is_empty() {
        tree.push(format!("missing {}", scope_list(&explained.missing)));
    }
    if let Some(approval) = &explained.approval {
        let mut branch = text_tree(format!("needs {}", approval.required));
        match (&approval.name, &approval.current) {
            (Some(name), Some(current)) => {
                branch.push(format!("{name} is granted by {}, until {}", current.by, seconds(current.until)));
            }
            (Some(name), None) => {
                branch.push(format!("{name} is not granted"));
            }
            (None, _) => {}
        }
        tree.push(branch);
    }
    tree
}

fn principal(explained: &ExplainedDecision) -> TextTree {
    let Some(principal) = &explained.principal else { return text_tree("principal  none") };
    let mut tree = text_tree(format!("principal  {} ({})", principal.id, principal.assurance));
    if !principal.groups.is_empty() {
        tree.push(format!("groups {}", principal.groups.iter().cloned().collect::<Vec<_>>().join(", ")));
    }
    for (name, value) in &principal.attributes {
        tree.push(format!("attribute {name} = {value}"));
    }
    if let Some(scopes) = &principal.scopes {
        tree.push(format!("token carries {}", scope_list(&scopes.iter().cloned().collect::<Vec<_>>())));
    }
    if let Some(sufficient) = &explained.sufficient {
        tree.push(format!("needs {sufficient}"));
    }
    tree
}

/// The considered `denials` or `grants`, if there are any.
fn rules(explained: &ExplainedDecision, kind: &str) -> Option<TextTree> {
    let part = format!("/{kind}/");
    let rules = explained.rules.iter().filter(|rule| rule.rule.contains(&part));
    let branches: Vec<TextTree> = rules
        .map(|rule| {
            let mut branch = text_tree(format!("{}: {}", rule.rule, rule.outcome));
            branch.extend(rule.relation.iter().map(ToString::to_string));
            branch
        })
        .collect();
    (!branches.is_empty()).then(|| text_tree(kind).with_leaves(branches))
}

fn near_operations(explained: &ExplainedDecision) -> Option<TextTree> {
    let leaves: Vec<TextTree> = explained
        .near
        .iter()
        .map(|near| {
            let name = if near.operation.is_empty() {
                near.service.clone()
            } else {
                format!("{} of {} ({})", near.operation, near.service, near.pattern)
            };
            text_tree(format!("{name}: {}", near.difference))
        })
        .collect();
    (!leaves.is_empty()).then(|| text_tree("near").with_leaves(leaves))
}

fn remedy(explained: &ExplainedDecision) -> String {
    let Some(remedy) = &explained.remedy else { return String::new() };
    let mut text = "\nTo allow it\n".to_owned();
    remedy.advice.iter().for_each(|advice| text += &format!("  {advice}\n"));
    if let (Some(place), Some(yaml)) = (&remedy.place, &remedy.yaml) {
        text += &format!("  # {place}\n");
        yaml.lines().for_each(|line| text += &format!("  {line}\n"));
    }
    text
}
