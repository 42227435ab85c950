//! Asks for the approvals that callers lack, and clears away what is over.

use crate::{Known, Seal, Store, spec};
use chrono::{DateTime, TimeDelta, Utc};
use durward_api::resources::{Approval, ApprovalState};
use durward_core::approval::ApprovalSubject;
use durward_engine::Engine;
use durward_engine::audit::approval::{Event, Outcome};
use durward_runtime::Failure;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Approvals that may wait to be asked for; what is beyond is asked for by the next call.
pub const QUEUE: usize = 256;
/// Most objects in one namespace, and in all: people have to look at them.
const PER_NAMESPACE: usize = 100;
const MOST: usize = 2000;
/// How long the same is not asked for again, whatever became of it.
const PAUSE: Duration = Duration::from_secs(60);
/// Questions that are remembered for that.
const REMEMBERED: usize = 4 * QUEUE;
/// How often it is looked for what is over; in memory alone.
const SWEEP: Duration = Duration::from_secs(5);
/// How long somebody may take to decide.
const PENDING: TimeDelta = TimeDelta::hours(24);

/// What was asked for of late, and is not asked for again so soon.
#[derive(Debug, Default)]
pub struct Lately(HashMap<ApprovalSubject, Instant>);

impl Lately {
    /// Whether this was not; from now on it was. One namespace that asks for a lot keeps no other from asking.
    pub fn is_new(&mut self, matter: &ApprovalSubject) -> bool {
        self.0.retain(|_, at| at.elapsed() < PAUSE);
        let here = self.0.keys().filter(|known| known.policy.namespace == matter.policy.namespace).count();
        let new = self.0.len() < REMEMBERED && here < PER_NAMESPACE && !self.0.contains_key(matter);
        if new {
            self.0.insert(matter.clone(), Instant::now());
        }
        new
    }
}

/// Looks after the objects.
#[derive(Debug)]
pub struct Clerk {
    pub store: Store,
    pub seal: Seal,
    /// The objects that there are.
    pub known: watch::Receiver<Known>,
    pub engine: Arc<Engine>,
    /// Whether this process clears away.
    pub leading: watch::Receiver<bool>,
}

impl Clerk {
    /// Works off what callers lack, until `shutdown`.
    pub async fn run(
        self,
        mut wanted: mpsc::Receiver<ApprovalSubject>,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let (mut asked, mut removed) = (Lately::default(), HashSet::new());
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(matter) = wanted.recv() => if asked.is_new(&matter) {
                    self.ask(&matter, &removed).await;
                },
                _ = sweep.tick() => if *self.leading.borrow() {
                    for gone in self.sweep(&mut removed, Utc::now()).await {
                        asked.0.remove(&gone);
                    }
                },
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    /// Makes the object, unless it is there or there are too many. What was `removed` is not there, even before that is known.
    async fn ask(&self, matter: &ApprovalSubject, removed: &HashSet<String>) {
        let (namespace, name) = (matter.policy.namespace.to_string(), matter.approval_name());
        let key = (namespace.clone(), name.clone());
        let known = self.known.borrow().clone();
        if known.get(&key).is_some_and(|there| !removed.contains(uid(there))) {
            return;
        }
        let here = known.range((namespace.clone(), String::new())..).take_while(|((of, _), _)| *of == namespace);
        if known.len() >= MOST || here.count() >= PER_NAMESPACE {
            tracing::warn!(namespace, operation = &*matter.operation, "too many approvals are asked for already");
            return;
        }
        let mut approval = Approval::new(&name, spec(matter));
        approval.metadata.namespace = Some(namespace.clone());
        let event = Event::of(&approval, Outcome::Requested);
        match self.store.create(approval).await {
            Ok(true) => drop(self.engine.approval(&event)),
            Ok(false) => {}
            Err(error) => tracing::warn!(namespace, name, %error, "an approval can't be asked for"),
        }
    }

    /// Removes what is over, and records what ended by itself; returns what can be asked for again. `removed` are those of
    /// which it is not yet known that they are gone.
    async fn sweep(&self, removed: &mut HashSet<String>, now: DateTime<Utc>) -> Vec<ApprovalSubject> {
        let known = self.known.borrow().clone();
        let present: HashSet<&str> = known.values().map(|approval| uid(approval)).collect();
        removed.retain(|uid| present.contains(uid.as_str()));
        let mut gone = Vec::new();
        for approval in known.values().filter(|approval| self.ends(approval) <= now) {
            if removed.contains(uid(approval)) {
                continue;
            }
            match self.store.remove(approval).await {
                Ok(()) => {
                    removed.insert(uid(approval).to_owned());
                    self.engine.approval(&Event::of(approval, Outcome::Expired));
                    gone.extend(durward_api::translation::requested_subject(approval));
                }
                Err(error) => tracing::warn!(%error, "an approval that is over can't be removed"),
            }
        }
        gone
    }

    /// When an object is over. What was not decided here is as good as pending, whatever it says.
    fn ends(&self, approval: &Approval) -> DateTime<Utc> {
        let made = approval.metadata.creation_timestamp.as_ref().map_or(0, |at| at.0.as_second());
        let pending = DateTime::from_timestamp(made, 0).unwrap_or_default() + PENDING;
        let status = approval.status.as_ref().filter(|status| status.state != ApprovalState::Pending);
        let end = status.and_then(|status| status.expires_at.as_ref()?.parse().ok());
        end.filter(|_| self.seal.holds(approval)).unwrap_or(pending)
    }
}

fn uid(approval: &Approval) -> &str {
    approval.metadata.uid.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Book, Folder};
    use durward_authn::{Authenticator, TrustDomain};
    use durward_core::namespaced_name::NamespacedName;
    use durward_engine::audit::Audit;
    use durward_engine::metrics::Metrics;
    use durward_identity::{Ring, TokenKeys};

