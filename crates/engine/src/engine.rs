//! The one path that every door takes: find the operation, authenticate, decide, record.

use crate::audit::approval::Event as ApprovalEvent;
use crate::audit::issuance::Issuance;
use crate::audit::second_factor::SecondFactor;
use crate::audit::unenforced::{Counts, Unenforced};
use crate::audit::{Audit, Record};
use crate::door::Door;
use crate::metrics::Metrics;
use crate::openfga;
use crate::openfga::OpenFga;
use arc_swap::{ArcSwap, ArcSwapOption};
use chrono::{DateTime, Utc};
use durward_authn::{Authenticator, Credentials, Expectation, Factor, Failure};
use durward_core::approval::ApprovalSubject;
use durward_core::decision::{Decision, Reason};
use durward_core::digest::Digest;
use durward_core::evidence::Evidence;
use durward_core::kubernetes::ApiCall;
use durward_core::path::Captures;
use durward_core::principal::{Principal, PrincipalId};
use durward_core::relations::{RelationAnswers, RelationQuestions};
use durward_core::request::{Call, Request, ServiceTarget};
use durward_core::snapshot::Snapshot;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use tokio::sync::{mpsc, watch};
use url::Url;

/// Who is asking: a caller with credentials, or somebody whom a trusted enforcement point vouches for.
#[derive(Debug)]
pub enum Caller<'a> {
    /// Credentials to be checked.
    Credentials(Credentials<'a>),
    /// A principal that the authenticator made from a trusted enforcement point's word.
    Vouched(Arc<Principal>),
    /// Somebody whom the trusted enforcement point does not know either.
    Nobody,
}

/// What became of a request.
#[derive(Debug)]
pub struct Answer {
    /// Names the decision in the audit log.
    pub id: DecisionId,
    /// The decision.
    pub decision: Decision,
    /// Who is asking, once authenticated.
    pub principal: Option<Arc<Principal>>,
    /// Audience of the service, once found: the realm of challenges.
    pub audience: Option<Arc<str>>,
    /// Whether a credential was there at all; without one the challenge has no `error` (RFC 6750 section 3.1).
    pub credential_presented: bool,
    /// Where the person who is asking can show the second factor that is missing.
    pub step_up: Option<Url>,
    /// Whether a refusal hangs on conditions that read an object which is not known here.
    pub awaits_object: bool,
    /// Whether the decision could not be recorded although it has to be.
    pub unrecorded: bool,
}

impl Answer {
    /// Whether the request goes through.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.decision.passes() && !self.unrecorded
    }
}

/// Names one decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecisionId {
    process: u64,
    number: u64,
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:x}", self.process, self.number)
    }
}

/// Everything that a decision needs, shared by all doors.
#[derive(Debug)]
pub struct Engine {
    snapshot: ArcSwap<Snapshot>,
    revision: watch::Sender<Digest>,
    authenticator: Arc<Authenticator>,
    audit: Audit,
    metrics: Arc<Metrics>,
    openfga: Option<OpenFga>,
    /// Who asks for the approvals that callers lack.
    wanted: OnceLock<mpsc::Sender<ApprovalSubject>>,
    step_up_page: ArcSwapOption<Url>,
    process: u64,
    decisions: AtomicU64,
    unenforced: Unenforced,
}

impl Engine {
    /// An engine that knows no policy yet, and so denies everything. `process` tells its decision ids apart from
    /// those of other processes.
    #[must_use]
    pub fn new(authenticator: Arc<Authenticator>, audit: Audit, metrics: Arc<Metrics>, process: u64) -> Self {
        Self {
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            revision: watch::Sender::new(Digest::default()),
            authenticator,
            audit,
            metrics,
            openfga: None,
            wanted: OnceLock::new(),
            step_up_page: ArcSwapOption::empty(),
            process,
            decisions: AtomicU64::new(0),
            unenforced: Unenforced::default(),
        }
    }

    /// Tells where people step up.
    pub fn step_up_at(&self, page: Option<Url>) {
        self.step_up_page.store(page.map(Arc::new));
    }

    /// Where people step up.
    pub fn step_up_page(&self) -> Option<Arc<Url>> {
        self.step_up_page.load_full()
    }

    /// Where a person can show what a decision found missing.
    fn step_up(&self, decision: &Decision, principal: Option<&Principal>) -> Option<Url> {
        let person = principal.is_some_and(|who| matches!(who.identity().id, PrincipalId::User { .. }));
        // only what a person has to prove has an age
        decision.challenge.filter(|challenge| person && challenge.max_age.is_some())?;
        let (service, mut page) = (decision.service.as_ref()?, Url::clone(&*self.step_up_page()?));
        page.query_pairs_mut().append_pair("audience", &service.audience);
        if let Some(operation) = &decision.operation {
            page.query_pairs_mut().append_pair("operation", operation);
        }
        Some(page)
    }

