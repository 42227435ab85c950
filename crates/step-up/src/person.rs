//! The record of one person's second factors, and which presented factors it accepts. Time and randomness are passed
//! in.

use crate::error::{StepUpError, WrongFactor};
use crate::pauses::{PERSON, Pauses};
use crate::recovery;
use crate::totp::{TotpEnrolment, TotpSecret};
use crate::webauthn::{RegisteredKeys, RelyingParty};
use chrono::{DateTime, TimeDelta, Utc};
use durward_authn::Factor;
use durward_core::principal::PrincipalId;
use serde::{Deserialize, Serialize};

/// Time in which a new secret has to be confirmed by its first code.
const CONFIRMATION_TIME: TimeDelta = TimeDelta::minutes(15);

/// A second factor as a caller presents it.
#[derive(Debug, Clone, Copy)]
pub enum PresentedFactor<'p> {
    /// A code of an authenticator app.
    Totp(&'p str),
    /// A recovery code.
    RecoveryCode(&'p str),
    /// The response of a passkey or hardware key, in the JSON of browsers.
    Key(&'p str),
}

impl PresentedFactor<'_> {
    /// The kind of factor. Whether a key is a hardware key is known only after its response is verified.
    pub const fn factor(&self) -> Factor {
        match self {
            Self::Totp(_) => Factor::Totp,
            Self::RecoveryCode(_) => Factor::RecoveryCode,
            Self::Key(_) => Factor::Passkey,
        }
    }
}

/// The stored record.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PersonRecord {
    version: RecordVersion,
    principal: PrincipalId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    totp: Option<AuthenticatorApp>,
    /// A secret that no code has confirmed yet.
    #[serde(default, rename = "waiting", skip_serializing_if = "Option::is_none")]
    pending_totp: Option<PendingSecret>,
    /// Hashes of the unused recovery codes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    recovery_codes: Vec<String>,
    /// Passkeys and hardware keys.
    #[serde(default)]
    pub(super) keys: RegisteredKeys,
    /// Wrong codes in a row.
    #[serde(default)]
    pauses: Pauses,
}

/// The version of the record's format. A process that does not know a version rejects the record, and never changes it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum RecordVersion {
    #[serde(rename = "1")]
    One,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AuthenticatorApp {
    secret: TotpSecret,
    /// The last step whose code was used. Codes of this step and of earlier ones are rejected.
    last_step: u64,
    since: DateTime<Utc>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PendingSecret {
    secret: TotpSecret,
    /// Name of the visit that created the secret. No other visit can see or confirm it.
    #[serde(default)]
    visit: String,
    until: DateTime<Utc>,
}

/// A person's factors, without their secrets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EnrolledFactors {
    /// When the authenticator app was enrolled, if there is one.
    pub totp: Option<DateTime<Utc>>,
    /// Number of unused recovery codes.
    pub recovery_codes: usize,
    /// Passkeys and hardware keys, oldest first.
    pub keys: Vec<EnrolledKey>,
}

/// A passkey or hardware key, without its secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolledKey {
    pub id: String,
    pub name: String,
    pub created: DateTime<Utc>,
    pub used: Option<DateTime<Utc>>,
}

impl EnrolledFactors {
    /// Whether the person has any factor.
    pub const fn any(&self) -> bool {
        self.totp.is_some() || self.recovery_codes > 0 || !self.keys.is_empty()
    }
}

impl PersonRecord {
    pub(super) fn new(id: &PrincipalId) -> Self {
        Self {
            version: RecordVersion::One,
            principal: id.clone(),
            totp: None,
            pending_totp: None,
            recovery_codes: Vec::new(),
            keys: RegisteredKeys::default(),
            pauses: Pauses::default(),
        }
    }

    pub(super) fn belongs_to(&self, id: &PrincipalId) -> bool {
        self.principal == *id
    }

    /// Whether there is a factor. Recovery codes are factors too: a person who lost the app must not pass for a new
    /// one.
    pub(super) fn has_any_factor(&self) -> bool {
        self.totp.is_some() || !self.keys.is_empty() || !self.recovery_codes.is_empty()
    }

    pub(super) fn enrolled_factors(&self) -> EnrolledFactors {
        let keys = self.keys.iter().map(|key| EnrolledKey {
            id: key.id(),
            name: key.name.clone(),
            created: key.created,
            used: key.used,
        });
        EnrolledFactors {
            totp: self.totp.as_ref().map(|app| app.since),
            recovery_codes: self.recovery_codes.len(),
            keys: keys.collect(),
        }
    }

