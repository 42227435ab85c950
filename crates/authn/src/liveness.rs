//! Which pods and service accounts live. What was issued for one that is gone no longer counts, however long it is valid.

use arc_swap::ArcSwapOption;
use chrono::{DateTime, TimeDelta, Utc};
use durward_pki::serial::{CertificateHolder, CertificateSerial, UidTag};
use std::collections::BTreeSet;
use std::sync::Arc;

/// How long a credential of somebody unheard of is believed after it was issued: word of a new pod may be slower than
/// the pod itself.
const NEWS: TimeDelta = TimeDelta::seconds(60);
/// For how long those that are gone are remembered by name; afterwards they are merely unheard of, and too old.
const REMEMBERED: TimeDelta = TimeDelta::minutes(10);
/// The same where nobody else is known: as long as any certificate of a pod is valid.
const LONGEST: TimeDelta = TimeDelta::hours(25);

/// For whom a credential was issued, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    pub pod: Option<UidTag>,
    pub service_account: Option<UidTag>,
    pub since: DateTime<Utc>,
}

impl Binding {
    /// Of a certificate, by its serial number.
    pub(crate) fn of_serial(serial: &[u8], since: DateTime<Utc>) -> Option<Self> {
        let CertificateHolder { pod, service_account } = CertificateSerial::holder(serial)?;
        Some(Self { pod: Some(pod), service_account: Some(service_account), since })
    }
}

/// A kind of object that credentials are issued for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BoundObjectKind {
    Pod,
    ServiceAccount,
}

/// Who lives, as far as it is known.
#[derive(Debug, Default)]
pub struct LivenessIndex(ArcSwapOption<LivenessState>);

#[derive(Debug, Default, Clone)]
struct LivenessState {
    /// Whether only those that are gone are told of.
    only_gone: bool,
    pods: imbl::HashSet<UidTag>,
    service_accounts: imbl::HashSet<UidTag>,
    gone: imbl::HashMap<UidTag, DateTime<Utc>>,
}

impl LivenessState {
    fn of(&mut self, kind: BoundObjectKind) -> &mut imbl::HashSet<UidTag> {
        match kind {
            BoundObjectKind::Pod => &mut self.pods,
            BoundObjectKind::ServiceAccount => &mut self.service_accounts,
        }
    }
}

impl LivenessIndex {
    /// Nobody is known to live yet, so nothing that is bound to somebody counts.
    pub fn empty() -> Self {
        Self(ArcSwapOption::from_pointee(LivenessState::default()))
    }

    /// Those live who are not told to be gone: for who hears of nobody else.
    pub fn deletions_only() -> Self {
        Self(ArcSwapOption::from_pointee(LivenessState { only_gone: true, ..LivenessState::default() }))
    }

    /// Those that were lately seen to be gone.
    pub fn recently_deleted(&self) -> BTreeSet<UidTag> {
        self.0.load().iter().flat_map(|known| known.gone.keys()).copied().collect()
    }

    /// Exactly these live.
    pub fn replace_all(&self, kind: BoundObjectKind, all: impl IntoIterator<Item = UidTag>, now: DateTime<Utc>) {
        let all: imbl::HashSet<UidTag> = all.into_iter().collect();
        self.change(|known| {
            let before = std::mem::replace(known.of(kind), all.clone());
            before.into_iter().filter(|tag| !all.contains(tag)).for_each(|tag| _ = known.gone.insert(tag, now));
        });
    }

    /// This one lives.
    pub fn insert(&self, kind: BoundObjectKind, tag: UidTag) {
        // most events are of somebody who is there already
        let known = self.0.load();
        let there = known.as_deref().is_some_and(|known| match kind {
            BoundObjectKind::Pod => known.pods.contains(&tag),
            BoundObjectKind::ServiceAccount => known.service_accounts.contains(&tag),
        });
        if there {
            return;
        }
        self.change(|known| _ = known.of(kind).insert(tag));
    }

