//! Checks of single fields by the API server: lengths, patterns, and CEL rules where a pattern would give an unclear
//! message.
//!
//! Every list and string has an upper bound. The API server multiplies the bounds to estimate the cost of a CEL rule,
//! and refuses a CRD above its limits (10 million units for a rule, 100 million for a CRD).

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// RFC 1123 subdomain: the name of most Kubernetes objects.
const DNS_SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// RFC 1123 label: the name of a namespace.
const DNS_LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// `scope-token` of RFC 6749 section 3.3.
const SCOPE: &str = r"^[!#-\[\]-~]+$";
/// Names inside a policy. An operation's name is also its scope, so this is a subset of `scope-token`.
const NAME: &str = "^[A-Za-z0-9]([-A-Za-z0-9_.:/]*[A-Za-z0-9])?$";
/// Names of object types and relations.
const RELATION: &str = "^[A-Za-z][A-Za-z0-9_-]*$";

/// IDs of OpenFGA stores and models.
const ULID: &str = "^[0-9A-Z]{26}$";

type Generator = SchemaGenerator;

/// A string of 1 to `max` characters; `more` adds a pattern or rules.
fn text(max: u32, more: Value) -> Value {
    let mut schema = json!({"type": "string", "minLength": 1, "maxLength": max});
    if let (Some(schema), Value::Object(more)) = (schema.as_object_mut(), more) {
        schema.extend(more);
    }
    schema
}

fn matching(max: u32, pattern: &str) -> Value {
    text(max, json!({"pattern": pattern}))
}

fn rule(rule: &str, message: &str) -> Value {
    json!({"x-kubernetes-validations": [{"rule": rule, "message": message}]})
}

/// A list of 1 to `max` strings. An empty list is refused: `scopes: []` reads like "no scope is needed" and means the
/// opposite.
fn list(max: u32, items: Value) -> Schema {
    json_schema!({"type": "array", "minItems": 1, "maxItems": max, "items": items})
}

fn only(schema: Value) -> Schema {
    Schema::try_from(schema).unwrap_or_default()
}

pub(super) fn audience(_: &mut Generator) -> Schema {
    only(text(512, json!({})))
}

pub(super) fn audiences(_: &mut Generator) -> Schema {
    list(32, text(512, json!({})))
}

pub(super) fn hosts(_: &mut Generator) -> Schema {
    let rule = rule(
        "!self.contains('*') && (self.startsWith('[') ? self.endsWith(']') : !self.contains(':'))",
        "a host has no wildcard and no port",
    );
    list(64, text(253, rule))
}

pub(super) fn dns_names(_: &mut Generator) -> Schema {
    list(64, matching(253, DNS_SUBDOMAIN))
}

pub(super) fn duration(_: &mut Generator) -> Schema {
    only(matching(32, "^([0-9]+(h|m|s))+$"))
}

pub(super) fn name(_: &mut Generator) -> Schema {
    only(matching(128, NAME))
}

pub(super) fn role_names(_: &mut Generator) -> Schema {
    list(64, matching(128, NAME))
}

pub(super) fn object_name(_: &mut Generator) -> Schema {
    only(matching(253, DNS_SUBDOMAIN))
}

pub(super) fn namespace(_: &mut Generator) -> Schema {
    only(matching(63, DNS_LABEL))
}

pub(super) fn scopes(_: &mut Generator) -> Schema {
    list(512, matching(128, SCOPE))
}

pub(super) fn http_methods(_: &mut Generator) -> Schema {
    let rule = rule("self.matches('^([*]|[A-Z][A-Z0-9_-]*)$')", "write methods in upper case, or `*` for any");
    list(12, text(24, rule))
}

pub(super) fn paths(_: &mut Generator) -> Schema {
    list(64, text(1024, rule("self.startsWith('/')", "a path starts with `/`")))
}

pub(super) fn grpc_service(_: &mut Generator) -> Schema {
    only(matching(256, "^[A-Za-z_][A-Za-z0-9_]*([.][A-Za-z_][A-Za-z0-9_]*)*$"))
}

pub(super) fn grpc_methods(_: &mut Generator) -> Schema {
    list(64, matching(128, "^([*]|[A-Za-z_][A-Za-z0-9_]*)$"))
}

