//! What is known of one person's second factors, and what counts as one. Pure: time and randomness are passed in.

use crate::Refused;
use crate::pauses::{PERSON, Pauses};
use crate::recovery;
use crate::totp::{Enrolment, Secret};
use crate::webauthn::{Keys, RelyingParty};
use chrono::{DateTime, TimeDelta, Utc};
use durward_authn::Factor;
use durward_core::principal::PrincipalId;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How long a secret waits for its first code.
const WAITS: TimeDelta = TimeDelta::minutes(15);

/// A second factor as it is shown.
#[derive(Debug, Clone, Copy)]
pub enum Shown<'s> {
    /// A code of an authenticator app.
    Totp(&'s str),
    /// A recovery code.
    RecoveryCode(&'s str),
    /// What a key has answered, as browsers write it in JSON.
    Key(&'s str),
}

impl Shown<'_> {
    /// Of keys it is not known before they have answered whether they are more than passkeys.
    pub const fn factor(&self) -> Factor {
        match self {
            Self::Totp(_) => Factor::Totp,
            Self::RecoveryCode(_) => Factor::RecoveryCode,
            Self::Key(_) => Factor::Passkey,
        }
    }
}

/// What was shown is not it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Wrong {
    #[error("the person has no such factor")]
    NoFactor,
    #[error("the code is not the one of now")]
    Code,
    #[error("the code has been used")]
    Used,
    #[error("no secret waits for a code")]
    NothingWaits,
    #[error("the stored factors are another person's")]
    OtherPerson,
}

/// The stored record.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Person {
    version: Version,
    principal: PrincipalId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    totp: Option<App>,
    /// A secret that no code has confirmed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    waiting: Option<Waiting>,
    /// Hashes of the recovery codes that are left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    recovery_codes: Vec<String>,
    /// Passkeys and hardware keys.
    #[serde(default)]
    pub(super) keys: Keys,
    /// Wrong codes in a row.
    #[serde(default)]
    pauses: Pauses,
}

/// The one form of the record so far; a program that does not know a form leaves it alone.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Version {
    #[serde(rename = "1")]
    One,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct App {
    secret: Secret,
    /// The last step of thirty seconds whose code was used; no code counts from then back.
    last_step: u64,
    since: DateTime<Utc>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Waiting {
    secret: Secret,
    /// Name of the visit to which the secret was shown. Nobody else sees it, or confirms it.
    #[serde(default)]
    visit: String,
    until: DateTime<Utc>,
}

/// What a person is told of the own factors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Since when there is an authenticator app.
    pub totp: Option<DateTime<Utc>>,
    /// Recovery codes that are left.
    pub recovery_codes: usize,
    /// Passkeys and hardware keys, oldest first.
    pub keys: Vec<KnownKey>,
}

/// What a person is told of a passkey or hardware key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownKey {
    pub id: String,
    pub name: String,
    pub created: DateTime<Utc>,
    pub used: Option<DateTime<Utc>>,
}

impl Known {
    /// Whether there is anything to show.
    pub const fn any(&self) -> bool {
        self.totp.is_some() || self.recovery_codes > 0 || !self.keys.is_empty()
    }
}

impl Person {
    pub(super) fn new(id: &PrincipalId) -> Self {
        Self {
            version: Version::One,
            principal: id.clone(),
            totp: None,
            waiting: None,
            recovery_codes: Vec::new(),
            keys: Keys::default(),
            pauses: Pauses::default(),
        }
    }

    pub(super) fn is_of(&self, id: &PrincipalId) -> bool {
        self.principal == *id
    }

    /// Whether there is a factor. Recovery codes count: who has lost the app is no newcomer.
    pub(super) fn has_any(&self) -> bool {
        self.totp.is_some() || !self.keys.is_empty() || !self.recovery_codes.is_empty()
    }

    pub(super) fn known(&self) -> Known {
        let keys = self.keys.iter().map(|key| KnownKey {
            id: key.id(),
            name: key.name.clone(),
            created: key.created,
            used: key.used,
        });
        Known {
            totp: self.totp.as_ref().map(|app| app.since),
            recovery_codes: self.recovery_codes.len(),
            keys: keys.collect(),
        }
    }

