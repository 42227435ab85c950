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
pub struct Bond {
    pub pod: Option<UidTag>,
    pub service_account: Option<UidTag>,
    pub since: DateTime<Utc>,
}

impl Bond {
    /// Of a certificate, by its serial number.
    pub(crate) fn of_serial(serial: &[u8], since: DateTime<Utc>) -> Option<Self> {
        let CertificateHolder { pod, service_account } = CertificateSerial::holder(serial)?;
        Some(Self { pod: Some(pod), service_account: Some(service_account), since })
    }
}

/// A kind of object that credentials are issued for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Pod,
    ServiceAccount,
}

/// Who lives, as far as it is known.
#[derive(Debug, Default)]
pub struct Living(ArcSwapOption<Known>);

#[derive(Debug, Default, Clone)]
struct Known {
    /// Whether only those that are gone are told of.
    only_gone: bool,
    pods: imbl::HashSet<UidTag>,
    service_accounts: imbl::HashSet<UidTag>,
    gone: imbl::HashMap<UidTag, DateTime<Utc>>,
}

impl Known {
    fn of(&mut self, kind: Kind) -> &mut imbl::HashSet<UidTag> {
        match kind {
            Kind::Pod => &mut self.pods,
            Kind::ServiceAccount => &mut self.service_accounts,
        }
    }
}

impl Living {
    /// Nobody is known to live yet, so nothing that is bound to somebody counts.
    pub fn nobody() -> Self {
        Self(ArcSwapOption::from_pointee(Known::default()))
    }

    /// Those live who are not told to be gone: for who hears of nobody else.
    pub fn but_the_gone() -> Self {
        Self(ArcSwapOption::from_pointee(Known { only_gone: true, ..Known::default() }))
    }

    /// Those that were lately seen to be gone.
    pub fn gone(&self) -> BTreeSet<UidTag> {
        self.0.load().iter().flat_map(|known| known.gone.keys()).copied().collect()
    }

    /// Exactly these live.
    pub fn are(&self, kind: Kind, all: impl IntoIterator<Item = UidTag>, now: DateTime<Utc>) {
        let all: imbl::HashSet<UidTag> = all.into_iter().collect();
        self.change(|known| {
            let before = std::mem::replace(known.of(kind), all.clone());
            before.into_iter().filter(|tag| !all.contains(tag)).for_each(|tag| _ = known.gone.insert(tag, now));
        });
    }

    /// This one lives.
    pub fn is_there(&self, kind: Kind, tag: UidTag) {
        // most events are of somebody who is there already
        let known = self.0.load();
        let there = known.as_deref().is_some_and(|known| match kind {
            Kind::Pod => known.pods.contains(&tag),
            Kind::ServiceAccount => known.service_accounts.contains(&tag),
        });
        if there {
            return;
        }
        self.change(|known| _ = known.of(kind).insert(tag));
    }

    /// This one is gone.
    pub fn is_gone(&self, kind: Kind, tag: UidTag, now: DateTime<Utc>) {
        self.change(|known| {
            known.of(kind).remove(&tag);
            let remembered = if known.only_gone { LONGEST } else { REMEMBERED };
            known.gone.retain(|_, at| now.signed_duration_since(*at) < remembered);
            known.gone.insert(tag, now);
        });
    }

    fn change(&self, change: impl Fn(&mut Known)) {
        self.0.rcu(|known| {
            let mut known = known.as_deref().cloned().unwrap_or_default();
            change(&mut known);
            Some(Arc::new(known))
        });
    }

    /// Whether those live for whom a credential was issued. Where nobody watches, as without a cluster, all do.
    pub fn counts(&self, bond: Option<&Bond>, now: DateTime<Utc>) -> bool {
        let (known, Some(bond)) = (self.0.load(), bond) else { return true };
        let Some(known) = known.as_deref() else { return true };
        if known.only_gone {
            let gone = |tag: Option<UidTag>| tag.is_some_and(|tag| known.gone.contains_key(&tag));
            return !gone(bond.pod) && !gone(bond.service_account);
        }
        let lives = |tag: Option<UidTag>, living: &imbl::HashSet<UidTag>| {
            tag.is_none_or(|tag| living.contains(&tag) || (now - bond.since < NEWS && !known.gone.contains_key(&tag)))
        };
        lives(bond.pod, &known.pods) && lives(bond.service_account, &known.service_accounts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_only_the_gone_are_told_of_all_others_count() {
        let (living, start) = (Living::but_the_gone(), DateTime::from_timestamp(1_800_000_000, 0).unwrap_or_default());
        let [pod, account] = ["pod", "account"].map(UidTag::from_uid);
        let bond = Bond { pod: Some(pod), service_account: Some(account), since: start };
        assert!(living.counts(Some(&bond), start));
        living.is_gone(Kind::Pod, pod, start);
        assert!(!living.counts(Some(&bond), start + TimeDelta::hours(20)));
        assert_eq!(living.gone(), BTreeSet::from([pod]));
        living.is_gone(Kind::Pod, UidTag::from_uid("other"), start + TimeDelta::hours(26));
        assert_eq!(living.gone().len(), 1, "what has ended anyway is forgotten");
    }

    #[test]
    fn a_credential_counts_as_long_as_pod_and_service_account_live() {
        let (living, start) = (Living::nobody(), DateTime::from_timestamp(1_800_000_000, 0).unwrap_or_default());
        let [pod, account, stranger] = ["pod", "account", "stranger"].map(UidTag::from_uid);
        let later = start + TimeDelta::hours(1);
        let bond = |pod, service_account| Bond { pod: Some(pod), service_account: Some(service_account), since: start };
        let counts = |bond: &Bond, now| living.counts(Some(bond), now);
        assert!(!counts(&bond(pod, account), later), "nobody is known yet");
        living.are(Kind::Pod, [pod], start);
        living.are(Kind::ServiceAccount, [account], start);
        assert!(counts(&bond(pod, account), later));
        assert!(!counts(&bond(stranger, account), later) && !counts(&bond(pod, stranger), later));
        assert!(counts(&bond(stranger, account), start), "news of it may be on the way");
        assert!(!counts(&bond(account, pod), later), "a service account is no pod");
        living.is_gone(Kind::Pod, pod, start);
        assert!(!counts(&bond(pod, account), start), "news of its end has come");
        living.is_there(Kind::Pod, pod);
        living.are(Kind::ServiceAccount, [], start);
        assert!(!counts(&bond(pod, account), start));
        assert!(living.counts(None, later), "what is bound to nobody");
        assert!(Living::default().counts(Some(&bond(pod, account)), later), "where nobody watches");
    }
}
