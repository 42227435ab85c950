//! Parses the text of a manifest file into resources and problems. A problem names the file, line, column and field.

use crate::location::locate;
use crate::yaml::yaml_options;
use durward_api::field_error::FieldError;
use durward_api::resources::{AccessPolicy, GROUP, IdentityProvider, Relationship, ServiceSpec, VERSION};
use durward_authn::api_key;
use durward_core::namespaced_name::NamespacedName;
use durward_core::principal::{is_dns_label, is_dns_subdomain};
use durward_core::service::ServiceKey;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_saphyr::{RenderOptions, SnippetMode, UserMessageFormatter};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// A resource that the engine understands.
#[derive(Debug, Clone, PartialEq)]
pub enum ManifestResource {
    /// A policy of a service.
    Policy(Box<AccessPolicy>),
    /// An external source of identity.
    Provider(Box<IdentityProvider>),
    /// Relation tuples.
    Relationship(Box<Relationship>),
    /// A Namespace, for its annotations.
    Namespace(Box<Namespace>),
    /// A Secret with API keys.
    ApiKeys(Box<Secret>),
}

/// The file and line of a document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentLocation {
    /// File name in messages.
    pub file: Arc<str>,
    /// First line of the document, from 1.
    pub line: usize,
    /// Index in the items, if the document is a `List`.
    pub item: Option<usize>,
}

impl DocumentLocation {
    /// The path of a field in the document, for a field of the resource.
    #[must_use]
    pub fn path_in_document(&self, field: &str) -> String {
        match self.item {
            None => field.to_owned(),
            Some(item) => join(&format!("items[{item}]"), field),
        }
    }
}

/// A resource and its location.
#[derive(Debug, Clone, PartialEq)]
pub struct ManifestDocument {
    /// The resource.
    pub resource: ManifestResource,
    /// The file and line that it starts at.
    pub location: DocumentLocation,
}

/// A mistake in a manifest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ManifestProblem {
    /// File name.
    pub file: Arc<str>,
    /// Line, from 1, or 0 if the problem concerns the file as a whole.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// Path of the field, if the problem concerns one.
    pub field: Option<String>,
    /// The mistake, and how to fix it.
    pub message: String,
    /// The policy that can't be decoded because of it.
    pub policy: Option<NamespacedName>,
}

impl fmt::Display for ManifestProblem {
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

/// The resources and problems in a file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ManifestContents {
    /// The resources in the order of the file.
    pub documents: Vec<ManifestDocument>,
    /// The mistakes.
    pub problems: Vec<ManifestProblem>,
    /// The documents that have mistakes.
    pub(crate) broken: Vec<BrokenDocument>,
    /// Kinds of the resources that the engine does not use.
    pub(crate) ignored: Vec<(DocumentLocation, String)>,
}

/// A document that can't be accepted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BrokenDocument {
    pub location: DocumentLocation,
    /// The name of the policy in it, if it has one.
    pub policy: Option<NamespacedName>,
    /// The name of the relationship in it, if it has one.
    pub relationship: Option<NamespacedName>,
    /// The service that it concerns; `None` if it can't be known.
    pub service: Option<ServiceKey>,
    pub error: FieldError,
}

/// Kinds of the API group.
const KINDS: [&str; 3] = ["AccessPolicy", "IdentityProvider", "Relationship"];

/// Reads the text of a file. A document that can't be read does not hide the others.
#[must_use]
pub fn read(file: &str, text: &str) -> ManifestContents {
    read_with(file, text, || ())
}

/// Like [`read`], and calls `on_document` after each document.
pub(crate) fn read_with(file: &str, text: &str, mut on_document: impl FnMut()) -> ManifestContents {
    let file: Arc<str> = file.into();
    let mut contents = ManifestContents::default();
    for (line, document) in documents(text) {
        let location = DocumentLocation { file: Arc::clone(&file), line, item: None };
        read_document(&location, document, &mut contents, &mut on_document);
    }
    contents
}

/// Reads a document, or each item of a `List`.
fn read_document(
    location: &DocumentLocation,
    text: &str,
    contents: &mut ManifestContents,
    on_document: &mut impl FnMut(),
) {
    let reader = |item| DocumentReader { location: DocumentLocation { item, ..location.clone() }, text, policy: None };
    let value: Value = match serde_saphyr::from_str_with_options(text, yaml_options()) {
        Ok(value) => value,
        Err(error) => {
            let problem = reader(None).syntax(&error);
            contents.broken.push(BrokenDocument::of(&problem, location.clone(), &Value::Null));
            contents.problems.push(*problem);
            return on_document();
        }
    };
    match list_items(&value) {
        None => {
            reader(None).read(&value, contents);
            on_document();
        }
        Some(items) => {
            for (item, value) in items.iter().enumerate() {
                reader(Some(item)).read(value, contents);
                on_document();
            }
        }
    }
}