    struct World {
        folder: Folder,
        clerk: Clerk,
        known: watch::Sender<Known>,
        _state: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let state = tempfile::tempdir().expect("a directory");
            std::fs::set_permissions(state.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700))
                .expect("private");
            let folder = Folder::open(state.path()).expect("a folder");
            let authenticator = Authenticator::new(TrustDomain::default(), Arc::default());
            let engine = Engine::new(Arc::new(authenticator), Audit::nowhere(), Arc::new(Metrics::default()), 1);
            let (known, watched) = watch::channel(Known::default());
            let clerk = Clerk {
                store: Store::Folder(folder.clone()),
                seal: Seal::new(TokenKeys::new(Ring::default())),
                known: watched,
                engine: Arc::new(engine),
                leading: watch::channel(true).1,
            };
            Self { folder, clerk, known, _state: state }
        }

        /// Whoever follows the folder has seen everything.
        fn follow(&self) -> usize {
            let mut book = Book::new(self.clerk.seal.clone());
            book.replace(self.folder.all().expect("readable"));
            self.known.send_replace(book.known().clone());
            book.known().len()
        }
    }

    fn matter(namespace: usize, who: usize) -> ApprovalSubject {
        ApprovalSubject {
            policy: NamespacedName { namespace: format!("n{namespace}").into(), name: "orders".into() },
            policy_uid: "".into(),
            operation: "purge".into(),
            principal: format!("user:corporate/u{who}").parse().expect("a principal"),
        }
    }

    #[tokio::test]
    async fn the_same_is_asked_for_once_and_not_without_end() {
        let world = World::new();
        for _ in 0..3 {
            // before it is known, the store says that it is there
            world.clerk.ask(&matter(0, 0), &HashSet::new()).await;
        }
        assert_eq!(world.follow(), 1);
        for who in 0..PER_NAMESPACE + 20 {
            world.clerk.ask(&matter(0, who), &HashSet::new()).await;
            world.follow();
        }
        assert_eq!(world.follow(), PER_NAMESPACE, "one namespace takes up no more");
        world.clerk.ask(&matter(1, 0), &HashSet::new()).await;
        assert_eq!(world.follow(), PER_NAMESPACE + 1, "and leaves room for others");
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_is_not_asked_for_again_so_soon_and_nobody_takes_the_room_of_others() {
        let mut lately = Lately::default();
        assert!(lately.is_new(&matter(0, 0)) && !lately.is_new(&matter(0, 0)));
        let new = (0..2 * PER_NAMESPACE).filter(|who| lately.is_new(&matter(0, *who))).count();
        assert_eq!(new + 1, PER_NAMESPACE);
        assert!(lately.is_new(&matter(1, 0)));
        tokio::time::advance(PAUSE).await;
        assert!(lately.is_new(&matter(0, 0)));
    }

    #[tokio::test]
    async fn what_nobody_decides_goes_and_what_it_says_of_itself_keeps_nothing() {
        let world = World::new();
        world.clerk.ask(&matter(0, 0), &HashSet::new()).await;
        world.follow();
        let mut forged = world.folder.all().expect("readable").remove(0);
        let status = forged.status.get_or_insert_default();
        (status.state, status.expires_at) = (ApprovalState::Approved, Some("2999-01-01T00:00:00Z".to_owned()));
        world.clerk.store.settle(&world.folder.all().expect("readable").remove(0), &forged).await.expect("written");
        world.follow();
        let (mut removed, now) = (HashSet::new(), Utc::now());
        assert_eq!(world.clerk.sweep(&mut removed, now + PENDING - TimeDelta::minutes(1)).await, []);
        let later = now + PENDING + TimeDelta::minutes(1);
        assert_eq!(world.clerk.sweep(&mut removed, later).await, [matter(0, 0)]);
        assert_eq!(world.clerk.sweep(&mut removed, later).await, [], "once, before it is known to be gone");
        // and is asked for again by the next call, before that is known
        world.clerk.ask(&matter(0, 0), &removed).await;
        assert_eq!(world.folder.all().expect("readable").len(), 1);
        assert_eq!(world.follow(), 1);
    }
}