    /// The same, asking this server for the relations of services that say so.
    #[must_use]
    pub fn with_openfga(self, openfga: Option<OpenFga>) -> Self {
        Self { openfga, ..self }
    }

    /// Puts a snapshot in force for every decision that begins from now on.
    pub fn replace_snapshot(&self, snapshot: Snapshot) {
        let revision = snapshot.revision();
        self.metrics.snapshot(revision, snapshot.services().count());
        self.snapshot.store(Arc::new(snapshot));
        self.revision.send_replace(revision);
    }

    /// The snapshot in force.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// The revision in force, and each that comes after it.
    #[must_use]
    pub fn revisions(&self) -> watch::Receiver<Digest> {
        self.revision.subscribe()
    }

    /// The authenticator.
    #[must_use]
    pub fn authenticator(&self) -> &Arc<Authenticator> {
        &self.authenticator
    }

    /// The metrics.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// What was let pass because a policy only audits, and the number of this process.
    pub fn unenforced(&self) -> (u64, Counts) {
        (self.process, self.unenforced.counts())
    }

    /// From now on approvals that callers lack are asked for through `wanted`. Only the first call counts.
    pub fn ask_for_approvals(&self, wanted: mpsc::Sender<ApprovalSubject>) {
        let _ = self.wanted.set(wanted);
    }

    /// Asks for an approval that somebody lacks.
    pub fn want(&self, matter: &ApprovalSubject) {
        if let Some(wanted) = self.wanted.get() {
            // a full queue is made up for by the caller's next try
            let _ = wanted.try_send(matter.clone());
        }
    }

    /// Authenticates and decides one request, and records what came of it.
    pub async fn ask(&self, door: Door, request: &Request<'_>, caller: Caller<'_>) -> Answer {
        self.ask_of(&self.snapshot(), door, request, caller).await
    }

    /// As [`Engine::ask`] at the admin listener, by its own policy.
    pub async fn ask_admin(&self, policy: &Snapshot, request: &Request<'_>, credentials: Credentials<'_>) -> Answer {
        self.ask_of(policy, Door::Admin, request, Caller::Credentials(credentials)).await
    }

    /// Whether a request would go through by the policies in force, if this principal asked now. Nobody asks: nothing is
    /// recorded, and nothing may be let through because of it.
    #[must_use]
    pub fn would_pass(&self, request: &Request<'_>, principal: Option<&Principal>) -> bool {
        self.snapshot().decide(principal, request, Utc::now()).passes()
    }

    /// Decides a request to the Kubernetes API: every service of the namespace that declares it has to let it through.
    /// The answers up to the first refusal that does not wait for the object, one for each service; none where nobody declares
    /// the request.
    pub async fn ask_kubernetes(
        &self,
        door: Door,
        namespace: &str,
        call: ApiCall<'_>,
        caller: Option<&Arc<Principal>>,
        evidence: &dyn Evidence,
    ) -> Vec<Answer> {
        let snapshot = self.snapshot();
        let mut answers = Vec::new();
        for service in snapshot.governing(namespace, &call) {
            let target = ServiceTarget::Audience(&service.key().audience);
            let request = Request { target, call: Call::Kubernetes(call), source: None, evidence };
            let caller = caller.map_or(Caller::Nobody, |principal| Caller::Vouched(Arc::clone(principal)));
            let answer = self.ask_of(&snapshot, door, &request, caller).await;
            let refused = !answer.passes() && !answer.awaits_object;
            answers.push(answer);
            if refused {
                break;
            }
        }
        answers
    }

