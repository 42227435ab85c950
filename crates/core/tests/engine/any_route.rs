//! Routing finds the same operation as a linear search through all patterns.

use crate::support::*;
use durward_core::decision::Reason;
use durward_core::path::{HttpPattern, Segment};
use durward_core::policy::Policy;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// A declared pattern, searched linearly.
#[derive(Debug, Clone)]
pub struct Declared(HttpPattern);

impl Declared {
    pub fn read(request: &str) -> Self {
        Self(pattern(request))
    }

    /// How specific each segment is (literal 2, capture 1, wildcard 0), then whether the method is stated; compared
    /// from the left. `None` if it does not match.
    fn specificity(&self, method: &str, path: &[String]) -> Option<(Vec<u8>, bool)> {
        let HttpPattern { method: stated, path: pattern } = &self.0;
        if stated.as_ref().is_some_and(|stated| stated.as_str() != method) {
            return None;
        }
        let segments = pattern.segments();
        let open = segments.last() == Some(&Segment::Rest);
        if if open { path.len() < segments.len() } else { path.len() != segments.len() } {
            return None;
        }
        let each = segments.iter().zip(path).map(|(segment, text)| match segment {
            Segment::Literal(literal) => (**literal == **text).then_some(2),
            Segment::Capture(_) => Some(1),
            Segment::Rest => Some(0),
        });
        Some((each.collect::<Option<_>>()?, stated.is_some()))
    }

    pub fn most_specific(declared: &[Self], method: &str, path: &[String]) -> Option<usize> {
        let ranked = declared.iter().enumerate();
        let ranked = ranked.filter_map(|(number, one)| Some((one.specificity(method, path)?, number)));
        ranked.max().map(|(_, number)| number)
    }

    /// The text form of a pattern without the names of its captures. Equal texts match the same requests.
    fn shape(&self) -> String {
        let segments = self.0.path.segments().iter().map(|segment| match segment {
            Segment::Capture(_) => Segment::Capture("x".into()),
            other => other.clone(),
        });
        format!("{:?} {:?}", self.0.method, segments.collect::<Vec<_>>())
    }
}

fn request_pattern() -> impl Strategy<Value = String> {
    let segment = prop::sample::select(vec!["a", "b", "c", "{}", "{}"]);
    let method = prop::sample::select(vec!["GET", "POST", "*"]);
    (method, proptest::collection::vec(segment, 0..5), any::<bool>()).prop_map(|(method, segments, open)| {
        let captures = segments.iter().enumerate().map(|(i, segment)| match *segment {
            "{}" => format!("/{{c{i}}}"),
            literal => format!("/{literal}"),
        });
        let mut path: String = captures.collect();
        if open {
            path.push_str("/*");
        }
        format!("{method} {}", if path.is_empty() { "/" } else { &path })
    })
}

fn declared() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(request_pattern(), 1..16).prop_map(|requests| {
        let mut seen = BTreeSet::new();
        requests.into_iter().filter(|request| seen.insert(Declared::read(request).shape())).collect()
    })
}

fn path(alphabet: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(prop::sample::select(alphabet).prop_map(ToOwned::to_owned), 0..6)
}

/// A service in several policies, with one operation for each of these requests.
fn service(requests: &[String], policies: usize) -> durward_core::snapshot::Snapshot {
    let policies = (0..policies).map(|i| {
        let mine = requests.iter().skip(i).step_by(policies);
        let operations = each(mine.map(|request| operation(request, &[request], &["read"])));
        Policy { operations, ..policy(&format!("p{i}")) }
    });
    world(policies)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1024) })]

    #[test]
    fn routes_agree_with_a_linear_search(
        requests in declared(), policies in 1..4usize, method in "GET|POST|PUT", path in path(&["a", "b", "c", "d"]),
    ) {
        let snapshot = service(&requests, policies);
        let all: Vec<Declared> = requests.iter().map(|request| Declared::read(request)).collect();
        let expected = Declared::most_specific(&all, &method, &path).map(|number| requests[number].clone());
        prop_assert_eq!(operation_of(&snapshot, &format!("{method} /{}", path.join("/"))), expected);
    }

    #[test]
    fn a_router_that_ignores_case_agrees_or_the_path_is_ambiguous(
        requests in declared(), method in "GET|POST", path in path(&["a", "A", "b", "B", "d", "D"]),
    ) {
        let decision = ask(&service(&requests, 1), None, &format!("{method} /{}", path.join("/")));
        let all: Vec<Declared> = requests.iter().map(|request| Declared::read(request)).collect();
        let lower: Vec<String> = path.iter().map(|segment| segment.to_lowercase()).collect();
        let theirs = Declared::most_specific(&all, &method, &lower);
        if decision.reason != Reason::AmbiguousPath {
            let theirs = theirs.map(|number| requests[number].as_str());
            prop_assert_eq!(decision.operation.as_deref(), theirs);
        } else {
            prop_assert_ne!(lower, path);
        }
    }
}
