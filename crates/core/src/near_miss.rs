//! Operations that a request nearly matches, to explain why it matches none.

use crate::decide::Route;
use crate::host::Host;
use crate::namespaced_name::NamespacedName;
use crate::path::{PathPattern, RequestPath, Segment};
use crate::request::Call;
use crate::service::{CompiledService, ServiceOperation};
use crate::snapshot::Snapshot;
use std::sync::Arc;

/// Maximum number of near misses in a report; more would hide the intended one.
const MAX_NEAR_MISSES: usize = 8;

/// An operation that a request nearly matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NearMiss {
    /// Audience of the service.
    pub audience: Arc<str>,
    /// The policy that declares the operation.
    pub policy: NamespacedName,
    /// The operation.
    pub operation: Arc<str>,
    /// Method and path, as declared.
    pub pattern: String,
    /// The difference.
    pub how: Mismatch,
}

/// The difference between a request and an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// The method.
    Method,
    /// One segment of the path, counted from 1.
    Segment {
        /// Its number.
        number: usize,
        /// The declared segment; empty if the request has one segment more.
        declared: String,
        /// The segment of the request; empty if the request has one segment less.
        requested: String,
    },
    /// The host: the operation belongs to another service, with these hosts.
    Host(Vec<Host>),
}

impl Route<'_, '_> {
    /// Operations that the request nearly matches, the nearest first. Empty if it matches one, or is not an HTTP
    /// request.
    #[must_use]
    pub fn near_misses(&self) -> Vec<NearMiss> {
        let Call::Http { method, path } = &self.request.call else { return Vec::new() };
        let Ok(path) = RequestPath::parse(path) else { return Vec::new() };
        if self.operation().is_some() {
            return Vec::new();
        }
        let mut misses = match self.service {
            Some(service) => service.near_misses(method, &path),
            None => near_misses_elsewhere(self.snapshot, method, self.request),
        };
        misses.truncate(MAX_NEAR_MISSES);
        misses
    }
}

/// Services in which the same request matches an operation.
fn near_misses_elsewhere(snapshot: &Snapshot, method: &str, request: &crate::request::Request<'_>) -> Vec<NearMiss> {
    let Call::Http { path, .. } = &request.call else { return Vec::new() };
    let mut services: Vec<&Arc<CompiledService>> = snapshot.services().collect();
    services.sort_unstable_by(|a, b| a.key().cmp(b.key()));
    let found = services.into_iter().filter(|service| !service.hosts().is_empty()).filter_map(|service| {
        let (operation, _, pattern) = service.find(method, path).ok().flatten()?;
        Some(near_miss(service, operation, method, pattern, Mismatch::Host(service.hosts().to_vec())))
    });
    found.take(MAX_NEAR_MISSES).collect()
}

fn near_miss(
    service: &CompiledService,
    operation: &ServiceOperation,
    method: &str,
    path: &PathPattern,
    how: Mismatch,
) -> NearMiss {
    NearMiss {
        audience: Arc::clone(&service.key.audience),
        policy: operation.policy.clone(),
        operation: Arc::clone(&operation.operation.name),
        pattern: format!("{method} {path}"),
        how,
    }
}

impl CompiledService {
    fn near_misses(&self, method: &str, path: &RequestPath<'_>) -> Vec<NearMiss> {
        let mut methods = Vec::new();
        let mut segments = Vec::new();
        for operation in &self.operations {
            for declared in &operation.operation.matches {
                let its_method = declared.method.as_ref().map_or("*", |method| method.as_str());
                let same_method = declared.method.is_none() || its_method == method;
                match difference(declared.path.segments(), path) {
                    Some(None) if !same_method => {
                        methods.push(near_miss(self, operation, its_method, &declared.path, Mismatch::Method));
                    }
                    Some(Some(how)) if same_method => {
                        segments.push(near_miss(self, operation, its_method, &declared.path, how));
                    }
                    _ => {}
                }
            }
        }
        methods.append(&mut segments);
        methods
    }
}

/// `None` if more than one segment differs; `Some(None)` if no segment differs.
fn difference(pattern: &[Segment], path: &RequestPath<'_>) -> Option<Option<Mismatch>> {
    let path = path.segments();
    let fits = |pattern: &[Segment], path: &[std::borrow::Cow<'_, str>]| {
        let (fixed, open) = match pattern.split_last() {
            Some((Segment::Rest, fixed)) => (fixed, true),
            _ => (pattern, false),
        };
        let long_enough = if open { path.len() > fixed.len() } else { path.len() == fixed.len() };
        long_enough && fixed.iter().zip(path).all(|(segment, text)| segment_fits(segment, text))
    };
    if fits(pattern, path) {
        return Some(None);
    }
    // the first segment that does not match is wrong, superfluous or missing
    let at = pattern.iter().zip(path).position(|(segment, text)| !segment_fits(segment, text));
    let at = at.unwrap_or_else(|| pattern.len().min(path.len()));
    let (declared, requested) = (pattern.get(at), path.get(at));
    let rest = |list: usize| at.saturating_add(1).min(list);
    let how = |declared: Option<&Segment>, requested: Option<&std::borrow::Cow<'_, str>>| Mismatch::Segment {
        number: at + 1,
        declared: declared.map(Segment::to_string).unwrap_or_default(),
        requested: requested.map(ToString::to_string).unwrap_or_default(),
    };
    let tail = |segments: &[Segment], from: usize, texts: usize| {
        fits(segments.get(from..).unwrap_or_default(), path.get(texts..).unwrap_or_default())
    };
    // at least one literal has to match, or a pattern of wildcards would be near every request
    let kept = |tail_from: usize| {
        let (head, tail) = (pattern.get(..at), pattern.get(tail_from..));
        head.into_iter().chain(tail).flatten().any(|segment| matches!(segment, Segment::Literal(_)))
    };
    let next = rest(pattern.len());
    if let (Some(is), Some(text)) = (declared, requested)
        && tail(pattern, next, rest(path.len()))
        && (kept(next) || resembles(is, text))
    {
        return Some(Some(how(declared, requested)));
    }
    if requested.is_some() && tail(pattern, at, rest(path.len())) && kept(at) {
        return Some(Some(how(None, requested)));
    }
    if declared.is_some() && tail(pattern, next, at) && kept(next) {
        return Some(Some(how(declared, None)));
    }
    None
}

/// Whether a text shares its first or last two bytes with a literal.
fn resembles(segment: &Segment, text: &str) -> bool {
    let Segment::Literal(literal) = segment else { return true };
    let (a, b) = (literal.as_bytes(), text.as_bytes());
    let same = |a: Option<&[u8]>, b: Option<&[u8]>| a.is_some() && a == b;
    same(a.get(..2), b.get(..2))
        || same(a.len().checked_sub(2).and_then(|n| a.get(n..)), b.len().checked_sub(2).and_then(|n| b.get(n..)))
}

fn segment_fits(segment: &Segment, text: &str) -> bool {
    match segment {
        Segment::Literal(literal) => **literal == *text,
        Segment::Capture(_) | Segment::Rest => true,
    }
}
