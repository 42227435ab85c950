//! The engine: find the operation, authenticate, decide, record.

use crate::audit::policy_counts::{PolicyCounter, PolicyCounts};
use crate::audit::{AuditRecord, AuditWriter, DecisionEvent, DecisionId, ReviewPeer};
use crate::door::{Door, Purpose};
use crate::metrics::Metrics;
use crate::openfga;
use crate::openfga::OpenFga;
use crate::recorder::Recorder;
use arc_swap::{ArcSwap, ArcSwapOption};
use chrono::Utc;
use durward_authn::{AuthenticationFailure, Authenticator, Credentials, Expectation};
use durward_core::approval::ApprovalSubject;
use durward_core::decision::{Decision, Reason};
use durward_core::digest::Digest;
use durward_core::evidence::Evidence;
use durward_core::kubernetes::ApiCall;
use durward_core::principal::{Principal, PrincipalId};
use durward_core::relations::{RelationAnswers, RelationQuestions};
use durward_core::request::{Call, Request, ServiceTarget};
use durward_core::risk::RiskLevel;
use durward_core::snapshot::Snapshot;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use tokio::sync::{mpsc, watch};
use url::Url;

/// The caller of a request.
#[derive(Debug)]
pub enum EngineCaller<'a> {
    /// A caller with credentials, which the engine verifies.
    Credentials(Credentials<'a>),
    /// A principal that a trusted enforcement point vouches for. Only the authenticator makes one.
    Vouched(Arc<Principal>),
    /// A caller that the trusted enforcement point could not authenticate.
    Anonymous,
}

/// A request to the Kubernetes API, as a webhook of the API server presents it.
#[derive(Debug, Clone, Copy)]
pub struct KubernetesReview<'a> {
    pub door: Door,
    pub purpose: Purpose,
    /// The client of the webhook, which records name.
    pub peer: &'a ReviewPeer,
    pub namespace: &'a str,
    pub call: ApiCall<'a>,
    /// The user; `None` for an anonymous one.
    pub caller: Option<&'a Arc<Principal>>,
    pub evidence: &'a dyn Evidence,
}

/// How a request reaches the engine.
#[derive(Debug, Clone, Copy)]
struct Origin<'a> {
    door: Door,
    purpose: Purpose,
    peer: Option<&'a ReviewPeer>,
}

impl Origin<'_> {
    /// A request that an enforcement point holds until the answer.
    const fn enforced(door: Door) -> Self {
        Self { door, purpose: Purpose::Enforcement, peer: None }
    }
}

/// The answer to a request.
#[derive(Debug)]
pub struct EngineAnswer {
    /// Identifies the decision in the audit log.
    pub id: DecisionId,
    /// The decision.
    pub decision: Decision,
    /// The caller, if authenticated.
    pub principal: Option<Arc<Principal>>,
    /// Risk of the operation, if one was found.
    pub risk: Option<RiskLevel>,
    /// Audience of the service, if one was found: the realm of challenges.
    pub audience: Option<Arc<str>>,
    /// Whether the request carried a credential; without one the challenge has no `error` (RFC 6750 section 3.1).
    pub credential_presented: bool,
    /// The page where the caller can prove the missing second factor.
    pub step_up: Option<Url>,
    /// Whether a refusal depends on conditions that read an object which is not known here.
    pub awaits_object: bool,
    /// Whether the decision has to be recorded and could not be.
    pub unrecorded: bool,
}

impl EngineAnswer {
    /// Whether the request passes.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.decision.passes() && !self.unrecorded
    }

    /// Whether admission can still allow what this answer refuses: it knows the object, and requests a missing approval.
    #[must_use]
    pub fn awaits_admission(&self) -> bool {
        self.awaits_object || self.decision.reason == Reason::ApprovalRequired && !self.unrecorded
    }
}

/// Decides requests and records the decisions, for all doors of a process.
#[derive(Debug)]
pub struct Engine {
    snapshot: ArcSwap<Snapshot>,
    revision: watch::Sender<Digest>,
    authenticator: Arc<Authenticator>,
    recorder: Recorder,
    openfga: Option<OpenFga>,
    /// Takes the approvals that callers lack.
    approval_requests: OnceLock<mpsc::Sender<ApprovalSubject>>,
    step_up_page: ArcSwapOption<Url>,
    process: u64,
    decisions: AtomicU64,
    policy_counts: PolicyCounter,
}

impl Engine {
    /// Creates an engine without policies, which denies everything. `process` makes its decision ids differ from those
    /// of other processes.
    #[must_use]
    pub fn new(authenticator: Arc<Authenticator>, log: AuditWriter, metrics: Arc<Metrics>, process: u64) -> Self {
        Self {
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            revision: watch::Sender::new(Digest::default()),
            authenticator,
            recorder: Recorder::new(log, metrics),
            openfga: None,
            approval_requests: OnceLock::new(),
            step_up_page: ArcSwapOption::empty(),
            process,
            decisions: AtomicU64::new(0),
            policy_counts: PolicyCounter::default(),
        }
    }

