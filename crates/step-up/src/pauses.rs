//! Pauses between attempts, which grow with the failures in a row.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

/// How fast pauses grow.
pub(super) struct PauseRule {
    /// Number of the failure that causes the first pause.
    free: u32,
    /// The first pause; each further one is twice as long.
    first: TimeDelta,
    /// The longest pause.
    longest: TimeDelta,
}

/// For a person's codes: the third failure pauses for 30 seconds, and the pause grows to an hour. Three of a million
/// codes are valid at a time, so a guess succeeds once in 333,333. At that pace that takes 38 years.
pub(super) const PERSON: PauseRule = PauseRule { free: 3, first: TimeDelta::seconds(30), longest: TimeDelta::hours(1) };

/// For an address, which a whole office may share: the 20th failure pauses for 10 seconds, growing to 15 minutes.
const ADDRESS: PauseRule = PauseRule { free: 20, first: TimeDelta::seconds(10), longest: TimeDelta::minutes(15) };
/// Time after its last failure for which an address is kept.
const ADDRESS_RETENTION: TimeDelta = TimeDelta::hours(1);
/// Most addresses that are kept. Beyond that, the one with the oldest last failure is dropped.
const MAX_ADDRESSES: usize = 1_000;

/// Failures in a row, and the pause that follows from them.
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
    /// Checks that an attempt is allowed now.
    ///
    /// # Errors
    /// With the time that is left of the pause.
    pub(super) fn check(&self, now: DateTime<Utc>) -> Result<(), TimeDelta> {
        match self.not_before.map(|at| at - now) {
            Some(wait) if wait > TimeDelta::zero() => Err(wait.max(TimeDelta::seconds(1))),
            _ => Ok(()),
        }
    }

    pub(super) fn add_failure(&mut self, rule: &PauseRule, now: DateTime<Utc>) {
        self.failures = self.failures.saturating_add(1);
        self.last = Some(now);
        if let Some(doublings) = self.failures.checked_sub(rule.free) {
            // after twelve doublings both first pauses exceed the longest
            let pause = rule.first * (1_i32 << doublings.min(12));
            self.not_before = Some(now + pause.min(rule.longest));
        }
    }
}

/// Failures by the address of the caller.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct AddressPauses(BTreeMap<IpAddr, Pauses>);

impl AddressPauses {
    pub(super) fn check(&self, address: IpAddr, now: DateTime<Utc>) -> Result<(), TimeDelta> {
        self.0.get(&network(address)).map_or(Ok(()), |pauses| pauses.check(now))
    }

    pub(super) fn add_failure(&mut self, address: IpAddr, now: DateTime<Utc>) {
        self.0.retain(|_, pauses| pauses.last.is_some_and(|last| now - last < ADDRESS_RETENTION));
        let address = network(address);
        while self.0.len() >= MAX_ADDRESSES && !self.0.contains_key(&address) {
            let oldest = self.0.iter().min_by_key(|(_, pauses)| pauses.last).map(|(address, _)| *address);
            let Some(oldest) = oldest else { break };
            self.0.remove(&oldest);
        }
        self.0.entry(address).or_default().add_failure(&ADDRESS, now);
    }
}

/// The network of one subscriber: a single IPv4 address, or an IPv6 /64.
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
    fn a_pause_doubles_with_each_failure_and_ends() {
        let mut pauses = Pauses::default();
        let mut waits = Vec::new();
        for _ in 0..12 {
            pauses.add_failure(&PERSON, at(0));
            waits.push(pauses.check(at(0)).err().map_or(0, |wait| wait.num_seconds()));
        }
        assert_eq!(waits, [0, 0, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
        assert_eq!(pauses.check(at(3599)), Err(TimeDelta::seconds(1)));
        assert_eq!(pauses.check(at(3600)), Ok(()));
    }

    #[test]
    fn addresses_are_bounded_in_number_and_time() {
        let mut addresses = AddressPauses::default();
        let v6 = |n: u128| IpAddr::V6(Ipv6Addr::from_bits(n));
        for n in 0..2_000 {
            addresses.add_failure(v6(n << 64), at(0));
        }
        assert_eq!(addresses.0.len(), MAX_ADDRESSES);
        for n in 0..21 {
            addresses.add_failure(v6((7 << 64) + n), at(10));
        }
        assert!(addresses.check(v6((7 << 64) + 99), at(10)).is_err(), "the same /64");
        assert_eq!(addresses.check(v6(8 << 64), at(10)), Ok(()));
        addresses.add_failure(v6(0), at(3700));
        assert_eq!(addresses.0.len(), 1);
    }
}