    /// This one is gone.
    pub fn remove(&self, kind: BoundObjectKind, tag: UidTag, now: DateTime<Utc>) {
        self.change(|known| {
            known.of(kind).remove(&tag);
            let remembered = if known.only_gone { LONGEST } else { REMEMBERED };
            known.gone.retain(|_, at| now.signed_duration_since(*at) < remembered);
            known.gone.insert(tag, now);
        });
    }

    fn change(&self, change: impl Fn(&mut LivenessState)) {
        self.0.rcu(|known| {
            let mut known = known.as_deref().cloned().unwrap_or_default();
            change(&mut known);
            Some(Arc::new(known))
        });
    }

    /// Whether those live for whom a credential was issued. Where nobody watches, as without a cluster, all do.
    pub fn is_live(&self, binding: Option<&Binding>, now: DateTime<Utc>) -> bool {
        let (known, Some(binding)) = (self.0.load(), binding) else { return true };
        let Some(known) = known.as_deref() else { return true };
        if known.only_gone {
            let gone = |tag: Option<UidTag>| tag.is_some_and(|tag| known.gone.contains_key(&tag));
            return !gone(binding.pod) && !gone(binding.service_account);
        }
        let lives = |tag: Option<UidTag>, living: &imbl::HashSet<UidTag>| {
            tag.is_none_or(|tag| living.contains(&tag) || (now - binding.since < NEWS && !known.gone.contains_key(&tag)))
        };
        lives(binding.pod, &known.pods) && lives(binding.service_account, &known.service_accounts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_only_the_gone_are_told_of_all_others_count() {
        let (living, start) = (LivenessIndex::deletions_only(), DateTime::from_timestamp(1_800_000_000, 0).unwrap_or_default());
        let [pod, account] = ["pod", "account"].map(UidTag::from_uid);
        let binding = Binding { pod: Some(pod), service_account: Some(account), since: start };
        assert!(living.is_live(Some(&binding), start));
        living.remove(BoundObjectKind::Pod, pod, start);
        assert!(!living.is_live(Some(&binding), start + TimeDelta::hours(20)));
        assert_eq!(living.recently_deleted(), BTreeSet::from([pod]));
        living.remove(BoundObjectKind::Pod, UidTag::from_uid("other"), start + TimeDelta::hours(26));
        assert_eq!(living.recently_deleted().len(), 1, "what has ended anyway is forgotten");
    }

    #[test]
    fn a_credential_counts_as_long_as_pod_and_service_account_live() {
        let (living, start) = (LivenessIndex::empty(), DateTime::from_timestamp(1_800_000_000, 0).unwrap_or_default());
        let [pod, account, stranger] = ["pod", "account", "stranger"].map(UidTag::from_uid);
        let later = start + TimeDelta::hours(1);
        let binding = |pod, service_account| Binding { pod: Some(pod), service_account: Some(service_account), since: start };
        let counts = |binding: &Binding, now| living.is_live(Some(binding), now);
        assert!(!is_live(&binding(pod, account), later), "nobody is known yet");
        living.replace_all(BoundObjectKind::Pod, [pod], start);
        living.replace_all(BoundObjectKind::ServiceAccount, [account], start);
        assert!(is_live(&binding(pod, account), later));
        assert!(!is_live(&binding(stranger, account), later) && !is_live(&binding(pod, stranger), later));
        assert!(is_live(&binding(stranger, account), start), "news of it may be on the way");
        assert!(!is_live(&binding(account, pod), later), "a service account is no pod");
        living.remove(BoundObjectKind::Pod, pod, start);
        assert!(!is_live(&binding(pod, account), start), "news of its end has come");
        living.insert(BoundObjectKind::Pod, pod);
        living.replace_all(BoundObjectKind::ServiceAccount, [], start);
        assert!(!is_live(&binding(pod, account), start));
        assert!(living.is_live(None, later), "what is bound to nobody");
        assert!(LivenessIndex::default().is_live(Some(&binding(pod, account)), later), "where nobody watches");
    }
}