    /// The metrics of the process.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        self.recorder.metrics()
    }

    /// Adds the server that answers for services whose relations are in OpenFGA.
    #[must_use]
    pub fn with_openfga(self, openfga: Option<OpenFga>) -> Self {
        Self { openfga, ..self }
    }

    /// Sets the page where people step up.
    pub fn set_step_up_page(&self, page: Option<Url>) {
        self.step_up_page.store(page.map(Arc::new));
    }

    /// The page where people step up.
    pub fn step_up_page(&self) -> Option<Arc<Url>> {
        self.step_up_page.load_full()
    }

    /// Puts a snapshot in force for every decision that begins from now on.
    pub fn replace_snapshot(&self, snapshot: Snapshot) {
        let revision = snapshot.revision();
        self.recorder.metrics().snapshot(revision, snapshot.services().count());
        self.snapshot.store(Arc::new(snapshot));
        self.revision.send_replace(revision);
    }

    /// The snapshot in force.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// The revision in force, and each later one.
    #[must_use]
    pub fn revisions(&self) -> watch::Receiver<Digest> {
        self.revision.subscribe()
    }

    /// The id of this process, and what it counted for the status of policies.
    pub fn policy_counts(&self) -> (u64, PolicyCounts) {
        (self.process, self.policy_counts.counts())
    }

    /// Sends the approvals that callers lack to `requests` from now on. Only the first call has an effect.
    pub fn send_approval_requests_to(&self, requests: mpsc::Sender<ApprovalSubject>) {
        let _ = self.approval_requests.set(requests);
    }

    /// Requests an approval that a caller lacks.
    pub fn request_approval(&self, subject: &ApprovalSubject) {
        if let Some(requests) = self.approval_requests.get() {
            // if the queue is full, the caller's next attempt requests it again
            let _ = requests.try_send(subject.clone());
        }
    }

    /// Opens the audit log again, if its file was renamed or removed.
    pub fn reopen_audit_log(&self) {
        self.recorder.reopen_log();
    }

    /// Records an event in the audit log and counts it. Returns whether it may take effect: it is recorded, or the log
    /// may lose records.
    pub fn record(&self, record: &impl AuditRecord) -> bool {
        self.recorder.record(record)
    }

    /// Authenticates and decides a request, and records the decision.
    pub async fn authorize(&self, door: Door, request: &Request<'_>, caller: EngineCaller<'_>) -> EngineAnswer {
        self.authorize_by(&self.snapshot(), Origin::enforced(door), request, caller).await
    }

    /// Like [`Engine::authorize`], for the admin listener and by its own policy.
    pub async fn authorize_admin(
        &self,
        policy: &Snapshot,
        request: &Request<'_>,
        credentials: Credentials<'_>,
    ) -> EngineAnswer {
        let caller = EngineCaller::Credentials(credentials);
        self.authorize_by(policy, Origin::enforced(Door::Admin), request, caller).await
    }

    /// Whether a request of this principal would pass now. Records nothing, so nothing may be allowed because of it.
    #[must_use]
    pub fn would_pass(&self, request: &Request<'_>, principal: Option<&Principal>) -> bool {
        self.snapshot().decide(principal, request, Utc::now()).passes()
    }

    /// Whether a request passes now, by its credentials. Records nothing: the request was allowed before, and its stream
    /// is open.
    pub async fn still_passes(&self, request: &Request<'_>, credentials: Credentials<'_>) -> bool {
        let (snapshot, time) = (self.snapshot(), Utc::now());
        let route = snapshot.route(request);
        let principal = match route.accepted_methods() {
            Some((audience, methods)) => {
                self.authenticator.authenticate(&credentials, &Expectation { audience, methods }, time).await.ok()
            }
            None => None,
        };
        let route = match (route.questions(principal.as_deref(), time), principal.as_deref()) {
            (Some(questions), Some(principal)) => {
                let answers = self.relation_answers(&questions, principal, snapshot.revision()).await;
                route.with_answers(answers)
            }
            _ => route,
        };
        route.decide(principal.as_deref(), time).passes()
    }

    /// Decides a request to the Kubernetes API: every service of the namespace that declares it has to allow it.
    /// Returns one answer per service, up to the first refusal that does not wait for admission; none if no service
    /// declares the request.
    pub async fn authorize_kubernetes(&self, review: &KubernetesReview<'_>) -> Vec<EngineAnswer> {
        let KubernetesReview { door, purpose, peer, call, .. } = *review;
        let origin = Origin { door, purpose, peer: Some(peer) };
        let snapshot = self.snapshot();
        let mut answers = Vec::new();
        for service in snapshot.governing(review.namespace, &call) {
            let target = ServiceTarget::Audience(&service.key().audience);
            let request = Request { target, call: Call::Kubernetes(call), source: None, evidence: review.evidence };
            let caller =
                review.caller.map_or(EngineCaller::Anonymous, |principal| EngineCaller::Vouched(Arc::clone(principal)));
            let answer = self.authorize_by(&snapshot, origin, &request, caller).await;
            let refused = !answer.passes() && !answer.awaits_admission();
            answers.push(answer);
            if refused {
                break;
            }
        }
        answers
    }

    async fn authorize_by(
        &self,
        snapshot: &Snapshot,
        origin: Origin<'_>,
        request: &Request<'_>,
        caller: EngineCaller<'_>,
    ) -> EngineAnswer {
        let Origin { door, purpose, peer } = origin;
        let started = Instant::now();
        let time = Utc::now();
        let route = snapshot.route(request);
        let (principal, failure) = match (caller, route.accepted_methods()) {
            (EngineCaller::Vouched(principal), _) => (Some(principal), None),
            // without a service that accepts methods the caller makes no difference, so its credential is not read
            (EngineCaller::Anonymous, _) | (EngineCaller::Credentials(_), None) => (None, None),
            (EngineCaller::Credentials(credentials), Some((audience, methods))) => {
                match self.authenticator.authenticate(&credentials, &Expectation { audience, methods }, time).await {
                    Ok(principal) => (Some(principal), None),
                    Err(failure) => (None, Some(failure)),
                }
            }
        };
        let route = match (route.questions(principal.as_deref(), time), principal.as_deref()) {
            (Some(questions), Some(principal)) => {
                let answers = self.relation_answers(&questions, principal, snapshot.revision()).await;
                route.with_answers(answers)
            }
            _ => route,
        };
        let decision = route.decide(principal.as_deref(), time);
        // the other doors either have the object already or never will
        let awaits_object = door == Door::Authorization && route.awaits_object(principal.as_deref(), time);
        if purpose == Purpose::Enforcement {
            self.policy_counts.count(&decision, snapshot);
        }
        let id = DecisionId { process: self.process, number: self.decisions.fetch_add(1, Ordering::Relaxed) };
        let event = DecisionEvent {
            id,
            door,
            purpose,
            peer,
            request,
            principal: principal.as_deref(),
            failure: failure.as_ref(),
            captures: route.captures(),
            answers: route.answers(),
            decision: &decision,
            time,
            latency: started.elapsed(),
        };
        // an allow waits for its record if the log must not lose any
        let pending = if decision.passes() { Some(self.recorder.record_effect(&event)) } else { None };
        let unrecorded = match pending {
            Some(pending) => !pending.allowed(self.recorder.metrics()).await,
            None => !self.record(&event),
        };
        if purpose == Purpose::Enforcement
            && decision.reason == Reason::ApprovalRequired
            && !decision.passes()
            && let Some(approval) = &decision.approval
        {
            self.request_approval(&approval.subject);
        }
        let step_up = if door == Door::Admin { None } else { self.step_up_url(&decision, principal.as_deref()) };
        EngineAnswer {
            id,
            risk: route.operation().map(|operation| operation.risk),
            audience: decision.service.as_ref().map(|service| Arc::clone(&service.audience)),
            credential_presented: !failure.as_ref().is_some_and(AuthenticationFailure::is_missing),
            step_up,
            principal,
            decision,
            awaits_object: awaits_object && !unrecorded,
            unrecorded,
        }
    }

    /// The page where a person can prove the second factor that a decision found missing.
    fn step_up_url(&self, decision: &Decision, principal: Option<&Principal>) -> Option<Url> {
        let is_person = principal.is_some_and(|caller| matches!(caller.identity().id, PrincipalId::User { .. }));
        // only factors that a person has to prove have a maximum age
        let missing_factor = decision.challenge.is_some_and(|challenge| challenge.max_age.is_some());
        if !is_person || !missing_factor {
            return None;
        }
        let service = decision.service.as_ref()?;
        let mut page = Url::clone(&*self.step_up_page()?);
        page.query_pairs_mut().append_pair("audience", &service.audience);
        if let Some(operation) = &decision.operation {
            page.query_pairs_mut().append_pair("operation", operation);
        }
        Some(page)
    }

    async fn relation_answers(
        &self,
        questions: &RelationQuestions<'_>,
        principal: &Principal,
        revision: Digest,
    ) -> RelationAnswers {
        match &self.openfga {
            Some(openfga) => openfga.answers(questions, principal.identity(), revision, self.recorder.metrics()).await,
            // stored in audit records
            None => openfga::failed(questions, "no OpenFGA server is named here (--openfga-url)"),
        }
    }
}
