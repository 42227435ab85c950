//! OpenFGA's published model tests, run with our own engine where both have the same features.
//!
//! `tests/openfga/go.mod` pins the module that they come from. `tests/openfga/unmet.yaml` lists the differences
//! with their reasons: listed tests must fail, all others must pass.

use durward_api::catalog::{Catalog, CatalogChange};
use durward_api::compile::ClusterDomains;
use durward_core::condition::Truth;
use durward_core::principal::Identity;
use durward_core::risk::Assurance;
use durward_core::service::ServiceKey;
use durward_tests::openfga;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

#[derive(Deserialize)]
struct PublishedTest {
    name: String,
    stages: Vec<Stage>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stage {
    model: Value,
    #[serde(default)]
    tuples: Option<Vec<Value>>,
    #[serde(default)]
    check_assertions: Option<Vec<Assertion>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Assertion {
    tuple: Value,
    #[serde(default)]
    expectation: bool,
    #[serde(default)]
    error_code: Option<u32>,
    #[serde(default)]
    contextual_tuples: Option<Vec<Value>>,
}

/// A feature that only OpenFGA has.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unmet {
    feature: String,
    reason: String,
    tests: BTreeSet<String>,
}

#[test]
fn published_model_tests_pass_except_the_listed_ones() {
    let tests: Vec<PublishedTest> = serde_json::from_str(&openfga::published_tests()).unwrap();
    let list = fs::read_to_string(openfga::module().join("unmet.yaml")).unwrap();
    let list: Vec<Unmet> = serde_saphyr::from_str(&list).unwrap();
    let mut listed = BTreeMap::new();
    for unmet in &list {
        assert!(!unmet.reason.is_empty(), "{} needs a reason", unmet.feature);
        for test in &unmet.tests {
            assert!(listed.insert(test.as_str(), &unmet.feature).is_none(), "{test} is listed twice");
        }
    }
    let mut passed = 0;
    let mut checks = 0;
    let mut wrong = Vec::new();
    let mut features = BTreeSet::new();
    let mut occurrences: BTreeMap<&str, u32> = BTreeMap::new();
    for test in &tests {
        // some tests share a name
        let times = occurrences.entry(&test.name).and_modify(|times| *times += 1).or_insert(1);
        let test_name = if *times == 1 { test.name.clone() } else { format!("{}({times})", test.name) };
        features.insert(test_name.clone());
        let mut tuples = Vec::new();
        for (number, stage) in test.stages.iter().enumerate() {
            // tuples of a stage stay for later ones
            tuples.extend(stage.tuples.iter().flatten());
            for (assertion_number, assertion) in stage.check_assertions.iter().flatten().enumerate() {
                let name = format!("{test_name}/{number}/{assertion_number}");
                let outcome = ask(stage, &tuples, assertion);
                let feature = listed.get(name.as_str()).or_else(|| listed.get(test_name.as_str()));
                match (feature, outcome) {
                    (None, Ok(())) => passed += 1,
                    (None, Err(why)) => wrong.push(format!("{name}: {why}")),
                    (Some(feature), Ok(())) => wrong.push(format!("{name}: passes, but is listed under `{feature}`")),
                    (Some(_), Err(_)) => {}
                }
                checks += 1;
                features.insert(name);
            }
        }
    }
    wrong.extend(listed.keys().filter(|name| !features.contains(**name)).map(|name| format!("{name}: is no test")));
    assert!(wrong.is_empty(), "{passed} came out as published, but for\n{}", wrong.join("\n"));
    println!("{passed} of {checks} checks had the published result; the others are listed");
}

/// Checks an assertion with our engine. The error is a missing feature or a different result.
fn ask(stage: &Stage, tuples: &[&Value], assertion: &Assertion) -> Result<(), String> {
    let text = |field: &str| assertion.tuple[field].as_str().unwrap_or_default();
    let caller = principal(text("user")).ok_or_else(|| format!("`{}` is no caller", text("user")))?;
    let stored = relationship("stored", tuples)?;
    let contextual: Vec<&Value> = assertion.contextual_tuples.iter().flatten().collect();
    let contextual = relationship("contextual", &contextual)?;
    let mut catalog =
        Catalog::new(ClusterDomains { trust_domain: "cluster.local".into(), cluster_domain: "cluster.local".into() });
    for (key, fate) in catalog.apply([policy(&stage.model)?, stored, contextual]) {
        if let Some(rejected) = fate.rejected {
            return Err(format!("{key} is refused: {:?}", rejected.errors));
        }
    }
    let key = catalog.relationships().find(|key| *key.name == *"contextual");
    let refused = key.and_then(|key| catalog.relationship_status(key)?.rejected);
    let service = ServiceKey { namespace: "test".into(), audience: "model.test".into() };
    let model = catalog.snapshot().service(&service).unwrap().relations();
    let caller = Identity::new(caller.parse().unwrap(), Assurance::Bearer);
    let output = catalog.snapshot().tuples(&service).check(model, text("object"), text("relation"), &caller);
    let expected = match (assertion.error_code, assertion.expectation) {
        (Some(_), _) => "an error",
        (None, true) => "yes",
        (None, false) => "no",
    };
    let output = match (refused, output) {
        (Some(_), _) | (_, Truth::Failed(_)) => "an error",
        (None, Truth::True) => "yes",
        (None, Truth::False) => "no",
    };
    if output == expected { Ok(()) } else { Err(format!("the answer is {output} instead of {expected}")) }
}

/// An OpenFGA user as a principal.
fn principal(user: &str) -> Option<String> {
    let id = user.strip_prefix("user:").filter(|id| *id != "*" && !id.contains('#'))?;
    Some(format!("user:openfga/{id}"))
}

fn tuple(tuple: &Value) -> Result<Value, String> {
    if tuple.get("condition").is_some() {
        return Err("a tuple has a condition".to_owned());
    }
    let user = tuple["user"].as_str().unwrap_or_default();
    let subject = match user.strip_suffix(":*") {
        Some("user") => "*".to_owned(),
        Some(_) => return Err(format!("`{user}` is everybody of one type")),
        None => principal(user).unwrap_or_else(|| user.to_owned()),
    };
    Ok(json!({"object": tuple["object"], "relation": tuple["relation"], "subject": subject}))
}

fn policy(model: &Value) -> Result<CatalogChange, String> {
    let mut types = Vec::new();
    for kind in model["type_definitions"].as_array().into_iter().flatten() {
        let mut relations = serde_json::Map::new();
        for (name, userset) in kind["relations"].as_object().into_iter().flatten() {
            relations.insert(name.clone(), rule(userset)?);
        }
        if !relations.is_empty() {
            types.push(json!({"object": kind["type"], "relations": relations}));
        }
    }
    let policy = json!({"apiVersion": "durward.dev/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": "model", "namespace": "test"},
        "spec": {"relations": types}});
    serde_json::from_value(policy)
        .map(|policy| CatalogChange::PolicyApplied(Box::new(policy)))
        .map_err(|error| error.to_string())
}

