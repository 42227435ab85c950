//! Manifests: YAML text in, resources and problems out. A problem names file, line, column and field.

use crate::place::locate;
use durward_api::resources::{AccessPolicy, GROUP, IdentityProvider, Relationship, VERSION};
use durward_authn::api_key;
use durward_core::namespaced_name::NamespacedName;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt;
use std::sync::Arc;

/// A resource that the engine understands.
#[derive(Debug, Clone, PartialEq)]
pub enum Resource {
    /// What protects a service.
    Policy(Box<AccessPolicy>),
    /// An outside source of identity.
    Provider(Box<IdentityProvider>),
    /// ReBAC tuples.
    Relationship(Box<Relationship>),
    /// A Namespace, for its annotations.
    Namespace(Box<Namespace>),
    /// A Secret with API keys.
    ApiKeys(Box<Secret>),
}

/// Where a document stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// File name, as it is shown.
    pub file: Arc<str>,
    /// First line of the document, from 1.
    pub line: usize,
}

/// One resource and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// The resource.
    pub resource: Resource,
    /// Where.
    pub place: Place,
}

/// Something that can't be used as it is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// File name.
    pub file: Arc<str>,
    /// Line, from 1; 0 when it is about the file as a whole.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// Path of the field, if it is about one.
    pub field: Option<String>,
    /// What is wrong and what to do.
    pub message: String,
    /// The policy that can't be read because of it.
    pub policy: Option<NamespacedName>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if let Some(field) = &self.field {
            write!(f, ": {field}")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// What a file holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Contents {
    /// The resources, in the order of the file.
    pub documents: Vec<Document>,
    /// What can't be used.
    pub problems: Vec<Problem>,
    /// Resources that are nothing to the engine, as `kind`s.
    pub(crate) ignored: Vec<(Place, String)>,
}

const KINDS: [&str; 3] = ["AccessPolicy", "IdentityProvider", "Relationship"];

/// Reads the text of one file. A document that can't be read does not hide the others.
#[must_use]
pub fn read(file: &str, text: &str) -> Contents {
    read_with(file, text, || ())
}

/// As [`read`], telling of each document that was read.
pub(crate) fn read_with(file: &str, text: &str, mut one: impl FnMut()) -> Contents {
    let file: Arc<str> = file.into();
    let mut contents = Contents::default();
    for (line, document) in documents(text) {
        let place = Place { file: Arc::clone(&file), line };
        Reader { place, text: document, policy: None }.read(&mut contents);
        one();
    }
    contents
}

/// Reads a document of another kind than resources have, or nothing if it is not of that kind.
pub fn read_as<T: DeserializeOwned>(
    place: Place,
    text: &str,
    api_version: &str,
    kind: &str,
) -> Result<Option<T>, Box<Problem>> {
    let reader = Reader { place, text, policy: None };
    let value: Value =
        serde_saphyr::from_str_with_options(text, yaml_options()).map_err(|error| reader.syntax(&error))?;
    let is = |field: &str, wanted: &str| value.get(field).and_then(Value::as_str) == Some(wanted);
    if !is("kind", kind) {
        return Ok(None);
    }
    if !is("apiVersion", api_version) {
        // whoever reads manifests tells that it is none of the resources
        if value.get("apiVersion").and_then(Value::as_str).is_some_and(|given| given.starts_with(&format!("{GROUP}/")))
        {
            return Ok(None);
        }
        return Err(reader.problem("apiVersion", &format!("`{kind}` is of `{api_version}`")));
    }
    reader.typed(&value).map(|typed| Some(*typed))
}

/// The documents of a stream with the number of their first line. `---` at the beginning of a line ends a document
/// wherever it stands (YAML 1.2, section 9.1.2), so no parser is needed to tell them apart.
pub fn documents(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 1, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let marker =
            line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marker {
            found.extend(text.get(start..offset).map(|document| (start_line, document)));
            // what follows the marker on its line belongs to the document, most often a comment
            start = offset + 3;
            start_line = number + 1;
        }
        offset += line.len();
    }
    found.extend(text.get(start..).map(|document| (start_line, document)));
    found.retain(|(_, document)| !document.trim().is_empty());
    found
}

/// Reads one document.
struct Reader<'t> {
    place: Place,
    text: &'t str,
    policy: Option<NamespacedName>,
}

