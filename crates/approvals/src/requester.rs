//! Requests the approvals that callers lack, and removes the expired ones.

use crate::{ApprovalKey, ApprovalObjects, ApprovalSeal, ApprovalStore, approval_spec};
use chrono::{DateTime, TimeDelta, Utc};
use durward_api::resources::{Approval, ApprovalState};
use durward_api::translation::requested_subject;
use durward_core::approval::ApprovalSubject;
use durward_engine::Engine;
use durward_engine::audit::approval::{ApprovalOutcome, ApprovalRecord};
use durward_runtime::Failure;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Requests that may be queued. A request beyond that is dropped; the next call makes it again.
pub const REQUEST_QUEUE: usize = 256;
/// Most objects in one namespace: people have to review them.
const MAX_PER_NAMESPACE: usize = 100;
/// Most objects of one requester in one namespace, so that none takes the room of the others.
const MAX_PER_REQUESTER: usize = 10;
/// Most objects in all namespaces. Of one namespace no more than [`MAX_PER_NAMESPACE`] count: its users can create any
/// number themselves.
const MAX_OBJECTS: usize = 2000;
/// Time for which the same approval is not requested again, whatever the outcome.
const REPEAT_INTERVAL: Duration = Duration::from_secs(60);
/// Most recent requests that are remembered.
const MAX_RECENT_REQUESTS: usize = 4 * REQUEST_QUEUE;
/// Interval between searches for expired objects. They read memory only.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Lifetime of an object without a decision.
const PENDING_LIFETIME: TimeDelta = TimeDelta::hours(24);

/// The approvals that were requested recently, and so are not requested again yet.
#[derive(Debug, Default)]
pub struct RecentRequests(HashMap<ApprovalSubject, Instant>);

impl RecentRequests {
    /// Remembers a request. Returns whether it is new. Limits per namespace and requester keep room for the others.
    pub fn insert(&mut self, subject: &ApprovalSubject) -> bool {
        self.0.retain(|_, at| at.elapsed() < REPEAT_INTERVAL);
        let namespace = &subject.policy.namespace;
        let in_namespace = || self.0.keys().filter(|recent| recent.policy.namespace == *namespace);
        let of_requester = in_namespace().filter(|recent| recent.principal == subject.principal).count();
        let new = self.0.len() < MAX_RECENT_REQUESTS
            && in_namespace().count() < MAX_PER_NAMESPACE
            && of_requester < MAX_PER_REQUESTER
            && !self.0.contains_key(subject);
        if new {
            self.0.insert(subject.clone(), Instant::now());
        }
        new
    }

    fn forget(&mut self, subject: &ApprovalSubject) {
        self.0.remove(subject);
    }
}

/// Creates and removes the objects.
#[derive(Debug)]
pub struct ApprovalRequester {
    pub store: ApprovalStore,
    pub seal: ApprovalSeal,
    /// The objects that exist.
    pub objects: watch::Receiver<ApprovalObjects>,
    pub engine: Arc<Engine>,
    /// Whether this process removes expired objects.
    pub leading: watch::Receiver<bool>,
}

impl ApprovalRequester {
    /// Requests the approvals that callers lack, and removes expired ones, until `shutdown`.
    ///
    /// # Errors
    /// Never; the signature is that of a supervised task.
    pub async fn run(
        self,
        mut requests: mpsc::Receiver<ApprovalSubject>,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let mut recent = RecentRequests::default();
        let mut removed = HashSet::new();
        let mut forged = HashMap::new();
        let mut sweep = interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(subject) = requests.recv() => if recent.insert(&subject) {
                    self.request(&subject, &removed).await;
                },
                _ = sweep.tick() => if *self.leading.borrow() {
                    for subject in self.sweep(&mut removed, &mut forged, Utc::now()).await {
                        recent.forget(&subject);
                    }
                },
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    /// Creates the object, unless it exists or there are too many. The uids in `removed` are of deleted objects that
    /// the watch still reports.
    async fn request(&self, subject: &ApprovalSubject, removed: &HashSet<String>) {
        let namespace = subject.policy.namespace.to_string();
        let name = subject.approval_name();
        let objects = self.objects.borrow().clone();
        let existing = objects.get(&(namespace.clone(), name.clone()));
        if existing.is_some_and(|existing| !removed.contains(uid(existing))) {
            return;
        }
        if let Some(limit) = exceeded_limit(&objects, &namespace, &subject.principal.to_string()) {
            tracing::warn!(
                namespace,
                operation = &*subject.operation,
                principal = %subject.principal,
                limit,
                "too many approvals are requested already; dropping the request"
            );
            return;
        }
        let mut approval = Approval::new(&name, approval_spec(subject));
        approval.metadata.namespace = Some(namespace.clone());
        let record = ApprovalRecord::new(&approval, ApprovalOutcome::Requested);
        match self.store.create(approval).await {
            Ok(true) => drop(self.engine.record(&record)),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(
                    namespace,
                    name,
                    %error,
                    "requesting an approval failed; the next call requests it again"
                );
            }
        }
    }

