//! Operations that hide each other.

use crate::kubernetes::ApiPattern;
use crate::path::{ANY_METHOD, RequestPath};
use crate::policy::CompiledOperation;
use crate::routes::Routes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The first two operations of one policy that claim the same requests: their names and the pattern.
#[must_use]
pub fn shadowed(operations: &[CompiledOperation]) -> Option<(Arc<str>, Arc<str>, String)> {
    let mut routes = Routes::default();
    operations
        .iter()
        .enumerate()
        .find_map(|(index, operation)| {
            operation.matches.iter().enumerate().find_map(|(number, pattern)| {
                let (other, _) = routes.insert(pattern, (index, number)).err()?;
                let other = operations.get(other)?;
                Some((Arc::clone(&other.name), Arc::clone(&operation.name), pattern.to_string()))
            })
        })
        .or_else(|| shadowed_kubernetes(operations))
}

/// Operations that declare HTTP requests but receive none: more specific patterns of other operations match all of
/// them.
#[must_use]
pub fn unreachable(operations: &[Arc<CompiledOperation>]) -> Vec<Arc<str>> {
    let mut routes = Routes::default();
    for (index, operation) in operations.iter().enumerate() {
        for (number, pattern) in operation.matches.iter().enumerate() {
            // conflicts are refused elsewhere
            let _ = routes.insert(pattern, (index, number));
        }
    }
    let longest = operations.iter().flat_map(|o| &o.matches).map(|one| one.path.segments().len()).max().unwrap_or(0);
    let reached = |index: usize, operation: &CompiledOperation| {
        operation.matches.iter().any(|one| {
            let method = one.method.as_ref().map_or(ANY_METHOD, |method| method.as_str());
            one.path.examples(longest + 1).any(|path| {
                let found = RequestPath::parse(&path).map(|path| routes.find(method, &path));
                // a path that can't be decided is taken as reached
                !matches!(found, Ok(Ok(Some((other, _)))) if other != index)
            })
        })
    };
    let hidden = operations.iter().enumerate().filter(|(index, o)| !o.matches.is_empty() && !reached(*index, o));
    hidden.map(|(_, operation)| Arc::clone(&operation.name)).collect()
}

fn shadowed_kubernetes(operations: &[CompiledOperation]) -> Option<(Arc<str>, Arc<str>, String)> {
    let mut taken: BTreeMap<&ApiPattern, &CompiledOperation> = BTreeMap::new();
    let mut all = operations.iter().flat_map(|operation| operation.kubernetes.iter().map(move |p| (p, operation)));
    all.find_map(|(pattern, operation)| {
        let other = taken.insert(pattern, operation)?;
        Some((Arc::clone(&other.name), Arc::clone(&operation.name), pattern.to_string()))
    })
}
