//! The variables of one evaluation.

use super::error::UnreadableFact;
use super::facts::ConditionFacts;
use super::fields::{HEADERS, ReadFields};
use super::headers::HeaderValues;
use super::json::JsonFields;
use super::metering::{PATTERN, STEP, WORK};
use super::pattern::Pattern;
use super::price::price;
use crate::work::WorkBudget;
use cel::common::types::{CelBool, CelMap, CelMapKey, CelString};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

pub(super) struct Variables<'f> {
    facts: &'f dyn ConditionFacts,
    work: &'f WorkBudget,
    patterns: &'f [Pattern],
    headers: Option<&'f HeaderValues>,
    kubernetes: Option<&'f CelMap<'static>>,
    resource: Option<&'f CelMap<'static>>,
    reads: &'f ReadFields,
    /// `principal` and `request` as wholes; their fields are read by themselves.
    principal: OnceLock<CelMap<'static>>,
    request: OnceLock<CelMap<'static>>,
    sent: OnceLock<CelMap<'static>>,
    paid: CelBool,
}

impl<'f> Variables<'f> {
    /// The variables of a condition that reads these fields.
    ///
    /// # Errors
    /// If something that the condition reads is unknown or can't be read.
    pub(super) fn new(
        reads: &'f ReadFields,
        patterns: &'f [Pattern],
        facts: &'f dyn ConditionFacts,
        work: &'f WorkBudget,
    ) -> Result<Self, UnreadableFact> {
        check_principal(reads, facts)?;
        let headers = readable_headers(reads, facts)?;
        let read = |fields: &BTreeSet<_>, objects: &dyn Fn() -> Option<&'f JsonFields>, what: &'static str| {
            let known = || objects().ok_or(UnreadableFact::UnknownFields(what));
            (!fields.is_empty()).then(|| known()?.read().map_err(UnreadableFact::from)).transpose()
        };
        let kubernetes = read(&reads.kubernetes, &|| facts.objects(), "object")?;
        let resource = read(&reads.resource, &|| facts.resource(), "resource")?;
        for (number, read) in [kubernetes, resource].into_iter().enumerate() {
            if let Some((_, parts)) = read {
                facts.cache().charge_object(number, parts, work);
            }
        }
        Ok(Self {
            facts,
            work,
            patterns,
            headers,
            kubernetes: kubernetes.map(|(objects, _)| objects),
            resource: resource.map(|(resource, _)| resource),
            reads,
            principal: OnceLock::new(),
            request: OnceLock::new(),
            sent: OnceLock::new(),
            paid: CelBool::from(true),
        })
    }

    fn principal_field(&self, field: &str) -> Option<&(dyn Val + 'static)> {
        self.facts.cache().principal(field, self.facts, self.work)
    }

    fn request_field(&self, field: &str) -> Option<&(dyn Val + 'static)> {
        match (field, self.headers) {
            (HEADERS, Some(headers)) => {
                Some(self.sent.get_or_init(|| self.charged(sent_headers(&self.reads.headers, headers))))
            }
            _ => self.facts.cache().request(field, self.facts, self.work),
        }
    }

    /// The value of one of the names that no expression can contain.
    fn internal(&self, name: &str) -> Option<&dyn Val> {
        if name == WORK {
            return Some(self.work);
        }
        if let Some(number) = name.strip_prefix(PATTERN) {
            return self.patterns.get(number.parse::<usize>().ok()?).map(|pattern| pattern as &dyn Val);
        }
        let price = name.strip_prefix(STEP)?.parse().ok()?;
        self.work.charge(price).then_some(&self.paid as &dyn Val)
    }

    /// Charges a value that was made of copies.
    fn charged(&self, map: CelMap<'static>) -> CelMap<'static> {
        self.work.charge(price(&map, self.work.left()));
        map
    }
}

impl VariableResolver for Variables<'_> {
    /// The interpreter asks for `root.field` before it asks for `root`.
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let reads = self.reads;
        let value: &dyn Val = match variable.split_once('.') {
            Some(("principal", field)) => self.principal_field(field)?,
            Some(("request", field)) => self.request_field(field)?,
            Some(_) => return None,
            None => match variable {
                "principal" => self
                    .principal
                    .get_or_init(|| self.charged(object(&reads.principal, |field| self.principal_field(field)))),
                "request" => {
                    self.request.get_or_init(|| self.charged(object(&reads.request, |field| self.request_field(field))))
                }
                "kubernetes" => self.kubernetes?,
                "resource" => self.resource?,
                _ => self.internal(variable)?,
            },
        };
        Some(CowVal::Borrowed(value))
    }
}

fn object<'v>(
    fields: &BTreeSet<&'static str>,
    fact: impl Fn(&str) -> Option<&'v (dyn Val + 'static)>,
) -> CelMap<'static> {
    let entries = fields.iter().filter_map(|field| Some((CelMapKey::from(*field), fact(field)?.clone_as_boxed())));
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