    /// Removes and records the expired objects, and returns what can be requested again. `removed` collects the uids of
    /// deleted objects that the watch still reports.
    async fn sweep(
        &self,
        removed: &mut HashSet<String>,
        forged: &mut HashMap<ApprovalKey, Arc<Approval>>,
        now: DateTime<Utc>,
    ) -> Vec<ApprovalSubject> {
        let objects = self.objects.borrow().clone();
        let present: HashSet<&str> = objects.values().map(|approval| uid(approval)).collect();
        removed.retain(|uid| present.contains(uid.as_str()));
        self.report_forged(&objects, forged);
        let mut subjects = Vec::new();
        for approval in objects.values().filter(|approval| self.expires_at(approval) <= now) {
            if removed.contains(uid(approval)) {
                continue;
            }
            match self.store.remove(approval).await {
                Ok(()) => {
                    removed.insert(uid(approval).to_owned());
                    self.engine.record(&ApprovalRecord::new(approval, ApprovalOutcome::Expired));
                    subjects.extend(requested_subject(approval));
                }
                Err(error) => {
                    tracing::warn!(%error, "removing an expired approval failed; trying again at the next sweep");
                }
            }
        }
        subjects
    }

    /// Records each object that states a decision without a valid signature, once.
    fn report_forged(&self, objects: &ApprovalObjects, reported: &mut HashMap<ApprovalKey, Arc<Approval>>) {
        reported.retain(|key, approval| objects.get(key).is_some_and(|current| current == approval));
        for (key, approval) in objects {
            let decided = approval.status.as_ref().is_some_and(|status| status.state != ApprovalState::Pending);
            if decided && !reported.contains_key(key) && !self.seal.verifies(approval) {
                reported.insert(key.clone(), Arc::clone(approval));
                self.engine.record(&ApprovalRecord::new(approval, ApprovalOutcome::Forged));
            }
        }
    }

    /// When an object expires. A decision without a valid signature doesn't change the lifetime.
    fn expires_at(&self, approval: &Approval) -> DateTime<Utc> {
        let created = approval.metadata.creation_timestamp.as_ref().map_or(0, |at| at.0.as_second());
        let pending_until = DateTime::from_timestamp(created, 0).unwrap_or_default() + PENDING_LIFETIME;
        let status = approval.status.as_ref().filter(|status| status.state != ApprovalState::Pending);
        match status.and_then(|status| status.expires_at.as_ref()?.parse().ok()) {
            Some(decided_until) if self.seal.verifies(approval) => decided_until,
            _ => pending_until,
        }
    }
}

/// The limit that another object of a requester would exceed.
fn exceeded_limit(objects: &ApprovalObjects, namespace: &str, principal: &str) -> Option<&'static str> {
    let in_namespace =
        || objects.range((namespace.to_owned(), String::new())..).take_while(|((of, _), _)| of == namespace);
    if in_namespace().count() >= MAX_PER_NAMESPACE {
        return Some("namespace");
    }
    if in_namespace().filter(|(_, approval)| approval.spec.principal == principal).count() >= MAX_PER_REQUESTER {
        return Some("requester");
    }
    let mut by_namespace = HashMap::<&str, usize>::new();
    for (of, _) in objects.keys() {
        *by_namespace.entry(of).or_default() += 1;
    }
    let all: usize = by_namespace.values().map(|count| (*count).min(MAX_PER_NAMESPACE)).sum();
    (all >= MAX_OBJECTS).then_some("cluster")
}

