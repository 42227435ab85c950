//! Groups, attributes and the second factor in the claims of an external issuer.
//!
//! Claims that are there but can't be read are unknown, not empty: the issuer left them out for their size, they have
//! another type, or they exceed a limit.

use crate::jwt::claims::VerifiedClaims;
use durward_api::resources::{AssuranceMapping, ClaimMapping};
use durward_core::risk::Assurance;
use durward_core::unknown_facts::{UnknownCause, UnknownFacts};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Maximum size of all groups, in bytes: 200 groups with the longest names of common issuers.
const MAX_GROUPS: usize = 8 * 1024;
/// Maximum size of all mapped attributes as JSON, in bytes.
const MAX_ATTRIBUTES: usize = 8 * 1024;
/// Names of the claims that the issuer keeps elsewhere (OpenID Connect Core, section 5.6.2).
const CLAIM_NAMES: &str = "_claim_names";
/// Whether Microsoft Entra left the claim `groups` out for its size.
const HAS_GROUPS: &str = "hasgroups";
const GROUPS: &str = "groups";

/// The groups and attributes of a token.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct MappedClaims {
    pub groups: BTreeSet<String>,
    pub attributes: Map<String, Value>,
    pub unknown: UnknownFacts,
}

impl MappedClaims {
    /// Reads the claims that a provider maps.
    pub fn read(claims: &VerifiedClaims, names: &ClaimMapping) -> Self {
        let mut mapped = Self::default();
        match groups(claims, names.groups.as_deref().unwrap_or(GROUPS)) {
            Ok(groups) => mapped.groups = groups,
            Err(cause) => mapped.unknown.groups = Some(cause),
        }
        let mut left = MAX_ATTRIBUTES;
        for (attribute, claim) in &names.attributes {
            match attribute_value(claims, claim, attribute.len(), &mut left) {
                Ok(value) => mapped.attributes.extend(value.map(|value| (attribute.clone(), value.clone()))),
                Err(cause) => drop(mapped.unknown.attributes.insert(attribute.clone(), cause)),
            }
        }
        mapped
    }
}

/// The groups in a claim. A text is one group, whatever spaces it has.
fn groups(claims: &VerifiedClaims, name: &str) -> Result<BTreeSet<String>, UnknownCause> {
    let groups = match stated(claims, name)? {
        None => return Ok(BTreeSet::new()),
        Some(Value::String(group)) => [group.clone()].into(),
        Some(Value::Array(groups)) => {
            let texts = groups.iter().map(|group| group.as_str().map(ToOwned::to_owned));
            texts.collect::<Option<BTreeSet<_>>>().ok_or(UnknownCause::WrongType)?
        }
        Some(_) => return Err(UnknownCause::WrongType),
    };
    if groups.iter().map(String::len).sum::<usize>() > MAX_GROUPS { Err(UnknownCause::TooLarge) } else { Ok(groups) }
}

/// The value of an attribute. It takes its size from what is `left` of the limit, if it fits.
fn attribute_value<'c>(
    claims: &'c VerifiedClaims,
    claim: &str,
    name_length: usize,
    left: &mut usize,
) -> Result<Option<&'c Value>, UnknownCause> {
    let Some(value) = stated(claims, claim)? else { return Ok(None) };
    let size = serde_json::to_vec(value).map_or(usize::MAX, |json| json.len()).saturating_add(name_length);
    *left = left.checked_sub(size).ok_or(UnknownCause::TooLarge)?;
    Ok(Some(value))
}

/// The value of a claim; `None` if the token states that there is none by leaving it out.
fn stated<'c>(claims: &'c VerifiedClaims, name: &str) -> Result<Option<&'c Value>, UnknownCause> {
    let value = claims.get(name);
    let is_elsewhere = match claims.get(CLAIM_NAMES) {
        None => false,
        Some(Value::Object(names)) => names.contains_key(name),
        // which claims are elsewhere is not readable
        Some(_) => value.is_none(),
    };
    let has_groups = name == GROUPS && !matches!(claims.get(HAS_GROUPS), None | Some(Value::Bool(false)));
    if is_elsewhere || has_groups { Err(UnknownCause::LeftOut) } else { Ok(value) }
}

