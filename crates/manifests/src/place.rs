//! Finding the line and column of a field.

use crate::manifest::yaml_options;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use std::fmt;

/// A YAML node that remembers where its parts begin.
enum Node {
    Map(Vec<(Spanned<String>, Self)>),
    List(Vec<Spanned<Self>>),
    Leaf,
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML node")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key()? {
            entries.push((key, map.next_value()?));
        }
        Ok(Node::Map(entries))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Node::Leaf)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_str<E>(self, _: &str) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf)
    }
}

/// Line and column, from 1, at which a field of a document stands: its key, or the item of a list. Of a path whose
/// end is missing, the place of the nearest part that is there.
pub fn locate(document: &str, field: &str) -> Option<(usize, usize)> {
    let root: Node = serde_saphyr::from_str_with_options(document, yaml_options()).ok()?;
    let (mut node, mut place) = (&root, None);
    for step in field.split(['.', '[', ']']).filter(|step| !step.is_empty()) {
        let next = match node {
            Node::Map(entries) => {
                entries.iter().find(|(key, _)| key.value == step).map(|(key, value)| (key.referenced, value))
            }
            Node::List(items) => {
                step.parse::<usize>().ok().and_then(|i| items.get(i)).map(|item| (item.referenced, &item.value))
            }
            Node::Leaf => None,
        };
        let Some((at, next)) = next else { break };
        place = Some((usize::try_from(at.line()).ok()?, usize::try_from(at.column()).ok()?));
        node = next;
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found() {
        let document = "kind: X\nspec:\n  grants:\n    - name: a\n    - {name: b, when: 'true'}\n";
        assert_eq!(locate(document, "spec.grants[1].when"), Some((5, 17)));
        assert_eq!(locate(document, "spec.grants[0]"), Some((4, 7)));
        assert_eq!(locate(document, "spec.grants[1].missing"), Some((5, 7)));
        assert_eq!(locate(document, "missing"), None);
    }
}
