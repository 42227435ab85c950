//! Finds the line and column of a field in a YAML document.

use crate::yaml::yaml_options;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use std::fmt;

/// A YAML node with the positions of its parts.
enum YamlNode {
    Map(Vec<(Spanned<String>, Self)>),
    List(Vec<Spanned<Self>>),
    Leaf,
}

impl<'de> Deserialize<'de> for YamlNode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(YamlNodeVisitor)
    }
}

struct YamlNodeVisitor;

impl<'de> Visitor<'de> for YamlNodeVisitor {
    type Value = YamlNode;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML node")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<YamlNode, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key()? {
            entries.push((key, map.next_value()?));
        }
        Ok(YamlNode::Map(entries))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<YamlNode, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(YamlNode::List(items))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<YamlNode, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| YamlNode::Leaf)
    }

    fn visit_bool<E>(self, _: bool) -> Result<YamlNode, E> {
        Ok(YamlNode::Leaf)
    }

    fn visit_i64<E>(self, _: i64) -> Result<YamlNode, E> {
        Ok(YamlNode::Leaf)
    }

    fn visit_u64<E>(self, _: u64) -> Result<YamlNode, E> {
        Ok(YamlNode::Leaf)
    }

    fn visit_f64<E>(self, _: f64) -> Result<YamlNode, E> {
        Ok(YamlNode::Leaf)
    }

    fn visit_str<E>(self, _: &str) -> Result<YamlNode, E> {
        Ok(YamlNode::Leaf)
    }

    fn visit_unit<E>(self) -> Result<YamlNode, E> {
        Ok(YamlNode::Leaf)
    }

    fn visit_none<E>(self) -> Result<YamlNode, E> {
        Ok(YamlNode::Leaf)
    }
}

/// Line and column of a field, from 1: the position of its key, or of the item of a list. If the end of the path is
/// missing in the document, the position of the longest part that exists.
pub fn locate(document: &str, field: &str) -> Option<(usize, usize)> {
    let root: YamlNode = serde_saphyr::from_str_with_options(document, yaml_options()).ok()?;
    let mut node = &root;
    let mut position = None;
    for step in field.split(['.', '[', ']']).filter(|step| !step.is_empty()) {
        let next = match node {
            YamlNode::Map(entries) => {
                entries.iter().find(|(key, _)| key.value == step).map(|(key, value)| (key.referenced, value))
            }
            YamlNode::List(items) => {
                step.parse::<usize>().ok().and_then(|i| items.get(i)).map(|item| (item.referenced, &item.value))
            }
            YamlNode::Leaf => None,
        };
        let Some((at, next)) = next else { break };
        position = Some((usize::try_from(at.line()).ok()?, usize::try_from(at.column()).ok()?));
        node = next;
    }
    position
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_or_its_nearest_ancestor_is_found() {
        let document = "kind: X\nspec:\n  grants:\n    - name: a\n    - {name: b, when: 'true'}\n";
        assert_eq!(locate(document, "spec.grants[1].when"), Some((5, 17)));
        assert_eq!(locate(document, "spec.grants[0]"), Some((4, 7)));
        assert_eq!(locate(document, "spec.grants[1].missing"), Some((5, 7)));
        assert_eq!(locate(document, "missing"), None);
    }
}
