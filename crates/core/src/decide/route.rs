//! The first half of a decision: the service and the operation of a request.

use crate::authentication::AuthenticationMethod;
use crate::condition::{HeaderValues, JsonFields};
use crate::decision::Reason;
use crate::kubernetes::ApiCall;
use crate::namespaced_name::NamespacedName;
use crate::path::{Ambiguity, Captures, PathPattern, RequestPath};
use crate::policy::CompiledOperation;
use crate::relations::RelationAnswers;
use crate::request::{Call, Request, ServiceTarget};
use crate::service::{CompiledService, ServiceOperation};
use crate::snapshot::Snapshot;
use std::sync::{Arc, OnceLock};

/// A request with its service and operation, or the reason why it has none.
#[derive(Debug)]
pub struct Route<'s, 'r> {
    pub(crate) snapshot: &'s Snapshot,
    pub(crate) request: &'r Request<'r>,
    pub(crate) service: Option<&'s CompiledService>,
    pub(super) matched: Result<MatchedOperation<'s, 'r>, (Reason, Option<Ambiguity>)>,
    /// Answers of an external engine about the caller's relations.
    pub(super) answers: RelationAnswers,
}

#[derive(Debug)]
pub(super) struct MatchedOperation<'s, 'r> {
    pub(super) operation: &'s ServiceOperation,
    /// The path and the pattern that it matched.
    pub(super) path_match: Option<(RequestPath<'r>, &'s PathPattern)>,
    /// Computed from the path on first use.
    pub(super) captures: OnceLock<Captures>,
    /// Read on first use; `None` inside if headers are unknown.
    pub(super) headers: OnceLock<Option<HeaderValues>>,
    /// The fields of `kubernetes`, read on first use.
    pub(super) objects: OnceLock<Option<JsonFields>>,
    /// The fields of `resource`, read on first use.
    pub(super) resource: OnceLock<Option<JsonFields>>,
}

impl<'s, 'r> MatchedOperation<'s, 'r> {
    fn new(operation: &'s ServiceOperation, captures: OnceLock<Captures>) -> Self {
        Self {
            operation,
            path_match: None,
            captures,
            headers: OnceLock::new(),
            objects: OnceLock::new(),
            resource: OnceLock::new(),
        }
    }

    pub(super) fn captures(&self) -> &Captures {
        self.captures
            .get_or_init(|| self.path_match.as_ref().map(|(path, pattern)| pattern.captured(path)).unwrap_or_default())
    }
}

impl Snapshot {
    /// Steps 1 and 2 of a decision: finds the service and its operation. Takes no lock and does no I/O.
    #[must_use]
    pub fn route<'s, 'r>(&'s self, request: &'r Request<'r>) -> Route<'s, 'r> {
        let service = match request.target {
            ServiceTarget::Host(authority) => self.by_authority(authority),
            ServiceTarget::Audience(audience) => self.by_audience(audience),
        };
        let service = service.map(Arc::as_ref);
        let matched = match service {
            Some(service) => find(service, &request.call),
            None if request.call == Call::Ambiguous => Err((Reason::AmbiguousPath, Some(Ambiguity::Request))),
            None => Err((Reason::NoPolicy, None)),
        };
        Route { snapshot: self, request, service, matched, answers: RelationAnswers::default() }
    }
}

fn find<'s, 'r>(
    service: &'s CompiledService,
    call: &'r Call<'r>,
) -> Result<MatchedOperation<'s, 'r>, (Reason, Option<Ambiguity>)> {
    if !service.closed_by().is_empty() {
        return Err((Reason::NoPolicy, None));
    }
    let matched = match call {
        Call::Http { method, path } => service.find(method, path).map(|matched| {
            let (operation, path, pattern) = matched?;
            Some(MatchedOperation {
                path_match: Some((path, pattern)),
                ..MatchedOperation::new(operation, OnceLock::new())
            })
        }),
        Call::Named { operation, captures } => Ok(service
            .operation_named(operation)
            .map(|operation| MatchedOperation::new(operation, captures.clone().into()))),
        Call::Kubernetes(call) => Ok(service
            .find_kubernetes(call)
            .map(|operation| MatchedOperation::new(operation, kubernetes_captures(call).into()))),
        Call::Ambiguous => Err(Ambiguity::Request),
    };
    match matched {
        Ok(Some(matched)) => Ok(matched),
        Ok(None) => Err((Reason::OperationUndeclared, None)),
        Err(ambiguity) => Err((Reason::AmbiguousPath, Some(ambiguity))),
    }
}

impl<'s> Route<'s, '_> {
    /// Audience and accepted authentication methods. `None` if the caller does not matter: for a public operation, and
    /// for a request that is denied in any case.
    #[must_use]
    pub fn accepted_methods(&self) -> Option<(&'s str, &'s [AuthenticationMethod])> {
        let service = self.service?;
        let matched = self.matched.as_ref().ok()?;
        (!matched.operation.operation.public).then_some((&*service.key.audience, &*service.authentication_methods))
    }

    /// Audience of the service, if one was found. It is the realm of challenges.
    #[must_use]
    pub fn audience(&self) -> Option<&'s str> {
        self.service.map(|service| &*service.key.audience)
    }

    /// The first policy that closes the service.
    pub(super) fn closed_by(&self) -> Option<&'s NamespacedName> {
        self.service?.closed_by().first()
    }

    /// The operation, if one was found.
    #[must_use]
    pub fn operation(&self) -> Option<&'s CompiledOperation> {
        self.matched.as_ref().ok().map(|matched| &*matched.operation.operation)
    }

    /// The values that the path captured.
    #[must_use]
    pub fn captures(&self) -> Option<&Captures> {
        self.matched.as_ref().ok().map(MatchedOperation::captures)
    }

    /// The same request, with the answers to its [`questions`](Self::questions).
    #[must_use]
    pub fn with_answers(self, answers: RelationAnswers) -> Self {
        Self { answers, ..self }
    }

    /// The answers of an external engine that the decision uses.
    #[must_use]
    pub fn answers(&self) -> &RelationAnswers {
        &self.answers
    }
}

/// The captures of a request to the Kubernetes API, which conditions read in place of captures of a path.
fn kubernetes_captures(call: &ApiCall<'_>) -> Captures {
    let ApiCall { group, resource, subresource, verb, name } = *call;
    let all = [
        ("group", group),
        ("resource", resource),
        ("subresource", subresource),
        ("verb", verb.as_str()),
        ("name", name),
    ];
    all.into_iter().map(|(key, text)| (key.into(), text.into())).collect()
}