    /// Whether what is shown counts, once. Without a relying party no key does.
    pub(super) fn prove(
        &mut self,
        shown: Shown<'_>,
        party: Option<&RelyingParty>,
        now: DateTime<Utc>,
    ) -> Result<Factor, Refused> {
        match shown {
            Shown::Totp(code) => {
                self.pauses.may_try(now).map_err(|wait| Refused::Paused { by: "person", wait })?;
                let app = self.totp.as_mut().ok_or(Wrong::NoFactor)?;
                let used = match app.secret.step(code, seconds(now)) {
                    None => Err(Wrong::Code),
                    Some(step) if step <= app.last_step => Err(Wrong::Used),
                    Some(step) => {
                        app.last_step = step;
                        Ok(())
                    }
                };
                match used {
                    Ok(()) => self.pauses = Pauses::default(),
                    Err(_) => self.pauses.failed(&PERSON, now),
                }
                used?;
            }
            // nobody guesses one, so no failure keeps a person from the own codes
            Shown::RecoveryCode(code) => {
                let hash = recovery::hash(&self.principal, code);
                let number = recovery::find(&self.recovery_codes, &hash).ok_or(Wrong::Code)?;
                self.recovery_codes.remove(number);
                self.pauses = Pauses::default();
            }
            // nobody guesses what a key answers either
            Shown::Key(response) => {
                let party = party.ok_or(Wrong::NoFactor)?;
                let factor = party.finish_authentication(&mut self.keys, response.as_bytes(), now)?;
                self.pauses = Pauses::default();
                return Ok(factor);
            }
        }
        Ok(shown.factor())
    }

    pub(super) fn begin_totp(&mut self, enrolment: &Enrolment, visit: &str, now: DateTime<Utc>) {
        let (secret, visit) = (enrolment.secret.clone(), visit.to_owned());
        self.waiting = Some(Waiting { secret, visit, until: now + WAITS });
    }

    fn waiting(&self, visit: &str, now: DateTime<Utc>) -> Option<&Waiting> {
        self.waiting.as_ref().filter(|waiting| now <= waiting.until && waiting.visit == visit)
    }

    pub(super) fn waiting_totp(&self, host: &str, visit: &str, now: DateTime<Utc>) -> Option<Enrolment> {
        let waiting = self.waiting(visit, now)?;
        Enrolment::of(waiting.secret.clone(), &self.principal, host)
    }

    /// Takes the secret that waits, if this is a code of it; tells whether the recovery codes are taken too.
    pub(super) fn confirm_totp(
        &mut self,
        (code, visit): (&str, &str),
        codes: &[String],
        now: DateTime<Utc>,
    ) -> Result<bool, Wrong> {
        let waiting = self.waiting(visit, now).ok_or(Wrong::NothingWaits)?;
        let last_step = waiting.secret.step(code, seconds(now)).ok_or(Wrong::Code)?;
        self.totp = Some(App { secret: waiting.secret.clone(), last_step, since: now });
        self.waiting = None;
        self.pauses = Pauses::default();
        let first = self.recovery_codes.is_empty();
        if first {
            self.replace_recovery_codes(codes)?;
        }
        Ok(first)
    }

    /// Takes the key that a browser has made; tells whether the recovery codes are taken too.
    pub(super) fn confirm_key(
        &mut self,
        party: &RelyingParty,
        (name, response): (&str, &str),
        codes: &[String],
        now: DateTime<Utc>,
    ) -> Result<bool, Refused> {
        party.finish_registration(&mut self.keys, response.as_bytes(), name, now)?;
        let first = self.recovery_codes.is_empty();
        if first {
            self.replace_recovery_codes(codes)?;
        }
        Ok(first)
    }

    pub(super) fn remove_key(&mut self, id: &str) -> Result<(), Wrong> {
        self.keys.remove(id).then_some(()).ok_or(Wrong::NoFactor)
    }

    pub(super) fn replace_recovery_codes(&mut self, codes: &[String]) -> Result<(), Wrong> {
        self.recovery_codes = codes.iter().map(|code| recovery::hash(&self.principal, code)).collect();
        Ok(())
    }

    pub(super) fn remove_totp(&mut self) -> Result<(), Wrong> {
        self.totp.take().map(drop).ok_or(Wrong::NoFactor)
    }
}

/// Seconds since 1970.
fn seconds(now: DateTime<Utc>) -> u64 {
    u64::try_from(now.timestamp()).unwrap_or_default()
}
