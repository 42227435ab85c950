//! Which pods and service accounts exist. A credential ends with the pod or service account that it was issued for,
//! even before it expires.

use arc_swap::ArcSwapOption;
use chrono::{DateTime, TimeDelta, Utc};
use durward_pki::serial::{CertificateHolder, CertificateSerial, UidTag};
use std::collections::BTreeSet;
use std::sync::Arc;

/// For how long a new credential of an unknown pod is accepted: the watch may report a pod later than the pod makes
/// its first request.
const WATCH_DELAY: TimeDelta = TimeDelta::seconds(60);
/// For how long deleted objects are remembered. Later, they are unknown, and their credentials are older than
/// [`WATCH_DELAY`].
const DELETION_MEMORY: TimeDelta = TimeDelta::minutes(10);
/// For how long an index of deletions alone remembers them: longer than the lifetime of a pod's certificate.
const LONG_DELETION_MEMORY: TimeDelta = TimeDelta::hours(25);

/// The pod and service account that a credential was issued for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// The pod.
    pub pod: Option<UidTag>,
    /// The service account.
    pub service_account: Option<UidTag>,
    /// When the credential was issued.
    pub issued_at: DateTime<Utc>,
}

impl Binding {
    /// The binding in the serial number of a certificate.
    pub(crate) fn of_serial(serial: &[u8], issued_at: DateTime<Utc>) -> Option<Self> {
        let CertificateHolder { pod, service_account } = CertificateSerial::holder(serial)?;
        Some(Self { pod: Some(pod), service_account: Some(service_account), issued_at })
    }
}

/// A kind of object that credentials are issued for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BoundObjectKind {
    /// A pod.
    Pod,
    /// A service account.
    ServiceAccount,
}

/// The pods and service accounts that exist. The default index accepts every binding, as for use without a cluster.
#[derive(Debug, Default)]
pub struct LivenessIndex(ArcSwapOption<LivenessState>);

#[derive(Debug, Default, Clone)]
struct LivenessState {
    /// Whether only deletions are reported to this index.
    deletions_only: bool,
    pods: imbl::HashSet<UidTag>,
    service_accounts: imbl::HashSet<UidTag>,
    deleted: imbl::HashMap<UidTag, DateTime<Utc>>,
}

impl LivenessState {
    const fn existing(&self, kind: BoundObjectKind) -> &imbl::HashSet<UidTag> {
        match kind {
            BoundObjectKind::Pod => &self.pods,
            BoundObjectKind::ServiceAccount => &self.service_accounts,
        }
    }

    const fn existing_mut(&mut self, kind: BoundObjectKind) -> &mut imbl::HashSet<UidTag> {
        match kind {
            BoundObjectKind::Pod => &mut self.pods,
            BoundObjectKind::ServiceAccount => &mut self.service_accounts,
        }
    }
}

impl LivenessIndex {
    /// An index without any object. It accepts no binding, except for new ones, until objects are reported.
    #[must_use]
    pub fn empty() -> Self {
        Self(ArcSwapOption::from_pointee(LivenessState::default()))
    }

    /// An index to which only deletions are reported. It accepts all objects that are not deleted.
    #[must_use]
    pub fn deletions_only() -> Self {
        Self(ArcSwapOption::from_pointee(LivenessState { deletions_only: true, ..LivenessState::default() }))
    }

    /// Objects that were deleted recently.
    #[must_use]
    pub fn recently_deleted(&self) -> BTreeSet<UidTag> {
        self.0.load().iter().flat_map(|state| state.deleted.keys()).copied().collect()
    }

    /// Replaces all objects of a kind. Objects that are missing in `all` are deleted.
    pub fn replace_all(&self, kind: BoundObjectKind, all: impl IntoIterator<Item = UidTag>, now: DateTime<Utc>) {
        let all: imbl::HashSet<UidTag> = all.into_iter().collect();
        self.change(|state| {
            let before = std::mem::replace(state.existing_mut(kind), all.clone());
            before.into_iter().filter(|tag| !all.contains(tag)).for_each(|tag| _ = state.deleted.insert(tag, now));
        });
    }

