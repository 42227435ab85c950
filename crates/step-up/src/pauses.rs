//! Pauses that grow with failures.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

/// How fast pauses grow.
pub(super) struct Rule {
    /// Failures without any pause.
    free: u32,
    /// The first pause; each further one is twice as long.
    first: TimeDelta,
    /// The longest pause.
    longest: TimeDelta,
}

/// For a person's codes: three typing errors, then half a minute, up to an hour. At that pace the one chance in 333,333 of
/// each guess (three of a million codes count at a time) makes one hit in 38 years.
pub(super) const PERSON: Rule = Rule { free: 3, first: TimeDelta::seconds(30), longest: TimeDelta::hours(1) };

/// For an address, behind which may be an office: twenty failures, then ten seconds, up to a quarter of an hour.
const ADDRESS: Rule = Rule { free: 20, first: TimeDelta::seconds(10), longest: TimeDelta::minutes(15) };
/// How long an address is remembered after its last failure.
const FORGET: TimeDelta = TimeDelta::hours(1);
/// Addresses that are remembered; beyond that the one that has been quiet for longest goes.
const MAX_ADDRESSES: usize = 1_000;

/// Failures in a row.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Pauses {
    failures: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_before: Option<DateTime<Utc>>,
}

impl Pauses {
    /// Whether the next try is heard; how long it takes if not.
    pub(super) fn may_try(&self, now: DateTime<Utc>) -> Result<(), TimeDelta> {
        match self.not_before.map(|at| at - now) {
            Some(wait) if wait > TimeDelta::zero() => Err(wait.max(TimeDelta::seconds(1))),
            _ => Ok(()),
        }
    }

    pub(super) fn failed(&mut self, rule: &Rule, now: DateTime<Utc>) {
        self.failures = self.failures.saturating_add(1);
        self.last = Some(now);
        if let Some(doublings) = self.failures.checked_sub(rule.free) {
            // twelve doublings of any first pause are beyond its longest
            let pause = rule.first * (1_i32 << doublings.min(12));
            self.not_before = Some(now + pause.min(rule.longest));
        }
    }
}

/// Failures by address.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Addresses(BTreeMap<IpAddr, Pauses>);

impl Addresses {
    pub(super) fn may_try(&self, address: IpAddr, now: DateTime<Utc>) -> Result<(), TimeDelta> {
        self.0.get(&network(address)).map_or(Ok(()), |pauses| pauses.may_try(now))
    }

    pub(super) fn failed(&mut self, address: IpAddr, now: DateTime<Utc>) {
        self.0.retain(|_, pauses| pauses.last.is_some_and(|last| now - last < FORGET));
        let address = network(address);
        while self.0.len() >= MAX_ADDRESSES && !self.0.contains_key(&address) {
            let quietest = self.0.iter().min_by_key(|(_, pauses)| pauses.last).map(|(address, _)| *address);
            let Some(quietest) = quietest else { break };
            self.0.remove(&quietest);
        }
        self.0.entry(address).or_default().failed(&ADDRESS, now);
    }
}

/// What one subscriber has: an address of IPv4, a /64 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap_or_default()
    }

    #[test]
    fn pauses_grow_and_end() {
        let mut pauses = Pauses::default();
        let mut waits = Vec::new();
        for _ in 0..12 {
            pauses.failed(&PERSON, at(0));
            waits.push(pauses.may_try(at(0)).err().map_or(0, |wait| wait.num_seconds()));
        }
        assert_eq!(waits, [0, 0, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
        assert_eq!(pauses.may_try(at(3599)), Err(TimeDelta::seconds(1)));
        assert_eq!(pauses.may_try(at(3600)), Ok(()));
    }

    #[test]
    fn addresses_are_bounded_and_forgotten() {
        let mut addresses = Addresses::default();
        let v6 = |n: u128| IpAddr::V6(Ipv6Addr::from_bits(n));
        for n in 0..2_000 {
            addresses.failed(v6(n << 64), at(0));
        }
        assert_eq!(addresses.0.len(), MAX_ADDRESSES);
        for n in 0..21 {
            addresses.failed(v6((7 << 64) + n), at(10));
        }
        assert!(addresses.may_try(v6((7 << 64) + 99), at(10)).is_err(), "one network");
        assert_eq!(addresses.may_try(v6(8 << 64), at(10)), Ok(()));
        addresses.failed(v6(0), at(3700));
        assert_eq!(addresses.0.len(), 1);
    }
}
