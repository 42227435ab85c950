//! An explanation as a tree.

use super::explain::{Explained, list};
use crate::cli::tree::Tree;
use durward_core::policy::EnforcementMode;

pub(super) fn tree(explained: &Explained) -> String {
    let verdict = if explained.allowed { "ALLOW" } else { "DENY" };
    let audit =
        if explained.mode == EnforcementMode::Audit && !explained.allowed { " (let through: mode Audit)" } else { "" };
    let mut tree = Tree::new(format!("{verdict}  {}{audit}", explained.reason));
    if let Some(detail) = &explained.detail {
        tree.leaf(format!("because    {detail}"));
    }
    tree.leaf(format!("request    {}", explained.request));
    if let Some(recorded) = &explained.recorded {
        let mut branch = Tree::new(format!(
            "recorded   line {}, decision {}, {}: {} {}",
            recorded.line,
            recorded.id,
            recorded.time.format("%Y-%m-%dT%H:%M:%SZ"),
            recorded.verdict,
            recorded.reason
        ));
        if let Some(cause) = &recorded.cause {
            branch.leaf(format!("authentication failed: {cause}"));
        }
        for (field, then, now) in &recorded.differences {
            branch.leaf(format!("{field} was `{then}`, is `{now}`"));
        }
        tree.push(branch);
    }
    let dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    tree.leaf(format!("service    {}", dash(&explained.service)));
    tree.push(operation(explained));
    tree.push(principal(explained));
    for (what, part) in [("denials", "/denials/"), ("grants", "/grants/")] {
        let mut branch = Tree::new(what.to_owned());
        let rules = explained.rules.iter().filter(|rule| rule.rule.contains(part));
        for rule in rules {
            let mut told = Tree::new(format!("{}: {}", rule.rule, rule.outcome));
            rule.relation.iter().for_each(|step| told.leaf(step.to_string()));
            branch.push(told);
        }
        if !branch.is_empty() {
            tree.push(branch);
        }
    }
    if !explained.near.is_empty() {
        let mut branch = Tree::new("near".to_owned());
        for near in &explained.near {
            let what = if near.operation.is_empty() {
                near.service.clone()
            } else {
                format!("{} of {} ({})", near.operation, near.service, near.pattern)
            };
            branch.leaf(format!("{what}: {}", near.difference));
        }
        tree.push(branch);
    }
    tree.leaf(format!("revision   {}", explained.revision));
    let mut text = tree.to_string();
    if let Some(remedy) = &explained.remedy {
        text.push_str("\nTo allow it\n");
        remedy.advice.iter().for_each(|advice| text += &format!("  {advice}\n"));
        if let (Some(place), Some(yaml)) = (&remedy.place, &remedy.yaml) {
            text += &format!("  # {place}\n");
            yaml.lines().for_each(|line| text += &format!("  {line}\n"));
        }
    }
    text
}

fn operation(explained: &Explained) -> Tree {
    let Some(operation) = &explained.operation else { return Tree::new("operation  -".to_owned()) };
    let risk = explained.risk.as_ref().map_or(", public".to_owned(), |risk| format!(", risk {risk}"));
    let policy = explained.policy.as_deref().unwrap_or("-");
    let mut tree = Tree::new(format!("operation  {operation} (policy {policy}{risk})"));
    for (name, value) in &explained.captures {
        tree.leaf(format!("captured {name} = {value}"));
    }
    if !explained.required.is_empty() {
        tree.leaf(format!("needs {}", list(&explained.required)));
    }
    if !explained.missing.is_empty() {
        tree.leaf(format!("missing {}", list(&explained.missing)));
    }
    if let Some(approval) = &explained.approval {
        let mut branch = Tree::new(format!("needs {}", approval.asked));
        match (&approval.name, &approval.given) {
            (Some(name), Some(given)) => {
                let until = given.until.format("%Y-%m-%dT%H:%M:%SZ");
                branch.leaf(format!("{name} says that it is given by {}, until {until}", given.by));
            }
            (Some(name), None) => branch.leaf(format!("{name} is not given")),
            (None, _) => {}
        }
        tree.push(branch);
    }
    tree
}

fn principal(explained: &Explained) -> Tree {
    let Some(principal) = &explained.principal else { return Tree::new("principal  nobody".to_owned()) };
    let mut tree = Tree::new(format!("principal  {} ({})", principal.id, principal.assurance));
    if !principal.groups.is_empty() {
        tree.leaf(format!("groups {}", principal.groups.iter().cloned().collect::<Vec<_>>().join(", ")));
    }
    for (name, value) in &principal.attributes {
        tree.leaf(format!("attribute {name} = {value}"));
    }
    if let Some(scopes) = &principal.scopes {
        tree.leaf(format!("token carries {}", list(&scopes.iter().cloned().collect::<Vec<_>>())));
    }
    if let Some(enough) = &explained.enough {
        tree.leaf(format!("enough is {enough}"));
    }
    tree
}