impl Reader<'_> {
    fn read(mut self, contents: &mut Contents) {
        match self.resource() {
            Ok(Some(Ok(resource))) => contents.documents.push(Document { resource, place: self.place }),
            Ok(Some(Err(kind))) => contents.ignored.push((self.place, kind)),
            Ok(None) => {}
            Err(problem) => contents.problems.push(*problem),
        }
    }

    /// The resource, or the kind of one that is ignored, or nothing in an empty document.
    fn resource(&mut self) -> Result<Option<Result<Resource, String>>, Box<Problem>> {
        let value: Value =
            serde_saphyr::from_str_with_options(self.text, yaml_options()).map_err(|error| self.syntax(&error))?;
        let Value::Object(object) = &value else {
            return if value.is_null() {
                Ok(None)
            } else {
                Err(self.problem("", "a manifest is a mapping with `apiVersion` and `kind`"))
            };
        };
        let text = |field: &str| object.get(field).and_then(Value::as_str);
        let (Some(api_version), Some(kind)) = (text("apiVersion"), text("kind")) else {
            return Err(self.problem("", "a manifest begins with `apiVersion` and `kind`"));
        };
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.policy = policy_key(kind, &value);
        if group == GROUP && version != VERSION {
            return Err(self.problem(
                "apiVersion",
                &format!("there is no version `{version}` of {GROUP}; write `{GROUP}/{VERSION}`"),
            ));
        }
        let resource = match (group, kind) {
            (GROUP, "AccessPolicy") => Resource::Policy(self.typed(&value)?),
            (GROUP, "IdentityProvider") => Resource::Provider(self.typed(&value)?),
            (GROUP, "Relationship") => Resource::Relationship(self.typed(&value)?),
            (GROUP, kind) => {
                let hint = nearest(kind, &KINDS).map_or_else(
                    || format!("there are {}", KINDS.join(", ")),
                    |near| format!("did you mean `{near}`?"),
                );
                return Err(self.problem("kind", &format!("unknown kind `{kind}`; {hint}")));
            }
            (_, kind) if KINDS.contains(&kind) => {
                return Err(
                    self.problem("apiVersion", &format!("`{kind}` is of `{GROUP}/{VERSION}`, not of `{api_version}`"))
                );
            }
            ("", "Namespace") => Resource::Namespace(self.typed(&value)?),
            ("", "Secret") if has_label(&value, api_key::LABEL) => Resource::ApiKeys(self.typed(&value)?),
            (_, kind) => {
                // a near miss in the kind is told even where the group is another's
                if let Some(near) = nearest(kind, &KINDS) {
                    return Err(self.problem(
                        "kind",
                        &format!("unknown kind `{kind}`; did you mean `{near}` of `{GROUP}/{VERSION}`?"),
                    ));
                }
                return Ok(Some(Err(kind.to_owned())));
            }
        };
        Ok(Some(Ok(resource)))
    }

    fn typed<T: DeserializeOwned>(&self, value: &Value) -> Result<Box<T>, Box<Problem>> {
        const FIELDS: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];
        let own = value.get("apiVersion").and_then(Value::as_str).is_some_and(|version| version.starts_with(GROUP));
        let unknown = value
            .as_object()
            .into_iter()
            .flat_map(|object| object.keys())
            .find(|field| !FIELDS.contains(&field.as_str()));
        if let Some(unknown) = unknown.filter(|_| own) {
            return Err(self.unknown_field(unknown, unknown, &FIELDS));
        }
        serde_path_to_error::deserialize(value).map(Box::new).map_err(|error| {
            let path = error.path().to_string();
            let message = error.into_inner().to_string();
            self.mistyped(if path == "." { "" } else { &path }, &message)
        })
    }

    /// A field of another shape than its type; serde says what it wanted.
    fn mistyped(&self, path: &str, message: &str) -> Box<Problem> {
        let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
        if let (true, Some((unknown, known))) = (message.starts_with("unknown field"), names.split_first()) {
            let path = if path.rsplit('.').next() == Some(unknown) { path.to_owned() } else { join(path, unknown) };
            return self.unknown_field(&path, unknown, known);
        }
        if let (true, Some((unknown, known))) = (message.starts_with("unknown variant"), names.split_first()) {
            return self.problem(path, &format!("`{unknown}` is none of {}", known.join(", ")));
        }
        if let (true, Some(missing)) = (message.starts_with("missing field"), names.first()) {
            return self.problem(path, &format!("the field `{missing}` is missing"));
        }
        self.problem(path, message)
    }

    fn unknown_field(&self, path: &str, unknown: &str, known: &[&str]) -> Box<Problem> {
        let hint = match nearest(unknown, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => "there are none here".to_owned(),
            None => format!("there are {}", known.join(", ")),
        };
        self.problem(path, &format!("unknown field `{unknown}`; {hint}"))
    }

    fn syntax(&self, error: &serde_saphyr::Error) -> Box<Problem> {
        let (line, column) = error.location().map_or((1, 1), |at| (at.line() as usize, at.column() as usize));
        let rendered = error.without_snippet().to_string();
        let message = rendered.lines().next().unwrap_or_default().to_owned();
        Box::new(Problem {
            line: self.place.line + line.max(1) - 1,
            column: column.max(1),
            message: format!("not readable as YAML: {message}"),
            ..*self.problem("", "")
        })
    }

    fn problem(&self, field: &str, message: &str) -> Box<Problem> {
        let (line, column) = locate(self.text, field).unwrap_or((1, 1));
        Box::new(Problem {
            file: Arc::clone(&self.place.file),
            line: self.place.line + line - 1,
            column,
            field: (!field.is_empty()).then(|| field.to_owned()),
            message: message.to_owned(),
            policy: self.policy.clone(),
        })
    }
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

/// Limits against documents that grow when they are read; the size of files is bounded where they are opened.
pub(crate) fn yaml_options() -> serde_saphyr::Options {
    let mut budget = serde_saphyr::Budget::default();
    budget.max_aliases = 100;
    budget.max_anchors = 100;
    budget.max_depth = 64;
    let mut options = serde_saphyr::Options::default();
    options.budget = Some(budget);
    // `y` and `no` are texts, as in YAML 1.2
    options.strict_booleans = true;
    options
}

fn policy_key(kind: &str, value: &Value) -> Option<NamespacedName> {
    let text = |field: &str| value.pointer(field).and_then(Value::as_str);
    let namespace = text("/metadata/namespace").unwrap_or("default");
    let name = text("/metadata/name")?;
    (kind == "AccessPolicy").then(|| NamespacedName { namespace: namespace.into(), name: name.into() })
}

fn has_label(value: &Value, label: &str) -> bool {
    value.pointer("/metadata/labels").and_then(Value::as_object).is_some_and(|labels| labels.contains_key(label))
}

/// The known name that `text` was meant to be, if one is near enough.
fn nearest<'k>(text: &str, known: &[&'k str]) -> Option<&'k str> {
    let text = text.to_lowercase();
    let distances = known.iter().map(|name| (strsim::damerau_levenshtein(&text, &name.to_lowercase()), *name));
    distances.min().filter(|(distance, name)| *distance <= 2.min(name.len() / 3)).map(|(_, name)| name)
}