pub(super) fn api_groups(_: &mut Generator) -> Schema {
    // the empty text is the core group
    list(32, json!({"type": "string", "maxLength": 253, "pattern": "^([*]|[a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$"}))
}

pub(super) fn api_resources(_: &mut Generator) -> Schema {
    list(64, matching(128, "^([*]|[a-z0-9-]+)(/([*]|[a-z0-9-]+))?$"))
}

pub(super) fn admission_verbs(_: &mut Generator) -> Schema {
    list(5, json!({"type": "string", "enum": ["CREATE", "UPDATE", "DELETE", "CONNECT", "*"]}))
}

pub(super) fn relation_name(_: &mut Generator) -> Schema {
    only(matching(64, RELATION))
}

/// `type:id` of a tuple.
pub(super) fn object_id(_: &mut Generator) -> Schema {
    only(matching(320, "^[A-Za-z][A-Za-z0-9_-]*:[^\\s#]+$"))
}

/// `type:id` of a grant; the ID may be a capture of the path.
pub(super) fn object_pattern(_: &mut Generator) -> Schema {
    only(matching(320, "^[A-Za-z][A-Za-z0-9_-]*:[^\\s#]+$"))
}

/// Relation rules inside a relation rule. A structural schema can't be recursive, so the compiler checks them.
pub(super) fn open_objects(_: &mut Generator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 16,
        "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    })
}

pub(super) fn condition(_: &mut Generator) -> Schema {
    only(text(4096, json!({})))
}

/// Names of headers that conditions read. The compiler refuses more of them.
pub(super) fn condition_headers(_: &mut Generator) -> Schema {
    let rules = json!({
        "pattern": "^[a-z0-9-]+$",
        "x-kubernetes-validations": [
            {"rule": "!(self in ['authorization', 'cookie', 'proxy-authorization', 'set-cookie', 'x-api-key']) && !self.startsWith('x-durward-')",
             "message": "conditions can't read credentials; the verified caller is `principal`"},
            {"rule": "self != 'host'", "message": "`host` is read as `request.host`"},
        ],
    });
    list(16, text(64, rules))
}

pub(super) fn sentence(_: &mut Generator) -> Schema {
    only(text(256, json!({})))
}

pub(super) fn principal(_: &mut Generator) -> Schema {
    only(text(1024, json!({})))
}

pub(super) fn group(_: &mut Generator) -> Schema {
    only(text(256, json!({})))
}

pub(super) fn issuer(_: &mut Generator) -> Schema {
    only(text(1024, json!({})))
}

pub(super) fn url(_: &mut Generator) -> Schema {
    let rule = rule(
        "self.startsWith('https://') || \
         self.matches('^http://(localhost|127[.]0[.]0[.]1|\\\\[::1\\\\])(:[0-9]+)?(/.*)?$')",
        "write an https URL (http only for localhost)",
    );
    only(text(1024, rule))
}

pub(super) fn https_url(_: &mut Generator) -> Schema {
    only(text(1024, rule("self.startsWith('https://')", "write an https URL")))
}

pub(super) fn spiffe_id(_: &mut Generator) -> Schema {
    only(matching(2048, "^spiffe://[a-z0-9._-]+/.+$"))
}

pub(super) fn jwks(_: &mut Generator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

pub(super) fn claim(_: &mut Generator) -> Schema {
    only(text(256, json!({})))
}

pub(super) fn claim_values(_: &mut Generator) -> Schema {
    list(32, text(256, json!({})))
}

/// Claim values by name.
pub(super) fn claims(_: &mut Generator) -> Schema {
    json_schema!({"type": "object", "minProperties": 1, "maxProperties": 16, "additionalProperties": text(256, json!({}))})
}

pub(super) fn attributes(_: &mut Generator) -> Schema {
    json_schema!({"type": "object", "maxProperties": 64, "additionalProperties": text(256, json!({}))})
}

/// A field name of RFC 9110 section 5.1.
pub(super) fn header(_: &mut Generator) -> Schema {
    only(matching(128, "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"))
}

pub(super) fn trust_domain(_: &mut Generator) -> Schema {
    only(matching(255, "^[a-z0-9._-]+$"))
}

pub(super) fn pem(_: &mut Generator) -> Schema {
    only(text(262_144, json!({})))
}

pub(super) fn ulid(_: &mut Generator) -> Schema {
    only(matching(26, ULID))
}