/// The items of a `List`, as `kubectl get -o yaml` prints it, or of a list of one of our kinds.
fn list_items(value: &Value) -> Option<&Vec<Value>> {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    let kind = text("kind");
    let typed =
        kind.strip_suffix("List").is_some_and(|kind| KINDS.contains(&kind) || kind == "Namespace" || kind == "Secret");
    (kind == "List" && text("apiVersion") == "v1" || typed).then(|| value.get("items")?.as_array())?
}

impl BrokenDocument {
    fn of(problem: &ManifestProblem, location: DocumentLocation, value: &Value) -> Self {
        let text = |field: &str| value.pointer(field).and_then(Value::as_str);
        let namespace = text("/metadata/namespace").filter(|namespace| is_dns_label(namespace));
        let name = text("/metadata/name").filter(|name| is_dns_subdomain(name));
        let relationship = namespace.zip(name).filter(|_| text("/kind") == Some("Relationship"));
        Self {
            location,
            policy: problem.policy.clone(),
            relationship: relationship.map(|(namespace, name)| NamespacedName::new(namespace, name)),
            service: namespace.and_then(|namespace| {
                let audience = service_audience(namespace, name, value.pointer("/spec/service")?)?;
                Some(ServiceKey { namespace: namespace.into(), audience: audience.as_str().into() })
            }),
            error: FieldError { field: problem.field.clone().unwrap_or_default(), message: problem.message.clone() },
        }
    }
}

/// The audience that a `spec.service` states. `None` if a part of it is invalid: it may have stated another one.
fn service_audience(namespace: &str, name: Option<&str>, service: &Value) -> Option<String> {
    if let Some(audience) = service.as_str() {
        return Some(audience.to_owned());
    }
    let stated = ServiceSpec::deserialize(service).ok()?.audience;
    stated.or_else(|| name.map(|name| format!("{name}.{namespace}")))
}

/// Reads a document of a kind that is not a resource. Returns `None` if it is of another kind.
///
/// # Errors
/// With the mistake in the document.
pub fn read_as<T: DeserializeOwned>(
    location: DocumentLocation,
    text: &str,
    api_version: &str,
    kind: &str,
) -> Result<Option<T>, Box<ManifestProblem>> {
    let reader = DocumentReader { location, text, policy: None };
    let value: Value =
        serde_saphyr::from_str_with_options(text, yaml_options()).map_err(|error| reader.syntax(&error))?;
    let text_of = |field: &str| value.get(field).and_then(Value::as_str);
    if text_of("kind") != Some(kind) {
        return Ok(None);
    }
    if text_of("apiVersion") != Some(api_version) {
        // `read` reports an unknown kind of the API group
        if text_of("apiVersion").is_some_and(|actual| actual.starts_with(&format!("{GROUP}/"))) {
            return Ok(None);
        }
        return Err(reader.problem("apiVersion", &format!("the apiVersion of `{kind}` is `{api_version}`")));
    }
    reader.typed(&value).map(|typed| Some(*typed))
}

/// The documents of a stream, each with the number of its first line. `---` at the start of a line always ends a
/// document (YAML 1.2, section 9.1.2), so no parser is needed to separate them.
pub fn documents(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let mut start = 0;
    let mut start_line = 1;
    let mut offset = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let marker =
            line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marker {
            documents.extend(text.get(start..offset).map(|document| (start_line, document)));
            // the rest of the marker's line, most often a comment, belongs to the next document
            start = offset + 3;
            start_line = number + 1;
        }
        offset += line.len();
    }
    documents.extend(text.get(start..).map(|document| (start_line, document)));
    documents.retain(|(_, document)| !document.trim().is_empty());
    documents
}

/// What a document contains.
enum DocumentContent {
    Empty,
    Resource(ManifestResource),
    /// A resource that the engine does not use.
    Ignored {
        kind: String,
    },
}

/// Reads one document.
struct DocumentReader<'t> {
    location: DocumentLocation,
    text: &'t str,
    policy: Option<NamespacedName>,
}