    async fn ask_of(&self, snapshot: &Snapshot, door: Door, request: &Request<'_>, caller: Caller<'_>) -> Answer {
        let (started, now) = (Instant::now(), Utc::now());
        let route = snapshot.route(request);
        let (principal, failure) = match (caller, route.accepted_methods()) {
            (Caller::Vouched(principal), _) => (Some(principal), None),
            (Caller::Nobody, _) => (None, None),
            // who is asking does not matter, so nobody looks at the credential
            (Caller::Credentials(_), None) => (None, None),
            (Caller::Credentials(credentials), Some((audience, ways))) => {
                match self.authenticator.authenticate(&credentials, &Expectation { audience, ways }, now).await {
                    Ok(principal) => (Some(principal), None),
                    Err(failure) => (None, Some(failure)),
                }
            }
        };
        let route = match (route.questions(principal.as_deref(), now), principal.as_deref()) {
            (Some(questions), Some(principal)) => {
                let answers = self.related(&questions, principal, snapshot.revision()).await;
                route.with_answers(answers)
            }
            _ => route,
        };
        let decision = route.decide(principal.as_deref(), now);
        // at the other doors it is known, or never will be
        let awaits_object = door == Door::Authorization && route.awaits_object(principal.as_deref(), now);
        self.unenforced.count(&decision, snapshot);
        let id = DecisionId { process: self.process, number: self.decisions.fetch_add(1, Ordering::Relaxed) };
        let made = Made {
            id,
            door,
            request,
            principal: principal.as_deref(),
            failure: failure.as_ref(),
            captures: route.captures(),
            answers: route.answers(),
            decision: &decision,
            now,
            started,
        };
        let unrecorded = !self.record(&made);
        if let (Reason::ApprovalRequired, false, Some(approval)) =
            (decision.reason, decision.passes(), &decision.approval)
        {
            self.want(&approval.subject);
        }
        Answer {
            id,
            audience: decision.service.as_ref().map(|service| Arc::clone(&service.audience)),
            credential_presented: failure.as_ref().is_none_or(|failure| !failure.is_missing()),
            step_up: self.step_up(&decision, principal.as_deref()).filter(|_| door != Door::Admin),
            principal,
            decision,
            awaits_object: awaits_object && !unrecorded,
            unrecorded,
        }
    }

    async fn related(
        &self,
        questions: &RelationQuestions<'_>,
        principal: &Principal,
        revision: Digest,
    ) -> RelationAnswers {
        match &self.openfga {
            Some(openfga) => openfga.answers(questions, principal.identity(), revision, &self.metrics).await,
            None => openfga::failed(questions, "no OpenFGA server is named here (--openfga-url)"),
        }
    }

    /// Whether the decision is recorded, or need not be.
    fn record(&self, made: &Made<'_>) -> bool {
        let latency = made.started.elapsed();
        self.metrics.decision(made.door, made.decision, latency);
        if made.decision.reason == Reason::Unauthenticated {
            self.metrics.authentication_failure(made.failure.is_some_and(Failure::is_missing));
        }
        let recorded = self.audit.record(&Record::of(made, latency));
        if recorded.is_err() {
            self.metrics.audit_lost();
        }
        recorded.is_ok() || self.audit.may_lose()
    }
}

impl Engine {
    /// Records what became of an approval; tells whether it is recorded, or need not be.
    pub fn approval(&self, event: &ApprovalEvent) -> bool {
        let recorded = self.audit.record(event);
        if recorded.is_err() {
            self.metrics.audit_lost();
        }
        recorded.is_ok() || self.audit.may_lose()
    }

    /// Records what became of a wish for an identity, `since` then; tells whether it is recorded, or need not be.
    pub fn issuance(&self, issuance: &Issuance<'_>, since: DateTime<Utc>) -> bool {
        let (by, outcome) = issuance.labels();
        self.metrics.issuance(by.as_str(), outcome.as_str(), Utc::now() - since);
        let recorded = self.audit.record(issuance);
        if recorded.is_err() {
            self.metrics.audit_lost();
        }
        let counts = recorded.is_ok() || self.audit.may_lose();
        if let Some(end) = issuance.certificate_ends().filter(|_| counts) {
            self.metrics.certificate_until(end);
        }
        counts
    }
}

impl Engine {
    /// Records what became of a second factor; tells whether it is recorded, or need not be.
    pub fn second_factor(&self, record: &SecondFactor<'_>) -> bool {
        self.metrics.second_factor(record.outcome.as_str(), record.factor.map_or("none", Factor::as_str));
        let recorded = self.audit.record(record);
        if recorded.is_err() {
            self.metrics.audit_lost();
        }
        recorded.is_ok() || self.audit.may_lose()
    }
}

/// A decision just made, with all that its audit record says of it.
#[derive(Debug)]
pub struct Made<'a> {
    pub id: DecisionId,
    pub door: Door,
    pub request: &'a Request<'a>,
    pub principal: Option<&'a Principal>,
    pub failure: Option<&'a Failure>,
    pub captures: Option<&'a Captures>,
    pub answers: &'a RelationAnswers,
    pub decision: &'a Decision,
    pub now: DateTime<Utc>,
    pub started: Instant,
}
