//! Time zones for chrono, from the copy of the IANA database that comes with jiff.
//!
//! CEL's library asks the crate `chrono-tz` for them (`request.time.getHours("Europe/Berlin")`), whose tables are a megabyte
//! of every process that makes a decision, all of it written to at each start. This stands in its place, with as much of it as
//! is asked for; the same database takes a fifth of that here. The database of the machine is never read: two replicas
//! would decide differently.

use chrono::{DateTime, FixedOffset, MappedLocalTime, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeZone};
use jiff::Timestamp;
use jiff::tz::{self, AmbiguousOffset, TimeZoneDatabase};
use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// A time zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tz(tz::TimeZone);

/// Universal time.
pub const UTC: Tz = Tz(tz::TimeZone::UTC);

/// There is no time zone of that name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError;

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the IANA database knows no such time zone")
    }
}

impl std::error::Error for ParseError {}

impl FromStr for Tz {
    type Err = ParseError;

    /// The zone of this name in the IANA database, written as it is there.
    fn from_str(name: &str) -> Result<Self, ParseError> {
        let zone = ZONES.get(name).ok().filter(|zone| zone.iana_name() == Some(name) && !zone.is_unknown());
        zone.map(Self).ok_or(ParseError)
    }
}

/// How far a time zone was from universal time, at some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TzOffset {
    zone: Tz,
    fixed: FixedOffset,
}

impl Offset for TzOffset {
    fn fix(&self) -> FixedOffset {
        self.fixed
    }
}

impl Tz {
    fn offset(&self, offset: tz::Offset) -> TzOffset {
        // jiff's are less than 26 hours, those of the database less than 16
        let fixed = FixedOffset::east_opt(offset.seconds()).unwrap_or_else(|| chrono::Utc.fix());
        TzOffset { zone: self.clone(), fixed }
    }
}

impl TimeZone for Tz {
    type Offset = TzOffset;

    fn from_offset(offset: &TzOffset) -> Self {
        offset.zone.clone()
    }

    fn offset_from_local_date(&self, local: &NaiveDate) -> MappedLocalTime<TzOffset> {
        self.offset_from_local_datetime(&local.and_time(NaiveTime::MIN))
    }

    fn offset_from_local_datetime(&self, local: &NaiveDateTime) -> MappedLocalTime<TzOffset> {
        // as if it were universal: date and time of day are all that is asked for
        let civil = tz::Offset::UTC.to_datetime(timestamp(local));
        match self.0.to_ambiguous_timestamp(civil).offset() {
            AmbiguousOffset::Unambiguous { offset } => MappedLocalTime::Single(self.offset(offset)),
            AmbiguousOffset::Gap { .. } => MappedLocalTime::None,
            AmbiguousOffset::Fold { before, after } => {
                MappedLocalTime::Ambiguous(self.offset(before), self.offset(after))
            }
        }
    }

    fn offset_from_utc_date(&self, utc: &NaiveDate) -> TzOffset {
        self.offset_from_utc_datetime(&utc.and_time(NaiveTime::MIN))
    }

    fn offset_from_utc_datetime(&self, utc: &NaiveDateTime) -> TzOffset {
        self.offset(self.0.to_offset(timestamp(utc)))
    }
}

/// A time; one that jiff does not reach is the last, or the first, that it does: rules do not change out there.
fn timestamp(utc: &NaiveDateTime) -> Timestamp {
    let utc: DateTime<chrono::Utc> = utc.and_utc();
    let end = if utc.timestamp() < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_second(utc.timestamp()).unwrap_or(end)
}

#[cfg(test)]
#[allow(clippy::expect_used, reason = "a test says what it expects")]
mod tests {
    use super::*;
    use chrono::Utc;

    fn there(utc: &str, zone: &str) -> String {
        let utc: DateTime<Utc> = utc.parse().expect("a time");
        let there = utc.with_timezone(&zone.parse::<Tz>().expect("a zone"));
        assert_eq!(there.with_timezone(&Utc), utc);
        there.fixed_offset().to_rfc3339()
    }

    #[test]
    fn it_is_as_late_there_as_it_is() {
        for (utc, zone, expected) in [
            ("2026-07-01T06:30:00Z", "Europe/Berlin", "2026-07-01T08:30:00+02:00"),
            ("2026-01-01T06:30:00Z", "Europe/Berlin", "2026-01-01T07:30:00+01:00"),
            // the second before, and the second of, the change
            ("2026-10-25T00:59:59Z", "Europe/Berlin", "2026-10-25T02:59:59+02:00"),
            ("2026-10-25T01:00:00Z", "Europe/Berlin", "2026-10-25T02:00:00+01:00"),
            ("2026-11-26T00:00:00Z", "America/New_York", "2026-11-25T19:00:00-05:00"),
            ("2026-11-26T00:00:00Z", "Asia/Kolkata", "2026-11-26T05:30:00+05:30"),
            ("2026-11-26T00:00:00Z", "Pacific/Kiritimati", "2026-11-26T14:00:00+14:00"),
            ("2026-11-26T00:00:00Z", "Australia/Lord_Howe", "2026-11-26T11:00:00+11:00"),
            ("2026-11-26T00:00:00Z", "US/Pacific", "2026-11-25T16:00:00-08:00"),
            ("2026-11-26T00:00:00Z", "Etc/GMT+12", "2026-11-25T12:00:00-12:00"),
            ("1945-06-01T00:00:00Z", "Europe/Berlin", "1945-06-01T03:00:00+03:00"),
            // rules go on for ever
            ("2999-07-01T06:30:00Z", "Europe/Berlin", "2999-07-01T08:30:00+02:00"),
            ("9999-12-31T23:59:59Z", "UTC", "9999-12-31T23:59:59+00:00"),
            ("9999-12-31T23:59:59Z", "Asia/Kolkata", "+10000-01-01T05:29:59+05:30"),
        ] {
            assert_eq!(there(utc, zone), expected);
        }
    }

    #[test]
    fn a_time_of_day_can_be_none_or_two() {
        let zone: Tz = "Europe/Berlin".parse().expect("a zone");
        let at =
            |local: &str| zone.from_local_datetime(&local.parse().expect("a time")).map(|at| at.to_utc().to_string());
        assert_eq!(at("2026-07-01T08:30:00"), MappedLocalTime::Single("2026-07-01 06:30:00 UTC".to_owned()));
        assert_eq!(at("2026-03-29T02:30:00"), MappedLocalTime::None);
        let twice = ["2026-10-25 00:30:00 UTC", "2026-10-25 01:30:00 UTC"].map(ToOwned::to_owned);
        let [first, second] = twice;
        assert_eq!(at("2026-10-25T02:30:00"), MappedLocalTime::Ambiguous(first, second));
    }

    #[test]
    fn what_is_no_zone_is_refused() {
        for name in
            ["", "Mars/Base", "europe/berlin", "Europe/Berlin ", "Etc/Unknown", "+02:00", "../../etc/passwd", "CEST"]
        {
            assert_eq!(name.parse::<Tz>(), Err(ParseError), "{name}");
        }
    }
}