    /// Accepts a factor, once. Without a relying party no key is accepted.
    pub(super) fn verify(
        &mut self,
        presented: PresentedFactor<'_>,
        relying_party: Option<&RelyingParty>,
        now: DateTime<Utc>,
    ) -> Result<Factor, StepUpError> {
        let factor = match presented {
            PresentedFactor::Totp(code) => {
                self.pauses.check(now).map_err(|wait| StepUpError::Paused { by: "person", wait })?;
                let app = self.totp.as_mut().ok_or(WrongFactor::NotEnrolled)?;
                if let Err(wrong) = app.use_code(code, now) {
                    self.pauses.add_failure(&PERSON, now);
                    return Err(wrong.into());
                }
                Factor::Totp
            }
            // recovery codes can't be guessed, so failures don't pause them: a pause would lock the person out
            PresentedFactor::RecoveryCode(code) => {
                let hash = recovery::hash(&self.principal, code);
                let index = recovery::find(&self.recovery_codes, &hash).ok_or(WrongFactor::Code)?;
                self.recovery_codes.remove(index);
                Factor::RecoveryCode
            }
            // responses of keys can't be guessed either
            PresentedFactor::Key(response) => {
                let party = relying_party.ok_or(WrongFactor::NotEnrolled)?;
                party.finish_authentication(&mut self.keys, response.as_bytes(), now)?
            }
        };
        self.pauses = Pauses::default();
        Ok(factor)
    }

    pub(super) fn start_totp(&mut self, enrolment: &TotpEnrolment, visit: &str, now: DateTime<Utc>) {
        self.pending_totp = Some(PendingSecret {
            secret: enrolment.secret.clone(),
            visit: visit.to_owned(),
            until: now + CONFIRMATION_TIME,
        });
    }

    fn pending_secret(&self, visit: &str, now: DateTime<Utc>) -> Option<&PendingSecret> {
        self.pending_totp.as_ref().filter(|pending| now <= pending.until && pending.visit == visit)
    }

    pub(super) fn pending_totp(&self, host: &str, visit: &str, now: DateTime<Utc>) -> Option<TotpEnrolment> {
        let pending = self.pending_secret(visit, now)?;
        TotpEnrolment::from_secret(pending.secret.clone(), &self.principal, host)
    }

    /// Enrols the pending secret by its first code. Returns whether the recovery codes are enrolled too.
    pub(super) fn confirm_totp(
        &mut self,
        code: &str,
        visit: &str,
        recovery_codes: &[String],
        now: DateTime<Utc>,
    ) -> Result<bool, WrongFactor> {
        let pending = self.pending_secret(visit, now).ok_or(WrongFactor::NothingPending)?;
        let last_step = pending.secret.step(code, unix_seconds(now)).ok_or(WrongFactor::Code)?;
        self.totp = Some(AuthenticatorApp { secret: pending.secret.clone(), last_step, since: now });
        self.pending_totp = None;
        self.pauses = Pauses::default();
        Ok(self.add_first_recovery_codes(recovery_codes))
    }

    /// Enrols the key that a browser created. Returns whether the recovery codes are enrolled too.
    pub(super) fn confirm_key(
        &mut self,
        relying_party: &RelyingParty,
        name: &str,
        response: &str,
        recovery_codes: &[String],
        now: DateTime<Utc>,
    ) -> Result<bool, StepUpError> {
        relying_party.finish_registration(&mut self.keys, response.as_bytes(), name, now)?;
        Ok(self.add_first_recovery_codes(recovery_codes))
    }

    pub(super) fn remove_key(&mut self, id: &str) -> Result<(), WrongFactor> {
        if self.keys.remove(id) { Ok(()) } else { Err(WrongFactor::NotEnrolled) }
    }

    /// Enrols the codes if there are none. Returns whether it did.
    fn add_first_recovery_codes(&mut self, codes: &[String]) -> bool {
        let first = self.recovery_codes.is_empty();
        if first {
            self.replace_recovery_codes(codes);
        }
        first
    }

    pub(super) fn replace_recovery_codes(&mut self, codes: &[String]) {
        self.recovery_codes = codes.iter().map(|code| recovery::hash(&self.principal, code)).collect();
    }

    pub(super) fn remove_totp(&mut self) -> Result<(), WrongFactor> {
        self.totp.take().map(drop).ok_or(WrongFactor::NotEnrolled)
    }
}

impl AuthenticatorApp {
    /// Accepts a code, unless it or a later one was used.
    fn use_code(&mut self, code: &str, now: DateTime<Utc>) -> Result<(), WrongFactor> {
        let step = self.secret.step(code, unix_seconds(now)).ok_or(WrongFactor::Code)?;
        if step <= self.last_step {
            return Err(WrongFactor::Used);
        }
        self.last_step = step;
        Ok(())
    }
}

fn unix_seconds(now: DateTime<Utc>) -> u64 {
    u64::try_from(now.timestamp()).unwrap_or_default()
}
