//! Routing from method and path to an operation: a tree of segments, searched from the most specific branch.

use crate::path::{Ambiguity, HttpPattern, Method, RequestPath, Segment, before_format, folded, without_formats};
use std::borrow::Cow;
use std::iter;
use std::sync::Arc;

/// A pattern of a service: index of the operation, and index of the pattern within it.
pub(crate) type RouteTarget = (usize, usize);

/// The tree. Two patterns that differ only in the names of their captures share one node.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    /// Sorted. Most nodes have one or two literals, so a list is as fast as a map and takes a fraction of its memory.
    literals: Vec<(Arc<str>, Routes)>,
    /// Sorted: the folded literals that differ from their literal, and the literals with a format, such as `a.json`,
    /// folded and without it, as `a.`. No segment of a request ends with a dot.
    lookalikes: Vec<Box<str>>,
    capture: Option<Box<Routes>>,
    rest: RouteLeaf,
    end: RouteLeaf,
}

#[derive(Debug, Default)]
struct RouteLeaf {
    methods: Vec<(Method, RouteTarget)>,
    any: Option<RouteTarget>,
}

impl Routes {
    /// Adds a pattern.
    ///
    /// # Errors
    /// With the target that already claims the same requests; then nothing changes.
    pub(crate) fn insert(&mut self, pattern: &HttpPattern, target: RouteTarget) -> Result<(), RouteTarget> {
        let mut node = self;
        for segment in pattern.path.segments() {
            node = match segment {
                Segment::Literal(text) => node.literal(text),
                Segment::Capture(_) => node.capture.get_or_insert_default(),
                Segment::Rest => return node.rest.insert(pattern.method.as_ref(), target),
            };
        }
        node.end.insert(pattern.method.as_ref(), target)
    }

    /// The target that already claims these requests.
    pub(crate) fn holder(&self, pattern: &HttpPattern) -> Option<RouteTarget> {
        let mut node = self;
        for segment in pattern.path.segments() {
            node = match segment {
                Segment::Literal(text) => node.at(text)?,
                Segment::Capture(_) => node.capture.as_ref()?,
                Segment::Rest => return node.rest.holder(pattern.method.as_ref()),
            };
        }
        node.end.holder(pattern.method.as_ref())
    }

    /// The most specific match, segment by segment from the left: literal before capture before wildcard. Among
    /// equals, a stated method comes before any method. Each node is visited at most once.
    ///
    /// # Errors
    /// [`Ambiguity::DeclaredLookalike`] when some framework would take the path for a declared one, which it is not.
    pub(crate) fn find(&self, method: &str, path: &RequestPath<'_>) -> Result<Option<RouteTarget>, Ambiguity> {
        self.search(method, path.segments())
    }

    /// The node of a literal, which is added if it is missing.
    fn literal(&mut self, text: &Arc<str>) -> &mut Self {
        let found = self.literals.binary_search_by(|(literal, _)| literal.cmp(text));
        let at = found.unwrap_or_else(|at| {
            let folded = folded(text);
            if let Some(stem) = before_format(&folded) {
                self.add_lookalike(format!("{stem}."));
            }
            if *folded != **text {
                self.add_lookalike(folded.into_owned());
            }
            self.literals.reserve_exact(1);
            self.literals.insert(at, (Arc::clone(text), Self::default()));
            at
        });
        #[expect(clippy::indexing_slicing, reason = "it was found there, or put there just now")]
        let (_, node) = &mut self.literals[at];
        node
    }

    fn at(&self, text: &str) -> Option<&Self> {
        let found = self.literals.binary_search_by(|(literal, _)| (**literal).cmp(text)).ok()?;
        self.literals.get(found).map(|(_, node)| node)
    }

    fn add_lookalike(&mut self, text: String) {
        if let Err(at) = self.lookalikes.binary_search_by(|other| (**other).cmp(&text)) {
            self.lookalikes.insert(at, text.into());
        }
    }

    /// Whether some framework takes a segment that is no literal for one. At the end of a path, what follows a dot can
    /// be a format that the framework doesn't route by.
    fn is_lookalike(&self, segment: &str, last: bool) -> bool {
        let folded = folded(segment);
        self.has_folded(&folded)
            || last
                && (self.has_stem(&folded)
                    || without_formats(&folded).any(|stem| self.has_folded(stem) || self.has_stem(stem)))
    }

    fn has_folded(&self, folded: &str) -> bool {
        self.lookalikes.binary_search_by(|other| (**other).cmp(folded)).is_ok() || self.at(folded).is_some()
    }

    fn has_stem(&self, stem: &str) -> bool {
        let key = || stem.bytes().chain(iter::once(b'.'));
        self.lookalikes.binary_search_by(|other| other.bytes().cmp(key())).is_ok()
    }

    fn search(&self, method: &str, path: &[Cow<'_, str>]) -> Result<Option<RouteTarget>, Ambiguity> {
        let Some((head, tail)) = path.split_first() else { return Ok(self.end.get(method)) };
        match self.at(head) {
            Some(node) => {
                if let found @ Some(_) = node.search(method, tail)? {
                    return Ok(found);
                }
            }
            None if self.is_lookalike(head, tail.is_empty()) => return Err(Ambiguity::DeclaredLookalike),
            None => {}
        }
        if let Some(node) = &self.capture
            && let found @ Some(_) = node.search(method, tail)?
        {
            return Ok(found);
        }
        Ok(self.rest.get(method))
    }
}

impl RouteLeaf {
    fn insert(&mut self, method: Option<&Method>, target: RouteTarget) -> Result<(), RouteTarget> {
        if let Some(taken) = self.holder(method) {
            return Err(taken);
        }
        match method {
            Some(method) => {
                self.methods.reserve_exact(1);
                self.methods.push((method.clone(), target));
            }
            None => self.any = Some(target),
        }
        Ok(())
    }

    fn holder(&self, method: Option<&Method>) -> Option<RouteTarget> {
        method.map_or(self.any, |method| self.with_method(method.as_str()))
    }

    fn get(&self, method: &str) -> Option<RouteTarget> {
        self.with_method(method).or(self.any)
    }

    fn with_method(&self, method: &str) -> Option<RouteTarget> {
        self.methods.iter().find(|(stated, _)| stated.as_str() == method).map(|(_, target)| *target)
    }
}