fn rule(userset: &Value) -> Result<Value, String> {
    let (kind, definition) = userset.as_object().and_then(|userset| userset.iter().next()).ok_or("a rule is empty")?;
    let list = |parts: &Value| parts["child"].as_array().into_iter().flatten().map(rule).collect::<Result<Vec<_>, _>>();
    Ok(match kind.as_str() {
        "this" => json!({"this": {}}),
        "computedUserset" => json!({"relation": definition["relation"]}),
        "tupleToUserset" => {
            json!({"from": definition["tupleset"]["relation"], "relation": definition["computedUserset"]["relation"]})
        }
        "union" => json!({"union": list(definition)?}),
        "intersection" => json!({"intersection": list(definition)?}),
        "difference" => json!({"exclusion": [rule(&definition["base"])?, rule(&definition["subtract"])?]}),
        other => return Err(format!("`{other}` is no rule")),
    })
}

fn relationship(name: &str, tuples: &[&Value]) -> Result<CatalogChange, String> {
    let tuples: Vec<Value> = tuples.iter().map(|stated| tuple(stated)).collect::<Result<_, _>>()?;
    let resource = json!({"apiVersion": "durward.dev/v1alpha1", "kind": "Relationship", "metadata": {"name": name, "namespace": "test"},
        "spec": {"service": "model.test", "tuples": tuples}});
    Ok(CatalogChange::RelationshipApplied(Box::new(serde_json::from_value(resource).unwrap())))
}
