//! The variables of one evaluation, and the budget of its loops.

use super::error::UnreadableFact;
use super::facts::ConditionFacts;
use super::fields::{HEADERS, ReadFields};
use super::headers::HeaderValues;
use super::json::JsonFields;
use super::limits::{MAX_KEPT, MAX_WORK};
use super::steps;
use cel::Value;
use cel::common::types::{CelBool, CelMap, CelMapKey, CelString};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

pub(super) struct Variables<'f> {
    facts: &'f dyn ConditionFacts,
    headers: Option<&'f HeaderValues>,
    kubernetes: Option<&'f CelMap<'static>>,
    resource: Option<&'f CelMap<'static>>,
    reads: &'f ReadFields,
    nodes: usize,
    loops: bool,
    principal: OnceLock<CelMap<'static>>,
    request: OnceLock<CelMap<'static>>,
    /// Size of everything that was read so far.
    parts: AtomicUsize,
    /// Turns of loops so far, and the number of those that add to a list.
    steps: AtomicUsize,
    kept: AtomicUsize,
    exhausted: AtomicBool,
}

impl<'f> Variables<'f> {
    /// The variables of a condition that reads these fields and has `nodes` nodes.
    ///
    /// # Errors
    /// If something that the condition reads is unknown or can't be read.
    pub(super) fn new(
        reads: &'f ReadFields,
        nodes: usize,
        loops: bool,
        facts: &'f dyn ConditionFacts,
    ) -> Result<Self, UnreadableFact> {
        check_principal(reads, facts)?;
        let headers = readable_headers(reads, facts)?;
        let read = |fields: &BTreeSet<_>, objects: &dyn Fn() -> Option<&'f JsonFields>, what: &'static str| {
            let known = || objects().ok_or(UnreadableFact::UnknownFields(what));
            (!fields.is_empty()).then(|| known()?.read().map_err(UnreadableFact::from)).transpose()
        };
        let kubernetes = read(&reads.kubernetes, &|| facts.objects(), "object")?;
        let resource = read(&reads.resource, &|| facts.resource(), "resource")?;
        let parts = 1 + [kubernetes, resource].into_iter().flatten().map(|(_, parts)| parts).sum::<usize>();
        Ok(Self {
            facts,
            headers,
            kubernetes: kubernetes.map(|(objects, _)| objects),
            resource: resource.map(|(resource, _)| resource),
            reads,
            nodes,
            loops,
            principal: OnceLock::new(),
            request: OnceLock::new(),
            parts: parts.into(),
            steps: AtomicUsize::new(0),
            kept: AtomicUsize::new(0),
            exhausted: AtomicBool::new(false),
        })
    }

    /// Whether the loops have used up their budget.
    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted.load(Ordering::Relaxed)
    }

    fn request(&self, field: &str) -> Option<Box<dyn Val>> {
        match (field, self.headers) {
            (HEADERS, Some(headers)) => Some(Box::new(sent_headers(&self.reads.headers, headers))),
            _ => self.facts.request(field).map(|value| self.count_parts(value)),
        }
    }

    /// The interpreter's form of a value. Its size is counted if the condition has loops.
    fn count_parts(&self, value: Value) -> Box<dyn Val> {
        if self.loops {
            self.parts.fetch_add(parts(&value), Ordering::Relaxed);
        }
        native(value)
    }

    /// Whether a loop may take another turn.
    fn step(&self, keeps: bool) -> bool {
        let parts = self.parts.load(Ordering::Relaxed);
        let count = |so_far: &AtomicUsize, one: usize| so_far.fetch_add(one, Ordering::Relaxed).saturating_add(one);
        let work = count(&self.steps, 1).saturating_mul(self.nodes).saturating_mul(parts);
        let kept = count(&self.kept, keeps.into()).saturating_mul(parts);
        let fits = work <= MAX_WORK && kept <= MAX_KEPT;
        self.exhausted.fetch_or(!fits, Ordering::Relaxed);
        fits
    }
}

impl VariableResolver for Variables<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let reads = self.reads;
        let value = match variable {
            "principal" => self.principal.get_or_init(|| {
                object(&reads.principal, |field| self.facts.principal(field).map(|value| self.count_parts(value)))
            }),
            "request" => self.request.get_or_init(|| object(&reads.request, |field| self.request(field))),
            "kubernetes" => self.kubernetes?,
            "resource" => self.resource?,
            steps::STEP | steps::KEEP => {
                return self.step(variable == steps::KEEP).then(|| CowVal::owned(CelBool::from(true)));
            }
            _ => return None,
        };
        Some(CowVal::Borrowed(value))
    }
}

/// The size of a value, in parts.
fn parts(value: &Value) -> usize {
    match value {
        Value::String(text) => 1 + text.len() / 64,
        Value::List(items) => 1 + items.iter().map(parts).sum::<usize>(),
        Value::Map(map) => 1 + map.map.values().map(parts).sum::<usize>(),
        _ => 1,
    }
}

fn object(fields: &BTreeSet<&'static str>, fact: impl Fn(&str) -> Option<Box<dyn Val>>) -> CelMap<'static> {
    let entries = fields.iter().filter_map(|field| Some((CelMapKey::from(*field), fact(field)?)));
    CelMap::from(entries.collect::<HashMap<_, _>>())
}

/// Refuses to read groups and attributes that are unknown. An expression could take a missing value for none.
fn check_principal(reads: &ReadFields, facts: &dyn ConditionFacts) -> Result<(), UnreadableFact> {
    let Some(unknown) = facts.unknown().filter(|unknown| !unknown.is_empty()) else { return Ok(()) };
    if let Some(cause) = unknown.groups.filter(|_| reads.principal.contains("groups")) {
        return Err(UnreadableFact::UnknownGroups(cause));
    }
    let attributes = &reads.attributes;
    match unknown.first_attribute(|name| attributes.all || attributes.names.contains(name)) {
        Some((name, cause)) => Err(UnreadableFact::UnknownAttribute { name: name.to_owned(), cause }),
        None => Ok(()),
    }
}

/// The headers that a condition reads; `None` if it reads none.
///
/// # Errors
/// If headers are unknown or one of them can't be read.
fn readable_headers<'f>(
    reads: &ReadFields,
    facts: &'f dyn ConditionFacts,
) -> Result<Option<&'f HeaderValues>, UnreadableFact> {
    if !reads.request.contains(HEADERS) {
        return Ok(None);
    }
    let headers = facts.headers().ok_or(UnreadableFact::UnknownHeaders)?;
    for name in &reads.headers {
        if let Some(Err(error)) = headers.get(name) {
            return Err(UnreadableFact::Header { name: Arc::clone(name), error: *error });
        }
    }
    Ok(Some(headers))
}

/// The headers of these names that were sent.
fn sent_headers(names: &BTreeSet<Arc<str>>, headers: &HeaderValues) -> CelMap<'static> {
    let sent = names.iter().filter_map(|name| Some((name, headers.get(name)?.as_ref().ok()?)));
    let entry = |(name, value): (&Arc<str>, &String)| {
        (CelMapKey::from(name.to_string()), Box::new(CelString::from(value.clone())) as Box<dyn Val>)
    };
    CelMap::from(sent.map(entry).collect::<HashMap<_, _>>())
}

/// The interpreter's form of a value. A value without one becomes an empty map, in which every field is missing.
fn native(value: Value) -> Box<dyn Val> {
    let converted: Result<Box<dyn Val>, _> = value.try_into();
    converted.unwrap_or_else(|_| Box::new(CelMap::from(HashMap::new())))
}
