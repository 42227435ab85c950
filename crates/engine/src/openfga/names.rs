//! What we name callers and objects, in OpenFGA's names: `type:id`, where an id has no `:`, no `#` and no space.

use durward_core::principal::{Identity, PrincipalId};
use durward_core::relations::{GROUP, MEMBER, RESERVED_TYPES, RelationTuple, TupleSubject};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Serialize;

/// What an id must not hold, `*` that would be everybody, and `%`, so that no two ids become one.
const NOT_IN_IDS: &AsciiSet = &CONTROLS.add(b' ').add(b'#').add(b'%').add(b'*').add(b':');

/// A tuple, as OpenFGA's API and its `fga` command have it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct TupleKey {
    pub user: String,
    pub relation: String,
    pub object: String,
}

/// `type:id`, with an id that OpenFGA takes.
pub fn object(text: &str) -> String {
    let (kind, id) = text.split_once(':').unwrap_or((text, ""));
    format!("{kind}:{}", utf8_percent_encode(id, NOT_IN_IDS))
}

pub fn principal(id: &PrincipalId) -> String {
    object(&id.to_string())
}

/// The groups of a caller's token, as tuples that hold for its own questions.
pub fn groups(caller: &Identity) -> Vec<TupleKey> {
    let Some(provider) = caller.provider() else { return Vec::new() };
    let user = principal(&caller.id);
    let member = |group: &String| TupleKey {
        user: user.clone(),
        relation: MEMBER.to_owned(),
        object: object(&format!("{GROUP}:{provider}/{group}")),
    };
    caller.groups.iter().map(member).collect()
}

/// A tuple of ours; several where it is about everybody, whom OpenFGA has by type.
pub fn tuples(tuple: &RelationTuple) -> Vec<TupleKey> {
    let users = match &tuple.subject {
        TupleSubject::Everybody => RESERVED_TYPES.map(|kind| format!("{kind}:*")).to_vec(),
        TupleSubject::Principal(id) => vec![principal(id)],
        TupleSubject::Object(other) => vec![object(other.as_str())],
        TupleSubject::Set(other, relation) => vec![format!("{}#{relation}", object(other.as_str()))],
    };
    let of = |user| TupleKey { user, relation: tuple.relation.to_string(), object: object(tuple.object.as_str()) };
    users.into_iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_ids_become_one() {
        assert_eq!(object("order:42"), "order:42");
        assert_eq!(object("doc:a/b"), "doc:a/b");
        assert_eq!(object("doc:a:b"), "doc:a%3Ab");
        assert_eq!(object("doc:a%3Ab"), "doc:a%253Ab");
        assert_eq!(object("doc:a#viewer"), "doc:a%23viewer");
        assert_eq!(object("doc:*"), "doc:%2A");
        assert_eq!(object("spiffe://cluster.local/ns/shop/sa/orders"), "spiffe://cluster.local/ns/shop/sa/orders");
    }

    #[test]
    fn everybody_is_everybody_of_each_kind() {
        let tuple = RelationTuple {
            object: "order:42".parse().expect("an object"),
            relation: "viewer".into(),
            subject: "*".parse().expect("a subject"),
        };
        let users: Vec<String> = tuples(&tuple).into_iter().map(|tuple| tuple.user).collect();
        assert_eq!(users, ["user:*", "key:*", "kube:*", "spiffe:*"]);
    }
}