fn uid(approval: &Approval) -> &str {
    approval.metadata.uid.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ApprovalFolder, ApprovalIndex};
    use durward_authn::{Authenticator, TrustDomain};
    use durward_core::namespaced_name::NamespacedName;
    use durward_engine::audit::AuditWriter;
    use durward_engine::metrics::Metrics;
    use durward_identity::{TokenKeyRing, TokenKeys};

    struct World {
        folder: ApprovalFolder,
        requester: ApprovalRequester,
        objects: watch::Sender<ApprovalObjects>,
        _state: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let state = tempfile::tempdir().expect("a directory");
            std::fs::set_permissions(state.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700))
                .expect("private");
            let folder = ApprovalFolder::open(state.path()).expect("a folder");
            let authenticator = Authenticator::new(TrustDomain::default(), Arc::default());
            let engine = Engine::new(Arc::new(authenticator), AuditWriter::nowhere(), Arc::new(Metrics::default()), 1);
            let (objects, watched) = watch::channel(ApprovalObjects::default());
            let requester = ApprovalRequester {
                store: ApprovalStore::Folder(folder.clone()),
                seal: ApprovalSeal::new(TokenKeys::new(TokenKeyRing::default())),
                objects: watched,
                engine: Arc::new(engine),
                leading: watch::channel(true).1,
            };
            Self { folder, requester, objects, _state: state }
        }

        /// Publishes the content of the folder to the requester, as a watch does. Returns the number of objects.
        fn publish(&self) -> usize {
            let mut index = ApprovalIndex::new(self.requester.seal.clone());
            index.replace(self.folder.list().expect("readable"));
            self.objects.send_replace(index.objects().clone());
            index.objects().len()
        }
    }

    fn subject(namespace: usize, user: usize) -> ApprovalSubject {
        ApprovalSubject {
            policy: NamespacedName { namespace: format!("n{namespace}").into(), name: "orders".into() },
            policy_uid: "".into(),
            operation: "purge".into(),
            principal: format!("user:corporate/u{user}").parse().expect("a principal"),
        }
    }

    #[tokio::test]
    async fn approvals_are_requested_once_within_the_namespace_limit() {
        let world = World::new();
        for _ in 0..3 {
            // the watch lags behind, so the store reports that the object exists
            world.requester.request(&subject(0, 0), &HashSet::new()).await;
        }
        assert_eq!(world.publish(), 1);
        for user in 0..MAX_PER_NAMESPACE + 20 {
            world.requester.request(&subject(0, user), &HashSet::new()).await;
            world.publish();
        }
        assert_eq!(world.publish(), MAX_PER_NAMESPACE, "the limit of one namespace");
        world.requester.request(&subject(1, 0), &HashSet::new()).await;
        assert_eq!(world.publish(), MAX_PER_NAMESPACE + 1, "another namespace has its own limit");
    }

    #[tokio::test]
    async fn no_requester_and_no_namespace_takes_the_room_of_others() {
        let world = World::new();
        let purge = |namespace, user, number: usize| ApprovalSubject {
            operation: format!("purge-{number}").into(),
            ..subject(namespace, user)
        };
        for number in 0..MAX_PER_REQUESTER + 5 {
            world.requester.request(&purge(0, 0, number), &HashSet::new()).await;
            world.publish();
        }
        assert_eq!(world.publish(), MAX_PER_REQUESTER, "the limit of one requester");
        world.requester.request(&purge(0, 1, 0), &HashSet::new()).await;
        world.requester.request(&purge(1, 0, 0), &HashSet::new()).await;
        assert_eq!(world.publish(), MAX_PER_REQUESTER + 2, "others, and other namespaces");
        // objects that users of a namespace create themselves
        let created = |number| {
            let subject = purge(2, number, 0);
            let approval = Approval::new(&subject.approval_name(), approval_spec(&subject));
            (("n2".to_owned(), subject.approval_name()), Arc::new(approval))
        };
        let objects: ApprovalObjects = (0..=MAX_OBJECTS).map(created).collect();
        assert_eq!(exceeded_limit(&objects, "n2", "user:corporate/alice"), Some("namespace"));
        assert_eq!(exceeded_limit(&objects, "n1", "user:corporate/alice"), None, "another namespace has room");
    }

    #[tokio::test(start_paused = true)]
    async fn recent_requests_are_not_repeated_and_limited_per_namespace() {
        let mut recent = RecentRequests::default();
        assert!(recent.insert(&subject(0, 0)) && !recent.insert(&subject(0, 0)));
        let new = (0..2 * MAX_PER_NAMESPACE).filter(|user| recent.insert(&subject(0, *user))).count();
        assert_eq!(new + 1, MAX_PER_NAMESPACE);
        assert!(recent.insert(&subject(1, 0)));
        tokio::time::advance(REPEAT_INTERVAL).await;
        assert!(recent.insert(&subject(0, 0)));
    }

    #[tokio::test]
    async fn undecided_approvals_expire_despite_forged_decisions() {
        let world = World::new();
        world.requester.request(&subject(0, 0), &HashSet::new()).await;
        world.publish();
        let stored = world.folder.list().expect("readable").remove(0);
        let mut forged = stored.clone();
        let status = forged.status.get_or_insert_default();
        status.state = ApprovalState::Approved;
        status.expires_at = Some("2999-01-01T00:00:00Z".to_owned());
        world.requester.store.record_decision(&stored, &forged).await.expect("written");
        world.publish();
        let mut removed = HashSet::new();
        let mut reported = HashMap::new();
        let now = Utc::now();
        let earlier = now + PENDING_LIFETIME - TimeDelta::minutes(1);
        assert_eq!(world.requester.sweep(&mut removed, &mut reported, earlier).await, []);
        let later = now + PENDING_LIFETIME + TimeDelta::minutes(1);
        assert_eq!(world.requester.sweep(&mut removed, &mut reported, later).await, [subject(0, 0)]);
        assert_eq!(reported.len(), 1, "the forged decision is recorded");
        assert_eq!(
            world.requester.sweep(&mut removed, &mut reported, later).await,
            [],
            "removed once, before the watch reports it"
        );
        // the next call requests it again, before the watch reports the removal
        world.requester.request(&subject(0, 0), &removed).await;
        assert_eq!(world.folder.list().expect("readable").len(), 1);
        assert_eq!(world.publish(), 1);
    }
}