    /// Adds an object.
    pub fn insert(&self, kind: BoundObjectKind, tag: UidTag) {
        // most events are updates of an object that the index has already
        if self.0.load().as_deref().is_some_and(|state| state.existing(kind).contains(&tag)) {
            return;
        }
        self.change(|state| _ = state.existing_mut(kind).insert(tag));
    }

    /// Removes an object, and remembers its deletion.
    pub fn remove(&self, kind: BoundObjectKind, tag: UidTag, now: DateTime<Utc>) {
        self.change(|state| {
            state.existing_mut(kind).remove(&tag);
            let memory = if state.deletions_only { LONG_DELETION_MEMORY } else { DELETION_MEMORY };
            state.deleted.retain(|_, at| now.signed_duration_since(*at) < memory);
            state.deleted.insert(tag, now);
        });
    }

    fn change(&self, change: impl Fn(&mut LivenessState)) {
        self.0.rcu(|state| {
            let mut state = state.as_deref().cloned().unwrap_or_default();
            change(&mut state);
            Some(Arc::new(state))
        });
    }

    /// Whether the pod and the service account of a credential exist. A credential without a binding is always live.
    #[must_use]
    pub fn is_live(&self, binding: Option<&Binding>, now: DateTime<Utc>) -> bool {
        let Some(binding) = binding else { return true };
        let state = self.0.load();
        let Some(state) = state.as_deref() else { return true };
        if state.deletions_only {
            let deleted = |tag: Option<UidTag>| tag.is_some_and(|tag| state.deleted.contains_key(&tag));
            return !deleted(binding.pod) && !deleted(binding.service_account);
        }
        let is_new = now - binding.issued_at < WATCH_DELAY;
        let exists = |tag: Option<UidTag>, kind: BoundObjectKind| {
            tag.is_none_or(|tag| state.existing(kind).contains(&tag) || (is_new && !state.deleted.contains_key(&tag)))
        };
        exists(binding.pod, BoundObjectKind::Pod) && exists(binding.service_account, BoundObjectKind::ServiceAccount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap_or_default()
    }

    #[test]
    fn an_index_of_deletions_accepts_all_other_objects() {
        let index = LivenessIndex::deletions_only();
        let start = start();
        let [pod, account] = ["pod", "account"].map(UidTag::from_uid);
        let binding = Binding { pod: Some(pod), service_account: Some(account), issued_at: start };
        assert!(index.is_live(Some(&binding), start));
        index.remove(BoundObjectKind::Pod, pod, start);
        assert!(!index.is_live(Some(&binding), start + TimeDelta::hours(20)));
        assert_eq!(index.recently_deleted(), BTreeSet::from([pod]));
        index.remove(BoundObjectKind::Pod, UidTag::from_uid("other"), start + TimeDelta::hours(26));
        assert_eq!(index.recently_deleted().len(), 1, "deletions older than any certificate are forgotten");
    }

    #[test]
    fn a_credential_is_live_while_its_pod_and_service_account_exist() {
        let index = LivenessIndex::empty();
        let start = start();
        let [pod, account, other] = ["pod", "account", "stranger"].map(UidTag::from_uid);
        let later = start + TimeDelta::hours(1);
        let binding =
            |pod, service_account| Binding { pod: Some(pod), service_account: Some(service_account), issued_at: start };
        let is_live = |binding: &Binding, now| index.is_live(Some(binding), now);
        assert!(!is_live(&binding(pod, account), later), "the index is empty");
        index.replace_all(BoundObjectKind::Pod, [pod], start);
        index.replace_all(BoundObjectKind::ServiceAccount, [account], start);
        assert!(is_live(&binding(pod, account), later));
        assert!(!is_live(&binding(other, account), later) && !is_live(&binding(pod, other), later));
        assert!(is_live(&binding(other, account), start), "the watch may not have reported it yet");
        assert!(!is_live(&binding(account, pod), later), "a service account is not a pod");
        index.remove(BoundObjectKind::Pod, pod, start);
        assert!(!is_live(&binding(pod, account), start), "the deletion was reported");
        index.insert(BoundObjectKind::Pod, pod);
        index.replace_all(BoundObjectKind::ServiceAccount, [], start);
        assert!(!is_live(&binding(pod, account), start));
        assert!(index.is_live(None, later), "a credential without a binding");
        assert!(LivenessIndex::default().is_live(Some(&binding(pod, account)), later), "the default index");
    }
}