/// The assurance that `acr` and `amr` (RFC 8176) prove by the provider's settings: `acr` is one text, `amr` is a list.
pub(crate) fn second_factor(claims: &VerifiedClaims, mapping: Option<&AssuranceMapping>) -> Assurance {
    let Some(mapping) = mapping else { return Assurance::Bearer };
    let acr = claims.get("acr").and_then(Value::as_str);
    let amr = claims.get("amr").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let stated: Vec<&str> = acr.into_iter().chain(amr).collect();
    let any = |values: &[String]| values.iter().any(|value| stated.contains(&value.as_str()));
    if any(&mapping.phishing_resistant) {
        Assurance::PhishingResistant
    } else if any(&mapping.multi_factor) {
        Assurance::MultiFactor
    } else {
        Assurance::Bearer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claims(claims: &Value) -> VerifiedClaims {
        VerifiedClaims::new(claims.as_object().expect("an object").clone())
    }

    #[test]
    fn groups_are_known_or_unknown() {
        let named = |groups: &[&str]| Ok(groups.iter().map(|group| (*group).to_owned()).collect());
        let many: Vec<String> = (0..1000).map(|number| format!("g{number}")).collect();
        let numbered: Vec<&str> = many.iter().map(String::as_str).collect();
        for (stated, expected) in [
            (json!({}), named(&[])),
            (json!({"groups": []}), named(&[])),
            (json!({"groups": "Shop Admins"}), named(&["Shop Admins"])),
            (json!({"groups": ["Shop Admins", "b"]}), named(&["Shop Admins", "b"])),
            (json!({"groups": many}), named(&numbered)),
            (json!({"groups": ["g".repeat(MAX_GROUPS)]}), named(&[&"g".repeat(MAX_GROUPS)])),
            (json!({"groups": ["g".repeat(MAX_GROUPS), "a"]}), Err(UnknownCause::TooLarge)),
            (json!({"groups": null}), Err(UnknownCause::WrongType)),
            (json!({"groups": 7}), Err(UnknownCause::WrongType)),
            (json!({"groups": true}), Err(UnknownCause::WrongType)),
            (json!({"groups": {"Suspended": true}}), Err(UnknownCause::WrongType)),
            (json!({"groups": [{"name": "Suspended"}]}), Err(UnknownCause::WrongType)),
            (json!({"groups": ["a", null]}), Err(UnknownCause::WrongType)),
            (json!({"_claim_names": {"groups": "src1"}}), Err(UnknownCause::LeftOut)),
            (json!({"_claim_names": {"groups": "src1"}, "groups": ["a"]}), Err(UnknownCause::LeftOut)),
            (json!({"_claim_names": {"roles": "src1"}, "groups": ["a"]}), named(&["a"])),
            (json!({"_claim_names": {"roles": "src1"}}), named(&[])),
            (json!({"_claim_names": "groups"}), Err(UnknownCause::LeftOut)),
            (json!({"hasgroups": true}), Err(UnknownCause::LeftOut)),
            (json!({"hasgroups": "true"}), Err(UnknownCause::LeftOut)),
            (json!({"hasgroups": false, "groups": ["a"]}), named(&["a"])),
        ] {
            assert_eq!(groups(&claims(&stated), "groups"), expected, "{stated}");
        }
        assert_eq!(groups(&claims(&json!({"hasgroups": true, "roles": "a"})), "roles"), named(&["a"]));
    }

    #[test]
    fn attributes_are_known_or_unknown_each_for_itself() {
        let names = ["big", "small", "team"].map(|name| (name.to_owned(), name.to_owned())).into();
        let names = ClaimMapping { attributes: names, ..ClaimMapping::default() };
        let big = "x".repeat(MAX_ATTRIBUTES);
        for (stated, known, unknown) in [
            (json!({}), json!({}), json!({})),
            (json!({"team": ["a"], "small": null}), json!({"team": ["a"], "small": null}), json!({})),
            (json!({"big": big, "team": "a"}), json!({"team": "a"}), json!({"attributes": {"big": "TooLarge"}})),
            (
                json!({"_claim_names": {"team": "src1"}, "small": 1}),
                json!({"small": 1}),
                json!({"attributes": {"team": "LeftOut"}}),
            ),
        ] {
            let mapped = MappedClaims::read(&claims(&stated), &names);
            assert_eq!(Value::Object(mapped.attributes), known, "{stated}");
            assert_eq!(serde_json::to_value(mapped.unknown).expect("JSON"), unknown, "{stated}");
        }
    }

    #[test]
    fn acr_is_one_text_and_amr_is_a_list() {
        let mapping =
            AssuranceMapping { multi_factor: vec!["mfa".to_owned()], phishing_resistant: vec!["phr".to_owned()] };
        for (stated, assurance) in [
            (json!({}), Assurance::Bearer),
            (json!({"acr": "mfa"}), Assurance::MultiFactor),
            (json!({"acr": "phr", "amr": ["mfa"]}), Assurance::PhishingResistant),
            (json!({"amr": ["pwd", "mfa"]}), Assurance::MultiFactor),
            (json!({"acr": "not mfa"}), Assurance::Bearer),
            (json!({"acr": "mfa phr"}), Assurance::Bearer),
            (json!({"acr": ["mfa"]}), Assurance::Bearer),
            (json!({"amr": "mfa"}), Assurance::Bearer),
            (json!({"amr": ["not mfa"]}), Assurance::Bearer),
            (json!({"amr": {"mfa": true}}), Assurance::Bearer),
        ] {
            assert_eq!(second_factor(&claims(&stated), Some(&mapping)), assurance, "{stated}");
        }
    }
}