impl DocumentReader<'_> {
    fn read(mut self, value: &Value, contents: &mut ManifestContents) {
        match self.content(value) {
            Ok(DocumentContent::Resource(resource)) => {
                contents.documents.push(ManifestDocument { resource, location: self.location });
            }
            Ok(DocumentContent::Ignored { kind }) => contents.ignored.push((self.location, kind)),
            Ok(DocumentContent::Empty) => {}
            Err(problem) => {
                contents.broken.push(BrokenDocument::of(&problem, self.location.clone(), value));
                contents.problems.push(*problem);
            }
        }
    }

    fn content(&mut self, value: &Value) -> Result<DocumentContent, Box<ManifestProblem>> {
        let Value::Object(object) = value else {
            return if value.is_null() {
                Ok(DocumentContent::Empty)
            } else {
                Err(self.problem("", "a manifest is a mapping with `apiVersion` and `kind`"))
            };
        };
        let text = |field: &str| object.get(field).and_then(Value::as_str);
        let (Some(api_version), Some(kind)) = (text("apiVersion"), text("kind")) else {
            if self.is_other_json(object) {
                return Ok(DocumentContent::Ignored { kind: "JSON".to_owned() });
            }
            return Err(self.problem("", "a manifest begins with `apiVersion` and `kind`"));
        };
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.policy = policy_key(kind, value);
        if group == GROUP && version != VERSION {
            return Err(self.problem(
                "apiVersion",
                &format!("there is no version `{version}` of {GROUP}; write `{GROUP}/{VERSION}`"),
            ));
        }
        self.check_namespace(kind, value)?;
        let resource = match (group, kind) {
            (GROUP, "AccessPolicy") => ManifestResource::Policy(self.typed(value)?),
            (GROUP, "IdentityProvider") => ManifestResource::Provider(self.typed(value)?),
            (GROUP, "Relationship") => ManifestResource::Relationship(self.typed(value)?),
            (GROUP, kind) => {
                let hint = nearest(kind, &KINDS).map_or_else(
                    || format!("use one of {}", KINDS.join(", ")),
                    |near| format!("did you mean `{near}`?"),
                );
                return Err(self.problem("kind", &format!("unknown kind `{kind}`; {hint}")));
            }
            (_, kind) if KINDS.contains(&kind) => {
                return Err(self.problem(
                    "apiVersion",
                    &format!("the apiVersion of `{kind}` is `{GROUP}/{VERSION}`, not `{api_version}`"),
                ));
            }
            ("", "Namespace") => ManifestResource::Namespace(self.typed(value)?),
            ("", "Secret") if has_label(value, api_key::LABEL) => ManifestResource::ApiKeys(self.typed(value)?),
            (_, kind) => {
                // a kind close to one of ours is a likely mistake in any API group
                if let Some(near) = nearest(kind, &KINDS) {
                    return Err(self.problem(
                        "kind",
                        &format!("unknown kind `{kind}`; did you mean `{near}` of `{GROUP}/{VERSION}`?"),
                    ));
                }
                return Ok(DocumentContent::Ignored { kind: kind.to_owned() });
            }
        };
        Ok(DocumentContent::Resource(resource))
    }

    /// Whether this is JSON of another kind, such as a key set, and not a manifest with a typing error.
    fn is_other_json(&self, object: &serde_json::Map<String, Value>) -> bool {
        let json = Path::new(&*self.location.file).extension().is_some_and(|extension| extension == "json");
        json && !["apiVersion", "kind", "metadata", "spec"].iter().any(|field| object.contains_key(*field))
    }

    /// Checks that a resource in a namespace states it. `kubectl` would take that of its context.
    fn check_namespace(&self, kind: &str, value: &Value) -> Result<(), Box<ManifestProblem>> {
        // the namespace of a Secret decides nothing here, and `durward mint` writes none
        let namespaced = matches!(kind, "AccessPolicy" | "Relationship");
        let stated = value.pointer("/metadata/namespace").is_some_and(|namespace| !namespace.is_null());
        // without `metadata`, decoding explains more
        if !namespaced || stated || value.get("metadata").is_none() {
            return Ok(());
        }
        let message = format!("the {kind} has no namespace; add `namespace` to its `metadata`");
        Err(self.problem("metadata.namespace", &message))
    }

    /// Decodes a value. Unknown top-level fields are mistakes in resources of the API group only.
    fn typed<T: DeserializeOwned>(&self, value: &Value) -> Result<Box<T>, Box<ManifestProblem>> {
        const FIELDS: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];
        let own = value.get("apiVersion").and_then(Value::as_str).is_some_and(|version| version.starts_with(GROUP));
        let unknown = value
            .as_object()
            .into_iter()
            .flat_map(|object| object.keys())
            .find(|field| !FIELDS.contains(&field.as_str()));
        if own && let Some(unknown) = unknown {
            return Err(self.unknown_field(unknown, unknown, &FIELDS));
        }
        serde_path_to_error::deserialize(value).map(Box::new).map_err(|error| {
            let path = error.path().to_string();
            let message = error.into_inner().to_string();
            self.mistyped(if path == "." { "" } else { &path }, &message)
        })
    }

    /// The problem for an error of serde. Its message names the field and the expected type.
    fn mistyped(&self, path: &str, message: &str) -> Box<ManifestProblem> {
        let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
        if let (true, Some((unknown, known))) = (message.starts_with("unknown field"), names.split_first()) {
            let path = if path.rsplit('.').next() == Some(unknown) { path.to_owned() } else { join(path, unknown) };
            return self.unknown_field(&path, unknown, known);
        }
        if let (true, Some((unknown, known))) = (message.starts_with("unknown variant"), names.split_first()) {
            return self.problem(path, &format!("`{unknown}` is not one of {}", known.join(", ")));
        }
        if let (true, Some(missing)) = (message.starts_with("missing field"), names.first()) {
            return self.problem(path, &format!("the field `{missing}` is missing"));
        }
        self.problem(path, message)
    }

    fn unknown_field(&self, path: &str, unknown: &str, known: &[&str]) -> Box<ManifestProblem> {
        let hint = match nearest(unknown, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => "no fields are known here".to_owned(),
            None => format!("the fields are {}", known.join(", ")),
        };
        self.problem(path, &format!("unknown field `{unknown}`; {hint}"))
    }

    fn syntax(&self, error: &serde_saphyr::Error) -> Box<ManifestProblem> {
        let (line, column) = error.location().map_or((1, 1), |at| (at.line() as usize, at.column() as usize));
        let message = match error.without_snippet() {
            serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } => {
                format!("the field `{key}` is written twice; remove one of them")
            }
            serde_saphyr::Error::MultipleDocuments { .. } => {
                "the document ends before the end of its text; separate documents by a line `---`".to_owned()
            }
            error => {
                let mut options = RenderOptions::new(&UserMessageFormatter);
                options.snippets = SnippetMode::Off;
                error.render_with_options(options).lines().next().unwrap_or_default().to_owned()
            }
        };
        Box::new(ManifestProblem {
            line: self.location.line + line.max(1) - 1,
            column: column.max(1),
            message: format!("not readable as YAML: {message}"),
            ..*self.problem("", "")
        })
    }

    fn problem(&self, field: &str, message: &str) -> Box<ManifestProblem> {
        let (line, column) = locate(self.text, &self.location.path_in_document(field)).unwrap_or((1, 1));
        Box::new(ManifestProblem {
            file: Arc::clone(&self.location.file),
            line: self.location.line + line - 1,
            column,
            field: (!field.is_empty()).then(|| field.to_owned()),
            message: message.to_owned(),
            policy: self.policy.clone(),
        })
    }
}

fn join(path: &str, field: &str) -> String {
    if field.is_empty() {
        return path.to_owned();
    }
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

/// The name of the policy in a document, even if its spec can't be decoded.
fn policy_key(kind: &str, value: &Value) -> Option<NamespacedName> {
    let text = |field: &str| value.pointer(field).and_then(Value::as_str);
    let namespace = text("/metadata/namespace")?;
    let name = text("/metadata/name")?;
    (kind == "AccessPolicy").then(|| NamespacedName { namespace: namespace.into(), name: name.into() })
}

fn has_label(value: &Value, label: &str) -> bool {
    value.pointer("/metadata/labels").and_then(Value::as_object).is_some_and(|labels| labels.contains_key(label))
}

/// The known name that is closest to `text`, if it is close enough for a typing error.
fn nearest<'k>(text: &str, known: &[&'k str]) -> Option<&'k str> {
    let text = text.to_lowercase();
    let distances = known.iter().map(|name| (strsim::damerau_levenshtein(&text, &name.to_lowercase()), *name));
    distances.min().filter(|(distance, name)| *distance <= 2.min(name.len() / 3)).map(|(_, name)| name)
}
