//! The engine's side: a snapshot of a world, and its decisions.

use crate::requests::now;
use durward_api::catalog::{Catalog, CatalogChange};
use durward_api::compile::ClusterDomains;
use durward_core::approval::{ApprovalSubject, GrantedApproval};
use durward_core::decision::Decision;
use durward_core::evidence::StatedEvidence;
use durward_core::kubernetes::ApiCall;
use durward_core::namespaced_name::NamespacedName;
use durward_core::principal::{Identity, Principal};
use durward_core::request::{Call, Request, ServiceTarget};
use durward_core::snapshot::Snapshot;
use durward_model::decision::ModelDecision;
use durward_model::world::{
    CLUSTER_DOMAIN, KubernetesCall, ModelApproval, ModelCall, ModelRequest, ModelTarget, ModelWorld, TRUST_DOMAIN,
};

/// The snapshot of a world.
pub fn snapshot(world: &ModelWorld) -> Snapshot {
    let domains = ClusterDomains { trust_domain: TRUST_DOMAIN.to_owned(), cluster_domain: CLUSTER_DOMAIN.to_owned() };
    let mut catalog = Catalog::new(domains);
    let namespaces = world.namespaces.iter().flat_map(|one| {
        [
            CatalogChange::NamespaceAnnotations(one.name.clone(), Some(one.annotations.clone())),
            CatalogChange::NamespaceLabels(one.name.clone(), Some(one.labels.clone())),
        ]
    });
    let policies = world.policies.iter().map(|one| CatalogChange::PolicyApplied(Box::new(one.clone())));
    let relationships = world.relationships.iter().map(|one| CatalogChange::RelationshipApplied(Box::new(one.clone())));
    let approvals = world.approvals.iter().map(approval);
    catalog.apply(namespaces.chain(policies).chain(relationships).chain(approvals));
    catalog.snapshot().clone()
}

fn approval(one: &ModelApproval) -> CatalogChange {
    let subject = ApprovalSubject {
        policy: NamespacedName::new(one.policy.0.as_str(), one.policy.1.as_str()),
        policy_uid: one.policy_uid.as_str().into(),
        operation: one.operation.as_str().into(),
        principal: one.principal.parse().unwrap(),
    };
    let by = "user:corporate/olga".parse().unwrap();
    CatalogChange::Approval(subject, Some(GrantedApproval { approved_by: by, from: one.from, until: one.until }))
}

pub fn api_call(call: &KubernetesCall) -> ApiCall<'_> {
    ApiCall {
        group: call.group,
        resource: call.resource,
        subresource: call.subresource,
        verb: call.verb.parse().unwrap(),
        name: call.name,
    }
}

/// The engine's decision.
pub fn decide(snapshot: &Snapshot, caller: Option<&Identity>, request: &ModelRequest) -> Decision {
    let headers = request
        .headers
        .map(|case| case.sent.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect());
    let evidence = StatedEvidence { headers, objects: request.objects.clone(), resource: request.resource.clone() };
    let path = format!("{}{}", request.path().unwrap_or_default(), if has_query(request) { "?x=1" } else { "" });
    let call = match &request.call {
        ModelCall::Http(method, ..) => Call::Http { method, path: &path },
        ModelCall::Named(operation, captures) => {
            let captures = captures.iter().map(|(name, text)| (name.as_str().into(), text.as_str().into()));
            Call::Named { operation, captures: captures.collect() }
        }
        ModelCall::Kubernetes(call) => Call::Kubernetes(api_call(call)),
        ModelCall::Ambiguous => Call::Ambiguous,
    };
    let target = match &request.service {
        ModelTarget::Host(sent, _) => ServiceTarget::Host(sent),
        ModelTarget::Audience(audience) => ServiceTarget::Audience(audience),
    };
    let request = Request { target, call, source: request.source, evidence: &evidence };
    snapshot.decide(caller.cloned().map(Principal::assumed).as_ref(), &request, now())
}

const fn has_query(request: &ModelRequest) -> bool {
    matches!(request.call, ModelCall::Http(_, _, true))
}

/// What a decision says, in the terms of the model.
pub fn said(decision: &Decision) -> ModelDecision {
    let texts = |all: &[std::sync::Arc<str>]| all.iter().map(ToString::to_string).collect();
    ModelDecision {
        reason: decision.reason.as_str(),
        passes: decision.passes(),
        operation: decision.operation.as_ref().map(|operation| {
            let policy = decision.policy.as_ref().map(ToString::to_string);
            (policy.unwrap_or_default(), operation.to_string())
        }),
        rules: texts(&decision.rules),
        missing: decision.missing.iter().map(ToString::to_string).collect(),
    }
}
