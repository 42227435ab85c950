//! Names of callers and objects in OpenFGA: `type:id`, where an id has no `:`, no `#` and no space.

use durward_core::principal::{Identity, PrincipalId};
use durward_core::relations::{GROUP, MEMBER, RESERVED_TYPES, RelationTuple, TupleSubject};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Serialize;

/// Characters that an id must not contain, `*`, which is the wildcard, and `%`, so that escaped ids stay distinct.
const NOT_IN_IDS: &AsciiSet = &CONTROLS.add(b' ').add(b'#').add(b'%').add(b'*').add(b':');

/// A tuple in the form of OpenFGA's API and its `fga` command.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct TupleKey {
    pub user: String,
    pub relation: String,
    pub object: String,
}

/// The name of an object, `type:id`, with the id escaped.
pub fn object(text: &str) -> String {
    let (kind, id) = text.split_once(':').unwrap_or((text, ""));
    format!("{kind}:{}", utf8_percent_encode(id, NOT_IN_IDS))
}

/// The name of a principal.
pub fn principal(id: &PrincipalId) -> String {
    object(&id.to_string())
}

/// The groups of a caller's token, as tuples for the caller's own questions.
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

/// The tuples of a `Relationship`. A wildcard becomes one tuple for each type of caller.
pub fn tuples(tuple: &RelationTuple) -> Vec<TupleKey> {
    let users = match &tuple.subject {
        TupleSubject::Everybody => RESERVED_TYPES.map(|kind| format!("{kind}:*")).to_vec(),
        TupleSubject::Principal(id) => vec![principal(id)],
        TupleSubject::Object(other) => vec![object(other.as_str())],
        TupleSubject::Set(other, relation) => vec![format!("{}#{relation}", object(other.as_str()))],
    };
    let tuple_of =
        |user| TupleKey { user, relation: tuple.relation.to_string(), object: object(tuple.object.as_str()) };
    users.into_iter().map(tuple_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_ids_stay_distinct() {
        assert_eq!(object("order:42"), "order:42");
        assert_eq!(object("doc:a/b"), "doc:a/b");
        assert_eq!(object("doc:a:b"), "doc:a%3Ab");
        assert_eq!(object("doc:a%3Ab"), "doc:a%253Ab");
        assert_eq!(object("doc:a#viewer"), "doc:a%23viewer");
        assert_eq!(object("doc:*"), "doc:%2A");
        assert_eq!(object("spiffe://cluster.local/ns/shop/sa/orders"), "spiffe://cluster.local/ns/shop/sa/orders");
    }

    #[test]
    fn a_wildcard_becomes_one_of_each_type_of_caller() {
        let tuple = RelationTuple {
            object: "order:42".parse().expect("an object"),
            relation: "viewer".into(),
            subject: "*".parse().expect("a subject"),
        };
        let users: Vec<String> = tuples(&tuple).into_iter().map(|tuple| tuple.user).collect();
        assert_eq!(users, ["user:*", "key:*", "kube:*", "spiffe:*"]);
    }
}
